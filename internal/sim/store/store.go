// Package store is the state directory of a simulator, and the format of all files in it.
//
//	lock         held while a simulator uses the directory
//	cloud.json   what makes it this cloud and no other: secrets, and the addresses of its listeners
//	state.log    a journal: records of a key and a JSON document
//
// Other packages keep further files in the directory, in the same format: a [File] holds frames,
// and each frame has checksums.
//
// Nothing is synced to the disk. What was written survives the death of the process, which is the
// promise, but not that of the machine.
package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/gofrs/flock"
	"github.com/rs/zerolog"
)

// Options say where a store is.
type Options struct {
	Dir string         // made if it is missing; "" means that nothing is kept
	Log zerolog.Logger // told of changes that cannot be written, and of what was cut off at the start
	// Others are patterns, as of [filepath.Glob], for the names of the files that other packages
	// keep in the directory. If one of them is there, cloud.json must be there, too.
	Others []string
}

// Store is an open state directory. Its methods may be called from any goroutine, and on a nil
// Store, which keeps nothing. They call nobody, so a caller may hold any mutex of its own.
//
// [Store.Put] and [Store.Delete] return when the change is in the file. So an owner of state calls
// them while it still holds its own mutex, and answers its client afterwards.
type Store struct {
	dir    string
	log    zerolog.Logger
	others []string // see Options
	lock   *flock.Flock

	cloudMu sync.Mutex // guards the four fields below
	cloud   cloudFile
	existed bool // cloud.json was there when the simulator started
	dirty   bool // cloud.json does not say yet what cloud says

	mu       sync.Mutex // guards the fields below
	file     *File      // state.log
	places   map[string]place
	live     int64             // bytes of the records that count
	limit    int64             // the size at which the file is looked at for garbage
	restored map[string][]byte // documents by key, as they were at the start, until Take returns them
}

// Open locks and reads a state directory. It returns nil for Options.Dir "". Its error says which
// file is the reason and what to do about it: the directory is another simulator's, cannot be used,
// or holds a file that is damaged or of a newer version. The caller calls [Store.Close] in the end.
func Open(o Options) (_ *Store, err error) {
	if o.Dir == "" {
		return nil, nil
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("state directory: %w; give one that this user may write with --state-dir", err)
	}
	s := &Store{
		dir: o.Dir, log: o.Log, others: o.Others, lock: flock.New(filepath.Join(o.Dir, "lock"), flock.SetPermissions(0o600)),
		places: map[string]place{}, restored: map[string][]byte{},
	}
	if err := regularFiles(o.Dir, append([]string{"lock", "cloud.json", "state.log"}, o.Others...)); err != nil {
		return nil, err
	}
	switch locked, err := s.lock.TryLock(); {
	case err != nil:
		return nil, fmt.Errorf("state directory: %w; give one that this user may write with --state-dir", err)
	case !locked:
		return nil, fmt.Errorf("another simulator is using the state directory %s: stop it, or give this one another --state-dir", o.Dir)
	}
	defer func() {
		if err != nil {
			_ = s.Close()
		}
	}()
	if err := s.readCloud(); err != nil {
		return nil, err
	}
	return s, s.readState()
}

// regularFiles returns an error for each name of a state directory that should be a plain file and
// is not, because the open of a named pipe waits for ever. The names are patterns.
func regularFiles(dir string, names []string) error {
	for _, name := range names {
		found, _ := filepath.Glob(filepath.Join(dir, name))
		for _, path := range found {
			info, err := os.Stat(path)
			switch {
			case errors.Is(err, os.ErrNotExist):
			case err != nil:
				return fmt.Errorf("state directory: %w; restore the file from a copy, or start with another state directory", err)
			case !info.Mode().IsRegular():
				return fmt.Errorf("state directory: %s is not a file (its mode is %v); restore it from a copy, or start with another state directory",
					path, info.Mode())
			}
		}
	}
	return nil
}

// Dir returns the state directory.
func (s *Store) Dir() string { return s.dir }

func (s *Store) path(name string) string { return filepath.Join(s.dir, name) }

// Close lets another process use the directory. Later changes fail with [os.ErrClosed].
func (s *Store) Close() error {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	if s.file != nil {
		err = s.file.Close()
		s.file = &File{broken: os.ErrClosed}
	}
	return errors.Join(err, s.lock.Close())
}

// Decode reads a document. Numbers in it stay as they were written.
func Decode(document []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(document))
	d.UseNumber()
	return d.Decode(into)
}

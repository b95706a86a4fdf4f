package sim

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gofrs/flock"
	"github.com/rs/zerolog"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
)

// store is the state directory of a simulator. One process at a time has it:
//
//	lock         held while the simulator lives
//	cloud.json   what makes it this cloud and no other: its certificate authorities, keys, tokens and ports
//	state.log    devices, enrollments, twins, messages to devices, as records of a key and a JSON document
//	ledger…      see ledgerDisk
//
// A record is in the file when put returns, so owners put what they changed while they still hold their mutex, and answer afterwards.
// Nothing is synced: what was written survives the death of the process, which is the promise, but not that of the machine.
//
// All methods may be called on a nil store, which keeps nothing.
type store struct {
	dir  string
	log  zerolog.Logger
	lock *flock.Flock

	cloudMu sync.Mutex
	cloud   cloudFile
	existed bool // it existed when the simulator started
	dirty   bool // the cloud is not yet as written

	mu       sync.Mutex
	file     *framedFile
	places   map[string]place
	live     int64             // bytes of the records that count
	limit    int64             // a file of this size is due for tidying
	restored map[string][]byte // by key, until take has them
}

// place is where the newest record of a key is.
type place struct{ at, size int64 }

// cloudFile is the document cloud.json.
type cloudFile struct {
	Format    int               `json:"format"`
	Secrets   map[string]string `json:"secrets"`
	Addresses map[string]string `json:"addresses"`     // of the listeners whose ports were free ones
	Sum       string            `json:"sum,omitempty"` // checksum of the rest; older files have none
}

// sum is the checksum of everything else in the document.
func (c cloudFile) sum() string {
	c.Sum = ""
	sum := sha256.Sum256(azure.EncodeJSON(c))
	return hex.EncodeToString(sum[:8])
}

const (
	recordPut    = 'P'
	recordDelete = 'D'
)

// compactAbove is the size from which on garbage in state.log matters.
const compactAbove = 1 << 20

// openStore takes a state directory, made if missing; "" is none. The caller restores what it holds with take.
func openStore(dir string, log zerolog.Logger) (_ *store, err error) {
	if dir == "" {
		return nil, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("state directory: %w; give one that this user may write with --state-dir", err)
	}
	s := &store{
		dir: dir, log: log, lock: flock.New(filepath.Join(dir, "lock"), flock.SetPermissions(0o600)),
		places: map[string]place{}, restored: map[string][]byte{},
	}
	if err := regularFiles(dir); err != nil {
		return nil, err
	}
	switch locked, err := s.lock.TryLock(); {
	case err != nil:
		return nil, fmt.Errorf("state directory: %w; give one that this user may write with --state-dir", err)
	case !locked:
		return nil, fmt.Errorf("another simulator is using the state directory %s: stop it, or give this one another --state-dir", dir)
	}
	defer func() {
		if err != nil {
			_ = s.close()
		}
	}()
	if err := s.readCloud(); err != nil {
		return nil, err
	}
	return s, s.readState()
}

// regularFiles returns an error for each name of a state directory that should be a plain file and
// is not, because the open of a named pipe waits for ever.
func regularFiles(dir string) error {
	for _, name := range []string{"lock", "cloud.json", "state.log", "ledger*"} {
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

func (s *store) path(name string) string { return filepath.Join(s.dir, name) }

func (s *store) readCloud() error {
	path := s.path("cloud.json")
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		for _, name := range []string{"state.log", "ledger.counts", "ledger-*.log"} {
			if found, _ := filepath.Glob(s.path(name)); len(found) > 0 && !emptyFile(found[0]) {
				return fmt.Errorf("%s is missing, but there is %s: restore it from a copy, or start with another state directory", path, found[0])
			}
		}
		s.dirty = true
	case err != nil:
		return err
	default:
		damaged := &damageError{path: path, what: "it is not the JSON document it was"}
		if err := json.Unmarshal(b, &s.cloud); err != nil || s.cloud.Format < 1 {
			return damaged
		}
		if s.cloud.Format > formatVersion {
			return &versionError{path: path, version: s.cloud.Format}
		}
		strict := json.NewDecoder(bytes.NewReader(b))
		strict.DisallowUnknownFields() // the damage may be in the name of the member sum
		if err := strict.Decode(new(cloudFile)); err != nil || s.cloud.Sum != "" && s.cloud.Sum != s.cloud.sum() {
			return damaged
		}
	}
	s.existed = err == nil
	s.cloud.Format = formatVersion
	if s.cloud.Secrets == nil {
		s.cloud.Secrets = map[string]string{}
	}
	if s.cloud.Addresses == nil {
		s.cloud.Addresses = map[string]string{}
	}
	return nil
}

// emptyFile says whether a file has only its first line, as after a start that was killed at once.
func emptyFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Size() <= int64(len(kindCounts.line()))
}

// saveCloud writes cloud.json if something in it is new. It must be called before a client can see what is new.
func (s *store) saveCloud() error {
	if s == nil {
		return nil
	}
	s.cloudMu.Lock()
	defer s.cloudMu.Unlock()
	if !s.dirty {
		return nil
	}
	s.cloud.Sum = s.cloud.sum()
	b, err := json.MarshalIndent(s.cloud, "", "  ")
	if err == nil {
		err = replaceFile(s.path("cloud.json"), append(b, '\n'), 0o600)
	}
	s.dirty = err != nil
	return err
}

// secret is what setSecret was told, in this life or an earlier one, else "".
func (s *store) secret(name string) string {
	if s == nil {
		return ""
	}
	s.cloudMu.Lock()
	defer s.cloudMu.Unlock()
	return s.cloud.Secrets[name]
}

// key is the secret key of that name. The first to ask draws it, of so many bytes.
func (s *store) key(name string, size int) []byte {
	key, err := base64.StdEncoding.DecodeString(s.secret(name))
	if err != nil || len(key) == 0 {
		key = azure.RandomKey(size)
		s.setSecret(name, base64.StdEncoding.EncodeToString(key))
	}
	return key
}

// authority is the certificate authority of that name. The first to ask makes it.
func (s *store) authority(name, commonName string, now time.Time) (*azure.Authority, error) {
	if text := s.secret(name); text != "" {
		a, err := azure.ParseAuthority([]byte(text), now)
		if err != nil {
			err = fmt.Errorf("%s: %q: %w; restore it from a copy, or start with another state directory", s.path("cloud.json"), name, err)
		}
		return a, err
	}
	a, err := azure.NewAuthority(commonName, now)
	if err != nil {
		return nil, err
	}
	key, err := a.KeyPEM()
	if err != nil {
		return nil, err
	}
	s.setSecret(name, string(a.CertificatePEM())+string(key))
	return a, nil
}

// setSecret replaces a secret.
func (s *store) setSecret(name, text string) {
	if s == nil {
		return
	}
	s.cloudMu.Lock()
	defer s.cloudMu.Unlock()
	s.dirty = s.dirty || s.cloud.Secrets[name] != text
	s.cloud.Secrets[name] = text
}

// address is where the listener of that name was the last time, "" if it never was.
func (s *store) address(name string) string {
	if s == nil {
		return ""
	}
	s.cloudMu.Lock()
	defer s.cloudMu.Unlock()
	return s.cloud.Addresses[name]
}

func (s *store) setAddress(name, address string) {
	if s == nil {
		return
	}
	s.cloudMu.Lock()
	defer s.cloudMu.Unlock()
	s.dirty = s.dirty || s.cloud.Addresses[name] != address
	s.cloud.Addresses[name] = address
}

func (s *store) readState() error {
	path := s.path("state.log")
	lost := func(how string) error { // it is made before cloud.json, and is never empty
		return fmt.Errorf("%s is %s, but there is %s: restore it from a copy, or start with another state directory", path, how, s.path("cloud.json"))
	}
	good, size, err := readFramed(path, kindState, func(at int, payload []byte) error {
		u := unpacker{b: payload}
		kind, key := u.byte(), u.text()
		switch {
		case u.failed || kind != recordPut && kind != recordDelete || kind == recordDelete && len(u.b) > 0 || kind == recordPut && !json.Valid(u.b):
			return &damageError{at: at, what: "a record makes no sense"}
		case kind == recordPut:
			s.restored[key] = u.b
			s.settle(key, place{int64(at), int64(frameHead + len(payload))})
		default:
			delete(s.restored, key)
			s.settle(key, place{})
		}
		return nil
	})
	switch {
	case errors.Is(err, os.ErrNotExist):
		if s.existed {
			return lost("missing")
		}
		good = 0
	case err != nil:
		return err
	case good == 0 && s.existed:
		return lost("empty")
	case good < size:
		s.log.Warn().Str("file", path).Int("bytes", size-good).Msg("a change that was being written when the simulator was killed is cut off: it was not confirmed")
	}
	if s.file, err = reopenFramed(path, kindState, good); err != nil {
		return err
	}
	s.limit = compactAbove / 16 // at the start there is time
	s.tidy()
	return nil
}

// settle notes where the newest record of a key is; a zero place is that it has none.
func (s *store) settle(key string, p place) {
	s.live += p.size - s.places[key].size
	if s.places[key] = p; p.size == 0 {
		delete(s.places, key)
	}
}

// take hands over the records below a prefix, in order of their keys, to those who restore them.
func (s *store) take(prefix string, each func(name string, document []byte) error) error {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	taken := map[string][]byte{}
	for key, document := range s.restored {
		if name, ok := strings.CutPrefix(key, prefix); ok {
			taken[name] = document
			delete(s.restored, key)
		}
	}
	s.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(taken)) {
		if err := each(name, taken[name]); err != nil {
			return fmt.Errorf("%s: record %q: %w; restore it from a copy, or start with another state directory", s.path("state.log"), prefix+name, err)
		}
	}
	return nil
}

// put makes the document of a key what v is as JSON. When it returns nil that survives the process.
func (s *store) put(key string, v any) error {
	if s == nil {
		return nil
	}
	document, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return s.write(recordPut, key, document)
}

// delete makes a key have no document.
func (s *store) delete(key string) error {
	if s == nil {
		return nil
	}
	return s.write(recordDelete, key, nil)
}

func (s *store) write(kind byte, key string, document []byte) error {
	payload := append(appendText([]byte{kind}, key), document...)
	frame := appendFrame(nil, payload)
	s.mu.Lock()
	defer s.mu.Unlock()
	if kind == recordDelete && s.places[key].size == 0 {
		return nil
	}
	at := s.file.size
	if err := s.file.append(frame); err != nil {
		s.log.Error().Str("file", s.path("state.log")).Err(err).Msg("a change cannot be written and is not confirmed")
		return fmt.Errorf("the state cannot be written: %w", err)
	}
	if kind == recordDelete {
		s.settle(key, place{})
	} else {
		s.settle(key, place{at, int64(len(frame))})
	}
	s.tidy()
	return nil
}

// tidy compacts a file that has become so large, if half of it is garbage. Called with mu held.
func (s *store) tidy() {
	if s.file.size < s.limit {
		return
	}
	if s.file.size >= 2*s.live {
		if err := s.compact(); err != nil {
			s.log.Warn().Str("file", s.path("state.log")).Err(err).Msg("old state cannot be removed: the file goes on growing")
		}
	}
	s.limit = max(compactAbove, 2*s.file.size)
}

// compact replaces the file by one with the live records only.
func (s *store) compact() error {
	path := s.path("state.log")
	old, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if int64(len(old)) < s.file.size {
		return &damageError{path: path, at: len(old), what: fmt.Sprintf("it has become shorter than the %d bytes that were written", s.file.size)}
	}
	fresh := bytes.NewBuffer(make([]byte, 0, int(s.live)+len(kindState.line())))
	fresh.Write(kindState.line())
	places := make(map[string]place, len(s.places))
	for _, key := range slices.SortedFunc(maps.Keys(s.places), func(a, b string) int { return int(s.places[a].at - s.places[b].at) }) {
		p := s.places[key]
		places[key] = place{int64(fresh.Len()), p.size}
		fresh.Write(old[p.at : p.at+p.size])
	}
	if err := replaceFile(path, fresh.Bytes(), 0o600); err != nil {
		return err
	}
	_ = s.file.close() // the old one is complete, whatever close says
	s.places = places
	if s.file, err = reopenFramed(path, kindState, fresh.Len()); err != nil {
		s.file = &framedFile{broken: err}
	}
	return err
}

// close lets another process have the directory.
func (s *store) close() error {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	if s.file != nil {
		err = s.file.close()
		s.file = &framedFile{broken: os.ErrClosed}
	}
	return errors.Join(err, s.lock.Close())
}

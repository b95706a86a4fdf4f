package flow

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/hubhop-iot/hubhop/internal/flow/graph"
	"github.com/hubhop-iot/hubhop/internal/flow/manifest"
	"github.com/hubhop-iot/hubhop/internal/flow/node"
	"github.com/hubhop-iot/hubhop/internal/flow/state"
	"github.com/hubhop-iot/hubhop/internal/namedfile"
)

// tablesDir is the directory below the manifests whose files fill the state store.
const tablesDir = "store"

// tableFile returns the file that gives a key of the state store its value. What a file name cannot
// hold on some system is written as %XX, and so is a dot in front, which would hide the file.
func tableFile(dir, key string) string {
	var name strings.Builder
	for i := range len(key) {
		c := key[i]
		if c < ' ' || c == 0x7f || strings.IndexByte(`%/\:*?"<>|`, c) >= 0 || c == '.' && (i == 0 || i == len(key)-1) {
			_, _ = fmt.Fprintf(&name, "%%%02X", c)
			continue
		}
		name.WriteByte(c)
	}
	return filepath.Join(dir, tablesDir, name.String())
}

// tables are what the files say of the state store.
type tables struct {
	values map[string][]byte
	held   map[string]string // keys whose file is there and is not taken, and why
	faults []manifest.Fault
	part   string // why not all files were seen; empty: they were
	again  bool   // a file may be readable later, and nobody notices
}

// fault notes that a file is not taken. Its key, unless it is empty, keeps the value that it has.
func (t *tables) fault(path, key, format string, a ...any) {
	f := manifest.Fault{Pos: manifest.Pos{File: path, Line: 1, Column: 1}, Severity: manifest.Error, Text: fmt.Sprintf(format, a...)}
	t.faults = append(t.faults, f)
	if key != "" {
		t.held[key] = f.String()
	}
}

// readTables reads the files that fill the state store. Hidden files and directories are left out,
// so a mounted config map of Kubernetes gives each of its keys once.
func readTables(dir string) *tables {
	t := &tables{values: map[string][]byte{}, held: map[string]string{}}
	place := filepath.Join(dir, tablesDir)
	entries, err := os.ReadDir(place)
	if info, e := os.Stat(dir); errors.Is(e, fs.ErrNotExist) || e == nil && !info.IsDir() {
		t.part = "the directory of the manifests is missing" // which the manifests say
		return t
	}
	if errors.Is(err, fs.ErrNotExist) {
		return t
	}
	if err != nil {
		t.fault(place, "", "the directory cannot be read: %v; it has the files that fill the state store", namedfile.Cause(err))
		t.part, t.again = t.faults[0].String(), true
		return t
	}
	files, total := map[string]string{}, int64(0)
	for _, e := range entries {
		path := filepath.Join(place, e.Name())
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			continue
		}
		key, err := url.PathUnescape(e.Name())
		if err != nil {
			t.fault(path, "", "the file's name has a %% without two hexadecimal digits behind it; write %%25 for a %% of the key")
			continue
		}
		if !utf8.ValidString(key) { // no data set can name it, and no JSON can hold it
			t.fault(path, "", "the file's name is no UTF-8; rename it, or remove it")
			continue
		}
		if other := files[key]; other != "" {
			t.fault(path, "", "the key %.40q has the file %s already; remove one of them", key, other)
			continue
		}
		files[key] = path
		t.read(path, key, &total)
	}
	return t
}

// read reads the value of one key. An empty file is perhaps about to be written.
func (t *tables) read(path, key string, total *int64) {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		t.fault(path, key, "this is no plain file; remove it, or put a plain file in its place")
		return
	}
	value, err := namedfile.Read("state store", path, int64(state.MaxEntry-len(key)))
	value = bytes.TrimPrefix(value, []byte("\ufeff")) // of an editor; with it the first line is no JSON
	switch *total += int64(len(key)+len(value)) + state.Overhead; {
	case errors.Is(err, fs.ErrNotExist):
		t.fault(path, key, "the file is a link to nowhere, or has just gone; mend it, or remove it")
	case errors.Is(err, namedfile.ErrTooLarge):
		t.fault(path, key, "the file is too large: key and value may have %d bytes together; leave out what no flow needs", state.MaxEntry)
	case err != nil:
		t.fault(path, key, "the file cannot be read: %v; mend that, or remove the file", cmp.Or(errors.Unwrap(err), err))
		t.again = true
	case len(value) == 0:
		t.fault(path, key, "the file is empty; write the value of the key %.40q, or remove the file", key)
	case *total > state.DefaultMaxBytes:
		t.fault(path, key, "the files up to this one have more than %d bytes, which is all that the state store takes; leave out what no flow needs", state.DefaultMaxBytes)
	default:
		t.values[key] = value
	}
}

// patience is how long a disk may take to make values durable, before the flows go on without.
const patience = 5 * time.Second

// maxGiven bounds the file in which a filler remembers what files gave.
const maxGiven = 64 << 20

// filler gives keys of the state store the values of files, and takes away what a file gave when
// the file is gone. A value that somebody else has set since then stays.
type filler struct {
	dir   string // of the manifests
	store *state.Store
	file  string            // remembers given, because a file may go while nobody runs
	given map[string]string // by key, the SHA-256 of the value that its file gave
	seen  map[string]string // the same of this run: a file that does not change is not set again

	mu       sync.Mutex
	troubles map[string]string // why a key does not have the value of its file
	part     string            // why that is not known of all keys
}

func newFiller(dir, stateDir string, store *state.Store, log func(text string)) *filler {
	f := &filler{dir: dir, store: store, file: filepath.Join(stateDir, "store-files.json"), given: map[string]string{}, seen: map[string]string{}}
	text, err := namedfile.Read("what files gave to the state store", f.file, maxGiven)
	if errors.Is(err, fs.ErrNotExist) {
		return f
	}
	if err == nil {
		err = json.Unmarshal(text, &f.given)
	}
	if err != nil || f.given == nil {
		log(fmt.Sprintf("%s is not readable: keys of the state store whose files were removed meanwhile stay; it is written anew", f.file))
		f.given = map[string]string{}
	}
	return f
}

// fill takes over the files. again says that something may go well later without a change of them.
func (f *filler) fill(ctx context.Context) (faults []manifest.Fault, again bool) {
	t := readTables(f.dir)
	before := maps.Clone(f.given)
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var mu sync.Mutex
	refused := map[string]error{}
	var changing sync.WaitGroup // the store makes changes durable together
	change := func(key string, do func() error) {
		changing.Go(func() {
			if err := do(); err != nil {
				mu.Lock()
				defer mu.Unlock()
				refused[key] = err
			}
		})
	}
	for key, value := range t.values {
		if f.seen[key] == sum(value) {
			continue
		}
		if v, ok := f.store.Get(key); ok && bytes.Equal(v.Data, value) {
			continue
		}
		change(key, func() error {
			_, _, err := f.store.Set(ctx, key, value, state.SetOptions{})
			return err
		})
	}
	for key, given := range f.given {
		if t.values[key] != nil || t.held[key] != "" || t.part != "" {
			continue
		}
		v, ok := f.store.Get(key)
		if !ok || sum(v.Data) != given {
			continue
		}
		change(key, func() error {
			_, _, err := f.store.DelIf(ctx, key, v.Data, nil, node.Time{})
			return err
		})
	}
	changing.Wait()
	for _, key := range slices.Sorted(maps.Keys(refused)) {
		t.again = true
		t.fault(tableFile(f.dir, key), key, "%s", why(key, refused[key]))
	}
	for key, value := range t.values {
		if t.held[key] == "" {
			f.given[key], f.seen[key] = sum(value), sum(value)
		}
	}
	for key := range before {
		if t.values[key] == nil && t.held[key] == "" && t.part == "" {
			delete(f.given, key)
			delete(f.seen, key)
		}
	}
	if !maps.Equal(before, f.given) {
		if err := f.remember(); err != nil {
			t.fault(f.file, "", "the file cannot be written: %v; see to the disk, else a key whose file is removed while hubhop does not run stays", namedfile.Cause(err))
			t.again = true
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.troubles, f.part = t.held, t.part
	return t.faults, t.again
}

// why says why the state store has not taken the file of a key, and what to do.
func why(key string, err error) string {
	switch {
	case errors.Is(err, state.ErrNeedFence), errors.Is(err, state.ErrLowFence):
		return fmt.Sprintf("the key %.40q stays as it is, because a fencing token protects it; whoever set the token must delete the key", key)
	case errors.Is(err, state.ErrQuota):
		return fmt.Sprintf("the key %.40q stays as it is, because the state store is full: it takes %d bytes; shorten or remove files, or have keys deleted", key, state.DefaultMaxBytes)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("the key %.40q is not on the disk within %v; see to the disk, it is tried again", key, patience)
	}
	return fmt.Sprintf("the key %.40q stays as it is: %v; it is tried again", key, err)
}

func sum(value []byte) string {
	s := sha256.Sum256(value)
	return hex.EncodeToString(s[:])
}

// remember writes what the files gave, as a whole or not at all.
func (f *filler) remember() error {
	text, err := json.Marshal(f.given)
	if err != nil {
		return err
	}
	next := f.file + ".new"
	file, err := os.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600) // #nosec G304 -- in the device's directory
	if err != nil {
		return err
	}
	_, err = file.Write(text)
	err = errors.Join(err, file.Sync(), file.Close())
	if err != nil {
		return err
	}
	return os.Rename(next, f.file)
}

// notes returns what says why data sets of a plan do not have what their files say.
func (f *filler) notes(p graph.Plan) (says []func() string) {
	for _, o := range p.Operators {
		if op, ok := o.Op.(interface{ Keys() []string }); ok {
			for _, key := range op.Keys() {
				says = append(says, func() string { return f.say(key) })
			}
		}
	}
	return says
}

func (f *filler) say(key string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if text := f.troubles[key]; text != "" {
		return text
	}
	return f.part
}

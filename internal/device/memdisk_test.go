package device

import (
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/hubhop-iot/hubhop/internal/home"
)

// memDisk is a disk in memory: a test that goes through thousands of starts has no time for a real
// one. It has files only; every directory is there. Its calls pass fail first, which may be nil.
type memDisk struct {
	fail func(call, name string) error

	mu     sync.Mutex
	files  map[string][]byte
	locked map[string]bool
}

func (d *memDisk) call(call, name string) error {
	if d.fail == nil {
		return nil
	}
	if err := d.fail(call, filepath.Base(name)); err != nil {
		return &fs.PathError{Op: call, Path: name, Err: err}
	}
	return nil
}

func (d *memDisk) MkdirAll(dir string) error { return d.call("mkdir", dir) }

type memInfo struct {
	name string
	dir  bool
}

func (i memInfo) Name() string       { return i.name }
func (i memInfo) Size() int64        { return 0 }
func (i memInfo) ModTime() time.Time { return time.Time{} }
func (i memInfo) IsDir() bool        { return i.dir }
func (i memInfo) Sys() any           { return nil }
func (i memInfo) Mode() fs.FileMode {
	if i.dir {
		return fs.ModeDir | 0o700
	}
	return 0o600
}

func (d *memDisk) Lstat(name string) (fs.FileInfo, error) { return d.stat("lstat", name) }
func (d *memDisk) Stat(name string) (fs.FileInfo, error)  { return d.stat("stat", name) }

func (d *memDisk) stat(call, name string) (fs.FileInfo, error) {
	if err := d.call(call, name); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.files[name]; ok {
		return memInfo{filepath.Base(name), false}, nil
	}
	if filepath.Ext(name) == "" && filepath.Base(name) != home.LockFile { // a directory
		return memInfo{filepath.Base(name), true}, nil
	}
	return nil, &fs.PathError{Op: call, Path: name, Err: fs.ErrNotExist}
}

func (d *memDisk) Open(name string, flag int) (home.File, error) {
	if err := d.call("open", name); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	b, ok := d.files[name]
	switch {
	case filepath.Ext(name) == "" && filepath.Base(name) != home.LockFile:
	case !ok && flag&os.O_CREATE == 0:
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	case ok && flag&os.O_EXCL != 0:
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrExist}
	case !ok || flag&os.O_TRUNC != 0:
		d.files[name] = nil
	}
	return &memFile{disk: d, name: name, rest: b}, nil
}

func (d *memDisk) Rename(from, to string) error {
	if err := d.call("rename", from); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	b, ok := d.files[from]
	if !ok {
		return &fs.PathError{Op: "rename", Path: from, Err: fs.ErrNotExist}
	}
	delete(d.files, from)
	d.files[to] = b
	return nil
}

func (d *memDisk) Remove(name string) error {
	if err := d.call("remove", name); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.files[name]; !ok {
		return &fs.PathError{Op: "remove", Path: name, Err: fs.ErrNotExist}
	}
	delete(d.files, name)
	return nil
}

func (d *memDisk) Lock(name string, directory bool) (io.Closer, error) {
	call := "lock"
	if directory {
		call = "lockdir"
	}
	if err := d.call(call, name); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.locked[name] {
		return nil, home.ErrTaken
	}
	if d.locked == nil {
		d.locked = map[string]bool{}
	}
	d.locked[name] = true
	if _, ok := d.files[name]; !ok && !directory {
		d.files[name] = nil
	}
	return unlocker(func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.locked, name)
	}), nil
}

type unlocker func()

func (u unlocker) Close() error { u(); return nil }

// memFile is an open file, by name: nothing here renames one that is open.
type memFile struct {
	disk *memDisk
	name string
	rest []byte
}

func (f *memFile) Read(b []byte) (int, error) {
	if err := f.disk.call("read", f.name); err != nil {
		return 0, err
	}
	if len(f.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(b, f.rest)
	f.rest = f.rest[n:]
	return n, nil
}

// Write appends. A Write that fails has written half.
func (f *memFile) Write(b []byte) (int, error) {
	err := f.disk.call("write", f.name)
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if err != nil {
		b = b[:len(b)/2]
	}
	f.disk.files[f.name] = append(slices.Clip(f.disk.files[f.name]), b...)
	return len(b), err
}

func (f *memFile) Sync() error  { return f.disk.call("sync", f.name) }
func (f *memFile) Close() error { return f.disk.call("close", f.name) }

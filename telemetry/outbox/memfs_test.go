package outbox

import (
	"errors"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"sync"
	"syscall"
	"testing"

	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk"
)

// memFS is a disk in memory that knows what is on the platter and what is only in the page cache.
// It can fail any call, cut writes short, and be cut off from power: powerCut returns the disk as
// the next boot may find it.
type memFS struct {
	mu     sync.Mutex
	names  map[string]*inode // as programs see them
	solid  map[string]*inode // as they are on the platter
	dirOps []dirOp           // what makes the difference
	locks  map[string]bool
	rnd    *rand.Rand
	calls  int // that change something
	counts map[string]int
	// fault, if set, is asked before every call that changes something: how it fails.
	fault func(call int, op, name string) error
	short func(n int) int // how many of n bytes a write that fails has written; nil: any number
	// deny, if set, is asked before every call, also those that change nothing.
	deny func(op, name string) error
}

type dirOp struct {
	from, to string // create: only to; remove: only from
	node     *inode
}

const sector = 512

func newMemFS() *memFS {
	return &memFS{
		names: map[string]*inode{}, solid: map[string]*inode{}, locks: map[string]bool{}, counts: map[string]int{},
		rnd: rand.New(rand.NewPCG(1, 2)),
	}
}

func (m *memFS) ask(op, name string) error {
	m.counts[op]++
	m.calls++
	if err := m.look(op, name); err != nil {
		return err
	}
	if m.fault != nil {
		return m.fault(m.calls, op, filepath.Base(name))
	}
	return nil
}

// look is asked before a call that changes nothing.
func (m *memFS) look(op, name string) error {
	if m.deny == nil {
		return nil
	}
	if err := m.deny(op, filepath.Base(name)); err != nil {
		return &fs.PathError{Op: op, Path: name, Err: err}
	}
	return nil
}

// setFault replaces the fault; nil heals the disk.
func (m *memFS) setFault(f func(call int, op, name string) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fault = f
}

// file is a file as programs see it; nil: there is none.
func (m *memFS) file(name string) *inode {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n := m.names[name]; n != nil {
		return &inode{data: slices.Clone(n.data)}
	}
	return nil
}

// setDeny replaces what is asked before every call; nil heals the disk.
func (m *memFS) setDeny(deny func(op, name string) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.deny = deny
}

func (m *memFS) count(op string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.counts[op]
}

func (m *memFS) MkdirAll(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.look("mkdir", dir)
}

type memLock struct {
	m    *memFS
	name string
}

func (l memLock) Close() error {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	delete(l.m.locks, l.name)
	return nil
}

func (m *memFS) Lock(name string) (io.Closer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.look("lock", name); err != nil {
		return nil, err
	}
	if m.locks[name] {
		return nil, ErrLocked
	}
	m.locks[name] = true
	return memLock{m, name}, nil
}

func (m *memFS) List(dir string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.look("list", dir); err != nil {
		return nil, err
	}
	if filepath.Dir(dir) == dir {
		return []string{"box"}, nil // where all tests have their outbox
	}
	var names []string
	for name := range m.names {
		if filepath.Dir(name) == filepath.Clean(dir) {
			names = append(names, filepath.Base(name))
		}
	}
	sort.Strings(names)
	return names, nil
}

func (m *memFS) Open(name string, flag int) (disk.File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	node := m.names[name]
	switch {
	case node == nil && flag&os.O_CREATE == 0:
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	case node != nil && flag&os.O_EXCL != 0:
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrExist}
	case node == nil:
		if err := m.ask("create", name); err != nil {
			return nil, err
		}
		node = &inode{}
		m.names[name] = node
		m.dirOps = append(m.dirOps, dirOp{to: name, node: node})
	case flag&os.O_TRUNC != 0:
		if err := m.ask("truncate", name); err != nil {
			return nil, err
		}
		node.data = nil
		node.ops = append(node.ops, fileOp{truncate: true})
	default:
		if err := m.look("open", name); err != nil {
			return nil, err
		}
	}
	return &memFile{m: m, node: node, name: name}, nil
}

func (m *memFS) Rename(from, to string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.ask("rename", from); err != nil {
		return err
	}
	node := m.names[from]
	if node == nil {
		return &fs.PathError{Op: "rename", Path: from, Err: fs.ErrNotExist}
	}
	delete(m.names, from)
	m.names[to] = node
	m.dirOps = append(m.dirOps, dirOp{from: from, to: to, node: node})
	return nil
}

func (m *memFS) Remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.ask("remove", name); err != nil {
		return err
	}
	if m.names[name] == nil {
		return &fs.PathError{Op: "remove", Path: name, Err: fs.ErrNotExist}
	}
	m.dirOps = append(m.dirOps, dirOp{from: name, node: m.names[name]})
	delete(m.names, name)
	return nil
}

func (m *memFS) SyncDir(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.ask("syncdir", dir); err != nil {
		return err
	}
	for _, op := range m.dirOps {
		op.applyTo(m.solid)
	}
	m.dirOps = nil
	return nil
}

func (op dirOp) applyTo(names map[string]*inode) {
	if op.from != "" && names[op.from] == op.node {
		delete(names, op.from)
	}
	if op.to != "" {
		names[op.to] = op.node
	}
}

// powerCut is the disk as the next boot may find it: what was synced, and any part of what was not.
func (m *memFS) powerCut(rnd *rand.Rand) *memFS {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.boot(func(dirOp) bool { return rnd.IntN(2) == 0 }, func(n *inode) []byte { return n.after(rnd) })
}

// boot is the disk after a power cut: keep says which changes of names that were not synced are
// there, after what is in a file. m.mu is held, or nobody else knows m.
func (m *memFS) boot(keep func(dirOp) bool, after func(*inode) []byte) *memFS {
	next := newMemFS()
	names := map[string]*inode{}
	maps.Copy(names, m.solid)
	for _, op := range m.dirOps {
		if keep(op) {
			op.applyTo(names)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) { // in an order, so that a seed always does the same
		data := slices.Clone(after(names[name]))
		next.names[name] = &inode{data: data, solid: slices.Clone(data)}
		next.solid[name] = next.names[name]
	}
	return next
}

// killed is the disk as the next process finds it: nothing is lost, nothing more is synced, the
// locks are free.
func (m *memFS) killed() *memFS {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.copied()
}

// copied is killed for a fault, which is asked while the disk is locked.
func (m *memFS) copied() *memFS {
	next := newMemFS()
	copies := map[*inode]*inode{}
	cp := func(n *inode) *inode {
		if copies[n] == nil {
			copies[n] = &inode{data: slices.Clone(n.data), solid: slices.Clone(n.solid), ops: slices.Clone(n.ops)}
		}
		return copies[n]
	}
	for name, node := range m.names {
		next.names[name] = cp(node)
	}
	for name, node := range m.solid {
		next.solid[name] = cp(node)
	}
	for _, op := range m.dirOps {
		op.node = cp(op.node)
		next.dirOps = append(next.dirOps, op)
	}
	return next
}

// edit changes a file behind everybody's back, page cache and platter.
func (m *memFS) edit(name string, change func([]byte) []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.names[name]
	n.data = change(slices.Clone(n.data))
	n.solid, n.ops = slices.Clone(n.data), nil
}

var (
	errIO    = &fs.PathError{Op: "write", Path: "test", Err: syscall.EIO}
	errSpace = &fs.PathError{Op: "write", Path: "test", Err: syscall.ENOSPC}
)

func TestMemFSForgetsWhatWasNotSynced(t *testing.T) {
	m := newMemFS()
	f, err := m.Open("/d/f", os.O_RDWR|os.O_CREATE)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt([]byte("hello"), 0)
	err = errors.Join(err, f.Sync(), m.SyncDir("/d"))
	_, err2 := f.WriteAt([]byte("J"), 0)
	if err = errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for i := range uint64(50) {
		next := m.powerCut(rand.New(rand.NewPCG(i, 0)))
		seen[string(next.names["/d/f"].data)] = true
	}
	if len(seen) != 2 || !seen["hello"] || !seen["Jello"] {
		t.Errorf("after a power cut: %v", seen)
	}
}

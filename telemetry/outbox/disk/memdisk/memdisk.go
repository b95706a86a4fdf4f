// Package memdisk is a disk in memory for tests: it fails where a test wants it to, and it can be
// cut off from power.
package memdisk

import (
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

	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk"
)

// FS is a disk in memory that knows what is on the platter and what is only in the page cache.
// It can fail any call, cut writes short, and be cut off from power: PowerCut returns the disk as
// the next boot may find it.
type FS struct {
	mu     sync.Mutex
	Names  map[string]*Node // as programs see them
	Solid  map[string]*Node // as they are on the platter
	dirOps []dirOp          // what makes the difference
	locks  map[string]bool
	Rand   *rand.Rand
	Calls  int // that change something
	counts map[string]int
	// fault, if set, is asked before every call that changes something: how it fails.
	fault func(call int, op, name string) error
	Short func(n int) int // how many of n bytes a write that fails has written; nil: any number
	// Deny, if set, is asked before every call, also those that change nothing.
	Deny func(op, name string) error
}

type dirOp struct {
	from, to string // create: only to; remove: only from
	node     *Node
}

const sector = 512

// New returns an empty disk.
func New() *FS {
	return &FS{
		Names: map[string]*Node{}, Solid: map[string]*Node{}, locks: map[string]bool{}, counts: map[string]int{},
		Rand: rand.New(rand.NewPCG(1, 2)),
	}
}

func (m *FS) ask(op, name string) error {
	m.counts[op]++
	m.Calls++
	if err := m.look(op, name); err != nil {
		return err
	}
	if m.fault != nil {
		return m.fault(m.Calls, op, filepath.Base(name))
	}
	return nil
}

// look is asked before a call that changes nothing.
func (m *FS) look(op, name string) error {
	if m.Deny == nil {
		return nil
	}
	if err := m.Deny(op, filepath.Base(name)); err != nil {
		return &fs.PathError{Op: op, Path: name, Err: err}
	}
	return nil
}

// SetFault replaces the fault; nil heals the disk.
func (m *FS) SetFault(f func(call int, op, name string) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fault = f
}

// File is a file as programs see it; nil: there is none.
func (m *FS) File(name string) *Node {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n := m.Names[name]; n != nil {
		return &Node{Data: slices.Clone(n.Data)}
	}
	return nil
}

// SetDeny replaces what is asked before every call; nil heals the disk.
func (m *FS) SetDeny(deny func(op, name string) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.Deny = deny
}

// Count returns how many calls of a kind have been made.
func (m *FS) Count(op string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.counts[op]
}

// MkdirAll does nothing: there is every directory.
func (m *FS) MkdirAll(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.look("mkdir", dir)
}

type memLock struct {
	m    *FS
	name string
}

func (l memLock) Close() error {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	delete(l.m.locks, l.name)
	return nil
}

// Lock locks a directory until the lock is closed.
func (m *FS) Lock(name string) (io.Closer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.look("lock", name); err != nil {
		return nil, err
	}
	if m.locks[name] {
		return nil, disk.ErrLocked
	}
	m.locks[name] = true
	return memLock{m, name}, nil
}

// List returns the names in a directory.
func (m *FS) List(dir string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.look("list", dir); err != nil {
		return nil, err
	}
	if filepath.Dir(dir) == dir {
		return []string{"box"}, nil // where the tests of the outbox have it
	}
	var names []string
	for name := range m.Names {
		if filepath.Dir(name) == filepath.Clean(dir) {
			names = append(names, filepath.Base(name))
		}
	}
	sort.Strings(names)
	return names, nil
}

// Open opens a file, as package os does.
func (m *FS) Open(name string, flag int) (disk.File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	node := m.Names[name]
	switch {
	case node == nil && flag&os.O_CREATE == 0:
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	case node != nil && flag&os.O_EXCL != 0:
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrExist}
	case node == nil:
		if err := m.ask("create", name); err != nil {
			return nil, err
		}
		node = &Node{}
		m.Names[name] = node
		m.dirOps = append(m.dirOps, dirOp{to: name, node: node})
	case flag&os.O_TRUNC != 0:
		if err := m.ask("truncate", name); err != nil {
			return nil, err
		}
		node.Data = nil
		node.ops = append(node.ops, fileOp{truncate: true})
	default:
		if err := m.look("open", name); err != nil {
			return nil, err
		}
	}
	return &file{m: m, node: node, name: name}, nil
}

// Rename renames a file.
func (m *FS) Rename(from, to string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.ask("rename", from); err != nil {
		return err
	}
	node := m.Names[from]
	if node == nil {
		return &fs.PathError{Op: "rename", Path: from, Err: fs.ErrNotExist}
	}
	delete(m.Names, from)
	m.Names[to] = node
	m.dirOps = append(m.dirOps, dirOp{from: from, to: to, node: node})
	return nil
}

// Remove removes a file.
func (m *FS) Remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.ask("remove", name); err != nil {
		return err
	}
	if m.Names[name] == nil {
		return &fs.PathError{Op: "remove", Path: name, Err: fs.ErrNotExist}
	}
	m.dirOps = append(m.dirOps, dirOp{from: name, node: m.Names[name]})
	delete(m.Names, name)
	return nil
}

// SyncDir makes what has happened to names last.
func (m *FS) SyncDir(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.ask("syncdir", dir); err != nil {
		return err
	}
	for _, op := range m.dirOps {
		op.applyTo(m.Solid)
	}
	m.dirOps = nil
	return nil
}

func (op dirOp) applyTo(names map[string]*Node) {
	if op.from != "" && names[op.from] == op.node {
		delete(names, op.from)
	}
	if op.to != "" {
		names[op.to] = op.node
	}
}

// PowerCut is the disk as the next boot may find it: what was synced, and any part of what was not.
func (m *FS) PowerCut(rnd *rand.Rand) *FS {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.boot(func(dirOp) bool { return rnd.IntN(2) == 0 }, func(n *Node) []byte { return n.after(rnd) })
}

// boot is the disk after a power cut: keep says which changes of names that were not synced are
// there, after what is in a file. m.mu is held, or nobody else knows m.
func (m *FS) boot(keep func(dirOp) bool, after func(*Node) []byte) *FS {
	next := New()
	names := map[string]*Node{}
	maps.Copy(names, m.Solid)
	for _, op := range m.dirOps {
		if keep(op) {
			op.applyTo(names)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) { // in an order, so that a seed always does the same
		data := slices.Clone(after(names[name]))
		next.Names[name] = &Node{Data: data, Solid: slices.Clone(data)}
		next.Solid[name] = next.Names[name]
	}
	return next
}

// Killed is the disk as the next process finds it: nothing is lost, nothing more is synced, the
// locks are free.
func (m *FS) Killed() *FS {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.Copied()
}

// Copied is Killed for a fault, which is asked while the disk is locked.
func (m *FS) Copied() *FS {
	next := New()
	copies := map[*Node]*Node{}
	cp := func(n *Node) *Node {
		if copies[n] == nil {
			copies[n] = &Node{Data: slices.Clone(n.Data), Solid: slices.Clone(n.Solid), ops: slices.Clone(n.ops)}
		}
		return copies[n]
	}
	for name, node := range m.Names {
		next.Names[name] = cp(node)
	}
	for name, node := range m.Solid {
		next.Solid[name] = cp(node)
	}
	for _, op := range m.dirOps {
		op.node = cp(op.node)
		next.dirOps = append(next.dirOps, op)
	}
	return next
}

// Edit changes a file behind everybody's back, page cache and platter.
func (m *FS) Edit(name string, change func([]byte) []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.Names[name]
	n.Data = change(slices.Clone(n.Data))
	n.Solid, n.ops = slices.Clone(n.Data), nil
}

// Errors that a disk gives.
var (
	ErrIO    = &fs.PathError{Op: "write", Path: "test", Err: syscall.EIO}
	ErrSpace = &fs.PathError{Op: "write", Path: "test", Err: syscall.ENOSPC}
)

// Bytes is a file with some bytes.
func Bytes(data []byte) disk.File { return &file{m: New(), node: &Node{Data: data}} }

// Units returns how many changes there are that were not synced.
func (m *FS) Units() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.units())
}

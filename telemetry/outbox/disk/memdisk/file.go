package memdisk

import (
	"io"
	"io/fs"
	"math/rand/v2"
	"slices"
)

// Node is what a file has, whatever its name is.
type Node struct {
	Data  []byte // page cache
	Solid []byte // platter
	ops   []fileOp
}

type fileOp struct {
	at       int64
	data     []byte // nil: truncate to at
	truncate bool
}

type file struct {
	m      *FS
	node   *Node
	name   string
	closed bool
}

// Close is as in package os: the file is of no use afterwards.
func (f *file) Close() error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if f.closed {
		return fs.ErrClosed
	}
	f.closed = true
	return nil
}

// used is asked before every call on the file.
func (f *file) used() error {
	if f.closed {
		return &fs.PathError{Op: "use", Path: f.name, Err: fs.ErrClosed}
	}
	return nil
}

func (f *file) Size() (int64, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.used(); err != nil {
		return 0, err
	}
	if err := f.m.look("size", f.name); err != nil {
		return 0, err
	}
	return int64(len(f.node.Data)), nil
}

func (f *file) Is(name string) (bool, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.used(); err != nil {
		return false, err
	}
	if err := f.m.look("stat", name); err != nil {
		return false, err
	}
	switch f.m.Names[name] {
	case nil:
		return false, &fs.PathError{Op: "stat", Path: name, Err: fs.ErrNotExist}
	case f.node:
		return true, nil
	}
	return false, nil
}

func (f *file) ReadAt(p []byte, at int64) (int, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.used(); err != nil {
		return 0, err
	}
	if err := f.m.look("read", f.name); err != nil {
		return 0, err
	}
	if at >= int64(len(f.node.Data)) {
		return 0, io.EOF
	}
	n := copy(p, f.node.Data[at:])
	f.m.counts["bytes read"] += n
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *file) WriteAt(p []byte, at int64) (int, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.used(); err != nil {
		return 0, err
	}
	err := f.m.ask("write", f.name)
	if err != nil { // a write that fails may have written something
		n := f.m.Rand.IntN(len(p) + 1)
		if f.m.Short != nil {
			n = f.m.Short(len(p))
		}
		p = p[:n]
	}
	op := fileOp{at: at, data: slices.Clone(p)}
	if len(p) > 0 {
		f.node.Data = op.changeIn(f.node.Data)
		f.node.ops = append(f.node.ops, op)
	}
	return len(p), err
}

func (f *file) Truncate(size int64) error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.used(); err != nil {
		return err
	}
	if err := f.m.ask("truncate", f.name); err != nil {
		return err
	}
	op := fileOp{at: size, truncate: true}
	f.node.Data = op.changeIn(f.node.Data)
	f.node.ops = append(f.node.ops, op)
	return nil
}

func (f *file) Sync() error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.used(); err != nil {
		return err
	}
	if err := f.m.ask("sync", f.name); err != nil {
		// The worst that systems do: some of it reached the platter, and none of it is dirty any
		// more.
		f.node.Solid = f.node.after(f.m.Rand)
		f.node.ops = nil
		return err
	}
	for _, op := range f.node.ops { // and not what an earlier sync failed to write: that is not dirty any more
		f.node.Solid = op.changeIn(f.node.Solid)
	}
	f.node.ops = nil
	return nil
}

// changeIn changes the bytes of a file that is not shared.
func (op fileOp) changeIn(data []byte) []byte {
	end := op.at + int64(len(op.data))
	if int64(len(data)) < end {
		data = append(data, make([]byte, end-int64(len(data)))...)
	}
	if op.truncate {
		return data[:op.at]
	}
	copy(data[op.at:], op.data)
	return data
}

// after is what may be on the platter: of everything that was not synced any part, sector by
// sector, and within a sector up to any byte.
func (n *Node) after(rnd *rand.Rand) []byte {
	data := slices.Clone(n.Solid)
	mode := rnd.IntN(5) // all, nothing, or a mix
	for _, op := range n.ops {
		if op.truncate {
			if mode == 0 || mode > 1 && rnd.IntN(2) == 0 {
				data = op.changeIn(data)
			}
			continue
		}
		for at := op.at; at < op.at+int64(len(op.data)); {
			end := min((at/sector+1)*sector, op.at+int64(len(op.data)))
			part := op.data[at-op.at : end-op.at]
			if mode == 4 && rnd.IntN(4) == 0 {
				part = part[:rnd.IntN(len(part)+1)]
			}
			if mode == 0 || mode > 1 && rnd.IntN(2) == 0 {
				data = fileOp{at: at, data: part}.changeIn(data)
			}
			at = end
		}
	}
	return data
}

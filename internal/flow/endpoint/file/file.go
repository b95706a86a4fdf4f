// Package file is the destination LocalStorage of a data flow: files of JSON lines in a directory
// of this machine (Microsoft's page "Configure data flow endpoints for local storage"; Azure IoT
// Operations writes Parquet there, hubhop writes JSON lines).
//
// A file is written under a name that ends in .part. When it is large or old enough, or when the
// flow stops, it gets its final name. So whoever reads *.jsonl sees complete files only. A message
// is safe when its line is synced. A file that a crash has left is given its final name at the next
// start, without a line that is not whole.
package file

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hubhop-iot/hubhop/internal/flow/endpoint/queue"
	"github.com/hubhop-iot/hubhop/internal/flow/node"
)

// These say when a file gets its final name, unless Options say otherwise.
const (
	DefaultMaxBytes = 64 << 20
	DefaultMaxAge   = time.Hour
)

const (
	unfinished = ".part" // what the name of a file ends in while it is written
	final      = ".jsonl"
	together   = 1024 // messages that share a sync, at most
	firstWait  = time.Second
	longestOff = 30 * time.Second
)

// errNotJSON completes a message that has no place in a file of JSON lines.
var errNotJSON = errors.New("the payload is not JSON, and the files of a LocalStorage endpoint are JSON lines")

// Options say where the files are.
type Options struct {
	Volume   string        // the directory of the volume claim; it must exist
	Folder   string        // below it, as dataDestination says; made if it is missing
	Name     string        // begins the names of the files, so that flows can share a folder; no dot in it
	MaxBytes int64         // of one file, but for its last line; 0: DefaultMaxBytes
	MaxAge   time.Duration // from the first line of a file; 0: DefaultMaxAge
	Limits   queue.Limits
	// Report, which may be nil, is told of a disk that fails, once until it works again, and then
	// gets nil.
	Report func(err error)
}

// Destination writes the files. Make one with New.
type Destination struct {
	opt   Options
	queue *queue.Queue

	root    *os.Root // the volume; nil: not opened yet
	file    *os.File // nil: none is being written
	name    string   // of that, without its ending
	size    int64    // of its whole lines
	lines   uint64   // messages in it, all safe
	opened  time.Time
	failing bool
	lost    atomic.Uint64
	line    bytes.Buffer
}

// CheckFolder says what is wrong with a dataDestination as a folder; nil: nothing.
func CheckFolder(folder string) error {
	if folder == "" || !fs.ValidPath(folder) || strings.ContainsAny(folder, "\\\x00") {
		return fmt.Errorf("%q is no folder below the volume; write it as name or name/name", folder)
	}
	return nil
}

// New returns a destination. It touches no disk before Run.
func New(o Options) (*Destination, error) {
	if err := CheckFolder(o.Folder); err != nil {
		return nil, err
	}
	if o.MaxBytes == 0 {
		o.MaxBytes = DefaultMaxBytes
	}
	if o.MaxAge == 0 {
		o.MaxAge = DefaultMaxAge
	}
	if o.Report == nil {
		o.Report = func(error) {}
	}
	return &Destination{opt: o, queue: queue.New(o.Limits)}, nil
}

// Send takes messages over, see [node.Destination].
func (d *Destination) Send(ctx context.Context, ms []node.Message, to node.Completion, tickets []uint64) (int, error) {
	return d.queue.Put(ctx, ms, to, tickets)
}

// Run writes until ctx ends, see [node.Destination]. While the disk fails, it tries again.
func (d *Destination) Run(ctx context.Context) error {
	defer d.end()
	var items []queue.Item
	wait := firstWait
	old := time.NewTimer(0)
	defer old.Stop()
	for {
		var failed error
		if len(items) == 0 {
			items = d.queue.Take(items, together)
		}
		if failed = d.work(&items); failed == nil {
			wait = firstWait
			d.worked()
		} else {
			d.fails(failed)
			d.leave()
		}
		var aged <-chan time.Time
		switch {
		case failed != nil:
			old.Reset(wait)
			wait = min(2*wait, longestOff)
			aged = old.C
		case d.file != nil:
			old.Reset(time.Until(d.opened.Add(d.opt.MaxAge)))
			aged = old.C
		}
		ready := d.queue.Ready()
		if failed != nil {
			ready = nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-aged:
		case <-ready:
		}
	}
}

// work writes messages and completes them, and finishes a file whose time has come. After an error,
// items are those that are still to be written.
func (d *Destination) work(items *[]queue.Item) error {
	if err := d.open(); err != nil {
		return err
	}
	if d.file != nil && time.Since(d.opened) >= d.opt.MaxAge {
		if err := d.finish(); err != nil {
			return err
		}
	}
	for len(*items) > 0 {
		n, err := d.write(*items)
		if err != nil {
			return err
		}
		*items = slices.Delete(*items, 0, n)
		if d.size >= d.opt.MaxBytes {
			if err := d.finish(); err != nil {
				return err
			}
		}
	}
	return nil
}

// open opens the volume, makes the folder, and finishes what an earlier process has left.
func (d *Destination) open() (err error) {
	if d.root != nil {
		return nil
	}
	root, err := os.OpenRoot(d.opt.Volume)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = root.Close()
		}
	}()
	if err := root.MkdirAll(d.opt.Folder, 0o750); err != nil {
		return err
	}
	entries, err := fs.ReadDir(root.FS(), d.opt.Folder)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), unfinished)
		if ok && strings.HasPrefix(name, d.opt.Name+".") && e.Type().IsRegular() {
			if err := recoverFile(root, path.Join(d.opt.Folder, name)); err != nil {
				return err
			}
		}
	}
	d.root = root
	return nil
}

// recoverFile gives a file its final name, without a last line that is not whole.
func recoverFile(root *os.Root, name string) error {
	f, err := root.OpenFile(name+unfinished, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	size, err := wholeLines(f)
	if err != nil {
		return err
	}
	if size == 0 {
		return root.Remove(name + unfinished)
	}
	if err := errors.Join(f.Truncate(size), f.Sync()); err != nil {
		return err
	}
	return errors.Join(root.Rename(name+unfinished, name+final), syncDir(root, path.Dir(name)))
}

// wholeLines returns how many bytes of a file end with a newline.
func wholeLines(f *os.File) (int64, error) {
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, err
	}
	block := make([]byte, 64<<10)
	for end > 0 {
		n := min(end, int64(len(block)))
		if _, err := f.ReadAt(block[:n], end-n); err != nil {
			return 0, err
		}
		if i := bytes.LastIndexByte(block[:n], '\n'); i >= 0 {
			return end - n + int64(i) + 1, nil
		}
		end -= n
	}
	return 0, nil
}

// write writes a line for each message until the file is large enough, syncs them, and completes
// the messages. It returns how many messages it is done with.
func (d *Destination) write(items []queue.Item) (n int, err error) {
	d.line.Reset()
	var bad []queue.Item
	good := items[:0:0]
	for ; n < len(items) && d.size+int64(d.line.Len()) < d.opt.MaxBytes; n++ {
		before := d.line.Len()
		if json.Compact(&d.line, items[n].Message.Payload) != nil || d.line.Len() == before {
			d.line.Truncate(before)
			bad = append(bad, items[n])
			continue
		}
		d.line.WriteByte('\n')
		good = append(good, items[n])
	}
	if len(good) > 0 {
		if err := d.append(d.line.Bytes()); err != nil {
			return 0, err
		}
		d.lines += uint64(len(good))
		d.queue.Complete(good, nil)
	}
	if len(bad) > 0 {
		d.queue.Complete(bad, errNotJSON)
	}
	return n, nil
}

// append makes lines durable. After an error nobody knows what the file has.
func (d *Destination) append(lines []byte) error {
	if d.file == nil {
		if err := d.create(); err != nil {
			return err
		}
	}
	_, err := d.file.WriteAt(lines, d.size)
	if err == nil {
		err = d.file.Sync()
	}
	if err == nil {
		err = d.isThere()
	}
	if err != nil {
		return err
	}
	d.size += int64(len(lines))
	return nil
}

// isThere returns an error if the file that is being written has not its name any more: a system
// goes on taking and syncing what is written to a file that was removed. What was safe in it counts
// as lost, and the file is given up.
func (d *Destination) isThere() error {
	name := d.name + unfinished
	named, err := d.root.Lstat(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err == nil {
		open, err := d.file.Stat()
		if err != nil || os.SameFile(named, open) {
			return err
		}
	}
	n := d.lines
	d.lost.Add(n)
	_ = d.file.Close()
	d.file, d.size, d.lines = nil, 0, 0
	return fmt.Errorf("somebody has removed or renamed %s while it was written, and with it %d messages "+
		"that were safe; look for a copy, and have nobody touch files that end in %s; what comes goes to a new file", name, n, unfinished)
}

// Lost returns how many messages were safe in files that somebody has removed or renamed while they
// were written.
func (d *Destination) Lost() uint64 { return d.lost.Load() }

// create begins a file. Its name is the time, so names sort as the files do.
func (d *Destination) create() error {
	now := time.Now()
	stem := now.UTC().Format("20060102T150405.000")
	for i := range 1000 {
		name := path.Join(d.opt.Folder, fmt.Sprintf("%s.%s-%03d", d.opt.Name, stem, i))
		if _, err := d.root.Lstat(name + final); err == nil {
			continue
		}
		f, err := d.root.OpenFile(name+unfinished, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o640)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return err
		}
		d.file, d.name, d.size, d.lines, d.opened = f, name, 0, 0, now
		return syncDir(d.root, d.opt.Folder)
	}
	return fmt.Errorf("%s: a thousand files of one millisecond are there already", d.opt.Folder)
}

// finish gives the file its final name, with its whole lines.
func (d *Destination) finish() error {
	if d.file == nil {
		return nil
	}
	if err := d.isThere(); err != nil {
		return err
	}
	f, name, size := d.file, d.name, d.size
	d.file, d.size = nil, 0
	if err := f.Close(); err != nil {
		return err
	}
	if size == 0 {
		return d.root.Remove(name + unfinished)
	}
	return errors.Join(d.root.Rename(name+unfinished, name+final), syncDir(d.root, d.opt.Folder))
}

// end finishes the file and closes the volume.
func (d *Destination) end() {
	if d.root != nil {
		if err := d.finish(); err != nil {
			d.fails(err)
		}
	}
	d.leave()
}

// leave closes the volume. The next open finishes the file that was being written.
func (d *Destination) leave() {
	if d.file != nil {
		_ = d.file.Close()
		d.file, d.size = nil, 0
	}
	if d.root != nil {
		_ = d.root.Close()
		d.root = nil
	}
}

func (d *Destination) fails(err error) {
	if !d.failing {
		d.failing = true
		d.opt.Report(fmt.Errorf("volume %s: %w; make the directory, or see to the disk; it is tried again", d.opt.Volume, err))
	}
}

func (d *Destination) worked() {
	if d.failing {
		d.failing = false
		d.opt.Report(nil)
	}
}

// syncDir makes the names in a directory durable.
func syncDir(root *os.Root, dir string) error {
	if runtime.GOOS == "windows" { // where a directory cannot be synced, and need not be
		return nil
	}
	f, err := root.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

package outbox

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"path/filepath"
	"slices"
	"time"

	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/runs"
)

const (
	quarantineName    = "quarantine.jsonl"
	quarantineOldName = "quarantine.old.jsonl"
	// quarantineMax is the size at which the file makes room for a new one; the one before that is
	// deleted.
	quarantineMax = 8 << 20
)

// SetAside is an entry of the quarantine: a message that could never be sent, or bytes that were
// damaged on the disk.
type SetAside struct {
	ID              string            `json:"id,omitempty"`   // of the message
	Lost            string            `json:"lost,omitempty"` // "<outbox id>-<first>..<last>": damaged messages
	Why             string            `json:"why"`
	At              time.Time         `json:"at"` // when it was set aside
	Created         *time.Time        `json:"created,omitempty"`
	ContentType     string            `json:"contentType,omitempty"`
	ContentEncoding string            `json:"contentEncoding,omitempty"`
	Component       string            `json:"component,omitempty"`
	Properties      map[string]string `json:"properties,omitempty"`
	Body            []byte            `json:"body,omitempty"`
	Raw             []byte            `json:"raw,omitempty"` // damaged bytes, at most 1 MiB
}

// maxAside is more bytes than any entry has: 1 MiB of a message, in escapes of six bytes.
const maxAside = 8 << 20

// ReadQuarantine goes through the quarantine of the outbox in dir, oldest entry first. It takes no
// lock and changes nothing. A missing quarantine is an empty one. A line that is not whole, or that
// no outbox has written, is passed over. An error is one of the disk, and the last.
func ReadQuarantine(dir string) iter.Seq2[SetAside, error] {
	return func(yield func(SetAside, error) bool) {
		// The newer file first: when they change positions between our two looks, we have it twice,
		// and not a hole.
		newer, err := openIfThere(filepath.Join(dir, quarantineName))
		if err != nil {
			yield(SetAside{}, err)
			return
		}
		defer newer.close()
		older, err := openIfThere(filepath.Join(dir, quarantineOldName))
		if err != nil {
			yield(SetAside{}, err)
			return
		}
		defer older.close()
		if older.is(newer) {
			older.File = nil
		}
		for _, f := range []maybeFile{older, newer} {
			if f.File == nil {
				continue
			}
			for q, err := range entries(io.NewSectionReader(f, 0, 1<<62)) {
				if err != nil {
					err = fmt.Errorf("outbox: %s: %w", f.name, err)
				}
				if !yield(q, err) || err != nil {
					return
				}
			}
		}
	}
}

// entries yields the entries of one file. An error of the reader comes last.
func entries(r io.Reader) iter.Seq2[SetAside, error] {
	return func(yield func(SetAside, error) bool) {
		for in := bufio.NewReaderSize(r, 64<<10); ; {
			line, err := readLine(in)
			var q SetAside
			if json.Unmarshal(line, &q) == nil && (q.ID != "" || q.Lost != "") && !yield(q, nil) {
				return
			}
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				yield(SetAside{}, err)
				return
			}
		}
	}
}

// readLine returns the next line; nothing of it if it is longer than any entry.
func readLine(in *bufio.Reader) (line []byte, err error) {
	tooLong := false
	for {
		part, err := in.ReadSlice('\n')
		if tooLong = tooLong || len(line)+len(part) > maxAside; tooLong {
			line = nil
		} else {
			line = append(line, part...)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
	}
}

// maybeFile is a file that may not be there.
type maybeFile struct {
	disk.File
	name string
}

func openIfThere(name string) (maybeFile, error) {
	f, err := disk.Real().Open(name, readOnly)
	if errors.Is(err, fs.ErrNotExist) {
		return maybeFile{}, nil
	}
	if err != nil {
		return maybeFile{}, fmt.Errorf("outbox: %w", err)
	}
	return maybeFile{f, name}, nil
}

func (f maybeFile) close() {
	if f.File != nil {
		_ = f.Close()
	}
}

// is says whether two files are the same: the newer one may have got the older one's name between
// two opens.
func (f maybeFile) is(other maybeFile) bool {
	return disk.Same(f.File, other.File)
}

// Quarantine takes the record at pos out of the line because it can never be sent. First it writes
// the record with the reason to quarantine.jsonl, and syncs it. The next record announces the gap.
// If the file cannot be written now, the record is parked: it stays in the line, is not handed out,
// and is written later; Report says so. A position that has left already is passed over.
func (b *Box) Quarantine(pos uint64, why error) error {
	defer b.report()
	if why == nil {
		why = errors.New("no reason given")
	}
	b.mu.Lock()
	err := b.mayLeave(pos)
	if err != nil || b.acks.Has(pos) || b.isParked(pos) {
		b.mu.Unlock()
		return err
	}
	if at, where := b.find(pos); where == nowhere || at != pos {
		b.mu.Unlock()
		return fmt.Errorf("outbox: the record at place %d has not been handed out", pos)
	}
	if len(b.parked) >= maxParked {
		b.mu.Unlock()
		return fmt.Errorf("outbox: %d records can never be sent and cannot be set aside: see to the disk of %s", maxParked, b.dir)
	}
	b.parked = append(b.parked, parked{pos, why}) // now, so that it is not handed out meanwhile
	b.mu.Unlock()
	if err = b.putAside(parked{pos, why}); err == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	id, seq := b.nameOf(pos)
	b.problem(Problem{
		Kind: Unreadable, ID: id.String(), First: seq, Last: seq, Err: errors.Join(why, err),
		Text: fmt.Sprintf("message %s can never be sent, and cannot be set aside in %s now: it is kept, and that is tried again", id.Name(seq), filepath.Join(b.dir, quarantineName)),
	})
	b.parkedUntil = time.Now().Add(retryEvery)
	if b.isEmpty() {
		b.empty.fire()
	}
	return nil
}

// parked is a record that can never be sent and is not in the quarantine yet.
type parked struct {
	pos uint64
	why error
}

// maxParked bounds the memory for parked records.
const maxParked = 4096

// isParked says whether the record at pos is parked. b.mu is held.
func (b *Box) isParked(pos uint64) bool {
	return slices.ContainsFunc(b.parked, func(p parked) bool { return p.pos == pos })
}

// unparked returns the first position from pos on that is neither parked nor has left. b.mu is
// held.
func (b *Box) unparked(pos uint64) uint64 {
	for len(b.parked) > 0 && b.isParked(pos) {
		pos = b.acks.Next(pos + 1)
	}
	return pos
}

// isEmpty says that no record waits to be sent; parked ones do not count. b.mu is held.
func (b *Box) isEmpty() bool { return !b.blind && b.count() <= uint64(len(b.parked)) }

// unpark tries to write parked records to the quarantine. b.mu is held, and released meanwhile.
func (b *Box) unpark() {
	if len(b.parked) == 0 || b.closed || time.Now().Before(b.parkedUntil) {
		return
	}
	b.parkedUntil = time.Now().Add(retryEvery)
	all := slices.Clone(b.parked)
	b.mu.Unlock()
	for _, p := range all {
		if b.putAside(p) != nil {
			break
		}
	}
	b.mu.Lock()
}

// putAside writes a parked record to the quarantine, and then takes it out of the line.
func (b *Box) putAside(p parked) error {
	pos := p.pos
	b.mu.Lock()
	if b.acks.Has(pos) { // it was acknowledged, dropped or found damaged meanwhile
		b.unparkLocked(pos)
		b.mu.Unlock()
		return nil
	}
	where := onDisk
	if pos >= b.diskEnd {
		where = inMemory
	}
	var one Batch
	defer one.ahead.release()
	b.readAndUnlock(&one, pos, where, &allowance{records: 1})
	one.name()
	if len(one.records) == 0 || one.records[0].Pos != pos {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.acks.Has(pos) {
			b.unparkLocked(pos)
			return nil
		}
		return errNotRead
	}
	b.lockCursor()
	defer b.unlockCursor()
	r := &one.records[0]
	err := b.setAside(SetAside{
		ID: r.ID, Why: p.why.Error(), Created: &r.Created, ContentType: r.ContentType, ContentEncoding: r.ContentEncoding,
		Component: r.Component, Properties: r.Properties, Body: r.Body,
	})
	if err != nil {
		return err
	}
	b.mu.Lock()
	b.unparkLocked(pos)
	if b.acks.Has(pos) {
		b.mu.Unlock()
		return nil
	}
	id, seq := b.nameOf(pos)
	b.miss(id, seq, runs.Of(pos, pos))
	b.quarantined++
	b.problem(Problem{
		Kind: Quarantined, ID: id.String(), First: seq, Last: seq, Messages: 1, Err: p.why,
		Text: fmt.Sprintf("message %s can never be sent and was %s", id.Name(seq), b.asideIn()),
	})
	b.mu.Unlock()
	b.saveSoon()
	return nil
}

// asideIn says where a message was set aside.
func (b *Box) asideIn() string {
	if b.files == nil {
		return "dropped"
	}
	return "set aside in " + filepath.Join(b.dir, quarantineName)
}

var errNotRead = errors.New("it cannot be read now")

func (b *Box) unparkLocked(pos uint64) {
	b.parked = slices.DeleteFunc(b.parked, func(p parked) bool { return p.pos == pos })
}

// setAside appends a line to the quarantine file, durably. b.cur.mu is held.
func (b *Box) setAside(q SetAside) error {
	if b.files == nil {
		return nil
	}
	q.At = time.Now().UTC()
	line, err := json.Marshal(q)
	if err != nil {
		return err
	}
	name := filepath.Join(b.dir, quarantineName)
	f, err := b.fs.Open(name, readWrite|create)
	if err != nil {
		return err
	}
	size, err := f.Size()
	if err == nil && size >= quarantineMax {
		if err = f.Close(); err == nil {
			err = b.fs.Rename(name, filepath.Join(b.dir, quarantineOldName))
		}
		if err != nil {
			return err
		}
		if f, err = b.fs.Open(name, readWrite|create); err != nil {
			return err
		}
		size = 0
	}
	var last [1]byte
	if err == nil && size > 0 {
		if _, err = f.ReadAt(last[:], size-1); err == nil && last[0] != '\n' {
			line = append([]byte{'\n'}, line...) // the line before was cut off
		}
	}
	if err == nil {
		_, err = f.WriteAt(append(line, '\n'), size)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil && size == 0 {
		err = b.fs.SyncDir(b.dir)
	}
	return err
}

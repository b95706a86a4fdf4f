package outbox

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"time"
)

const (
	quarantineName    = "quarantine.jsonl"
	quarantineOldName = "quarantine.old.jsonl"
	// quarantineMax is the size at which the file makes room for a new one; the one before that is deleted.
	quarantineMax = 8 << 20
)

// SetAside is an entry of the quarantine: a message that could never be sent, or bytes that were damaged on the disk.
type SetAside struct {
	ID              string            `json:"id,omitempty"`   // of the message
	Lost            string            `json:"lost,omitempty"` // "<outbox id>-<first>..<last>": the messages that the damaged bytes were
	Why             string            `json:"why"`
	At              time.Time         `json:"at"` // when it was set aside
	Created         *time.Time        `json:"created,omitempty"`
	ContentType     string            `json:"contentType,omitempty"`
	ContentEncoding string            `json:"contentEncoding,omitempty"`
	Component       string            `json:"component,omitempty"`
	Properties      map[string]string `json:"properties,omitempty"`
	Body            []byte            `json:"body,omitempty"`
	Raw             []byte            `json:"raw,omitempty"` // the damaged bytes, 1 MiB of them at most
}

// maxAside is above the longest line that an entry makes: 1 MiB of a message, in escapes of six bytes for one.
const maxAside = 8 << 20

// ReadQuarantine goes through the quarantine of the outbox in dir, oldest first, without a lock or a change. No quarantine is an empty
// one. A line that is not whole, because a process died or is at work in it,
// or that no outbox has written, is passed over. An error is one of the disk, and the last.
func ReadQuarantine(dir string) iter.Seq2[SetAside, error] {
	return func(yield func(SetAside, error) bool) {
		// The newer file first: when they change places between our two looks, we have it twice, and not a hole.
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
			in := bufio.NewReaderSize(f, 64<<10)
			for {
				line, err := readLine(in)
				var q SetAside
				if json.Unmarshal(line, &q) == nil && (q.ID != "" || q.Lost != "") && !yield(q, nil) {
					return
				}
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					yield(SetAside{}, fmt.Errorf("outbox: %s: %w", f.Name(), err))
					return
				}
			}
		}
	}
}

// readLine is the next line, or nothing of it if it is longer than any that an outbox writes.
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
type maybeFile struct{ *os.File }

func openIfThere(name string) (maybeFile, error) {
	f, err := os.Open(name) // #nosec G304 -- the caller's own directory
	if errors.Is(err, fs.ErrNotExist) {
		return maybeFile{}, nil
	}
	if err != nil {
		return maybeFile{}, fmt.Errorf("outbox: %w", err)
	}
	return maybeFile{f}, nil
}

func (f maybeFile) close() {
	if f.File != nil {
		_ = f.Close()
	}
}

func (f maybeFile) is(other maybeFile) bool {
	if f.File == nil || other.File == nil {
		return false
	}
	a, err := f.Stat()
	b, err2 := other.Stat()
	return err == nil && err2 == nil && os.SameFile(a, b)
}

// Quarantine takes the record at a place out of the line because it can never be sent, and writes it with the reason to the file
// quarantine.jsonl beside it, durably, before it leaves. The next record tells that it is missing. If it cannot be written, it leaves
// all the same, for it must not block the line, and Report says so. A place that has left already is left alone.
func (b *Box) Quarantine(pos uint64, why error) error {
	defer b.report()
	if why == nil {
		why = errors.New("no reason given")
	}
	b.mu.Lock()
	err := b.mayLeave(pos)
	if err != nil || b.acks.has(pos) {
		b.mu.Unlock()
		return err
	}
	at, where := b.find(pos)
	if where == nowhere || at != pos {
		b.mu.Unlock()
		return fmt.Errorf("outbox: the record at place %d has not been handed out", pos)
	}
	var one Batch
	defer one.ahead.release()
	b.readAndUnlock(&one, pos, where, &allowance{records: 1})
	one.name()

	b.cur.mu.Lock()
	defer b.cur.mu.Unlock()
	var failed error
	if len(one.records) > 0 && one.records[0].Pos == pos {
		r := &one.records[0]
		failed = b.setAside(SetAside{
			ID: r.ID, Why: why.Error(), Created: &r.Created, ContentType: r.ContentType, ContentEncoding: r.ContentEncoding,
			Component: r.Component, Properties: r.Properties, Body: r.Body,
		})
	}
	b.mu.Lock()
	if b.acks.has(pos) { // it was acknowledged, dropped or found damaged meanwhile
		b.mu.Unlock()
		return nil
	}
	id, seq := b.nameOf(pos)
	b.miss(id, seq, span{pos, pos})
	b.quarantined++
	p := Problem{
		Kind: Quarantined, ID: id.String(), First: seq, Last: seq, Messages: 1, Err: why,
		Text: fmt.Sprintf("message %s can never be sent and was set aside in %s", id.name(seq), filepath.Join(b.dir, quarantineName)),
	}
	if failed != nil || len(one.records) == 0 {
		p.Err = errors.Join(why, failed)
		p.Text = fmt.Sprintf("message %s can never be sent, and could not be set aside either: it is lost", id.name(seq))
	}
	b.problem(p)
	b.mu.Unlock()
	b.saveSoon()
	return nil
}

// setAside appends a line to the quarantine file, durably. b.cur.mu is held.
func (b *Box) setAside(q SetAside) error {
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

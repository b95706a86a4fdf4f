package outbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"time"
)

const (
	quarantineName    = "quarantine.jsonl"
	quarantineOldName = "quarantine.old.jsonl"
	// quarantineMax is the size at which the file makes room for a new one; the one before that is deleted.
	quarantineMax = 8 << 20
)

// quarantined is a line of the quarantine file: a message, or bytes that were damaged.
type quarantined struct {
	ID              string            `json:"id,omitempty"`
	Lost            string            `json:"lost,omitempty"`
	Why             string            `json:"why"`
	At              time.Time         `json:"at"`
	Created         *time.Time        `json:"created,omitempty"`
	ContentType     string            `json:"contentType,omitempty"`
	ContentEncoding string            `json:"contentEncoding,omitempty"`
	Component       string            `json:"component,omitempty"`
	Properties      map[string]string `json:"properties,omitempty"`
	Body            []byte            `json:"body,omitempty"`
	Raw             []byte            `json:"raw,omitempty"`
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
	records := b.readAndUnlock(nil, pos, where, &allowance{records: 1})

	b.cur.mu.Lock()
	defer b.cur.mu.Unlock()
	var failed error
	if len(records) > 0 && records[0].Pos == pos {
		r := &records[0]
		failed = b.setAside(quarantined{
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
		Kind: Quarantined, ID: id.String(), First: seq, Last: seq, Err: why,
		Text: fmt.Sprintf("message %s can never be sent and was set aside in %s", id.name(seq), filepath.Join(b.dir, quarantineName)),
	}
	if failed != nil || len(records) == 0 {
		p.Err = errors.Join(why, failed)
		p.Text = fmt.Sprintf("message %s can never be sent, and could not be set aside either: it is lost", id.name(seq))
	}
	b.problem(p)
	b.mu.Unlock()
	b.saveSoon()
	return nil
}

// setAside appends a line to the quarantine file, durably. b.cur.mu is held.
func (b *Box) setAside(q quarantined) error {
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

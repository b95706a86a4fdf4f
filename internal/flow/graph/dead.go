package graph

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/hubhop-iot/hubhop/internal/flow/node"
)

// DeadLetters keeps messages that failed, in a directory: one JSON object per line in
// deadletter.jsonl, and the older half in deadletter.old.jsonl. Several graphs may share it.
// Nothing waits for its disk: what it does not take in time is counted and not kept.
type DeadLetters struct {
	dir   string
	most  int64
	log   func(text string)
	lines chan []byte
	done  chan struct{}

	mu       sync.Mutex
	closed   bool
	missed   uint64
	troubled bool
}

// DefaultDeadLetterBytes is the bound of a directory of dead letters that is given none.
const DefaultDeadLetterBytes = 16 << 20

// OpenDeadLetters keeps at most so many bytes in a directory; 0: DefaultDeadLetterBytes. log, which
// may be nil, hears of the first failure of the disk, and of the first success after it.
func OpenDeadLetters(dir string, most int64, log func(text string)) (*DeadLetters, error) {
	if dir == "" || most < 0 {
		return nil, fmt.Errorf("dead letters need a directory and a number of bytes that is not negative: %q, %d", dir, most)
	}
	if most == 0 {
		most = DefaultDeadLetterBytes
	}
	if log == nil {
		log = func(string) {}
	}
	d := &DeadLetters{dir: dir, most: most, log: log, lines: make(chan []byte, 64), done: make(chan struct{})}
	go d.write()
	return d, nil
}

// Close writes what waits.
func (d *DeadLetters) Close() error {
	d.mu.Lock()
	if !d.closed {
		d.closed = true
		close(d.lines)
	}
	d.mu.Unlock()
	<-d.done
	return nil
}

// Missed returns how many messages were not kept, because the disk failed or was too slow.
func (d *DeadLetters) Missed() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.missed
}

// letter is a line of the file.
type letter struct {
	At          time.Time        `json:"at"`
	Graph       string           `json:"graph"`
	Node        string           `json:"node"`
	Reason      string           `json:"reason"`
	Error       string           `json:"error,omitempty"`
	Time        *time.Time       `json:"time,omitempty"`
	Topic       string           `json:"topic,omitempty"`
	ContentType string           `json:"contentType,omitempty"`
	ID          string           `json:"id,omitempty"`
	Properties  []letterProperty `json:"properties,omitempty"`
	Payload     json.RawMessage  `json:"payload,omitempty"`     // if it is JSON
	Text        *string          `json:"payloadText,omitempty"` // else, if it is text
	Bytes       []byte           `json:"payloadBase64,omitempty"`
}

type letterProperty struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// keep keeps a message. It returns false if it does not: the disk is too slow, the message is larger
// than half of the bound, or Close was called.
func (d *DeadLetters) keep(graph string, x Drop, m *node.Message, now time.Time) bool {
	l := letter{At: now.UTC(), Graph: graph, Node: x.Node, Reason: x.Reason.String(), Topic: m.Topic, ContentType: m.ContentType, ID: m.ID}
	switch {
	case !utf8.Valid(m.Payload):
		l.Bytes = m.Payload
	case json.Valid(m.Payload):
		l.Payload = m.Payload
	default:
		l.Text = new(string(m.Payload))
	}
	if x.Err != nil {
		l.Error = x.Err.Error()
	}
	if !isZero(m.Time) {
		at := m.Time.Wall()
		l.Time = &at
	}
	for _, p := range m.Properties {
		l.Properties = append(l.Properties, letterProperty(p))
	}
	var line bytes.Buffer
	enc := json.NewEncoder(&line)
	enc.SetEscapeHTML(false)
	err := enc.Encode(l)
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil || d.closed || int64(line.Len()) > d.most/2 {
		d.missed++
		return false
	}
	select {
	case d.lines <- line.Bytes():
		return true
	default:
		d.missed++
		return false
	}
}

// write writes lines until Close. The file is opened for each burst, so that it may be moved away.
func (d *DeadLetters) write() {
	defer close(d.done)
	for line := range d.lines {
		err := d.append(line)
		d.mu.Lock()
		was := d.troubled
		d.troubled = err != nil
		if err != nil {
			d.missed++
		}
		d.mu.Unlock()
		switch {
		case err != nil && !was:
			d.log(fmt.Sprintf("dead letters cannot be kept in %s; the flows go on: %v", d.dir, err))
		case err == nil && was:
			d.log(fmt.Sprintf("dead letters are kept in %s again", d.dir))
		}
	}
}

// file is the one with the newest lines.
func (d *DeadLetters) file() string { return filepath.Join(d.dir, "deadletter.jsonl") }

func (d *DeadLetters) append(line []byte) error {
	name, old := d.file(), filepath.Join(d.dir, "deadletter.old.jsonl")
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return err
	}
	info, err := os.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case info.Size()+int64(len(line)) > d.most/2:
		if err := os.Rename(name, old); err != nil {
			return err
		}
	}
	file, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	end, err := file.Seek(0, io.SeekEnd)
	if err == nil && end > 0 {
		var last [1]byte
		if _, err = file.ReadAt(last[:], end-1); err == nil && last[0] != '\n' {
			line = append([]byte{'\n'}, line...) // what a crash has cut off ends here
		}
	}
	if err == nil {
		_, err = file.Write(line)
	}
	return errors.Join(err, file.Close())
}

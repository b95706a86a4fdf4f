package home

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"maps"
	"os"
	"slices"
	"sync"
	"time"
	"unicode/utf8"
)

// handledMax is how many messages are remembered.
const handledMax = 1024

const (
	handledAge    = 48 * time.Hour // the longest life of a message at IoT Hub
	maxHandledKey = 256            // bytes of a key; a longer key is hashed
)

// Handled is the durable list of cloud-to-device messages that were handled. A message is entered
// before its PUBACK, so that a crash or a lost PUBACK does not execute a command twice. The list is
// a file of JSON lines, appended and synced one by one. While the disk fails, the list is in
// memory, and it is written as soon as the disk works.
type Handled struct {
	home *Home

	mu     sync.Mutex
	file   File  // open to append; nil: it is not open
	whole  bool  // the file equals the list, so a line can be appended; else it must be written whole first
	size   int64 // bytes of the file when it was written whole
	lines  int
	seen   map[string]time.Time // nil: no message yet
	unread bool                 // the disk could not read the file yet, so it must not be overwritten
}

type handledLine struct {
	Key string    `json:"key"`
	At  time.Time `json:"at"`
	Sum string    `json:"sum,omitempty"` // CRC-32C of the two above; an older version wrote none
}

func (l handledLine) sum() string {
	return fmt.Sprintf("%08x", crc32.Checksum([]byte(l.Key+" "+l.At.Format(time.RFC3339Nano)), castagnoli))
}

// HandledKey returns the key of a message: its hub, id and body, because ids are unique per hub
// only and a sender may use one twice for different bodies. The key is at most maxHandledKey bytes
// of text that JSON does not change.
func HandledKey(host, mid string, body []byte) string {
	sum := sha256.Sum256(body)
	key := host + " " + mid + " " + hex.EncodeToString(sum[:8])
	if len(key) > maxHandledKey || !utf8.ValidString(key) {
		whole := sha256.Sum256([]byte(key))
		key = "sha256 " + hex.EncodeToString(whole[:])
	}
	return key
}

// OpenHandled reads the list and writes it anew. If the disk fails, the list is in memory only.
func OpenHandled(h *Home) *Handled {
	l := &Handled{home: h, unread: true}
	l.note(l.settle(time.Now()))
	return l
}

// enter makes the map when the first message comes. mu is held.
func (h *Handled) enter(key string, at time.Time) {
	if h.seen == nil {
		h.seen = map[string]time.Time{}
	}
	h.seen[key] = at
}

func (h *Handled) note(err error) {
	h.home.Note(HandledFile, err, "the list of handled cloud-to-device messages is in memory only; after a restart, a message that comes again is handled again",
		func() error {
			h.mu.Lock()
			defer h.mu.Unlock()
			return h.settle(time.Now())
		})
}

// settle makes the file equal to the list: it reads the file if that failed before, then writes
// what could not be written. mu is held.
func (h *Handled) settle(now time.Time) error {
	if h.unread {
		if err := h.read(); err != nil {
			return err
		}
		h.unread = false
	}
	if h.whole {
		return nil
	}
	return h.rewrite(now)
}

// read adds the messages of the file. It ignores a torn last line, because that message was never
// acknowledged. If other lines make no sense, the file is kept aside.
func (h *Handled) read() error {
	h.home.io.Lock()
	defer h.home.io.Unlock()
	b, err := h.home.read(HandledFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, errDoubtful):
		return h.home.aside(HandledFile, err)
	case err != nil:
		return err
	}
	bad := 0
	for line := range bytes.Lines(b) {
		var l handledLine
		switch whole := bytes.ContainsAny(line, "}\n"); {
		case json.Unmarshal(line, &l) == nil && l.Key != "" && len(l.Key) <= 2*maxHandledKey && (l.Sum == "" || l.Sum == l.sum()):
			h.enter(l.Key, l.At)
			h.home.sealed = h.home.sealed || l.Sum != ""
		case whole:
			bad++
		}
	}
	if bad == 0 {
		return nil
	}
	return h.home.aside(HandledFile, fmt.Errorf("%d of its lines; the others are used", bad))
}

// Has reports whether a message was handled.
func (h *Handled) Has(key string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, ok := h.seen[key]
	return ok
}

// Keys returns the keys of the messages that are remembered, sorted. Tests alone use it.
func (h *Handled) Keys() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Sorted(maps.Keys(h.seen))
}

// Add enters a message. When Add returns the message is on the disk, unless the disk fails.
func (h *Handled) Add(key string, now time.Time) {
	h.mu.Lock()
	h.enter(key, now)
	err := h.append(key, now)
	h.mu.Unlock()
	h.note(err)
}

// append writes one line at the end of the file. mu is held.
func (h *Handled) append(key string, at time.Time) error {
	switch {
	case !h.whole || h.unread:
		return h.settle(at)
	case h.lines >= 2*handledMax:
		return h.rewrite(at)
	}
	err := h.open()
	if err == nil {
		_, err = h.file.Write(lineOf(key, at))
	}
	if err == nil {
		err = h.file.Sync()
	}
	if err != nil {
		// Half of the line may be in the file, so the file is written anew, now if possible.
		h.shut()
		return h.settle(at)
	}
	h.lines++
	return nil
}

// open opens the file to append, if it is not open. A device that never gets a message needs no
// open file. What is no longer the file that was written is not opened, because the open may wait,
// or change another file; the caller then writes the file anew.
func (h *Handled) open() error {
	if h.file != nil {
		return nil
	}
	path := h.home.Path(HandledFile)
	info, err := h.home.disk.Lstat(path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Size() != h.size {
		return fmt.Errorf("%s was changed by somebody else", path)
	}
	f, err := h.home.disk.Open(path, os.O_WRONLY|os.O_APPEND)
	if err != nil {
		return err
	}
	h.file = f
	return nil
}

func lineOf(key string, at time.Time) []byte {
	l := handledLine{Key: key, At: at.UTC()}
	l.Sum = l.sum()
	b, _ := json.Marshal(l) // never fails for strings and a valid time
	return append(b, '\n')
}

// rewrite replaces the file by what is still worth remembering. mu is held.
func (h *Handled) rewrite(now time.Time) error {
	for key, at := range h.seen {
		if now.Sub(at) > handledAge {
			delete(h.seen, key)
		}
	}
	keys := slices.SortedFunc(maps.Keys(h.seen), func(a, b string) int { return h.seen[a].Compare(h.seen[b]) }) // oldest first
	for len(keys) > handledMax {
		delete(h.seen, keys[0])
		keys = keys[1:]
	}
	var content []byte
	for _, key := range keys {
		content = append(content, lineOf(key, h.seen[key])...)
	}
	h.shut()
	h.home.io.Lock()
	defer h.home.io.Unlock()
	if err := h.home.replace(HandledFile, content); err != nil {
		return err
	}
	h.whole, h.size, h.lines = true, int64(len(content)), len(h.seen)
	h.home.has(HandledFile)
	return nil
}

func (h *Handled) shut() {
	h.whole = false
	if h.file != nil {
		_ = h.file.Close()
		h.file = nil
	}
}

// Close closes the file.
func (h *Handled) Close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.shut()
}

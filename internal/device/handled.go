package device

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"time"

	"github.com/hubhop-iot/hubhop/failover"
)

const (
	handledMax = 1024           // messages remembered
	handledAge = 48 * time.Hour // the longest life of a message at IoT Hub
)

// handled is the durable list of cloud-to-device messages that have been dealt with: a message is entered before its PUBACK, so
// that a crash, or a lost PUBACK, does not make a command happen twice. It is a file of JSON lines, appended and synced one by one.
type handled struct {
	path  string
	file  *os.File
	lines int
	seen  map[string]time.Time
}

type handledLine struct {
	Key string    `json:"key"`
	At  time.Time `json:"at"`
}

// handledKey names a message: ids are unique per hub only, and a sender may use one twice for different bodies.
func handledKey(host, mid string, body []byte) string {
	sum := sha256.Sum256(body)
	return host + " " + mid + " " + hex.EncodeToString(sum[:8])
}

// openHandled reads the list. A torn last line belongs to a message that was never acknowledged.
func openHandled(path string) (*handled, error) {
	h := &handled{path: path, seen: map[string]time.Time{}}
	f, err := os.Open(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err == nil {
		for in := bufio.NewScanner(f); in.Scan(); {
			var l handledLine
			if json.Unmarshal(in.Bytes(), &l) == nil {
				h.seen[l.Key] = l.At
			}
		}
		_ = f.Close()
	}
	return h, h.rewrite(time.Now())
}

// has reports whether a message was handled.
func (h *handled) has(key string) bool {
	_, ok := h.seen[key]
	return ok
}

// add enters a message; it is on disk when add returns.
func (h *handled) add(key string, now time.Time) error {
	h.seen[key] = now
	if h.lines >= 2*handledMax {
		return h.rewrite(now)
	}
	if err := h.append(key, now); err != nil {
		return err
	}
	return h.file.Sync()
}

func (h *handled) append(key string, at time.Time) error {
	b, err := json.Marshal(handledLine{key, at.UTC()})
	if err != nil {
		return err
	}
	_, err = h.file.Write(append(b, '\n'))
	h.lines++
	return err
}

// rewrite replaces the file by what is still worth remembering.
func (h *handled) rewrite(now time.Time) error {
	for key, at := range h.seen {
		if now.Sub(at) > handledAge {
			delete(h.seen, key)
		}
	}
	for len(h.seen) > handledMax {
		oldest := ""
		for key, at := range h.seen {
			if oldest == "" || at.Before(h.seen[oldest]) {
				oldest = key
			}
		}
		delete(h.seen, oldest)
	}
	var content []byte
	for key, at := range h.seen {
		b, err := json.Marshal(handledLine{key, at.UTC()})
		if err != nil {
			return err
		}
		content = append(append(content, b...), '\n')
	}
	if err := failover.ReplaceFile(h.path, content); err != nil {
		return err
	}
	h.close()
	f, err := os.OpenFile(h.path, os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	h.file, h.lines = f, len(h.seen)
	return nil
}

func (h *handled) close() {
	if h.file != nil {
		_ = h.file.Close()
		h.file = nil
	}
}

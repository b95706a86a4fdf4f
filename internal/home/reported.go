package home

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
)

// maxReported bounds the names and values that are kept: a twin takes 32 KB of reported properties
// (Microsoft's page "Understand and use device twins in IoT Hub").
const maxReported = 32 << 10

// Reported is the durable part of the reported properties: those that somebody else than the App
// has set, with the last value of each. They are kept also when a hub has them, because the next
// hub does not.
type Reported struct {
	home *Home

	mu     sync.Mutex
	values map[string]json.RawMessage // by the name as an App spells it; "null": to be taken out of the twin
	unread bool                       // the disk could not read the file yet, so it must not be overwritten
}

type reportedContent struct {
	Reported map[string]json.RawMessage `json:"reported"`
}

// ReportError says that properties cannot be kept, however often one tries.
type ReportError struct{ text string }

func (e *ReportError) Error() string { return e.text }

// Permanent says that no other try will succeed.
func (*ReportError) Permanent() bool { return true }

// OpenReported reads the properties. If the disk fails, the first Set reads them.
func OpenReported(h *Home) *Reported {
	r := &Reported{home: h, unread: true}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.note(r.read())
	return r
}

func (r *Reported) note(err error) {
	r.home.Note(ReportedFile, err, "the reported properties of data flows cannot be read", func() error {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.read()
	})
}

// read reads the file, unless that was done. mu is held.
func (r *Reported) read() error {
	if !r.unread {
		return nil
	}
	var c reportedContent
	if _, err := r.home.Load(ReportedFile, &c, func(bool) error { return fits(c.Reported) }); err != nil {
		return err
	}
	for name, v := range c.Reported { // the file is indented
		var compact bytes.Buffer
		_ = json.Compact(&compact, v) // it was decoded
		c.Reported[name] = compact.Bytes()
	}
	r.unread, r.values = false, c.Reported
	return nil
}

// Set keeps values. It returns nil when they are on the disk. After an error nothing has changed.
func (r *Reported) Set(values map[string]json.RawMessage) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.read(); err != nil {
		return err
	}
	next := maps.Clone(r.values)
	if next == nil {
		next = make(map[string]json.RawMessage, len(values))
	}
	news := false
	for name, v := range values {
		var compact bytes.Buffer
		if err := json.Compact(&compact, v); err != nil {
			return &ReportError{fmt.Sprintf("the reported property %.100q is no JSON: %v", name, err)}
		}
		if !bytes.Equal(next[name], compact.Bytes()) {
			next[name], news = compact.Bytes(), true
		}
	}
	if !news {
		return nil
	}
	if err := fits(next); err != nil {
		return err
	}
	if err := r.home.Save(ReportedFile, reportedContent{next}); err != nil {
		return err
	}
	r.values = next
	return nil
}

// fits checks the size of properties.
func fits(values map[string]json.RawMessage) error {
	bytes := 0
	for name, v := range values {
		bytes += len(name) + len(v)
	}
	if bytes > maxReported {
		return &ReportError{fmt.Sprintf("%d bytes of reported properties; a hub takes %d", bytes, maxReported)}
	}
	return nil
}

// Names returns the names, sorted.
func (r *Reported) Names() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Sorted(maps.Keys(r.values))
}

// Value returns a value; nil if the property is to be taken out of the twin.
func (r *Reported) Value(name string) json.RawMessage {
	r.mu.Lock()
	defer r.mu.Unlock()
	if v := r.values[name]; string(v) != "null" {
		return v
	}
	return nil
}

package graph

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/internal/flow/node"
)

// tumble delays messages until the end of their window, as the module "window" of Azure IoT
// Operations' samples does.
func tumble(length time.Duration) node.Delay {
	return delayFunc(func(_ *node.Message, at node.Time) (node.Time, error) {
		return node.TimeOf(at.Wall().Truncate(length).Add(length)), nil
	})
}

// join folds the payloads of one logical time.
func join(staged *node.Message, items []node.Message) error {
	var all []string
	if len(staged.Payload) > 0 {
		all = append(all, string(staged.Payload))
	}
	for i := range items {
		if string(items[i].Payload) == "bad" {
			return errTest
		}
		all = append(all, string(items[i].Payload))
	}
	staged.Payload = []byte(strings.Join(all, "+"))
	return nil
}

// tumbling is a window that joins payloads. With most above 0 it closes early.
type tumbling struct {
	length time.Duration
	most   int
	Open   map[int64][]string // by end
}

func (w *tumbling) Add(m *node.Message, at node.Time, emit func(*node.Message)) error {
	if string(m.Payload) == "bad" {
		return errTest
	}
	end := at.Wall().Truncate(w.length).Add(w.length).UnixNano()
	if w.Open == nil {
		w.Open = map[int64][]string{}
	}
	w.Open[end] = append(w.Open[end], string(m.Payload))
	if w.most > 0 && len(w.Open[end]) == w.most {
		w.close(end, emit)
	}
	return nil
}

func (w *tumbling) close(end int64, emit func(*node.Message)) {
	emit(&node.Message{Time: node.Time{Nanos: end}, Topic: "w", Payload: []byte(strings.Join(w.Open[end], "+"))})
	delete(w.Open, end)
}

func (w *tumbling) Due() (end node.Time, ok bool) {
	for e := range w.Open {
		if !ok || e < end.Nanos {
			end, ok = node.Time{Nanos: e}, true
		}
	}
	return end, ok
}

func (w *tumbling) Advance(at node.Time, emit func(*node.Message)) {
	for {
		end, ok := w.Due()
		if !ok || at.Before(end) {
			return
		}
		w.close(end.Nanos, emit)
	}
}

func (w *tumbling) Flush(emit func(*node.Message)) {
	for end, ok := w.Due(); ok; end, ok = w.Due() {
		w.close(end.Nanos, emit)
	}
}

func (w *tumbling) Held() (messages int) {
	for _, payloads := range w.Open {
		messages += len(payloads)
	}
	return messages
}

func (w *tumbling) Save(out []byte) []byte {
	b, err := json.Marshal(w.Open)
	if err != nil {
		panic(err)
	}
	return append(out, b...)
}

func (w *tumbling) Restore(saved []byte) error { return json.Unmarshal(saved, &w.Open) }

// lastSeen appends the payload before to each payload.
type lastSeen struct{ last string }

func (l *lastSeen) Map(m *node.Message) error {
	now := string(m.Payload)
	m.Payload = fmt.Appendf(nil, "%s<%s", now, l.last)
	l.last = now
	return nil
}
func (l *lastSeen) Save(out []byte) []byte     { return append(out, l.last...) }
func (l *lastSeen) Restore(saved []byte) error { l.last = string(saved); return nil }

var epoch = time.Date(1999, 12, 31, 0, 0, 0, 0, time.UTC) // a day before the beginning of virtual time

// sec is a time of the tests.
func sec(s float64) time.Time { return epoch.Add(time.Duration(s * float64(time.Second))) }

// timed is a message of a time.
func timed(s float64, body string) node.Message {
	m := text(body)
	m.Time = node.TimeOf(sec(s))
	return m
}

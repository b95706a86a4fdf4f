package ledger

import (
	"encoding/json"
	"iter"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
)

// Report is what the cloud received from one device, or from all of them.
type Report struct {
	Received   int64            `json:"received"`
	Distinct   int64            `json:"distinct"`
	Duplicates int64            `json:"duplicates"` // arrivals of a $.mid already seen; a message without one is always distinct
	Reordered  int64            `json:"reordered"`  // first arrivals below a sequence number already seen
	Missing    int64            `json:"missing"`    // numbers of a sequence that have not arrived, although higher and lower ones have
	Hubs       map[string]int64 `json:"hubs"`       // received, by hub name
	FirstAt    *time.Time       `json:"firstAt"`
	LastAt     *time.Time       `json:"lastAt"`
	MaxGapMs   int64            `json:"maxGapMs"`            // the longest time between two arrivals
	Known      *bool            `json:"known,omitempty"`     // of one device: whether DPS, a hub or the ledger has ever known it
	Truncated  bool             `json:"truncated,omitempty"` // the oldest of the messages that were asked for are no longer kept
	Messages   []Message        `json:"messages,omitzero"`   // in order of arrival, if asked for
}

// Message is one device-to-cloud message as a hub received it.
type Message struct {
	Mid          string             `json:"mid"`
	Device       string             `json:"device"`
	Hub          string             `json:"hub"`
	At           time.Time          `json:"at"`
	CreationTime string             `json:"creationTime"` // iothub-creation-time-utc, else $.ctime, as sent
	Properties   map[string]*string `json:"properties"`   // under wire names, percent-decoded once; null for a key without "="
	Body         json.RawMessage    `json:"body"`         // the body where it is JSON, else its text as a JSON string
}

// entry is one kept message. Its bag and body lie one behind the other in data, and do not change.
type entry struct {
	from        *Origin
	at          time.Time
	data        []byte
	bag         int32
	dup, retain bool
	will        bool
}

// chunkBytes is how much memory messages share. A chunk is freed when the last of its messages is
// forgotten.
const chunkBytes = 256 << 10

// remember keeps a message, and forgets the oldest ones beyond the limits. mu is held.
func (l *Ledger) remember(e entry, m Arrival) {
	n := len(m.Bag) + len(m.Body)
	if n > cap(l.chunk)-len(l.chunk) {
		l.chunk = make([]byte, 0, max(chunkBytes, n))
	}
	start := len(l.chunk)
	l.chunk = append(append(l.chunk, m.Bag...), m.Body...)
	e.data = l.chunk[start:len(l.chunk):len(l.chunk)]
	if l.count == l.keep {
		l.forget()
	}
	if l.count == len(l.ring) { // full, but allowed to grow
		grown := make([]entry, min(l.keep, max(64, 2*len(l.ring))))
		for i := range l.count {
			grown[i] = l.ring[(l.head+i)%len(l.ring)]
		}
		l.ring, l.head = grown, 0
	}
	l.ring[(l.head+l.count)%len(l.ring)] = e
	l.count++
	for l.bytes += int64(n); l.bytes > l.keepBytes && l.count > 1; {
		l.forget()
	}
}

// forget forgets the oldest message. mu is held.
func (l *Ledger) forget() {
	old := &l.ring[l.head]
	l.bytes -= int64(len(old.data))
	old.from.account.truncated = true
	*old = entry{}
	l.head = (l.head + 1) % len(l.ring)
	l.count--
}

// Sum returns the counts of one device, or of all devices if device is "".
func (l *Ledger) Sum(device string) Report {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sum(device)
}

// Read returns what Sum does, and the messages that the ledger still has, without the first after
// ones received: so a reader that comes back in time gets each message once. If it comes too late
// Report.Truncated is true. With after 0 it is true if the ledger lacks any.
func (l *Ledger) Read(device string, after int64) (Report, Kept) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r, kept := l.sum(device), Kept{ahead: l.ahead}
	wanted := max(0, r.Received-max(0, after)) // the newest so many, so a reader that comes often costs little
	for i := l.count - 1; i >= 0 && int64(len(kept.entries)) < wanted; i-- {
		if e := l.ring[(l.head+i)%len(l.ring)]; device == "" || e.from.Device == device {
			kept.entries = append(kept.entries, e)
		}
	}
	slices.Reverse(kept.entries)
	if after > 0 {
		r.Truncated = int64(len(kept.entries)) < wanted
	}
	return r, kept
}

// sum adds up accounts. mu is held.
func (l *Ledger) sum(device string) Report {
	r := Report{Hubs: map[string]int64{}}
	if device == "" {
		for _, a := range l.accounts {
			a.addTo(&r)
		}
	} else if a := l.accounts[device]; a != nil {
		a.addTo(&r)
	}
	r.Distinct = r.Received - r.Duplicates
	return r
}

// Kept is messages of a ledger, in order of arrival. They are decoded when they are asked for,
// because all of them decoded may need several times the memory of the ledger.
type Kept struct {
	entries []entry
	ahead   time.Duration
}

// All returns the messages one by one, from the oldest on.
func (k Kept) All() iter.Seq[Message] {
	return func(yield func(Message) bool) {
		for i := range k.entries {
			if !yield(k.entries[i].message(k.ahead)) {
				return
			}
		}
	}
}

// Backward returns the messages one by one, from the newest on.
func (k Kept) Backward() iter.Seq[Message] {
	return func(yield func(Message) bool) {
		for _, e := range slices.Backward(k.entries) {
			if !yield(e.message(k.ahead)) {
				return
			}
		}
	}
}

// Messages returns all messages, and an empty slice if there are none.
func (k Kept) Messages() []Message {
	return slices.AppendSeq(make([]Message, 0, len(k.entries)), k.All())
}

// addTo adds the account to a report.
func (a *account) addTo(r *Report) {
	r.Received += a.received
	r.Duplicates += a.duplicates
	r.Reordered += a.reordered
	for _, s := range a.streams {
		r.Missing += s.missing()
	}
	for hub, n := range a.hubs {
		r.Hubs[hub] += n
	}
	if a.received > 0 {
		if first := a.first; r.FirstAt == nil || first.Before(*r.FirstAt) {
			r.FirstAt = &first
		}
		if last := a.last; r.LastAt == nil || last.After(*r.LastAt) {
			r.LastAt = &last
		}
	}
	r.MaxGapMs = max(r.MaxGapMs, a.maxGap.Milliseconds())
	r.Truncated = r.Truncated || a.truncated
}

// message decodes an entry. Beside the properties that the device sent it has those that the
// service adds. ahead is how far the clock of the cloud is ahead.
func (e *entry) message(ahead time.Duration) Message {
	bag, body := string(e.data[:e.bag]), e.data[e.bag:]
	props := azure.ParseBag(bag)
	put := func(key, value string) {
		if value != "" {
			props[key] = &value
		}
	}
	var m Message
	m.Device, m.Hub, m.At = e.from.Device, e.from.Hub, e.at
	text := func(key string) string {
		if v := props[key]; v != nil {
			return *v
		}
		return ""
	}
	m.Mid = text("$.mid")
	if m.CreationTime = text("iothub-creation-time-utc"); m.CreationTime == "" {
		m.CreationTime = text("$.ctime")
	}
	put("iothub-connection-device-id", e.from.Device)
	put("iothub-connection-module-id", e.from.Module)
	scope := "device"
	if e.from.Module != "" {
		scope = "module"
	}
	put("iothub-connection-auth-method", string(azure.EncodeJSON(map[string]any{
		"scope": scope, "type": e.from.AuthType, "issuer": "iothub", "acceptingIpFilterRule": nil,
	})))
	put("iothub-connection-auth-generation-id", e.from.Generation)
	put("iothub-enqueuedtime", azure.UTC7(e.at.Add(ahead)))
	put("iothub-message-source", "Telemetry")
	put("dt-dataschema", e.from.ModelID)
	put("dt-subject", text("$.sub"))
	if e.dup {
		put("mqtt-dup", "true")
	}
	if e.retain {
		put("mqtt-retain", "true")
	}
	if e.will {
		put("iothub-MessageType", "Will")
	}
	m.Properties = props
	m.Body = bodyJSON(body)
	return m
}

// bodyJSON returns the body itself if it is JSON, else its text as a JSON string.
func bodyJSON(body []byte) json.RawMessage {
	if json.Valid(body) && utf8.Valid(body) {
		return slices.Clone(body)
	}
	if utf8.Valid(body) {
		return azure.EncodeJSON(string(body))
	}
	return azure.EncodeJSON(strings.ToValidUTF8(string(body), "\uFFFD"))
}

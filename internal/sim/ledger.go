package sim

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/store"
)

// Ledger is what the cloud received from one device, or from all of them.
type Ledger struct {
	Received   int64            `json:"received"`
	Distinct   int64            `json:"distinct"`
	Duplicates int64            `json:"duplicates"` // arrivals of a $.mid already seen; a message without one is always distinct
	Reordered  int64            `json:"reordered"`  // first arrivals below a sequence number already seen
	Hubs       map[string]int64 `json:"hubs"`       // received, by hub name
	FirstAt    *time.Time       `json:"firstAt"`
	LastAt     *time.Time       `json:"lastAt"`
	MaxGapMs   int64            `json:"maxGapMs"`            // the longest time between two arrivals
	Known      *bool            `json:"known,omitempty"`     // of one device: whether DPS, a hub or the ledger has ever known it
	Truncated  bool             `json:"truncated,omitempty"` // Messages lacks the oldest ones of those that it should have
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

// origin is what all messages of one connection share.
type origin struct {
	hub        string
	device     string
	module     string
	authType   string // sas or x509CertificateAuthority
	generation string
	modelID    string
	account    *account

	ref     uint32 // names it in the ledger's files, 0 before it has a message there
	segment uint32 // the newest file that knows the name
}

// ledger is every message that reached a hub. Counts are exact for ever; bodies are kept for the newest messages.
//
// Duplicates are found exactly and in bounded memory where the ids are of the form <outbox id>-<seq>: an ordinary stream is one
// range of sequence numbers. Any other id costs 16 bytes of a hash.
type ledger struct {
	keep      int
	keepBytes int64
	ahead     time.Duration // the cloud's clock, for iothub-enqueuedtime
	total     atomic.Int64  // never reset
	batches   sync.Pool     // of *batch, so that only connections with messages under way have one

	mu       sync.Mutex
	disk     *ledgerDisk // nil without a state directory
	accounts map[string]*account
	ring     []entry // grows up to keep entries, then turns
	head     int     // the oldest
	count    int
	bytes    int64
	chunk    []byte // where the next message's bytes go
}

// account is one device's part of the ledger, guarded by the ledger's mutex.
type account struct {
	received, duplicates, reordered int64
	hubs                            map[string]int64
	first, last                     time.Time
	maxGap                          time.Duration
	truncated                       bool
	streams                         map[string]*stream // by outbox id
	foreign                         map[[16]byte]struct{}
}

// entry is one kept message; bag and body lie one behind the other in data.
type entry struct {
	from        *origin
	at          time.Time
	data        []byte
	bag         int32
	dup, retain bool
	isWill      bool
}

// chunkBytes is how much memory messages share; a chunk is freed when the last of its messages is forgotten.
const chunkBytes = 256 << 10

const (
	maxBatch     = 64 << 10 // a batch of so many bytes is committed at the next occasion
	maxIdleBatch = 4 * maxBatch
)

func newLedger(c Config) *ledger {
	return &ledger{keep: c.LedgerKeep, keepBytes: c.LedgerKeepBytes, ahead: c.ClockOffset, accounts: map[string]*account{}}
}

// open returns the account of a device, made if need be.
func (l *ledger) open(device string) *account {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.account(device)
}

// account is called with mu held.
func (l *ledger) account(device string) *account {
	a := l.accounts[device]
	if a == nil {
		a = &account{hubs: map[string]int64{}}
		l.accounts[device] = a
	}
	return a
}

// arrival is a message as it comes off the wire; its slices are copied.
type arrival struct {
	bag, body           []byte
	dup, retain, isWill bool
}

// enter writes one message down, see commit.
func (l *ledger) enter(from *origin, m arrival) error {
	b := l.collect(nil, m)
	return l.commit(from, b)
}

// collect adds a message to a batch, nil for a new one. It counts for nothing until the batch is committed.
func (l *ledger) collect(b *batch, m arrival) *batch {
	if b == nil {
		b, _ = l.batches.Get().(*batch)
		if b == nil {
			b = &batch{}
		}
	}
	b.add(m)
	return b
}

// commit writes the messages of a batch down, first on disk, if there is one. When it returns nil they count, so the PUBACKs may go; if
// it returns an error none of them does. It takes the batch over.
func (l *ledger) commit(from *origin, b *batch) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if l.disk != nil {
		if err := l.disk.append(l, from, b, now); err != nil {
			return fmt.Errorf("the ledger cannot be written: %w", err)
		}
	}
	l.apply(from, now, store.Unpack(b.buf[batchHead:]), true)
	l.total.Add(int64(b.n))
	if b.n = 0; cap(b.buf) <= maxIdleBatch {
		l.batches.Put(b)
	}
	return nil
}

// apply takes the messages of a batch into memory, and into the counts if count says so. It is false if they make no sense.
func (l *ledger) apply(from *origin, now time.Time, f store.Unpacker, count bool) (n int, ok bool) {
	var scratch [64]byte
	for f.More() {
		m := nextArrival(&f)
		if f.Failed() {
			break
		}
		if n++; count {
			from.account.count(from.hub, findMid(scratch[:0], m.bag), now)
		}
		l.store(entry{from: from, at: now, bag: int32(len(m.bag)), dup: m.dup, retain: m.retain, isWill: m.isWill}, m)
	}
	return n, f.OK()
}

func (a *account) count(hub string, mid []byte, now time.Time) {
	if a.received > 0 {
		a.maxGap = max(a.maxGap, now.Sub(a.last))
	} else {
		a.first = now
	}
	a.last = now
	a.received++
	a.hubs[hub]++
	if len(mid) == 0 {
		return
	}
	outbox, seq, ok := splitMid(mid)
	if !ok {
		sum := sha256.Sum256(mid)
		key := [16]byte(sum[:16])
		if _, seen := a.foreign[key]; seen {
			a.duplicates++
			return
		}
		if a.foreign == nil {
			a.foreign = map[[16]byte]struct{}{}
		}
		a.foreign[key] = struct{}{}
		return
	}
	s := a.streams[string(outbox)]
	if s == nil {
		if a.streams == nil {
			a.streams = map[string]*stream{}
		}
		s = &stream{}
		a.streams[string(outbox)] = s
	}
	switch {
	case !s.add(seq):
		a.duplicates++
	case seq < s.highest():
		a.reordered++
	}
}

// stream is the set of sequence numbers seen of one outbox: disjoint ranges that do not touch, in ascending order.
type stream struct{ ranges []span }

type span struct{ from, to uint64 }

// add says whether seq is new.
func (s *stream) add(seq uint64) bool {
	r := s.ranges
	if n := len(r); n > 0 && seq == r[n-1].to+1 { // nearly always
		r[n-1].to = seq
		return true
	}
	i, _ := slices.BinarySearchFunc(r, seq, func(x span, seq uint64) int { // the first range that ends at or behind seq
		if x.to < seq {
			return -1
		}
		return 1
	})
	if i < len(r) && r[i].from <= seq {
		return false
	}
	left := i > 0 && r[i-1].to+1 == seq
	right := i < len(r) && r[i].from == seq+1
	switch {
	case left && right:
		r[i-1].to = r[i].to
		s.ranges = slices.Delete(r, i, i+1)
	case left:
		r[i-1].to = seq
	case right:
		r[i].from = seq
	default:
		s.ranges = slices.Insert(r, i, span{seq, seq})
	}
	return true
}

func (s *stream) highest() uint64 { return s.ranges[len(s.ranges)-1].to }

// splitMid recognises <16 lower-case hex digits>-<decimal without leading zeros>, so that no two texts mean the same number.
func splitMid(mid []byte) (outbox []byte, seq uint64, ok bool) {
	if len(mid) < 18 || len(mid) > 16+1+19 || mid[16] != '-' || mid[17] == '0' && len(mid) > 18 {
		return nil, 0, false
	}
	for _, c := range mid[:16] {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return nil, 0, false
		}
	}
	for _, c := range mid[17:] {
		if c < '0' || c > '9' {
			return nil, 0, false
		}
		seq = seq*10 + uint64(c-'0') // 19 digits always fit
	}
	return mid[:16], seq, true
}

// findMid appends the decoded $.mid of a property bag to dst.
func findMid(dst, bag []byte) []byte {
	for len(bag) > 0 {
		pair := bag
		for i, c := range bag {
			if c == '&' {
				pair = bag[:i]
				break
			}
		}
		bag = bag[min(len(pair)+1, len(bag)):]
		for i, c := range pair {
			if c != '=' {
				continue
			}
			if key := pair[:i]; string(key) == "%24.mid" || string(key) == "$.mid" ||
				len(key) <= 15 && string(azure.AppendUnescaped(make([]byte, 0, 15), key)) == "$.mid" {
				return azure.AppendUnescaped(dst, pair[i+1:])
			}
			break
		}
	}
	return nil
}

// store keeps the message's bytes and forgets the oldest ones beyond the limits.
func (l *ledger) store(e entry, m arrival) {
	n := len(m.bag) + len(m.body)
	if n > cap(l.chunk)-len(l.chunk) {
		l.chunk = make([]byte, 0, max(chunkBytes, n))
	}
	start := len(l.chunk)
	l.chunk = append(append(l.chunk, m.bag...), m.body...)
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

func (l *ledger) forget() {
	old := &l.ring[l.head]
	l.bytes -= int64(len(old.data))
	old.from.account.truncated = true
	*old = entry{}
	l.head = (l.head + 1) % len(l.ring)
	l.count--
}

// report is sum with decoded messages.
func (l *ledger) report(device string, messages bool, after int64) Ledger {
	r, kept := l.sum(device, messages, after)
	if messages {
		r.Messages = make([]Message, 0, len(kept))
		for _, e := range kept {
			r.Messages = append(r.Messages, e.message(l.ahead))
		}
	}
	return r
}

// sum sums up one device, or all devices if device is "". With messages it also returns the
// messages that the ledger still has, without the first after ones received. So a reader that comes
// back in time gets each message once.
func (l *ledger) sum(device string, messages bool, after int64) (r Ledger, kept []entry) {
	r = Ledger{Hubs: map[string]int64{}}
	l.mu.Lock()
	if device == "" {
		for _, a := range l.accounts {
			a.addTo(&r)
		}
	} else if a := l.accounts[device]; a != nil {
		a.addTo(&r)
	}
	for i := 0; messages && i < l.count; i++ {
		if e := l.ring[(l.head+i)%len(l.ring)]; device == "" || e.from.device == device {
			kept = append(kept, e)
		}
	}
	if skip := after - (r.Received - int64(len(kept))); messages && after > 0 {
		kept = kept[min(max(skip, 0), int64(len(kept))):]
		r.Truncated = skip < 0
	}
	l.mu.Unlock() // decoding takes long, and what was kept does not change
	r.Distinct = r.Received - r.Duplicates
	return r, kept
}

func (a *account) addTo(r *Ledger) {
	r.Received += a.received
	r.Duplicates += a.duplicates
	r.Reordered += a.reordered
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

// reset forgets what was received, on disk too; connections keep their accounts.
func (l *ledger) reset() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.disk != nil {
		if err := l.disk.clear(); err != nil {
			return err
		}
	}
	for _, a := range l.accounts {
		*a = account{hubs: map[string]int64{}}
	}
	l.ring, l.head, l.count, l.bytes, l.chunk = nil, 0, 0, 0, nil
	return nil
}

// close ends writing.
func (l *ledger) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.disk == nil {
		return nil
	}
	return l.disk.close()
}

func (e *entry) message(ahead time.Duration) Message {
	bag, body := string(e.data[:e.bag]), e.data[e.bag:]
	props := parseBag(bag)
	put := func(key, value string) {
		if value != "" {
			props[key] = &value
		}
	}
	var m Message
	m.Device, m.Hub, m.At = e.from.device, e.from.hub, e.at
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
	put("iothub-connection-device-id", e.from.device)
	put("iothub-connection-module-id", e.from.module)
	scope := "device"
	if e.from.module != "" {
		scope = "module"
	}
	put("iothub-connection-auth-method", string(azure.EncodeJSON(map[string]any{
		"scope": scope, "type": e.from.authType, "issuer": "iothub", "acceptingIpFilterRule": nil,
	})))
	put("iothub-connection-auth-generation-id", e.from.generation)
	put("iothub-enqueuedtime", azure.UTC7(e.at.Add(ahead)))
	put("iothub-message-source", "Telemetry")
	put("dt-dataschema", e.from.modelID)
	put("dt-subject", text("$.sub"))
	if e.dup {
		put("mqtt-dup", "true")
	}
	if e.retain {
		put("mqtt-retain", "true")
	}
	if e.isWill {
		put("iothub-MessageType", "Will")
	}
	m.Properties = props
	m.Body = bodyJSON(body)
	return m
}

// parseBag decodes a property bag. Each key and value is percent-decoded once; of a doubled key the first value counts.
func parseBag(bag string) map[string]*string {
	props := map[string]*string{}
	for pair := range strings.SplitSeq(bag, "&") {
		if pair == "" {
			continue
		}
		key, value, ok := strings.Cut(pair, "=")
		key = azure.Unescape(key)
		if _, doubled := props[key]; doubled {
			continue
		}
		if !ok {
			props[key] = nil
			continue
		}
		value = azure.Unescape(value)
		props[key] = &value
	}
	return props
}

// bodyJSON is the body itself where it is JSON, else its text.
func bodyJSON(body []byte) json.RawMessage {
	if json.Valid(body) && utf8.Valid(body) {
		return slices.Clone(body)
	}
	if utf8.Valid(body) {
		return azure.EncodeJSON(string(body))
	}
	return azure.EncodeJSON(strings.ToValidUTF8(string(body), "\uFFFD"))
}

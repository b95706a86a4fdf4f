package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/hubhop-iot/hubhop/internal/flow/jsonscan"
	"github.com/hubhop-iot/hubhop/internal/flow/node"
	"github.com/hubhop-iot/hubhop/telemetry/message"
)

// Intake is the end of the outbox that telemetry goes into.
type Intake interface {
	// Append returns nil when the messages are synced to the disk, and not before: while the disk
	// takes nothing or the outbox is full, it waits until ctx ends. Then it has taken none of them.
	// An error with a method Permanent() that returns true says that no other try will succeed.
	// When Append returns, the messages and their maps are the caller's again.
	Append(ctx context.Context, messages ...message.Message) error
}

// Twin is where reported properties go.
type Twin interface {
	// Report returns nil when the values are synced to the disk; they reach the twin of whatever
	// hub the device has, also after a crash. While the disk takes nothing, it waits until ctx
	// ends. A property of a component is spelled "component*name". The value null takes a property
	// out of the twin. An error with a method Permanent() that returns true says that no other try
	// will succeed. Report keeps the values, which nobody may change.
	Report(ctx context.Context, values map[string]json.RawMessage) error
}

// Bounds of what a destination has in hand, and of one commit of it.
const (
	maxQueued      = 4096
	maxQueuedBytes = 4 << 20
	maxBatch       = 1024
	maxBatchBytes  = 1 << 20

	maxSpare           = 256 // messages for which room is kept while none is in hand
	maxSpareProperties = 16  // of a message whose room is kept for another one
)

// retry is the pause after an error of the outbox that may pass.
const retry = time.Second

// Options say where messages go.
type Options struct {
	Intake Intake
	Twin   Twin
	Place  string            // telemetry, telemetry/<component> or property
	Log    func(text string) // what a person should know, once for each property name; may be nil
	Now    func() time.Time  // the time that the device goes by; nil: time.Now
}

// Destination puts the messages of one node of a graph into the outbox, in batches: while one batch
// is synced, the next one collects.
type Destination struct {
	o Options
	p place

	mu     sync.Mutex
	queue  []item
	bytes  int
	more   chan struct{} // one slot: the queue is not empty
	room   chan struct{} // closed when the queue has been emptied; nil: nobody waits
	warned map[string]bool
	lost   uint64
	spare  []item // room for the next queue

	// Run's own:
	messages []message.Message // room for those of a commit
	json     jsonscan.Document
}

type item struct {
	m      node.Message
	size   int
	to     node.Completion
	ticket uint64
}

// New returns a destination. An error is about the place.
func New(o Options) (*Destination, error) {
	p, err := parsePlace(o.Place)
	if err != nil {
		return nil, err
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Destination{o: o, p: p, more: make(chan struct{}, 1), warned: map[string]bool{}}, nil
}

// Lost returns how many properties were left out because a hub cannot carry them.
func (d *Destination) Lost() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.lost
}

// Send takes messages over, as [node.Destination] says. It waits while 4,096 messages or 4 MiB are
// in hand.
func (d *Destination) Send(ctx context.Context, ms []node.Message, to node.Completion, tickets []uint64) (n int, err error) {
	for {
		d.mu.Lock()
		before := n
		for n < len(ms) && len(d.queue) < maxQueued && (len(d.queue) == 0 || d.bytes < maxQueuedBytes) {
			size := ms[n].Size()
			d.queue = append(d.queue, item{ms[n], size, to, tickets[n]})
			d.bytes += size
			n++
		}
		var room chan struct{}
		if n < len(ms) {
			if d.room == nil {
				d.room = make(chan struct{})
			}
			room = d.room
		}
		d.mu.Unlock()
		if n > before {
			select {
			case d.more <- struct{}{}:
			default:
			}
		}
		if n == len(ms) {
			return n, nil
		}
		select {
		case <-room:
		case <-ctx.Done():
			return n, ctx.Err()
		}
	}
}

// Run commits what Send has taken, until ctx ends. What the outbox refuses for now is tried again
// each second.
func (d *Destination) Run(ctx context.Context) error {
	for {
		select {
		case <-d.more:
		case <-ctx.Done():
			return nil
		}
		all := d.take()
		for batch := all; len(batch) > 0; {
			n := cut(batch)
			var err error
			if d.p.property {
				err = d.report(ctx, batch[:n])
			} else {
				err = d.commit(ctx, batch[:n])
			}
			if err != nil {
				return nil // ctx has ended
			}
			batch = batch[n:]
		}
		clear(all)
		if cap(all) <= maxSpare {
			d.mu.Lock()
			d.spare = all[:0]
			d.mu.Unlock()
		}
	}
}

// take takes all that waits.
func (d *Destination) take() []item {
	d.mu.Lock()
	defer d.mu.Unlock()
	batch := d.queue
	d.queue, d.spare, d.bytes = d.spare, nil, 0
	if d.room != nil {
		close(d.room)
		d.room = nil
	}
	return batch
}

// cut returns how many of the items go into one commit.
func cut(batch []item) (n int) {
	bytes := 0
	for n < len(batch) && n < maxBatch && (n == 0 || bytes+batch[n].size <= maxBatchBytes) {
		bytes += batch[n].size
		n++
	}
	return n
}

// commit puts messages into the outbox, and completes them.
func (d *Destination) commit(ctx context.Context, batch []item) error {
	now := d.o.Now()
	messages, good := d.messages[:0], 0
	for i := range batch {
		if len(messages) == cap(messages) {
			messages = append(messages, message.Message{})
		} else {
			messages = messages[:len(messages)+1]
		}
		lost, err := d.convert(&messages[len(messages)-1], &batch[i].m, now)
		d.leftOut(lost)
		if err != nil {
			messages[len(messages)-1] = message.Message{}
			messages = messages[:len(messages)-1]
			done(batch[i:i+1], err)
			continue
		}
		if good != i {
			batch[good] = batch[i]
		}
		good++
	}
	d.messages = messages
	batch = batch[:good]
	if good == 0 {
		return nil
	}
	defer d.release()
	err := d.persist(ctx, func() error { return d.o.Intake.Append(ctx, messages...) })
	if !isPermanent(err) {
		if err == nil {
			done(batch, nil)
		}
		return err
	}
	for i := range batch { // perhaps only one is bad
		err := d.persist(ctx, func() error { return d.o.Intake.Append(ctx, messages[i]) })
		if err != nil && !isPermanent(err) {
			return err
		}
		done(batch[i:i+1], err)
	}
	return nil
}

// release keeps the room of the messages of a commit for the next one, but nothing of their
// contents.
func (d *Destination) release() {
	if cap(d.messages) > maxSpare {
		d.messages = nil
	}
	for i := range d.messages {
		m := &d.messages[i]
		properties := m.Properties
		if len(properties) > maxSpareProperties {
			properties = nil
		}
		clear(properties)
		*m = message.Message{Properties: properties}
	}
}

// report makes reported properties of messages. Of several values of one property the last one
// counts, because the twin has one value only.
func (d *Destination) report(ctx context.Context, batch []item) error {
	values, good := map[string]json.RawMessage{}, make([]item, 0, len(batch))
	each := make([]map[string]json.RawMessage, 0, len(batch))
	for i := range batch {
		own, lost, err := properties(batch[i].m.Payload)
		d.leftOut(lost)
		if err != nil {
			done(batch[i:i+1], err)
			continue
		}
		maps.Copy(values, own)
		good, each = append(good, batch[i]), append(each, own)
	}
	put := func(values map[string]json.RawMessage) error {
		if len(values) == 0 {
			return nil
		}
		return d.persist(ctx, func() error { return d.o.Twin.Report(ctx, values) })
	}
	err := put(values)
	if !isPermanent(err) {
		if err == nil {
			done(good, nil)
		}
		return err
	}
	for i := range good {
		err := put(each[i])
		if err != nil && !isPermanent(err) {
			return err
		}
		done(good[i:i+1], err)
	}
	return nil
}

// persist calls f until it succeeds, its error is final, or ctx ends.
func (d *Destination) persist(ctx context.Context, f func() error) error {
	for {
		err := f()
		if err == nil || ctx.Err() != nil || isPermanent(err) {
			return err
		}
		timer := time.NewTimer(retry)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
}

// componentTag marks the object of a component (Microsoft's page "IoT Plug and Play conventions").
const componentTag = "__t"

// properties returns the reported properties that a payload sets. lost are the names that no twin
// can have.
func properties(payload []byte) (values map[string]json.RawMessage, lost []string, err error) {
	var doc map[string]json.RawMessage
	if err := json.Unmarshal(payload, &doc); err != nil || doc == nil {
		return nil, nil, &fault{"it is no JSON object, so it has no reported properties"}
	}
	values = make(map[string]json.RawMessage, len(doc))
	put := func(prefix, name string, v json.RawMessage) {
		switch {
		case strings.HasPrefix(name, "__"):
		case !twinName(name):
			lost = append(lost, name)
		default:
			values[prefix+name] = v
		}
	}
	for name, v := range doc {
		var part map[string]json.RawMessage
		if len(v) > 0 && v[0] == '{' && json.Unmarshal(v, &part) == nil && string(part[componentTag]) == `"c"` && isComponent(name) {
			for inner, v := range part {
				put(name+"*", inner, v)
			}
			continue
		}
		put("", name, v)
	}
	return values, lost, nil
}

// twinName says whether a twin can have a property of this name (Microsoft's page "Understand and
// use device twins in IoT Hub": no control characters, no '.', '$', or blank, at most 1 KB). A star
// would look like a component.
func twinName(name string) bool {
	return name != "" && len(name) <= 1024 && !strings.ContainsAny(name, ".$ *") && !strings.ContainsFunc(name, unicode.IsControl)
}

// maxWarned bounds the names that are remembered, because they come from outside.
const maxWarned = 100

// leftOut counts properties that were left out, and tells of each name once.
func (d *Destination) leftOut(keys []string) {
	if len(keys) == 0 {
		return
	}
	var told []string
	d.mu.Lock()
	d.lost += uint64(len(keys))
	for _, key := range keys {
		if !d.warned[key] && len(d.warned) < maxWarned && len(key) <= 256 {
			d.warned[key] = true
			told = append(told, key)
		}
	}
	d.mu.Unlock()
	for _, key := range told {
		if d.o.Log != nil {
			d.o.Log(fmt.Sprintf("the property %q is left out: a hub cannot carry its name or its value, or it came twice", key))
		}
	}
}

// done completes items. A call has the tickets of one receiver.
func done(items []item, err error) {
	for len(items) > 0 {
		n := 1
		for n < len(items) && items[n].to == items[0].to {
			n++
		}
		tickets := make([]uint64, n)
		for i := range tickets {
			tickets[i] = items[i].ticket
		}
		items[0].to.Done(tickets, err)
		items = items[n:]
	}
}

// isPermanent says whether an error says of itself that no other try will succeed.
func isPermanent(err error) bool {
	var p interface{ Permanent() bool }
	return errors.As(err, &p) && p.Permanent()
}

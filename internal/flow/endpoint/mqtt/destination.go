package mqtt

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hubhop-iot/hubhop/internal/flow/node"
	"github.com/hubhop-iot/hubhop/internal/flow/topic"
	"github.com/hubhop-iot/hubhop/internal/mqtt5"
)

const (
	maxHeld      = 16 << 20 // bytes of messages that a destination has in hand, at least one message
	maxUnwritten = 1 << 20  // bytes of QoS 0 that wait for the network
	maxAliases   = 64       // topics with an alias
	minAliased   = 6        // bytes of a topic that is worth an alias
)

// Destination is a broker as a node.Destination. The topic of a message is where it goes.
type Destination struct {
	link

	mu       sync.Mutex // guards everything below; it comes before that of link and of the session
	session  *mqtt5.Session
	window   int
	most     int // bytes of a PUBLISH that the broker takes; 0: no limit
	learned  int // the same, found by a refusal; 0: none was refused
	noRetain bool
	aliases  map[string]uint16
	aliasMax int
	ring     []flying
	head     uint64 // the first message that is not completed
	next     uint64 // the next one to send
	tail     uint64 // the next one to come
	inFlight int
	bytes    int // of the messages from head to tail
	refused  int // times in a row that the broker has refused a message for now
	resting  bool
	rest     *time.Timer
	room     chan struct{} // closed when a message is completed; nil: nobody waits
	done     []result
	tickets  []uint64 // scratch of tell
	telling  sync.Mutex
	acked    uint64
	again    uint64
	dropped  uint64
}

// errLeftover ends a session that has subscriptions, although this is a destination.
var errLeftover = errors.New("the broker's session has subscriptions of an earlier use of the client id; it is begun anew without them")

// flying is a message that the destination has in hand.
type flying struct {
	m      mqtt5.Message
	expiry time.Time
	to     node.Completion
	ticket uint64
	size   int
	state  flyingState
	sent   bool // at least once to this session of the broker
}

type flyingState byte

const (
	waits flyingState = iota
	sent
	completed
)

// result is a completion that is still to be told.
type result struct {
	to     node.Completion
	ticket uint64
	err    error
}

// NewDestination returns a destination.
func NewDestination(c Config) (*Destination, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	d := &Destination{ring: make([]flying, min(2*c.MaxInflight, 65535))}
	d.c = &c
	return d, nil
}

// Run is that of node.Destination.
func (d *Destination) Run(ctx context.Context) error {
	d.run(ctx, d.serve)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.rest != nil {
		d.rest.Stop()
	}
	return nil
}

// Status returns a snapshot.
func (d *Destination) Status() Status {
	st := d.snapshot()
	d.mu.Lock()
	defer d.mu.Unlock()
	st.InFlight, st.Messages, st.Again, st.Dropped = int(d.tail-d.head), d.acked, d.again, d.dropped
	return st
}

// Send is that of node.Destination. What is wrong with a message itself is told to its Completion.
func (d *Destination) Send(ctx context.Context, ms []node.Message, to node.Completion, tickets []uint64) (int, error) {
	for n := 0; n < len(ms); {
		took, room := d.add(ms[n:], to, tickets[n:])
		n += took
		d.tell()
		if room == nil {
			continue
		}
		select {
		case <-room:
		case <-ctx.Done():
			return n, ctx.Err()
		}
	}
	return len(ms), nil
}

// add takes messages as long as there is room. If there is none, room is closed when that changes.
func (d *Destination) add(ms []node.Message, to node.Completion, tickets []uint64) (took int, room chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for took < len(ms) && int(d.tail-d.head) < len(d.ring) && (d.bytes < maxHeld || d.head == d.tail) {
		f := d.slot(d.tail)
		*f = flying{to: to, ticket: tickets[took], size: ms[took].Size()}
		if err := d.prepare(&f.m, &ms[took]); err != nil {
			d.done = append(d.done, result{to, tickets[took], err})
			d.dropped++
			*f = flying{}
		} else {
			f.expiry = ms[took].Expires
			d.bytes += f.size
			d.tail++
		}
		took++
	}
	d.pumpLocked()
	if took < len(ms) && int(d.tail-d.head) > 0 {
		if d.room == nil {
			d.room = make(chan struct{})
		}
		room = d.room
	}
	return took, room
}

func (d *Destination) slot(n uint64) *flying { return &d.ring[n%uint64(len(d.ring))] }

// packetID is the packet id of a message; all in hand have different ones.
func packetID(n uint64) uint16 { return uint16(n%65535) + 1 }

// prepare makes the PUBLISH of a message. The error says what is wrong with it.
func (d *Destination) prepare(out *mqtt5.Message, m *node.Message) error {
	if err := topic.ValidTopic(m.Topic); err != nil {
		return fmt.Errorf("MQTT endpoint %q cannot publish to %q: %w", d.c.Name, clip(m.Topic), err)
	}
	*out = mqtt5.Message{
		Topic: m.Topic, Payload: m.Payload, QoS: d.c.QoS, Retain: m.Retain && !d.c.NeverRetain, Text: m.Text,
		ContentType: m.ContentType, ResponseTopic: m.ResponseTopic, Correlation: m.Correlation,
	}
	var err error
	if out.User, err = d.c.user(m); err != nil {
		return fmt.Errorf("MQTT endpoint %q cannot publish to %q: %w", d.c.Name, clip(m.Topic), err)
	}
	if len(m.ContentType) > 65535 || len(m.ResponseTopic) > 65535 || len(m.Correlation) > 65535 || out.Size() > 1<<28-1 {
		return fmt.Errorf("MQTT endpoint %q cannot publish to %q: a property or the payload is larger than MQTT can carry", d.c.Name, clip(m.Topic))
	}
	return nil
}

// serve serves one connection.
func (d *Destination) serve(ctx context.Context, session *mqtt5.Session) error {
	session.OnRoom(d.drained)
	session.Moderate(min(d.c.MaxInflight, int(session.Grant.ReceiveMaximum)))
	d.connected(session)
	stop := context.AfterFunc(ctx, func() { session.Close(mqtt5.Success, nil) })
	defer stop()
	d.tell()
	err := session.Serve(d.packet, d.drained)
	d.mu.Lock()
	d.session = nil
	if r, ok := errors.AsType[*mqtt5.ReasonError](err); ok && r.Reason == mqtt5.PacketTooLarge {
		d.learnLocked()
	}
	d.mu.Unlock()
	session.Close(mqtt5.Success, err) // waits for the writer
	d.tell()
	return err
}

// learnLocked notes that the largest message in flight was too large for the broker, which does not
// announce its limit. Otherwise that message would end each session.
func (d *Destination) learnLocked() {
	largest := 0
	for n := d.head; n < d.next; n++ {
		if f := d.slot(n); f.state == sent {
			largest = max(largest, f.m.Size())
		}
	}
	d.learned = max(largest-1, 0)
}

// connected begins a connection: what the one before has left is sent again first.
func (d *Destination) connected(session *mqtt5.Session) {
	g := &session.Grant
	if g.MaximumQoS < d.c.QoS {
		session.Close(mqtt5.Success, &mqtt5.ReasonError{Packet: mqtt5.Connack, Reason: mqtt5.NoQoS})
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.session, d.window, d.most, d.noRetain = session, min(d.c.MaxInflight, int(g.ReceiveMaximum)), int(g.MaximumPacket), g.NoRetain
	if d.learned > 0 && (d.most == 0 || d.learned < d.most) {
		d.most = d.learned
	}
	d.aliases, d.aliasMax = nil, min(int(g.AliasMaximum), maxAliases)
	for n := d.head; n < d.next; n++ {
		f := d.slot(n)
		if f.state == sent {
			f.state = waits
		}
		if !g.SessionPresent {
			f.sent = false
		}
	}
	d.inFlight, d.resting, d.next = 0, false, d.head
	d.pumpLocked()
}

// pumpLocked sends what may go now.
func (d *Destination) pumpLocked() {
	if d.session != nil {
		d.sendLocked(d.session)
		d.session.Owes(d.inFlight)
	}
}

func (d *Destination) sendLocked(s *mqtt5.Session) {
	if d.resting || d.next == d.tail || d.c.QoS > 0 && d.inFlight >= d.window {
		return
	}
	if d.c.QoS == 0 && !s.HasRoom(maxUnwritten) {
		return
	}
	s.Send(func(out []byte) []byte {
		for ; d.next < d.tail && (d.c.QoS == 0 || d.inFlight < d.window); d.next++ {
			if f := d.slot(d.next); f.state == waits {
				out = d.publishLocked(out, f)
			}
		}
		return out
	})
	d.advanceLocked()
}

// publishLocked appends one message, or completes it without that.
func (d *Destination) publishLocked(out []byte, f *flying) []byte {
	m := f.m
	if !f.expiry.IsZero() {
		left := time.Until(f.expiry)
		if left <= 0 {
			d.dropped++
			d.completeLocked(f, node.ErrExpired)
			return out
		}
		m.Expiry = uint32(min((left+time.Second-1)/time.Second, 1<<32-1))
	}
	if m.Retain && d.noRetain {
		m.Retain = false
		d.once("retain", "the broker keeps no retained messages: the flag is not sent; set retain: Never to say so")
	}
	if d.most > 0 && m.Size() > d.most {
		d.dropped++
		d.completeLocked(f, fmt.Errorf("MQTT endpoint %q: a message of %d bytes to %q, and the broker takes packets of %d bytes at most",
			d.c.Name, len(m.Payload), clip(m.Topic), d.most))
		return out
	}
	if d.aliasMax > 0 && len(m.Topic) >= minAliased {
		d.aliasLocked(&m)
	}
	if d.c.QoS == 0 {
		out = m.Append(out, 0, false)
		d.acked++
		d.completeLocked(f, nil)
		return out
	}
	out = m.Append(out, packetID(d.next), f.sent)
	if f.sent {
		d.again++
	}
	f.state, f.sent = sent, true
	d.inFlight++
	return out
}

// aliasLocked replaces the topic by its alias, or gives it one. The first topics get the aliases.
func (d *Destination) aliasLocked(m *mqtt5.Message) {
	if a, ok := d.aliases[m.Topic]; ok {
		m.Alias, m.Topic = a, ""
		return
	}
	if len(d.aliases) < d.aliasMax {
		if d.aliases == nil {
			d.aliases = map[string]uint16{}
		}
		m.Alias = uint16(len(d.aliases) + 1)
		d.aliases[m.Topic] = m.Alias
	}
}

// completeLocked notes what became of a message.
func (d *Destination) completeLocked(f *flying, err error) {
	d.done = append(d.done, result{f.to, f.ticket, err})
	d.bytes -= f.size
	*f = flying{state: completed}
}

// advanceLocked frees the room of what is completed.
func (d *Destination) advanceLocked() {
	before := d.head
	for d.head < d.next && d.slot(d.head).state == completed {
		d.head++
	}
	if d.head != before && d.room != nil {
		close(d.room)
		d.room = nil
	}
}

// packet handles one packet of the broker.
func (d *Destination) packet(p *mqtt5.Packet) error {
	if p.Kind == mqtt5.Publish {
		// A destination subscribes to nothing. It may have the client id that a source had once:
		// then only a new session ends the subscriptions. All in hand is sent again, so nothing is
		// lost.
		d.setClean(true)
		return errLeftover
	}
	if p.Kind != mqtt5.Puback {
		return mqtt5.Faulty(mqtt5.ProtocolError, "an unexpected %v", p.Kind)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.head + (uint64(p.ID)-1+65535-d.head%65535)%65535
	if n >= d.next {
		return nil // of an earlier connection's message
	}
	f := d.slot(n)
	if f.state != sent {
		return nil
	}
	d.inFlight--
	switch {
	case !p.Reason.Failed():
		d.acked++
		d.refused = 0
		d.completeLocked(f, nil)
	case p.Reason == mqtt5.BadTopic || p.Reason == mqtt5.BadPayload || p.Reason == mqtt5.PacketTooLarge:
		d.dropped++
		d.completeLocked(f, fmt.Errorf("MQTT endpoint %q: the broker refuses a message to %q: %v", d.c.Name, clip(f.m.Topic), p.Reason))
	default:
		d.refuseLocked(f, p)
	}
	return nil
}

// refuseLocked keeps a message that the broker does not take now. Nothing new is sent until the
// broker has answered the rest, and a while after that; then it goes on with this message.
func (d *Destination) refuseLocked(f *flying, p *mqtt5.Packet) {
	f.state, f.sent = waits, false
	if d.resting {
		return
	}
	d.resting = true
	d.refused++
	pause, _ := d.c.pause(&mqtt5.ReasonError{Reason: p.Reason}, d.refused-1)
	err := fmt.Errorf("the broker refuses a message to %q: %v", clip(f.m.Topic), p.Reason)
	text := d.c.describe(err)
	if p.Reason == mqtt5.NotAuthorized {
		text += fmt.Sprintf("; give the client id %q the right to publish there: until then nothing goes on", d.c.ClientID)
	}
	d.set(Refused, text)
	d.c.warn("%s", text)
	session := d.session
	d.rest = time.AfterFunc(pause, func() { d.rested(session) })
}

// rested goes on after a refusal.
func (d *Destination) rested(session *mqtt5.Session) {
	d.mu.Lock()
	if d.session != session || session == nil {
		d.mu.Unlock()
		return
	}
	if d.inFlight > 0 { // its answers come first, so that the order is kept as far as it can be
		d.rest = time.AfterFunc(firstPause, func() { d.rested(session) })
		d.mu.Unlock()
		return
	}
	d.resting, d.next = false, d.head
	d.set(Connected, "")
	d.pumpLocked()
	d.mu.Unlock()
	d.tell()
}

// drained tells what the packets that came together have completed, and sends what may go now.
func (d *Destination) drained() {
	d.mu.Lock()
	d.advanceLocked()
	d.pumpLocked()
	d.mu.Unlock()
	d.tell()
}

// tell calls the completions. Only one goroutine does it at a time, so that they keep their order.
func (d *Destination) tell() {
	d.telling.Lock()
	defer d.telling.Unlock()
	d.mu.Lock()
	done := d.done
	d.done = nil
	d.mu.Unlock()
	tickets := d.tickets[:0]
	for i, r := range done {
		tickets = append(tickets, r.ticket)
		if i+1 == len(done) || done[i+1].to != r.to || r.err != nil || done[i+1].err != nil {
			if r.to != nil {
				r.to.Done(tickets, r.err)
			}
			tickets = tickets[:0]
		}
	}
	d.tickets = tickets
	if cap(tickets) > len(d.ring) {
		d.tickets = nil
	}
}

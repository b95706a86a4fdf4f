package mqtt

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hubhop-iot/hubhop/internal/flow/node"
	"github.com/hubhop-iot/hubhop/internal/flow/topic"
	"github.com/hubhop-iot/hubhop/internal/mqtt5"
)

// askAgain is how long a filter that the broker has refused is left alone.
const askAgain = time.Minute

// Source is a broker as a node.Source.
type Source struct {
	link
	take  func(node.Delivery) bool
	seed  maphash.Seed
	texts texts

	mu       sync.Mutex // guards everything below; it comes before that of link and of the session
	filters  []string   // in the form of MQTT
	session  *mqtt5.Session
	lastID   uint16
	asked    map[uint16]request // SUBSCRIBE and UNSUBSCRIBE without an answer
	refused  map[string]mqtt5.Reason
	granted  []string // what the broker's session has, as far as is known; nil: not known
	again    *time.Timer
	ring     []owed // of the connection, by ticket
	base     uint64 // the first ticket of the connection
	head     uint64 // the first ticket that is not acknowledged to the broker
	tail     uint64 // the next ticket
	carried  map[uint16]owed
	where    map[uint64]uint64 // ticket that the graph knows → ticket of the connection, where they differ
	waiting  map[uint64]uint16 // ticket that the graph knows → packet id in carried
	leaving  bool
	ready    time.Time     // when the broker had answered all that was asked at first; zero: it has not
	room     chan struct{} // closed when less is owed; nil: nobody waits
	settled  chan struct{} // closed when nothing is owed any more; nil: nobody waits
	received uint64
}

// owed is a message of QoS 1 that the graph has taken, and that is not acknowledged to the broker.
type owed struct {
	id     uint16
	done   bool
	sum    uint64 // of the payload
	ticket uint64 // that the graph knows
}

// request is a SUBSCRIBE or UNSUBSCRIBE that the broker has not answered.
type request struct {
	filters []string
	remove  bool
}

// NewSource returns a source that subscribes to filters. A shared subscription is written
// $shared/<group>/<filter>, as in manifests.
func NewSource(c Config, filters []string) (*Source, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	s := &Source{seed: maphash.MakeSeed()}
	s.c = &c
	var err error
	s.filters, err = c.wire(filters)
	return s, err
}

// wire checks filters, and returns them as MQTT has them.
func (c *Config) wire(filters []string) ([]string, error) {
	var out []string
	var faults []error
	for _, f := range filters {
		if err := topic.ValidFilter(f); err != nil {
			faults = append(faults, fmt.Errorf("MQTT endpoint %q: the filter %q: %w", c.Name, f, err))
			continue
		}
		if group, rest, ok := topic.Shared(f); ok {
			f = "$share/" + group + "/" + rest
		}
		if !slices.Contains(out, f) {
			out = append(out, f)
		}
	}
	if len(filters) == 0 {
		faults = append(faults, fmt.Errorf("MQTT endpoint %q: a source without a filter; name topics in dataSources", c.Name))
	}
	return out, errors.Join(faults...)
}

// Run is that of node.Source. It returns nil when ctx has ended, at once or after Config.Linger, in
// which the messages that the graph has are acknowledged.
func (s *Source) Run(ctx context.Context, take func(node.Delivery) bool) error {
	s.take = take
	s.run(ctx, s.serve)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.session = nil
	if s.again != nil {
		s.again.Stop()
	}
	return nil
}

// Status returns a snapshot.
func (s *Source) Status() Status {
	st := s.snapshot()
	s.mu.Lock()
	defer s.mu.Unlock()
	st.InFlight = int(s.tail-s.head) + len(s.carried)
	st.Messages = s.received
	if st.State == Connected && len(s.refused) > 0 {
		st.State, st.Text = Refused, s.refusalsLocked()
	}
	return st
}

// calm is how long a source has been connected and subscribed when what the broker kept for it has
// begun to come, or there is nothing.
const calm = time.Second

// Live says that nothing older waits at the broker, as far as can be told: the source is connected,
// has its subscriptions, and has had them for a second. A graph whose source is not live does not
// let the clock close its windows for the time being.
func (s *Source) Live() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.session != nil && !s.ready.IsZero() && time.Since(s.ready) >= calm
}

// serve serves one connection.
func (s *Source) serve(ctx context.Context, session *mqtt5.Session) error {
	s.connected(session)
	left := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(left)
		s.leave(session)
	})
	defer func() {
		if !stop() {
			<-left
		}
	}()
	session.Moderate(s.c.MaxInflight)
	err := session.Serve(s.packet, func() {})
	s.mu.Lock()
	s.session = nil
	s.mu.Unlock()
	session.Close(mqtt5.Success, err) // waits for the writer
	return err
}

// connected begins a connection: what is owed from the one before is kept aside, because the broker
// sends it again.
func (s *Source) connected(session *mqtt5.Session) {
	present := session.Grant.SessionPresent
	earlier := s.remembered()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !present {
		s.carried, s.where, s.waiting = nil, nil, nil
	} else {
		s.carryLocked()
	}
	s.base, s.head = s.tail, s.tail
	s.ring = make([]owed, s.c.MaxInflight)
	s.session, s.asked, s.refused = session, map[uint16]request{}, nil
	s.ready = time.Time{}
	known := s.granted
	if known == nil {
		known = earlier
	}
	if !present && known != nil {
		s.count(func(st *Status) { st.Gaps++ })
		s.c.warn("the broker has lost the session of client id %q: what was published since the last connection is missing, except retained messages; let the broker keep its sessions on disk", s.c.ClientID)
	}
	if !present {
		known = nil
	}
	s.granted = slices.Clone(known)
	s.subscribeLocked(s.filters)
	s.tidyLocked()
}

// carryLocked keeps what is owed for the next connection.
func (s *Source) carryLocked() {
	if s.carried == nil {
		s.carried, s.waiting = map[uint16]owed{}, map[uint64]uint16{}
	}
	for t := s.head; t < s.tail; t++ {
		o := *s.slot(t)
		s.carried[o.id] = o
		s.waiting[o.ticket] = o.id
		delete(s.where, o.ticket)
	}
}

// waitLocked returns when fewer messages than the receive maximum wait for their PUBACK; with an
// error when the session has ended before. Mosquitto 2.0 sends more than the receive maximum, in a
// burst and after a reconnect: what is too much stays in the network and in the broker. s.mu is
// released meanwhile.
func (s *Source) waitLocked() error {
	for int(s.tail-s.head) >= len(s.ring) {
		if s.unsaid("receive maximum") {
			s.c.log(false, "%s: the broker sends more than %d messages without an acknowledgement: they wait in the network, and there is nothing to do", s.c.Host, s.c.MaxInflight)
		}
		if s.room == nil {
			s.room = make(chan struct{})
		}
		room, session := s.room, s.session
		s.mu.Unlock()
		select {
		case <-room:
		case <-session.Done():
		}
		s.mu.Lock()
		select {
		case <-session.Done():
			return mqtt5.ErrClosed
		default:
		}
	}
	return nil
}

func (s *Source) slot(t uint64) *owed { return &s.ring[t%uint64(len(s.ring))] }

// leave ends the connection in order.
func (s *Source) leave(session *mqtt5.Session) {
	s.mu.Lock()
	s.leaving = true
	var settled chan struct{}
	if s.head != s.tail {
		settled = make(chan struct{})
		s.settled = settled
	}
	s.mu.Unlock()
	if settled != nil && s.c.Linger > 0 {
		late := time.NewTimer(s.c.Linger)
		defer late.Stop()
		select {
		case <-settled:
		case <-late.C:
		case <-session.Done():
		}
	}
	session.Close(mqtt5.Success, nil)
}

// packet handles one packet of the broker.
func (s *Source) packet(p *mqtt5.Packet) error {
	switch p.Kind {
	case mqtt5.Publish:
		return s.publish(p)
	case mqtt5.Suback, mqtt5.Unsuback:
		return s.answered(p)
	default:
		return mqtt5.Faulty(mqtt5.ProtocolError, "an unexpected %v", p.Kind)
	}
}

func (s *Source) publish(p *mqtt5.Packet) error {
	name, err := s.topic(p)
	if err != nil {
		return err
	}
	sum := maphash.Bytes(s.seed, p.Payload)
	ticket, fresh, err := s.receive(p, sum)
	if err != nil || !fresh {
		return err
	}
	d := node.Delivery{Ticket: ticket}
	if p.QoS > 0 {
		d.From = s
	}
	if reason := s.message(&d.Message, p, name); reason != "" {
		s.drop(reason)
		if d.From != nil {
			s.Acked([]uint64{ticket})
		}
		return nil
	}
	if s.take(d) {
		return nil
	}
	// The graph has stopped. The message stays without an acknowledgement, and so do all later
	// ones.
	s.mu.Lock()
	session := s.session
	if p.QoS > 0 {
		s.tail--
	}
	s.settleLocked()
	s.mu.Unlock()
	<-session.Done()
	return mqtt5.ErrClosed
}

// drop counts a message that is not handed in. Its kind of fault is logged once.
func (s *Source) drop(reason string) {
	s.count(func(st *Status) { st.Dropped++ })
	kind, _, _ := strings.Cut(reason, ":")
	s.once(kind, "a message is dropped: %s; later ones of this kind are only counted", reason)
}

// receive notes a message. fresh is false if the graph has it already.
func (s *Source) receive(p *mqtt5.Packet, sum uint64) (ticket uint64, fresh bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.received++
	if p.QoS == 0 {
		return 0, true, nil
	}
	if err := s.waitLocked(); err != nil {
		return 0, false, err
	}
	t := s.tail
	o := owed{id: p.ID, sum: sum, ticket: t}
	if p.Flag {
		s.count(func(st *Status) { st.Again++ })
		// The broker cannot have used the packet id for another message, because it has had no
		// PUBACK. But a broker that has lost its state may, so the payload is compared.
		if c, ok := s.carried[p.ID]; ok && c.sum == sum {
			s.forgetLocked(p.ID)
			if !c.done {
				if s.where == nil {
					s.where = map[uint64]uint64{}
				}
				s.where[c.ticket] = t
			}
			*s.slot(t) = c
			s.tail++
			s.acknowledgeLocked()
			return t, false, nil
		}
	}
	s.forgetLocked(p.ID)
	*s.slot(t) = o
	s.tail++
	return t, true, nil
}

// forgetLocked forgets what is carried under a packet id, because the broker has used it.
func (s *Source) forgetLocked(id uint16) {
	if c, ok := s.carried[id]; ok {
		delete(s.carried, id)
		delete(s.waiting, c.ticket)
	}
}

// Acked is that of node.Receiver. PUBACKs leave in the order in which the messages came, so one
// that is done early waits.
func (s *Source) Acked(tickets []uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range tickets {
		if t < s.base || t >= s.tail {
			moved, ok := s.where[t]
			if !ok {
				if id, ok := s.waiting[t]; ok {
					c := s.carried[id]
					c.done = true
					s.carried[id] = c
					delete(s.waiting, t)
				}
				continue // of a session that is lost
			}
			delete(s.where, t)
			t = moved
		}
		if t >= s.head {
			s.slot(t).done = true
		}
	}
	s.acknowledgeLocked()
}

// acknowledgeLocked sends the PUBACKs that may go.
func (s *Source) acknowledgeLocked() {
	end := s.head
	for end < s.tail && s.slot(end).done {
		end++
	}
	if end == s.head || s.session == nil {
		return
	}
	s.session.Send(func(out []byte) []byte {
		for ; s.head < end; s.head++ {
			out = mqtt5.AppendPuback(out, s.slot(s.head).id)
		}
		return out
	})
	s.settleLocked()
}

// settleLocked wakes who waits for room, or until nothing is owed.
func (s *Source) settleLocked() {
	if s.room != nil {
		close(s.room)
		s.room = nil
	}
	if s.settled != nil && s.head == s.tail {
		close(s.settled)
		s.settled = nil
	}
}

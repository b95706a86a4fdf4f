package iothub

import (
	"bytes"
	"errors"
	"io"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/ledger"
	"github.com/hubhop-iot/hubhop/internal/sim/wire"
)

const (
	// hubPacketLimit is the size of the largest MQTT packet, in bytes.
	hubPacketLimit = 262_144
	// acksPerFlush bounds the bytes of PUBACKs that are collected while packets keep coming.
	acksPerFlush = 4 << 10
)

// session is one device's MQTT connection to one hub. The goroutine of run owns it, and is its only
// reader.
type session struct {
	hub      *Hub
	wire     *wire.MQTT
	identity *Identity
	from     *ledger.Origin
	number   int64 // of the session among those of the whole cloud, in the order of their CONNECTs

	alive   time.Duration // the longest silence that is allowed
	since   time.Time     // silence counts from here on, because a client waits for its CONNACK
	acks    []byte        // PUBACKs of what was read since the last flush
	batch   *ledger.Batch // messages since the last flush; nil if there are none
	events  []byte        // "devices/{id}/messages/events", to compare topics with
	will    *wire.Will
	clean   bool
	oldest  bool // the user name has no api-version
	goodbye bool // a DISCONNECT came

	attached atomic.Pointer[Identity] // set with the identity's mutex held, when the device is let in

	// The identity's mutex guards the fields below.
	expiry    *time.Timer
	injection *time.Timer
	subs      subscriptions
	lastRID   uint64
	calls     map[string]chan<- methodAnswer
}

// reasonGoodbye is the reason of a session that ended with a DISCONNECT. Only such a session leaves
// no will.
const reasonGoodbye = "disconnected"

// conduct returns how the session is to be served: by the hub's fault, and by a fault that the
// device has asked for.
func (s *session) conduct() conduct {
	var c conduct
	if now := s.hub.conduct.Load(); now != nil {
		c = *now
	}
	if s.identity != nil && s.identity.suffers(injectThrottling) {
		c.throttle = max(c.throttle, DelayOr(0, throttleDelayMs))
	}
	return c
}

// run serves the connection from its CONNECT to its end.
func (s *session) run() {
	first, body, err := s.wire.Next()
	if err != nil || first>>4 != wire.PacketConnect {
		return
	}
	c, err := wire.ParseConnect(first, body)
	if err != nil {
		return
	}
	if err := s.connect(c); err != nil {
		s.refuse(c.ClientID, err)
		return
	}
	s.wire.LetIn(s.beforeRead)
	for err == nil {
		if first, body, err = s.wire.Next(); err == nil && !s.wire.HungUp() {
			err = s.handle(first, body)
		}
		if err == nil && (len(s.acks) >= acksPerFlush || s.batch.Full() || s.wire.IsCrowded()) {
			err = s.flush()
		}
	}
	if lost := s.settle(); lost != nil {
		err = lost
	}
	reason := s.endReason(err)
	if wire.BrokeRule(err) && s.hub.options.Told.IsNew(s.hub.name+" "+s.identity.name()+" "+reason) {
		s.hub.log.Info().Str("hub", s.hub.name).Str("device", s.identity.name()).Str("kind", EventDisconnect).Str("reason", reason).
			Msg("connection closed, because a hub does not allow this")
	}
	s.wire.HangUp(reason)
}

// endReason returns why the session ended, for the log and the event.
func (s *session) endReason(err error) string {
	if s.goodbye {
		return reasonGoodbye
	}
	if cause := s.wire.Failure(); cause != "" {
		return cause
	}
	if wire.BrokeRule(err) {
		return err.Error()
	}
	if reason := wire.ErrorText(err); reason != "timeout" {
		return reason
	}
	return "keep-alive missed"
}

// connect lets the device of a CONNECT in. An error is a refusal.
func (s *session) connect(c wire.ConnectPacket) error {
	h := s.hub
	if code := s.conduct().refuse; code != 0 {
		return &refusedError{code, errors.New("fault")}
	}
	i, user, expires, err := h.authenticate(c, s.wire.PeerCertificates())
	if err != nil {
		return err
	}
	s.identity, s.will, s.clean, s.oldest = i, c.Will, c.Clean, user.Oldest
	s.events = []byte(i.resource() + "/messages/events")
	s.alive = c.Patience()
	s.number = h.options.Sessions.Add(1)
	present, err := s.attach(user.ModelID, expires)
	if err != nil {
		return err
	}
	h.log.Debug().Str("hub", h.name).Str("device", i.name()).Str("kind", EventConnect).Bool("sessionPresent", present).Msg("connected")
	return nil
}

// attach makes s the device's session, queues its CONNACK and closes an older session. Other
// goroutines see the session only after its CONNACK.
func (s *session) attach(modelID string, expires time.Time) (present bool, err error) {
	i, h := s.identity, s.hub
	s.from = &ledger.Origin{Hub: h.name, Device: i.id, Module: i.module, Generation: i.generation}
	i.entry.Lock() // one session at a time, so that a replaced client that comes back at once finds s
	defer i.entry.Unlock()
	if err := i.usable(); err != nil {
		return false, err
	}
	if old := i.online(); old != nil {
		old.wire.HangUp("replaced by a new connection of the same device")
	}
	i.mu.Lock()
	// A CONNACK promises nothing that must survive, so a device may connect when nothing can be
	// written.
	defer func() { _ = i.saveAndUnlock() }()
	if err := i.usableLocked(); err != nil {
		return false, err
	}
	if code := i.refusedByInjection(); code != 0 {
		return false, &refusedError{code, errors.New("fault injection")}
	}
	i.session = s
	i.connectionAt = h.now()
	s.attached.Store(i)
	if s.wire.HungUp() { // it was hung up before detach could know of the identity
		i.session = nil
		return false, &refusedError{wire.ConnackUnavailable, errors.New("closing")}
	}
	if modelID != "" {
		i.modelID = modelID
	}
	s.from.AuthType, s.from.ModelID = i.auth.AuthType(), i.modelID
	if !expires.IsZero() {
		s.expiry = time.AfterFunc(expires.Add(h.options.Grace).Sub(h.now()), func() { s.wire.HangUp("token expired") })
	}
	h.options.Connects.Add(1)
	h.live.Add(1)
	h.options.Tell(Event{Kind: EventConnect, Hub: h.name, Device: i.name()})
	if present = !s.clean && i.stored != nil; present {
		s.subs = *i.stored
		i.arrived()
	}
	i.stored = nil
	s.storeSubscriptions()
	conduct := s.conduct()
	late := max(conduct.delay, conduct.throttle)
	s.since = time.Now().Add(late)
	s.wire.Add(wire.AppendConnack(nil, present, wire.ConnackAccepted), late)
	s.deliverMail() // a persistent session is subscribed already
	return present, nil
}

// detach ends the session, for any reason. A session that was never let in has nothing to undo.
func (s *session) detach(reason string) {
	i, h := s.attached.Load(), s.hub
	if i == nil {
		return
	}
	i.mu.Lock()
	if i.session != s {
		i.mu.Unlock()
		return
	}
	i.session = nil
	i.connectionAt = h.now()
	i.mail.giveBack(h.now())
	for _, answer := range s.calls {
		close(answer)
	}
	s.calls = nil
	for _, t := range []*time.Timer{s.expiry, s.injection} {
		if t != nil {
			t.Stop()
		}
	}
	_ = i.saveAndUnlock() // nobody waits for an answer; a restart also delivers messages under way again
	h.live.Add(-1)
	if w := s.will; w != nil && reason != reasonGoodbye && h.Reachable() && !h.MQTT.Stopped() {
		if bag, ok := s.eventsTopic([]byte(w.Topic)); ok {
			if err := h.ledger.Enter(s.from, ledger.Arrival{Bag: bag, Body: w.Payload, Retain: w.Retain, Will: true}); err != nil {
				h.log.Error().Str("hub", h.name).Str("device", i.id).Err(err).Msg("a will is lost")
			} else {
				h.options.Received(h.name, 1)
			}
		}
	}
	h.options.Tell(Event{Kind: EventDisconnect, Hub: h.name, Device: i.name(), Reason: reason})
	h.log.Debug().Str("hub", h.name).Str("device", i.name()).Str("kind", EventDisconnect).Str("reason", reason).Msg("disconnected")
}

// refuse answers a CONNECT with a CONNACK other than 0.
func (s *session) refuse(clientID string, err error) {
	code := byte(wire.ConnackUnavailable)
	if r, ok := errors.AsType[*refusedError](err); ok {
		code = r.code
	}
	s.hub.tellRefused(clientID, err.Error())
	conduct := s.conduct()
	s.wire.Add(wire.AppendConnack(nil, false, code), max(conduct.delay, conduct.throttle))
	s.wire.Settle()
}

// beforeRead sends the answers so far, and gives the client its keep-alive time for the next
// packet.
func (s *session) beforeRead() error {
	if err := s.flush(); err != nil {
		return err
	}
	return s.wire.ExpectWithin(s.since, s.alive)
}

// flush commits what was read, and sends all answers.
func (s *session) flush() error {
	if err := s.settle(); err != nil {
		return err
	}
	return s.wire.Flush()
}

// settle commits the messages that were read to the ledger, and then queues their PUBACKs. If the
// ledger fails there are no PUBACKs.
func (s *session) settle() error {
	if b := s.batch; b != nil {
		s.batch = nil
		n := int64(b.Len())
		if err := s.hub.ledger.Commit(s.from, b); err != nil {
			s.acks = s.acks[:0]
			s.hub.log.Error().Str("hub", s.hub.name).Str("device", s.identity.id).Err(err).Msg("messages are not acknowledged")
			return wire.Closing("%v", err)
		}
		s.hub.options.Received(s.hub.name, n)
	}
	if len(s.acks) > 0 {
		c := s.conduct()
		s.wire.AddAcks(s.acks, max(c.delay, c.throttle))
		s.acks = s.acks[:0]
	}
	return nil
}

// handle serves one packet. An error closes the connection.
func (s *session) handle(first byte, body []byte) error {
	switch first >> 4 {
	case wire.PacketPublish:
		return s.publish(first, body)
	case wire.PacketPuback:
		id, err := wire.ParsePuback(first, body)
		if err != nil {
			return err
		}
		s.identity.mu.Lock()
		s.identity.mail.complete(id)
		_ = s.identity.saveAndUnlock() // MQTT has no answer to a PUBACK; a restart delivers the message again
		return nil
	case wire.PacketSubscribe:
		return s.subscribe(first, body)
	case wire.PacketUnsubscribe:
		return s.unsubscribe(first, body)
	case wire.PacketPingreq:
		if first&0x0f != 0 || len(body) != 0 {
			return wire.ErrMalformed
		}
		s.wire.Add(wire.AppendPingresp(nil), s.conduct().delay)
		return nil
	case wire.PacketDisconnect:
		if first&0x0f != 0 || len(body) != 0 {
			return wire.ErrMalformed
		}
		s.goodbye = true
		return io.EOF
	}
	return wire.Closing("packet type %d is not for a server", first>>4)
}

func (s *session) publish(first byte, body []byte) error {
	p, err := wire.ParsePublish(first, body)
	if err != nil {
		return err
	}
	if bag, ok := s.eventsTopic(p.Topic); ok {
		if s.identity.suffers(injectQuota) {
			return wire.Closing("fault injection: message quota exceeded")
		}
		s.batch = s.hub.ledger.Collect(s.batch, ledger.Arrival{Bag: bag, Body: p.Payload, Dup: p.Dup, Retain: p.Retain})
		if bytes.Contains(bag, injectionMark) && s.inject(bag) {
			return nil // the fault comes before the PUBACK
		}
		if p.QoS == 1 && s.conduct().dropPuback {
			return nil
		}
	} else if p.QoS < 2 {
		if err := s.request(string(p.Topic), p.Payload); err != nil {
			return err
		}
	}
	switch p.QoS {
	case 1:
		s.acks = wire.AppendPuback(s.acks, p.ID)
	case 2:
		return wire.Closing("QoS 2 is not supported")
	}
	return nil
}

// eventsTopic returns the property bag of the telemetry topic of the device or module, and whether
// the topic is that. A device does not speak for its modules, nor a module for its device.
func (s *session) eventsTopic(topic []byte) (bag []byte, ok bool) {
	rest, ok := bytes.CutPrefix(topic, s.events)
	if !ok || len(rest) == 0 {
		return nil, ok
	}
	if rest[0] != '/' {
		return nil, false
	}
	return bytes.TrimSuffix(rest[1:], []byte("/")), true
}

// request serves a publish to a topic below $iothub.
func (s *session) request(topic string, body []byte) error {
	path, query, _ := strings.Cut(topic, "?")
	rid, _ := azure.QueryRaw(query, "$rid")
	switch {
	case len(rid) > azure.RIDLimit: // it would not fit into the topic of the answer
		return wire.Closing("a $rid of %d bytes", len(rid))
	case path == "$iothub/twin/GET/":
		if rid == "" {
			return wire.Closing("twin request without $rid")
		}
		s.getTwin(rid)
		return nil
	case path == "$iothub/twin/PATCH/properties/reported/":
		s.patchReported(rid, body)
		return nil
	case strings.HasPrefix(path, "$iothub/methods/res/"):
		status, err := strconv.Atoi(strings.Trim(path[len("$iothub/methods/res/"):], "/"))
		if err != nil || rid == "" {
			return wire.Closing("malformed method answer %.200q", topic)
		}
		s.answerMethod(rid, status, body)
		return nil
	}
	return wire.Closing("publish to unknown topic %.200q", topic)
}

// moreMail delivers what there was no room for. It is called without locks.
func (s *session) moreMail() {
	s.identity.mu.Lock()
	s.deliverMail()
	_ = s.identity.saveAndUnlock() // nobody waits for an answer; a restart would deliver it again
}

// deliverMail delivers messages as fast as the client takes them: a full mailbox is three times
// what may wait for one client. The identity's mutex is held.
func (s *session) deliverMail() {
	if s.subs.c2d == 0 || s.identity.session != s {
		return
	}
	if s.hub.options.RejectEarlyMail {
		s.identity.mail.rejectBefore(s.subs.c2dSince)
	}
	room := func() bool { return s.wire.Room(s.moreMail) }
	s.identity.mail.deliver(s.subs.c2d-1, s.hub.now(), room, func(topic string, body []byte, id uint16, dup bool) {
		s.wire.Push(wire.AppendPublish(nil, topic, body, id, dup), s.conduct().delay)
	})
}

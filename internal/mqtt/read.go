package mqtt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"
)

// read is the session's one permanent goroutine. The stack of a goroutine grows with what it
// handles and hardly shrinks while it waits in TLS. So before it waits, it lets a new one go on,
// but at most once a second.
func (s *Session) read() {
	defer s.wg.Done()
	defer s.Contain("reading")
	for began := s.readAt; ; {
		if err := s.readPacket(); err != nil {
			s.lose(err)
			return
		}
		if s.in.ahead.buffered() == 0 && s.readAt.Sub(began) > freshAfter {
			s.startReader()
			return
		}
	}
}

// startReader lets a new goroutine read.
func (s *Session) startReader() {
	s.wg.Add(1)
	go s.reader()
}

func (s *Session) readPacket() error {
	// A packet that came together with the one before has its time, so that the clock is asked
	// less.
	waited := s.in.ahead.buffered() < 4
	head, length, size, err := s.in.header()
	if err != nil {
		return err
	}
	if waited {
		s.readAt = time.Now()
	}
	// PUBACKs are the most frequent packets. All that are here are parsed in place.
	if head == byte(Puback)<<4 && size == 2 {
		s.in.ahead.gather(s.conn)
		b, err := s.in.ahead.peek(max(4, s.in.ahead.buffered()))
		if err != nil {
			return noEOF(err)
		}
		n, err := s.pubacks(b, s.readAt)
		s.traceBytes(false, b[:n])
		s.in.ahead.discard(n)
		return err
	}
	p, err := s.in.packet(head, length, size)
	if err != nil {
		return err
	}
	s.tracePacket(&p)
	return s.handle(&p, time.Now())
}

// pubacks handles the PUBACKs at the start of b, at least one, up to the first for another sender.
// It returns how many bytes they have.
func (s *Session) pubacks(b []byte, now time.Time) (n int, err error) {
	n, to, first, err := s.acknowledged(b, now)
	if to == nil {
		return n, err
	}
	s.telling.Store(int64(now.Sub(s.setupSince)) + 1)
	if first {
		s.handler.FirstAck()
	}
	to.Done(s.tickets, nil)
	s.telling.Store(0)
	return n, err
}

// acknowledged fills s.tickets with the tickets of the messages that the PUBACKs acknowledge. It
// returns the completion to call, nil if there is none. first says that the session had no PUBACK
// before.
func (s *Session) acknowledged(b []byte, now time.Time) (n int, to Completion, first bool, err error) {
	s.tickets = s.tickets[:0]
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heardLocked(now)
	if !s.connected {
		return 0, nil, false, fmt.Errorf("%w: PUBACK before CONNACK", ErrProtocol)
	}
	for ; len(b) >= n+4 && b[n] == byte(Puback)<<4 && b[n+1] == 2; n += 4 {
		p := s.flight.get(binary.BigEndian.Uint16(b[n+2:]))
		if p == nil { // nothing is acknowledged that was not sent
			s.stats.StrayAcks++
			continue
		}
		if to != nil && p.to != to {
			break
		}
		to = p.to
		s.tickets = append(s.tickets, p.ticket)
		s.ackedLocked(p, now)
		s.flight.acknowledged(p, now)
	}
	first = s.stats.Acked == 0
	s.stats.Acked += uint64(len(s.tickets))
	if to != nil && s.flight.count == 0 && s.settled != nil {
		close(s.settled)
		s.settled = nil
	}
	s.calmLocked(now)
	return n, to, first, nil
}

// handle deals with a packet other than a PUBACK.
func (s *Session) handle(p *Packet, now time.Time) error {
	r, err := s.received(p, now)
	switch {
	case err != nil:
		return err
	case p.Kind == Publish:
		if err := s.handler.Message(p, r); err != nil {
			return err
		}
		s.waitForRoom(now)
	case p.Kind == Connack && s.sequential:
		s.handler.Opening()
		s.mu.Lock()
		defer s.mu.Unlock()
		s.opening, s.opened = false, true
		s.upLocked()
		s.flushLocked()
	}
	return nil
}

// received notes a packet. If it is a message of QoS 1, received returns its receipt.
func (s *Session) received(p *Packet, now time.Time) (*Receipt, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heardLocked(now)
	switch {
	case p.Kind == Connack:
		return nil, s.connackLocked(p)
	case !s.connected:
		return nil, fmt.Errorf("%w: %v before CONNACK", ErrProtocol, p.Kind)
	}
	switch p.Kind {
	case Suback:
		if code := p.Refused(); code != 0 {
			return nil, fmt.Errorf("%w (SUBACK %#x)", ErrSubscription, code)
		}
		if i := slices.Index(s.asked, p.ID); i >= 0 {
			s.asked = slices.Delete(s.asked, i, i+1)
			s.upLocked()
			s.calmLocked(now)
		}
	case Publish:
		if p.QoS == 0 {
			return nil, nil
		}
		if len(s.owing) >= s.maxOwing {
			return nil, fmt.Errorf("%w: %d inbound messages are waiting for an older one to be settled", ErrProtocol, len(s.owing))
		}
		r := &Receipt{id: p.ID}
		s.owing = append(s.owing, r)
		return r, nil
	case Pingresp:
		s.pingSent = time.Time{}
		s.calmLocked(now)
	default: // an UNSUBACK; the other kinds do not come here
	}
	return nil, nil
}

func (s *Session) connackLocked(p *Packet) error {
	switch {
	case s.connected:
		return fmt.Errorf("%w: a second CONNACK", ErrProtocol)
	case p.Code != 0:
		s.refused = true
		return &RefusalError{Code: p.Code}
	}
	s.connected, s.stats.SessionPresent = true, p.Flag
	s.opening = s.sequential // handle goes on with it
	s.upLocked()
	return nil
}

// Ack acknowledges an inbound message. Its PUBACK leaves after those of all earlier messages,
// because a server ignores, or punishes, PUBACKs out of order. With QoS 0 the receipt is nil, and
// nothing is sent.
func (s *Session) Ack(r *Receipt) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.ended:
		return s.err
	case r == nil:
		return nil
	case r.given:
		return errors.New("the message was completed before")
	}
	r.given = true
	for len(s.owing) > 0 && s.owing[0].given {
		s.out = AppendPuback(s.out, s.owing[0].id)
		s.owing = s.owing[1:]
		s.flushLocked()
	}
	return nil
}

// Hold notes that the handler holds so many bytes of inbound messages more, or fewer if n is
// negative. While it holds more than 1 MiB, the session reads nothing, so that TCP slows the server
// down.
func (s *Session) Hold(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held += n
	if n < 0 {
		s.room.Signal()
	}
}

// waitForRoom blocks the reader while there is no room. There is room again when the handler holds
// less, or when the peer reads its answers.
func (s *Session) waitForRoom(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	since := int64(now.Sub(s.setupSince)) + 1
	for !s.ended && (s.held > maxHeld || len(s.out) > maxUnwritten) {
		// If this side causes the wait, the watchdog must not take it for silence of the peer.
		if s.held > maxHeld {
			s.telling.Store(since)
		} else {
			s.telling.Store(0)
		}
		s.room.Wait()
	}
	s.telling.Store(0)
}

package mqtt

import (
	"errors"
	"net"
	"time"
)

// Batch sends messages together. It holds the session's lock. So between Begin and End, the
// goroutine may call no other method of the session.
type Batch struct {
	s      *Session
	now    time.Time
	acked  int // messages of QoS 1
	queued int
}

// Delivery is how a message of QoS 1 is completed.
type Delivery struct {
	// To is called exactly once: with nil for the PUBACK, or with the reason of the session's end.
	To     Completion
	Ticket uint64 // names the message to To
	// Key names the message. If an earlier session to the same server has left a message of this
	// name without PUBACK, this one is sent under its packet id and with DUP. Empty: it is new.
	Key string
}

// Begin locks the session for a batch. It returns an error, and locks nothing, if the session takes
// no messages any more.
func (s *Session) Begin() (Batch, error) {
	s.mu.Lock()
	if err := s.openLocked(); err != nil {
		s.mu.Unlock()
		return Batch{}, err
	}
	return Batch{s: s, now: time.Now()}, nil
}

// Publish queues a message, and keeps nothing of it. With QoS 0 the delivery counts for nothing.
// While the opening is put together, a message of QoS 1 that does not fit into the first write is
// refused with [ErrNoRoom].
func (b *Batch) Publish(m *Message, d Delivery) error {
	s := b.s
	b.queued++
	if m.QoS == 0 {
		s.out = m.Append(s.out, 0, false)
		return nil
	}
	if s.opening && len(s.out)+m.TopicLength()+len(m.Body)+publishFrame > firstFlight {
		return ErrNoRoom
	}
	p := s.flight.send(d.Key, d.Ticket, d.To, b.now)
	s.out = m.Append(s.out, p.id, p.again)
	s.stats.Published++
	b.acked++
	return nil
}

// End unlocks the session. If there is something to write and nobody writes at that moment, it
// writes what the socket takes at once, because that is cheaper than to wake another goroutine. It
// never waits for the peer.
func (b *Batch) End() {
	s := b.s
	if b.acked > 0 {
		s.pace.sent(b.now)
		s.owedLocked(b.now)
	}
	if b.queued == 0 || s.flushing || s.ended || s.opening || !s.conn.wire.canTry() {
		if b.queued > 0 {
			s.flushLocked()
		}
		s.mu.Unlock()
		return
	}
	s.flushing = true
	s.wg.Add(1)
	s.mu.Unlock()
	s.flush(true)
}

// Publish queues one message of QoS 0, and keeps nothing of it.
func (s *Session) Publish(m *Message) error {
	b, err := s.Begin()
	if err != nil {
		return err
	}
	defer b.End()
	return b.Publish(m, Delivery{})
}

// flushLocked sees to it that somebody is writing. Whatever is queued meanwhile goes out with the
// next write.
func (s *Session) flushLocked() {
	if !s.flushing && !s.ended && !s.opening {
		s.flushing = true
		s.wg.Add(1)
		go s.flusher()
	}
}

// flush writes what is queued until nothing is. With hurry set, it never waits: once the peer takes
// no more, another goroutine goes on.
func (s *Session) flush(hurry bool) {
	defer s.wg.Done()
	if !hurry { // else the caller knows what to do with its panics
		defer s.Contain("writing")
	}
	for {
		var err error
		if !hurry {
			err = s.conn.wire.write()
		} else if !s.conn.wire.try() {
			s.wg.Add(1)
			go s.flusher()
			return
		}
		if err != nil {
			s.loseWrite(err)
			return
		}
		s.mu.Lock()
		if len(s.out) == 0 || s.ended {
			s.flushing = false
			if s.flushed != nil {
				close(s.flushed)
				s.flushed = nil
			}
			s.mu.Unlock()
			return
		}
		buf := s.out
		s.out = s.spare[:0]
		s.spare = nil
		s.lastOut = time.Now()
		s.room.Signal()
		s.mu.Unlock()

		s.traceBytes(true, buf)
		if err := s.conn.wire.seal(s.conn, buf); err != nil {
			s.wg.Go(func() { s.loseWrite(err) }) // which may wait
			return
		}
		s.mu.Lock()
		s.spare = buf
		s.mu.Unlock()
	}
}

// restLocked gives back what only a busy session needs, so that neither the opening nor one large
// message stays in memory for the session's life.
func (s *Session) restLocked() {
	if len(s.out) == 0 && !s.flushing {
		s.out, s.spare = nil, nil
		s.flight.rest()
		s.conn.wire.rest()
		s.handler.Idle()
	}
}

// loseWrite ends the session for a failed write. The reader may know better: a CONNACK that
// refuses, then a close, is a refusal, though the write noticed the close first. So it waits for
// the reader for a second, unless the write took too long.
func (s *Session) loseWrite(err error) {
	var timeout net.Error
	if !errors.As(err, &timeout) || !timeout.Timeout() {
		select {
		case <-s.done:
		case <-time.After(time.Second):
		}
	}
	s.lose(err)
	s.mu.Lock()
	s.flushing = false
	s.mu.Unlock()
}

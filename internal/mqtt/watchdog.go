package mqtt

import (
	"context"
	"fmt"
	"net"
	"time"
)

// This is how a dead session is known. What counts is silence on the session, not the age of one
// message: a server under traffic shaping delays PUBACKs by design, up to a minute, but it lives.
// Silence is the time since the last inbound packet, or since the oldest packet was sent that still
// wants an answer, whichever is later. After a first, short time the session is suspect. Then a
// PINGREQ is sent, and a bare TCP and TLS connection is made to the same server. It carries no
// CONNECT, so it is no second session. If neither is answered by twice that time, the session is
// dead. If either is, the server lives: the session is kept, its window is halved, and only the
// final limit ends it.
//
// A path that delays or loses the packets of the session may do the same to the probe, so another
// probe follows every second while there is time. If TCP was answered, TLS gets three times as long
// as TCP took, as RFC 6298 says for a path of which one round trip is known. On a fast path this is
// next to nothing; on a path of seconds it separates a slow server from a dead one. A path that
// loses packets may lose TLS of one probe and answer the next, so the first few answers of TCP give
// that time anew. More do not: the system of a server that hangs answers TCP each second.
//
// A machine may change from one network to another in less than that time. The server then answers
// the probe, which left from the new address, but cannot answer packets from the old one. So a
// probe proves nothing for a session whose local address this machine no longer has. The watchdog
// checks this only on systems that list the address of the probe.
//
// A machine may be too busy to let this process run. Packets of the server then wait, just as the
// watchdog's own timer does. So the time by which the timer is late does not count as silence:
// nothing could be heard in it.
//
// If no answer is owed, a ping tests the session: after the keep-alive, or after two seconds if
// messages are sent steadily (see Pace).
//
// The final limit counts for the oldest message, from when it was sent or became the oldest. So a
// server that acknowledges in order, however slowly, is kept, although it takes minutes for a whole
// window. A server that withholds a single PUBACK is not kept. A session in a hurry (see Hurry)
// does not wait for that limit.
const (
	minSuspect = time.Second
	maxSuspect = 5 * time.Second
	minDead    = 2 * time.Second
	maxDead    = 10 * time.Second
	finalLimit = 60 * time.Second
	probeEvery = time.Second
	// maxRenewals is how many probes of one suspicion give TLS time.
	maxRenewals = 3
	lateBy      = 50 * time.Millisecond // a timer that is not later than that was on time
	// If the reader was busy for longer with packets that it had, that explains a silence.
	busyFor   = minSuspect / 2
	calmAgain = minSuspect / 2 // how often the timer is moved away because all is answered
)

// watch is the state of the watchdog; the session's lock guards it.
type watch struct {
	timer   *time.Timer
	due     time.Time     // when timer fires
	calmed  time.Time     // when it was last moved away because all is answered
	hurry   time.Time     // until when a PUBACK that is overdue ends the session; zero: it does not
	missed  time.Duration // part of the present silence in which this process did not run
	starved time.Time     // when that was last noticed
	lastIn  time.Time     // when the reader last had something of the peer
	// deaf is when the reader was last seen to have heard nothing for long because it was busy.
	deaf       time.Time
	lastOut    time.Time // when a write last began
	setupSince time.Time // when CONNECT was sent
	pingSent   time.Time // of the PINGREQ that is unanswered; zero: none is
	srtt       time.Duration
	rttvar     time.Duration
	// varied is how much round trips differed on an earlier session to the same server.
	varied    time.Duration
	quick     time.Duration // the shorter one of the dial's round trips
	measured  time.Time     // when the latest measure of a round trip was taken
	alarms    int           // false alarms since the last PUBACK
	suspect   bool
	proved    bool      // while suspect: the server answered a probe
	listed    bool      // the system lists the local address of the probe that proved it
	moved     bool      // while suspect: this machine has left the session's address
	patience  time.Time // while suspect: until when TLS may take, of a probe whose TCP was answered
	renewals  int       // while suspect: how many probes have set patience
	nextProbe time.Time // while suspect: when the next probe is due
	// probing is for all probes of one suspicion. It is nil if only the session itself may answer.
	probing   context.Context
	stopProbe context.CancelFunc
	window    int
	maxWindow int
}

// suspectAfter returns how long a silence makes the session suspect. It follows the retransmission
// timer of RFC 6298, with a floor. Each false alarm doubles it, so that a slow server is not probed
// every second.
func (w *watch) suspectAfter() time.Duration {
	d := max(minSuspect, w.answerTime())
	return min(d<<min(w.alarms, 3), maxSuspect)
}

// dialled takes the times that TCP and TLS took as a first measure of the round trip, so that a
// session over a satellite lives until the next measure. Until then the longer one counts, because
// it is not known how much round trips differ. Then the shorter one counts, because the longer one
// may contain the DNS, or a server that was just coming back.
func (w *watch) dialled(tcp, secure time.Duration) {
	w.quick = min(tcp, secure)
	w.firstMeasure(max(tcp, secure))
}

// firstMeasure follows RFC 6298. But if an earlier session has found out how much round trips on
// this path differ, that counts: a first one that happens to be short says nothing of the next.
func (w *watch) firstMeasure(rtt time.Duration) { w.srtt, w.rttvar = rtt, max(rtt/2, w.varied) }

// variedLocked returns how much round trips differ, for the next session.
func (w *watch) variedLocked() time.Duration {
	if w.measured.IsZero() {
		return w.varied
	}
	return w.rttvar
}

// answerTime returns how long an answer may take on this session. A quarter of a round trip is left
// for deviations even if there were none.
func (w *watch) answerTime() time.Duration {
	return min(w.srtt+max(4*w.rttvar, w.srtt/4), maxSuspect)
}

func (w *watch) deadAfter() time.Duration {
	return min(max(2*w.suspectAfter(), minDead), maxDead)
}

// overdueAfter returns the time after which a PUBACK is overdue. It is that of deadAfter as if
// there had been no false alarm, because a withheld PUBACK is what may have raised the alarms.
func (w *watch) overdueAfter() time.Duration {
	return min(max(2*w.answerTime(), minDead), maxDead)
}

// owedSinceLocked returns since when the answer is owed that is owed longest. It returns false if
// none is.
func (s *Session) owedSinceLocked() (time.Time, bool) {
	var oldest time.Time
	for _, t := range []time.Time{s.setupOwed(), s.pingSent, s.flight.owed()} {
		if !t.IsZero() && (oldest.IsZero() || t.Before(oldest)) {
			oldest = t
		}
	}
	return oldest, !oldest.IsZero()
}

func (s *Session) setupOwed() time.Time {
	if s.up {
		return time.Time{}
	}
	return s.setupSince
}

// heardLocked notes that the peer sent something.
func (s *Session) heardLocked(now time.Time) {
	s.lastIn, s.missed = now, 0
	if s.suspect {
		s.clearLocked()
		s.window = max(1, s.window/2)
		s.alarms++
	}
}

func (s *Session) clearLocked() {
	s.suspect, s.proved, s.listed, s.moved, s.patience, s.renewals = false, false, false, false, time.Time{}, 0
	if s.stopProbe != nil {
		s.stopProbe()
		s.probing, s.stopProbe = nil, nil
	}
}

// ackedLocked learns from a PUBACK: the round trip, and that the window may grow again.
func (s *Session) ackedLocked(p *publish, now time.Time) {
	s.alarms = 0
	s.window = min(s.maxWindow, s.window+1)
	if s.acked != nil && !p.again {
		s.acked(now.Sub(p.sent))
	}
	if p.again || p.sent.Before(s.measured) || p.sent.Before(s.deaf) || p.sent.Before(s.starved) {
		// Only one measure counts for each round trip, because a burst would weigh too much. A
		// measure during which this machine was busy does not count at all.
		return
	}
	if s.measured.IsZero() {
		s.firstMeasure(s.quick)
	}
	s.measured = now
	rtt := now.Sub(p.sent)
	if off := (s.srtt - rtt).Abs(); off > s.rttvar {
		s.rttvar = (3*s.rttvar + off) / 4
	} else { // a few quick answers in a row do not make a path with losses a good one
		s.rttvar = (31*s.rttvar + off) / 32
	}
	s.srtt = (7*s.srtt + rtt) / 8
}

// owedLocked is called when something was sent that wants an answer: the timer may stand too far
// away.
func (s *Session) owedLocked(now time.Time) {
	if next := now.Add(s.suspectAfter()); next.Before(s.due) {
		s.setLocked(now, next)
	}
}

func (s *Session) setLocked(now, at time.Time) {
	s.due = at
	if s.timer == nil {
		s.timer = time.AfterFunc(at.Sub(now), s.tick)
		return
	}
	s.timer.Reset(at.Sub(now))
}

func (s *Session) stopLocked() {
	s.clearLocked()
	if s.timer != nil {
		s.timer.Stop()
	}
}

func (s *Session) tick() {
	defer s.Contain("watching for silence")
	if err := s.look(); err != nil {
		s.lose(err)
	}
}

func (s *Session) look() error {
	b := Batch{s: s}
	s.mu.Lock()
	defer b.End() // writes the ping, if one is due
	if s.ended {
		return nil
	}
	s.stats.Looks++
	now := time.Now()
	if late := now.Sub(s.due); late > lateBy {
		s.missed += late
		s.starved = now
	}
	sent := len(s.out)
	err := s.armLocked(now)
	b.queued = len(s.out) - sent
	return err
}

// calmLocked is called when something was answered. If no answer is owed any more, it moves the
// timer to when there is something to do. The timer would else fire early to find that out, and
// wake the process of an idle device for nothing. A busy session does not pay for that with each
// answer.
func (s *Session) calmLocked(now time.Time) {
	if s.flight.count > 0 || now.Sub(s.calmed) < calmAgain {
		return
	}
	if _, some := s.owedSinceLocked(); some {
		return
	}
	s.calmed = now
	_ = s.armLocked(now) // nothing can be overdue: the peer was heard just now
	if len(s.out) > 0 {  // a ping, because this side was silent for long
		s.flushLocked()
	}
}

// armLocked does what is due at now and sets the timer for what is due next. An error is the end of
// the session.
func (s *Session) armLocked(now time.Time) error {
	if since := time.Duration(s.telling.Load()); since != 0 && now.Sub(s.setupSince)-since >= busyFor {
		// The server's packets wait for the reader, so the server is not silent. This side must not
		// be silent for long either, so it still sends pings.
		s.deaf = now
		if !now.Before(s.lastOut.Add(s.keepAlive)) {
			s.pingLocked(now)
		}
		// Well before a silence that begins now would make the session suspect.
		s.setLocked(now, now.Add(busyFor))
		return nil
	}
	owed, some := s.owedSinceLocked()
	if owed.Before(s.deaf) {
		owed = s.deaf
	}
	if !some {
		s.missed = 0
		s.restLocked()
		idle := s.lastIn
		if s.lastOut.Before(idle) {
			idle = s.lastOut
		}
		next := idle.Add(s.keepAlive)
		if s.up && s.pace.steady(now, s.setupSince) {
			next = earlier(next, s.lastIn.Add(steadyPing))
		}
		if now.Before(next) {
			s.setLocked(now, next)
			return nil
		}
		s.pingLocked(now)
		owed = now
	}
	final := finalLimit
	if s.up && now.Before(s.hurry) {
		final = s.overdueAfter()
	}
	last := now.Add(final)
	if limit := owed.Add(final + s.missed); !now.Before(limit) {
		if s.up {
			return fmt.Errorf("%w for %v", ErrUnacked, now.Sub(owed).Round(time.Millisecond))
		}
		return fmt.Errorf("%w in %v", ErrSilent, final)
	} else if limit.Before(last) {
		last = limit
	}
	silent := owed // since when nothing was heard that was owed
	if s.lastIn.After(silent) {
		silent = s.lastIn
	}
	silent = silent.Add(s.missed)
	if !s.suspect {
		if suspect := silent.Add(s.suspectAfter()); now.Before(suspect) {
			s.setLocked(now, earlier(suspect, last))
			return nil
		}
		s.suspectLocked(now)
	}
	if s.proved && s.listed {
		s.moved = !s.endpoint.has(s.conn.raw.LocalAddr())
	}
	switch {
	case s.moved:
		s.proved = false
	case s.proved && s.listed:
		// This machine may yet lose the address: a new network comes before the old one goes.
		s.setLocked(now, earlier(last, now.Add(probeEvery)))
		return nil
	case s.proved:
		s.setLocked(now, last)
		return nil
	}
	dead := silent.Add(s.deadAfter())
	if s.patience.After(dead) && !s.moved {
		dead = s.patience
	}
	if !now.Before(dead) {
		err := fmt.Errorf("%w in %v", ErrSilent, now.Sub(silent).Round(time.Millisecond))
		if s.moved {
			was, _, _ := net.SplitHostPort(s.conn.raw.LocalAddr().String())
			err = fmt.Errorf("%w, and this machine has left the link's address %s", err, was)
		}
		return err
	}
	next := earlier(dead, last)
	if s.probing != nil {
		if !now.Before(s.nextProbe) {
			s.probeLocked(now)
		}
		next = earlier(next, s.nextProbe)
	}
	s.setLocked(now, next)
	return nil
}

func (s *Session) suspectLocked(now time.Time) {
	s.suspect = true
	s.stats.Suspicions++
	if s.connected && s.pingSent.IsZero() {
		s.pingLocked(now)
	}
	if s.endpoint != nil {
		s.probing, s.stopProbe = context.WithCancel(context.Background())
		s.nextProbe = now
	}
}

// probeLocked asks once more, on a connection of its own.
func (s *Session) probeLocked(now time.Time) {
	s.nextProbe = now.Add(probeEvery)
	ctx := s.probing
	note := func(f func()) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if ctx.Err() == nil && !s.proved {
			f()
		}
	}
	s.wg.Go(func() {
		defer s.Contain("probing")
		from, err := s.endpoint.probe(ctx, func() {
			// The watchdog looks at patience when the session would be dead without it.
			note(func() {
				if s.renewals == maxRenewals {
					return
				}
				s.renewals++
				answered := time.Now()
				s.patience = answered.Add(max(s.answerTime(), 3*answered.Sub(now)))
			})
		})
		if err != nil {
			return
		}
		listed := s.endpoint.has(from)
		note(func() {
			s.proved, s.listed = true, listed
			s.window = max(1, s.window/2)
		})
	})
}

// Check makes the session suspect at once. A caller uses it when nothing could be heard for a
// while, as after a suspension. Only an answer on the session itself saves it, not that the server
// is there for others.
func (s *Session) Check() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || !s.up || s.suspect {
		return
	}
	now := time.Now()
	s.suspect = true
	s.stats.Suspicions++
	if s.pingSent.IsZero() {
		s.pingLocked(now)
		s.flushLocked()
	}
	s.setLocked(now, now.Add(s.deadAfter()-s.suspectAfter()))
}

// Hurry says that the user of the session is about to stop. Until the time until, a PUBACK that is
// overdue ends the session with ErrUnacked, although the server lives: there is no time to wait for
// the final limit, and on another session the message may still arrive. A PUBACK is overdue after
// twice the time that answers take on this session, at least 2 s and at most 10 s.
func (s *Session) Hurry(until time.Time) {
	if err := s.hurried(until); err != nil {
		s.lose(err)
	}
}

func (s *Session) hurried(until time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || !s.up {
		return nil
	}
	s.hurry = until
	err := s.armLocked(time.Now())
	if len(s.out) > 0 { // a ping that is due
		s.flushLocked()
	}
	return err
}

// pingLocked queues a PINGREQ. The caller sees to it that it is written.
func (s *Session) pingLocked(now time.Time) {
	s.pingSent = now
	s.stats.Pings++
	s.out = appendPingreq(s.out)
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

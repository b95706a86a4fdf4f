package hub

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

// How a dead link is known. What counts is silence on the link, not the age of one message: a hub
// under traffic shaping delays PUBACKs by design, up to a minute, but it lives. Silence is the time
// since the later of the last inbound packet and the oldest send that is still owed an answer.
// After a first, short time the link is suspect: a PINGREQ goes out and a bare TCP and TLS
// connection to the same hub, without CONNECT, so without a second session. If neither is answered
// by twice that time the link is dead. If either is, the hub lives: the link is kept, the window is
// halved, and only the final limit ends it.
//
// A path that delays or loses the packets of the link may do the same to the probe, so another
// probe follows every second while there is time. If TCP was answered, TLS gets three times as long
// as TCP took, as RFC 6298 says for a path of which one round trip is known. On a fast path this is
// next to nothing; on a path of seconds it separates a slow hub from a dead one.
//
// A machine may change from one network to another in less than that time. The hub then answers the
// probe, which left from the new address, but cannot answer packets from the old one. So a probe
// proves nothing for a link whose local address this machine no longer has. The watchdog checks
// this only on systems that list the address of the probe.
//
// A machine may be too busy to let this process run. Packets of the hub then wait, just as the
// watchdog's own timer does. So the time by which the timer is late does not count as silence:
// nothing could be heard in it.
//
// If no answer is owed, a ping tests the link: after the keep-alive, or after two seconds if
// telemetry is sent steadily (see pace).
//
// The final limit is that of the oldest message, from when it was sent or became the oldest. So a
// hub that acknowledges in order, however slowly, gets on and is kept, although it takes minutes
// for a whole window; one that withholds a single PUBACK is not.
const (
	minSuspect = time.Second
	maxSuspect = 5 * time.Second
	minDead    = 2 * time.Second
	maxDead    = 10 * time.Second
	finalLimit = 60 * time.Second
	probeEvery = time.Second
	lateBy     = 50 * time.Millisecond // a timer that is not later than that was on time
	busyFor    = minSuspect / 2        // a reader that was busy with its packets for longer explains a silence
)

// watch is the state of the watchdog; the link's lock guards it.
type watch struct {
	timer      *time.Timer
	due        time.Time     // when timer fires
	missed     time.Duration // part of the present silence in which this process did not run
	starved    time.Time     // when that was last noticed
	lastIn     time.Time
	deaf       time.Time // when the reader was last seen to have heard nothing for long, because it was busy
	lastOut    time.Time
	setupSince time.Time // CONNECT was sent
	pingSent   time.Time // zero: no PINGREQ is unanswered
	srtt       time.Duration
	rttvar     time.Duration
	turned     time.Time     // another message became the oldest in flight
	varied     time.Duration // how much round trips differed on the link before, to the same hub
	quick      time.Duration // the shorter one of the dial's round trips
	measured   time.Time     // the latest measure of a round trip was taken
	alarms     int           // false alarms since the last PUBACK
	suspect    bool
	proved     bool      // while suspect: the hub answered a probe
	listed     bool      // and the system knows the address that this came from
	moved      bool      // while suspect: this machine has left the link's address
	patience   time.Time // while suspect: how long a probe that TCP has answered may still take
	nextProbe  time.Time
	probing    context.Context // of all probes of one suspicion; nil when only the link itself may answer
	stopProbe  context.CancelFunc
	window     int
	maxWindow  int
}

// suspectAfter follows RFC 6298's retransmission timer, with a floor; a quarter of a round trip is left for deviations even where there
// were none. Each false alarm doubles it, so that a slow hub is not probed every second.
func (w *watch) suspectAfter() time.Duration {
	d := max(minSuspect, w.answerTime())
	return min(d<<min(w.alarms, 3), maxSuspect)
}

// dialled takes the round trips of a dial, TCP's and that of TLS, for a first measure, so that a link over a satellite lives to see the
// next. Until then the longer one counts, for nothing is known of how much they differ. Then the shorter one does: the DNS may be in the
// other, or a hub that was just coming back.
func (w *watch) dialled(tcp, secure time.Duration) {
	w.quick = min(tcp, secure)
	w.firstMeasure(max(tcp, secure))
}

// firstMeasure follows RFC 6298, but where the link before has found out how much the round trips of this path differ: one that happens to
// be short says nothing of the next.
func (w *watch) firstMeasure(rtt time.Duration) { w.srtt, w.rttvar = rtt, max(rtt/2, w.varied) }

// variedLocked is what the next link should know.
func (w *watch) variedLocked() time.Duration {
	if w.measured.IsZero() {
		return w.varied
	}
	return w.rttvar
}

// answerTime is what an answer on this link may take.
func (w *watch) answerTime() time.Duration {
	return min(w.srtt+max(4*w.rttvar, w.srtt/4), maxSuspect)
}

func (w *watch) deadAfter() time.Duration {
	return min(max(2*w.suspectAfter(), minDead), maxDead)
}

// owedSinceLocked is since when an answer has been owed, at the longest; false if none is.
func (l *Link) owedSinceLocked() (time.Time, bool) {
	var oldest time.Time
	for _, t := range []time.Time{l.setupOwed(), l.pingSent, l.publishOwed()} {
		if !t.IsZero() && (oldest.IsZero() || t.Before(oldest)) {
			oldest = t
		}
	}
	return oldest, !oldest.IsZero()
}

func (l *Link) setupOwed() time.Time {
	if l.subscribed {
		return time.Time{}
	}
	return l.setupSince
}

func (l *Link) publishOwed() time.Time {
	if l.oldest == nil {
		return time.Time{}
	}
	if sent := l.oldest.sent; sent.After(l.turned) {
		return sent
	}
	return l.turned
}

// heardLocked notes that the peer sent something.
func (l *Link) heardLocked(now time.Time) {
	l.lastIn, l.missed = now, 0
	if l.suspect {
		l.clearLocked()
		l.window = max(1, l.window/2)
		l.alarms++
	}
}

func (l *Link) clearLocked() {
	l.suspect, l.proved, l.listed, l.moved, l.patience = false, false, false, false, time.Time{}
	if l.stopProbe != nil {
		l.stopProbe()
		l.probing, l.stopProbe = nil, nil
	}
}

// ackedLocked learns from a PUBACK: the round trip, and that the window may grow again.
func (l *Link) ackedLocked(p *publish, now time.Time) {
	l.alarms = 0
	l.window = min(l.maxWindow, l.window+1)
	if p.again || p.sent.Before(l.measured) || p.sent.Before(l.deaf) || p.sent.Before(l.starved) {
		return // one measure for a round trip, because a burst would weigh too much; none while this machine was the cause
	}
	if l.measured.IsZero() {
		l.firstMeasure(l.quick)
	}
	l.measured = now
	rtt := now.Sub(p.sent)
	if off := (l.srtt - rtt).Abs(); off > l.rttvar {
		l.rttvar = (3*l.rttvar + off) / 4
	} else { // a few quick answers in a row do not make a path with losses a good one
		l.rttvar = (31*l.rttvar + off) / 32
	}
	l.srtt = (7*l.srtt + rtt) / 8
}

// owedLocked is called when something was sent that wants an answer: the timer may stand too far away.
func (l *Link) owedLocked(now time.Time) {
	if next := now.Add(l.suspectAfter()); next.Before(l.due) {
		l.setLocked(now, next)
	}
}

func (l *Link) setLocked(now, at time.Time) {
	l.due = at
	if l.timer == nil {
		l.timer = time.AfterFunc(at.Sub(now), l.tick)
		return
	}
	l.timer.Reset(at.Sub(now))
}

func (l *Link) stopLocked() {
	l.clearLocked()
	if l.timer != nil {
		l.timer.Stop()
	}
}

func (l *Link) tick() {
	defer l.contain("watching for silence")
	if err := l.look(); err != nil {
		l.lose(err)
	}
}

func (l *Link) look() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return nil
	}
	now := time.Now()
	if late := now.Sub(l.due); late > lateBy {
		l.missed += late
		l.starved = now
	}
	return l.armLocked(now)
}

// armLocked does what is due at now and sets the timer for what is due next. An error is the end of the link.
func (l *Link) armLocked(now time.Time) error {
	if since := time.Duration(l.telling.Load()); since != 0 && now.Sub(l.setupSince)-since >= busyFor {
		// What has come from the hub waits for the reader: that is not the hub's silence. But ours the hub would not bear.
		l.deaf = now
		if !now.Before(l.lastOut.Add(l.keepAlive)) {
			l.pingLocked(now)
		}
		l.setLocked(now, now.Add(busyFor)) // well before a silence that begins now would make the link suspect
		return nil
	}
	owed, some := l.owedSinceLocked()
	if owed.Before(l.deaf) {
		owed = l.deaf
	}
	if !some {
		l.missed = 0
		l.restLocked()
		idle := l.lastIn
		if l.lastOut.Before(idle) {
			idle = l.lastOut
		}
		next := idle.Add(l.keepAlive)
		if l.subscribed && l.pace.steady(now, l.setupSince) {
			next = earlier(next, l.lastIn.Add(steadyPing))
		}
		if now.Before(next) {
			l.setLocked(now, next)
			return nil
		}
		l.pingLocked(now)
		owed = now
	}
	last := now.Add(finalLimit)
	if limit := owed.Add(finalLimit + l.missed); !now.Before(limit) {
		if l.subscribed {
			return fmt.Errorf("%w for %v", ErrUnacked, finalLimit)
		}
		return fmt.Errorf("%w in %v", ErrSilent, finalLimit)
	} else if limit.Before(last) {
		last = limit
	}
	silent := owed // since when nothing was heard that was owed
	if l.lastIn.After(silent) {
		silent = l.lastIn
	}
	silent = silent.Add(l.missed)
	if !l.suspect {
		if suspect := silent.Add(l.suspectAfter()); now.Before(suspect) {
			l.setLocked(now, earlier(suspect, last))
			return nil
		}
		l.suspectLocked(now)
	}
	if l.proved && l.listed {
		l.moved = !l.dialer.has(l.raw.LocalAddr())
	}
	switch {
	case l.moved:
		l.proved = false
	case l.proved && l.listed: // it may yet lose it: the new network comes before the old one goes
		l.setLocked(now, earlier(last, now.Add(probeEvery)))
		return nil
	case l.proved:
		l.setLocked(now, last)
		return nil
	}
	dead := silent.Add(l.deadAfter())
	if l.patience.After(dead) && !l.moved {
		dead = l.patience
	}
	if !now.Before(dead) {
		err := fmt.Errorf("%w in %v", ErrSilent, now.Sub(silent).Round(time.Millisecond))
		if l.moved {
			was, _, _ := net.SplitHostPort(l.raw.LocalAddr().String())
			err = fmt.Errorf("%w, and this machine has left the link's address %s", err, was)
		}
		return err
	}
	next := earlier(dead, last)
	if l.probing != nil {
		if !now.Before(l.nextProbe) {
			l.probeLocked(now)
		}
		next = earlier(next, l.nextProbe)
	}
	l.setLocked(now, next)
	return nil
}

func (l *Link) suspectLocked(now time.Time) {
	l.suspect = true
	l.stats.Suspicions++
	if l.connected && l.pingSent.IsZero() {
		l.pingLocked(now)
	}
	l.probing, l.stopProbe = context.WithCancel(context.Background())
	l.nextProbe = now
}

// probeLocked asks once more, on a connection of its own.
func (l *Link) probeLocked(now time.Time) {
	l.nextProbe = now.Add(probeEvery)
	ctx := l.probing
	note := func(f func()) {
		l.mu.Lock()
		defer l.mu.Unlock()
		if ctx.Err() == nil && !l.proved {
			f()
		}
	}
	l.wg.Go(func() {
		defer l.contain("probing")
		from, err := l.dialer.probe(ctx, l.attempt.peer(), func() {
			note(func() { // the watchdog looks at it when the link would be dead without
				answered := time.Now()
				l.patience = answered.Add(max(l.answerTime(), 3*answered.Sub(now)))
			})
		})
		if err != nil {
			return
		}
		listed := l.dialer.has(from)
		note(func() {
			l.proved, l.listed = true, listed
			l.window = max(1, l.window/2)
		})
	})
}

// Check makes the link suspect at once. A caller uses it when nothing could be heard for a while,
// as after a suspension. Only an answer on the link itself saves it, not that the hub is there for
// others.
func (l *Link) Check() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended || !l.subscribed || l.suspect {
		return
	}
	now := time.Now()
	l.suspect = true
	l.stats.Suspicions++
	if l.pingSent.IsZero() {
		l.pingLocked(now)
	}
	l.setLocked(now, now.Add(l.deadAfter()-l.suspectAfter()))
}

func (l *Link) pingLocked(now time.Time) {
	l.pingSent = now
	l.out = append(l.out, packets.Pingreq<<4, 0)
	l.flushLocked()
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

package telemetry

import (
	"sync"
	"sync/atomic"
	"time"
)

// Traffic counts what the drains of a device have sent, from link to link. It may be read at any
// time. The zero value is ready.
type Traffic struct {
	repeated atomic.Uint64
	owed     atomic.Uint32 // messages that were sent on a link, and whose acknowledgement will not come

	mu     sync.Mutex
	span   uint32 // the number of the present one since 1970
	during uint32 // messages acknowledged in it
	before uint32 // and in the one before
	first  int64  // when the first one was acknowledged, in Unix milliseconds; 0 is never
}

// rateSpan is the time over which PerSecond is an average.
const rateSpan = 10 * time.Second

// Repeated returns how many messages were sent once more, because the link before had ended without
// an acknowledgement of them.
func (t *Traffic) Repeated() uint64 { return t.repeated.Load() }

// PerSecond returns how many messages were acknowledged in a second, over about the last ten.
func (t *Traffic) PerSecond() float64 {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.turn(now)
	gone := now.Sub(now.Truncate(rateSpan))
	// A device that has just begun has been counted for less than a span. Its rate must not look as
	// if it were still rising.
	age := min(max(now.Sub(time.UnixMilli(t.first)), time.Second), rateSpan)
	counted := min(max(age-gone, 0), rateSpan-gone) // how much of the span before is in the average
	before := float64(t.before)
	if whole := min(now.Sub(time.UnixMilli(t.first))-gone, rateSpan); whole > counted {
		before *= counted.Seconds() / whole.Seconds()
	}
	return (float64(t.during) + before) / age.Seconds()
}

// turn begins a new span if it is time. t.mu is held.
func (t *Traffic) turn(now time.Time) {
	span := uint32(now.Unix() / int64(rateSpan/time.Second))
	switch span - t.span {
	case 0:
		return
	case 1:
		t.before = t.during
	default:
		t.before = 0
	}
	t.span, t.during = span, 0
}

// acknowledged counts messages that have arrived.
func (t *Traffic) acknowledged(n int) {
	if t == nil {
		return
	}
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.turn(now)
	t.during += uint32(n)
	if t.first == 0 {
		t.first = now.UnixMilli()
	}
}

// failed counts messages that were sent and will not be acknowledged: they will be sent again.
func (t *Traffic) failed(n int) {
	if t != nil {
		t.owed.Add(uint32(n))
	}
}

// sent counts messages that a link has taken. Those of a link that has ended go first, because they
// are the oldest.
func (t *Traffic) sent(n int) {
	if t == nil || n <= 0 {
		return
	}
	for owed := t.owed.Load(); owed > 0; owed = t.owed.Load() {
		again := min(owed, uint32(n))
		if t.owed.CompareAndSwap(owed, owed-again) {
			t.repeated.Add(uint64(again))
			return
		}
	}
}

package clock

import (
	"slices"
	"time"
)

// Watch lets a device look at the clock every few seconds. One timer serves all devices.
type Watch struct {
	of   *Epochs
	look func(r *Round, may bool) (asks bool)
}

// Round is one look of all devices. The clocks are read once for all of them, because a reading is
// a system call, and a process may have thousands of devices. Only a look uses it.
type Round struct {
	k       *Clock
	base    time.Time // zero: nobody has read the clocks yet
	running time.Duration
}

// Now returns the time of the round.
func (r *Round) Now() time.Time {
	if r.base.IsZero() {
		defer r.k.share()
		r.k.mu.Lock()
		defer r.k.mu.Unlock()
		r.base, r.running = r.k.lookLocked()
	}
	return r.base.Add(r.running).UTC()
}

// Watch begins to call look, one call after the other for all watches. look must not block, and
// must contain its panics. may says that the device may ask for the time, because no other one has
// begun to ask the same source; look returns whether the device asks.
func (e *Epochs) Watch(look func(r *Round, may bool) (asks bool)) *Watch {
	w, k := &Watch{e, look}, e.Clock
	k.watching.Lock()
	defer k.watching.Unlock()
	if k.watches = append(k.watches, w); len(k.watches) > 1 {
		return w
	}
	if k.timer == nil {
		k.timer = time.AfterFunc(LookEvery, k.lookAll)
	} else {
		k.timer.Reset(LookEvery)
	}
	return w
}

// End ends the watch. When it returns, look is not called any more.
func (w *Watch) End() {
	k := w.of.Clock
	k.watching.Lock()
	defer k.watching.Unlock()
	k.watches = slices.DeleteFunc(k.watches, func(one *Watch) bool { return one == w })
	if len(k.watches) == 0 {
		k.timer.Stop()
	}
}

// lookAll lets everybody look.
func (k *Clock) lookAll() {
	k.watching.Lock()
	defer k.watching.Unlock()
	k.rounds++
	r := &Round{k: k}
	for _, w := range k.watches {
		if w.look(r, w.of.source.round != k.rounds) {
			w.of.source.round = k.rounds
		}
	}
	if len(k.watches) > 0 {
		k.timer.Reset(LookEvery)
	}
}

// earlyEvery is the shortest time between two looks that are made before they are due.
const earlyEvery = LookEvery / 2

// lookEarly lets everybody look now, in a goroutine of its own, because the process is awake for a
// sample anyway. The next look is due LookEvery later, and comes with a sample, too, if samples
// come that often. So an idle device is not woken for the looks. lookEarly does not block.
func (k *Clock) lookEarly() {
	if !k.watching.TryLock() {
		return // somebody looks, or begins or ends to
	}
	defer k.watching.Unlock()
	if now := time.Now(); len(k.watches) > 0 && now.Sub(k.early) >= earlyEvery {
		k.early = now
		k.timer.Reset(0)
	}
}

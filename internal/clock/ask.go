package clock

import (
	"context"
	"slices"
	"time"
)

// Ask asks the cloud for the time, unless the time is known or was asked for just now. ask puts the
// question, and hears the answer. reason says that something has failed as with a wrong clock.
//
// If ask fails, complain is called, once until ask works. Without a reason, two conditions must
// hold too. It is the second failure in a row, because a failover may hit DPS for a moment. And
// something speaks against the system clock, because many networks close that port and most clocks
// are right.
func (k *Clock) Ask(ctx context.Context, reason bool, ask func(context.Context) error, complain func(error)) {
	select { // a second caller gets the answer to the first one's question
	case k.turn <- struct{}{}:
	case <-ctx.Done():
		return
	}
	defer func() { <-k.turn }()
	if !k.due(reason) {
		return
	}
	err := ask(ctx)
	switch {
	case err == nil:
		k.unanswered, k.told = 0, false
		return
	case ctx.Err() != nil:
		return
	}
	if k.unanswered++; !k.told && (reason || k.unanswered > 1 && k.suspect()) {
		k.told = true
		complain(err)
	}
}

// Watch lets somebody look at the clock every few seconds. One timer serves all who do.
type Watch struct {
	k    *Clock
	look func(may bool) (asks bool)
}

// Watch begins to call look, one call after the other for all watches. look must not block, and
// must contain its panics. may says that it may ask for the time; it returns whether it does.
func (k *Clock) Watch(look func(may bool) (asks bool)) *Watch {
	w := &Watch{k, look}
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
	k := w.k
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
	asks := false // one asks for all
	for _, w := range k.watches {
		asks = w.look(!asks) || asks
	}
	if len(k.watches) > 0 {
		k.timer.Reset(LookEvery)
	}
}

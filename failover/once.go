package failover

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hubhop-iot/hubhop/dps"
)

// ErrRefused says that a person must act before DPS assigns a hub.
var ErrRefused = errors.New("DPS assigns no hub until somebody acts")

// ErrUnreachable says that DPS gave no usable answer in time.
var ErrUnreachable = errors.New("DPS has assigned no hub")

// Provision registers by the same table and with the same waits as a session, and returns the first
// assignment. It returns ErrRefused if waiting is of no use, an error at once if DPS's certificate
// is refused, and ErrUnreachable after limit without a decision, also in the middle of a
// registration. observe, which may be nil, is called with every decision on the way.
func Provision(ctx context.Context, register func(context.Context, dps.Request) (dps.Assignment, error), limit time.Duration,
	proof Proof, observe func(Note)) (dps.Assignment, error) {
	m := NewMachine(Options{NoKnown: true}, State{})
	if observe == nil {
		observe = func(Note) {}
	}
	began := time.Now()
	within, end := context.WithDeadline(ctx, began.Add(limit))
	defer end()
	var last error
	effects := m.Step(began, Start{})
	for {
		var ask *Register
		for _, e := range effects {
			switch e := e.(type) {
			case Register:
				ask = &e
			case Decided:
				observe(Note{Kind: NoteDecision, Err: e.Err, Decision: e.Decision})
			default: // only a running device has links and state
			}
		}
		if ask == nil {
			t := time.NewTimer(time.Until(m.NextWake()))
			select {
			case <-t.C:
				effects = m.Step(time.Now(), Tick{})
				continue
			case <-ctx.Done():
				t.Stop()
				return dps.Assignment{}, ctx.Err()
			}
		}
		progress, stop := stillWaiting(observe)
		a, err := register(within, dps.Request{Patience: ask.Patience, Sequential: ask.Sequential, Progress: progress})
		stop()
		switch {
		case err == nil:
			return a, nil
		case ctx.Err() != nil:
			return a, ctx.Err()
		case within.Err() != nil:
			return a, unreachable(began, cmp.Or(last, errors.New("DPS was asked and did not decide")), proof)
		}
		last = err
		f := failed(ctx, ask.ID, err)
		hint := f.Signal.Hint(proof)
		if f.Signal.NeedsPerson() {
			return a, fmt.Errorf("%w: %w; %s", ErrRefused, err, hint)
		}
		if f.Signal == DPSTLS {
			return a, fmt.Errorf("%w; %s", err, hint)
		}
		effects = m.Step(time.Now(), f)
		if next := m.NextWake(); next.Sub(began) > limit || time.Since(began) >= limit {
			return a, unreachable(began, err, proof)
		}
	}
}

func unreachable(began time.Time, err error, proof Proof) error {
	hint := cmp.Or(Classify(context.Background(), err).Hint(proof), DPSSilent.Hint(proof))
	return fmt.Errorf("%w for %d s: %w; %s", ErrUnreachable, time.Since(began).Round(time.Second)/time.Second, err, hint)
}

// failed is the event of a registration that ended in err.
func failed(ctx context.Context, id int, err error) RegisterFailed {
	f := RegisterFailed{ID: id, Signal: Classify(ctx, err), Err: err, RetryAfter: -1}
	if e, ok := errors.AsType[*dps.Error](err); ok {
		f.RetryAfter, f.Counted = e.RetryAfter, e.Counted
	}
	return f
}

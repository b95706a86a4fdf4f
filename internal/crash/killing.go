package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"github.com/hubhop-iot/hubhop/internal/drill"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

// killing is a trial in which programs are killed and hubs die.
type killing struct {
	*trial
	book  drill.Book
	looks looks
}

// looks is what was seen of the outbox from outside, while it was at work.
type looks struct {
	some    bool
	queued  uint64
	most    uint64        // queued at any time
	longest time.Duration // until a sample arrived that was made after an event, and so all that were made before
	slowest string        // the event that took the longest
}

func newKilling(t *trial) *killing {
	k := &killing{trial: t}
	k.book.Window, k.book.Allow.Reordered = t.window, t.order != "fifo"
	return k
}

// play is the whole run. Its error says why there is no verdict, or which program did not do what
// it must. Then the verdict has what was found until then.
func (k *killing) play(ctx context.Context) (drill.Verdict, error) {
	k.say("at least %d kills and %d failovers, %d samples/s, SEED=%d, in %s", k.kills, k.moves, k.rate, k.seed, k.dir)
	life, end, err := k.begin(ctx)
	defer end()
	if err == nil {
		err = k.strike(life)
	}
	if err != nil {
		return k.book.Found(), err
	}
	return k.finish(life)
}

// killed is how often a program was killed.
func (k *killing) killed() int { return k.sim.kills + k.device.kills }

// strike kills and moves until it has done so often enough.
func (k *killing) strike(ctx context.Context) error {
	if err := k.startDevice(ctx); err != nil {
		return err
	}
	k.book.Event(0)
	if err := k.recover(ctx, "the start"); err != nil {
		return err
	}
	for i := 0; k.killed() < k.kills || k.book.Moves < k.moves; i++ {
		if i > 20*(k.kills+k.moves) {
			return fmt.Errorf("%d failovers in %d events: the device does not move", k.book.Moves, i)
		}
		if err := k.happen(ctx, i); err != nil {
			return err
		}
		if k.book.Failed() {
			return errStopped
		}
	}
	return nil
}

// The moments at which an event comes.
const (
	patient = iota // when everything before it is over
	eager          // when samples have just begun to arrive again, in the middle of the backlog
	blind          // at any moment, perhaps before the programs have even started
)

// happen is one event of the schedule. The seed and the number of the event alone decide what it is
// and when it comes.
func (k *killing) happen(ctx context.Context, i int) error {
	r := rand.New(rand.NewPCG(k.seed, uint64(i)))
	what, when, way, far := r.IntN(100), r.IntN(3), r.IntN(1000), r.IntN(2) > 0
	wait := time.Duration(r.IntN(200)) * time.Millisecond
	if err := distance(ctx, &k.cloud, far); err != nil {
		return err
	}
	began := time.Now()
	var err error
	switch when {
	case patient:
		err = k.recover(ctx, eventBefore(i))
	case eager:
		before := k.book.Received
		wait /= 20
		err = k.follow(ctx, pollFast, k.recovery, func() bool { return k.book.Received > before })
	}
	if err == nil {
		err = k.follow(ctx, pollEvery, wait, never)
	}
	if err != nil {
		return err
	}
	waited, queued, text := time.Since(began), k.looks.queued, "the simulator is killed"
	switch {
	case what < 40:
		text, err = "the device is killed", k.killDevice(ctx)
	case what < 70:
		err = k.killSim(ctx)
	default:
		text, err = moveAway(ctx, &k.cloud, deviceID, way)
		k.book.Event(k.feeder.written())
	}
	if err != nil {
		return err
	}
	k.say("%4d after %4d ms, with %5d queued: %s. %d kills, %d failovers, %d arrived, %d repeated", i, waited.Milliseconds(), queued, text,
		k.killed(), k.book.Moves, k.book.Distinct, k.book.Repeats)
	return nil
}

// eventBefore names what happened last before an event.
func eventBefore(event int) string {
	if event == 0 {
		return "the start"
	}
	return fmt.Sprintf("event %d", event-1)
}

// recover waits until a sample has arrived that was made after everything that has happened. last
// names the last of that.
func (k *killing) recover(ctx context.Context, last string) error {
	began := time.Now()
	if err := k.follow(ctx, pollEvery, k.recovery, k.book.Calm); err != nil {
		return err
	}
	if !k.book.Calm() {
		return fmt.Errorf("no sample that was made after %s has arrived within %v", last, k.recovery)
	}
	if took := time.Since(began); took > k.looks.longest {
		k.looks.longest, k.looks.slowest = took, last
	}
	return nil
}

// follow reads what arrives in intervals, until enough returns true, or for d.
func (k *killing) follow(ctx context.Context, every, d time.Duration, enough func() bool) error {
	return k.watch(ctx, every, d, enough, func(ctx context.Context) error {
		if err := k.read(ctx); err != nil || every != pollEvery {
			return err
		}
		k.look()
		return nil
	})
}

// read takes in what has arrived since the last time.
func (k *killing) read(ctx context.Context) error {
	l, err := k.behind(ctx, k.book.Received)
	if err != nil {
		return err
	}
	for _, m := range l.Messages {
		k.book.Add(m)
	}
	if l.Distinct != k.book.Distinct || l.Duplicates != k.book.Repeats || l.Reordered != 0 && !k.book.Allow.Reordered {
		k.book.Object(drill.Content, "the ledger counts %d distinct, %d repeated and %d reordered messages, the book %d and %d", l.Distinct, l.Duplicates,
			l.Reordered, k.book.Distinct, k.book.Repeats)
	}
	return nil
}

// look inspects the outbox from outside, while it is at work.
func (k *killing) look() {
	l, err := outbox.Inspect(k.outbox())
	if err != nil {
		if k.looks.some {
			k.book.Object(drill.Misconduct, "looking at the outbox while it is at work: %v", err)
		}
		return
	}
	k.looks.some, k.looks.queued, k.looks.most = true, l.Queued, max(k.looks.most, l.Queued)
	if len(l.Gaps) > 0 || l.Quarantined > 0 {
		k.book.Object(drill.GivenUp, "the outbox has given something up: gaps %v, quarantine %v", l.Gaps, l.Quarantined)
	}
}

// killDevice kills the device, looks at what it leaves, and starts it again.
func (k *killing) killDevice(ctx context.Context) error {
	if err := k.device.kill(); err != nil {
		return err
	}
	k.feeder.end()
	k.book.Event(k.feeder.written())
	if err := k.read(ctx); err != nil {
		return err
	}
	k.lookAtRest()
	return k.startDevice(ctx)
}

// lookAtRest inspects the outbox that a killed device leaves: it must know each seq that has
// arrived.
func (k *killing) lookAtRest() {
	if l, err := outbox.Inspect(k.outbox()); err == nil && l.LastSeq < k.book.Highest {
		k.book.Object(drill.Reused, "seq %d has arrived, but the outbox of the killed device ends with %d", k.book.Highest, l.LastSeq)
	}
}

// killSim kills the simulator, and starts it again.
func (k *killing) killSim(ctx context.Context) error {
	if err := k.sim.kill(); err != nil {
		return err
	}
	k.book.Event(k.feeder.written())
	k.cloud.Client.CloseIdleConnections()
	return k.startSim(ctx)
}

// finish lets everything drain, ends the device in order, and judges.
func (k *killing) finish(ctx context.Context) (drill.Verdict, error) {
	broken := func(err error) (drill.Verdict, error) { return k.book.Found(), err }
	if err := drill.Heal(ctx, &k.cloud); err != nil {
		return broken(err)
	}
	if err := k.recover(ctx, "the last event"); err != nil {
		return broken(err)
	}
	took, distinct := time.Since(k.feeder.began), k.book.Distinct
	if err := k.endDevice(ctx); err != nil {
		return broken(err)
	}
	if err := k.read(ctx); err != nil {
		return broken(err)
	}
	return k.judge(ctx, float64(distinct)/took.Seconds())
}

// judge compares all lists, once the device has ended and everything that arrived was read. rate is
// how many samples arrived in a second.
func (k *killing) judge(ctx context.Context, rate float64) (drill.Verdict, error) {
	l, err := k.holds(&k.book.Judge)
	if err != nil {
		return k.book.Found(), err
	}
	if rate < float64(k.least) {
		k.book.Object(drill.Misconduct, "%.0f samples a second: at less than %d (-least) this proves too little", rate, k.least)
	}
	// A part of the ledger that is out of order cannot be judged by verify.
	if keep := int64(k.ledgerKeep); !k.book.Allow.Reordered || k.book.Received <= keep {
		k.opinion(ctx, &k.book.Judge, k.book.Received > keep)
	}
	v := k.book.Conclude(k.feeder.lives)
	k.report(&v, l.LastSeq, rate)
	return v, k.tell(&v, l.LastSeq)
}

// report prints the figures of a run that came to its end.
func (k *killing) report(v *drill.Verdict, last uint64, rate float64) {
	b, l := &k.book, &k.looks
	k.say("%d kills (device %d, simulator %d) and %d failovers in %v", k.killed(), k.device.kills, k.sim.kills, b.Moves, time.Since(k.began).Round(time.Second))
	k.say("%d samples, %.0f a second over the whole run; %d lines died unread in the pipes of killed devices", last, rate, k.feeder.written()-last)
	k.say("%d lost, %d repeated, at most %d per event (allowed: %d)", v.Lost, b.Repeats, b.Worst, b.Window)
	k.say("at most %d queued; up to %.0f a second arrived; what was made after an event had arrived within %v (the slowest was after %s)", l.most, b.Fastest,
		l.longest.Round(10*time.Millisecond), l.slowest)
}

// tell writes the figures into the file of -result, for other programs.
func (k *killing) tell(v *drill.Verdict, last uint64) error {
	if k.result == "" {
		return nil
	}
	text, err := json.Marshal(map[string]any{"kills": k.killed(), "failovers": k.book.Moves, "samples": last, "lost": v.Lost,
		"repeated": k.book.Repeats, "worst": k.book.Worst, "window": k.book.Window, "faults": v.Texts()})
	if err != nil {
		return err
	}
	return os.WriteFile(k.result, text, 0o600)
}

// Command crash proves that nothing is lost: it runs the built hubhop as two programs, a device and a simulated cloud with its state
// directory, kills one or the other with kill -9 at random moments, again and again, moves the device from hub to hub meanwhile, and in
// the end holds what the cloud has received against what the outbox has numbered and against the lines that the device was given.
//
// It exits with 0 if the verdict is good, with 3 if it is not, and with 1 or 2 if there is none.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

// options are the command line.
type options struct {
	hubhop, base, dir  string
	order, sync        string
	kills, moves, rate int
	bursts             int
	window, ledgerKeep int
	least              int // samples per second
	seed               uint64
	keep               bool
	recovery           time.Duration
	result             string
}

func main() { os.Exit(run(os.Args[1:], os.Stdout)) }

func run(args []string, out io.Writer) int {
	var o options
	f := flag.NewFlagSet("crash", flag.ContinueOnError)
	f.StringVar(&o.hubhop, "hubhop", "./hubhop", "the program under test")
	f.StringVar(&o.base, "base-address", "127.52.0.1", "of the simulator: it and its hubs have addresses from here on (Linux)")
	f.StringVar(&o.dir, "dir", "", "where the directories of this run are made (default: the system's temporary directory)")
	f.IntVar(&o.kills, "kills", 200, "of either program, together")
	f.IntVar(&o.bursts, "bursts", 0, "instead of kills: so many times a system call of the device fails for a while, as strace makes it (Linux)")
	f.IntVar(&o.moves, "failovers", 20, "from hub to hub, both ways, at least")
	f.IntVar(&o.rate, "rate", 2500, "samples a second")
	f.IntVar(&o.window, "window", 64, "messages in flight")
	f.IntVar(&o.least, "least", 2000, "samples per second that must have arrived, over the whole run")
	f.IntVar(&o.ledgerKeep, "ledger-keep", 500_000, "messages that the simulator keeps; it must hold all that arrive between two looks, after the longest silence too")
	f.StringVar(&o.order, "drain-order", "fifo", "of the device: fifo or fresh-first")
	f.StringVar(&o.sync, "outbox-sync", "always", "of the device: always, or a duration")
	f.Uint64Var(&o.seed, "seed", 0, "of the schedule (default: by chance)")
	f.BoolVar(&o.keep, "keep", false, "keep the directories whatever the verdict")
	// Three kills of the simulator in a row, each soon after the device was up again, cannot be told from another client with the same
	// identity, for which the device waits a minute.
	f.DurationVar(&o.recovery, "recovery", 2*time.Minute, "time within which a sample made after an event must arrive")
	f.StringVar(&o.result, "result", "", "write the figures of a run that came to its end into this file, as JSON")
	if err := f.Parse(args); err != nil {
		return 2
	}
	if o.seed == 0 {
		o.seed = rand.Uint64()>>1 | 1
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	t, err := newTrial(o, out)
	switch {
	case err != nil:
	case o.bursts > 0:
		c := newChaos(t)
		err = c.play(ctx)
		t.book.faults = append(t.book.faults, c.arrived.faults...)
	default:
		err = t.play(ctx)
	}
	switch {
	case err == nil && len(t.book.faults) == 0:
		t.say("verdict: passed")
		if !o.keep {
			_ = os.RemoveAll(t.dir)
		}
		return 0
	case t == nil || ctx.Err() != nil:
		_, _ = fmt.Fprintln(out, "crash:", err)
		return 1
	}
	t.say("verdict: failed")
	for _, fault := range t.book.faults {
		t.say("  %s", fault)
	}
	if t.book.more > 0 {
		t.say("  and %d more", t.book.more)
	}
	if err != nil {
		t.say("  %v", err)
	}
	t.say("everything is kept in %s; the same schedule again: SEED=%d", t.dir, o.seed)
	return 3
}

// trial is one run.
type trial struct {
	options
	out     io.Writer
	began   time.Time
	dir     string
	control control
	sim     program
	device  program
	feeder  feeder
	book    book
	looks   looks
}

// looks is what was seen of the outbox from outside while it was at work.
type looks struct {
	some    bool
	queued  uint64
	most    uint64        // queued, ever
	longest time.Duration // until what was made after an event arrived, and so all that was made before
	slowest string        // what it was that took the longest
}

const deviceID = "crash-1"

func newTrial(o options, out io.Writer) (*trial, error) {
	path, err := filepath.Abs(o.hubhop)
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		return nil, fmt.Errorf("%w; build it first", err)
	}
	dir, err := os.MkdirTemp(o.dir, "hubhop-crash-")
	if err != nil {
		return nil, err
	}
	t := &trial{options: o, out: out, began: time.Now(), dir: dir}
	t.book.window, t.book.mixed = o.window, o.order != "fifo"
	t.feeder.rate = o.rate
	layout := []string{"--layout", "loopback", "--base-address", o.base, "--control", o.base + ":8090"}
	if runtime.GOOS != "linux" {
		layout = []string{"--layout", "ports", "--control", "127.0.0.1:0"}
	}
	t.sim = program{name: "simulator", path: path, home: dir, args: append([]string{"sim", "--state-dir", t.path("cloud"), "--out", t.path("out"),
		"--retry-after", "0s", "--ledger-keep", fmt.Sprint(o.ledgerKeep), "--log-format", "json"}, layout...)}
	t.device = program{name: "device", path: path, home: dir}
	return t, nil
}

func (t *trial) path(name string) string { return filepath.Join(t.dir, name) }

func (t *trial) say(format string, a ...any) {
	_, _ = fmt.Fprintf(t.out, "%7.1fs %s\n", time.Since(t.began).Seconds(), fmt.Sprintf(format, a...))
}

// play is the whole run. Its error is what kept it from a verdict by the book, or a program that did not do what it must.
func (t *trial) play(ctx context.Context) error {
	t.say("at least %d kills and %d failovers, %d samples/s, SEED=%d, in %s", t.kills, t.moves, t.rate, t.seed, t.dir)
	life, end, err := t.begin(ctx)
	defer end()
	if err != nil {
		return err
	}
	if err := t.startDevice(life); err != nil {
		return err
	}
	t.book.event(0)
	if err := t.recover(life, 0); err != nil {
		return err
	}
	for i := 0; t.sim.kills+t.device.kills < t.kills || t.book.moves < t.moves; i++ {
		if i > 20*(t.kills+t.moves) {
			return fmt.Errorf("%d failovers in %d events: the device does not move", t.book.moves, i)
		}
		if err := t.happen(life, i); err != nil {
			return err
		}
		if len(t.book.faults) > 0 {
			return errors.New("stopped at the first fault")
		}
	}
	return t.finish(life)
}

// When an event comes.
const (
	patient = iota // when all that happened before is over
	eager          // when things have just begun to move again: in the middle of the backlog
	blind          // at any moment, perhaps before the programs have even started
)

// begin starts the simulator and sets how the device is started. end stops both and waits for their
// end.
func (t *trial) begin(ctx context.Context) (life context.Context, end func(), err error) {
	life, cancel := context.WithCancel(ctx)
	end = func() {
		cancel()
		for _, p := range []*program{&t.sim, &t.device} {
			if p.ended != nil {
				<-p.ended
			}
		}
	}
	if err := t.startSim(life); err != nil {
		return life, end, err
	}
	return life, end, t.readyDevice()
}

// happen is one event of the schedule. What it is and when it comes depends on the seed and its number alone.
func (t *trial) happen(ctx context.Context, i int) error {
	r := rand.New(rand.NewPCG(t.seed, uint64(i)))
	what, when, way, far := r.IntN(100), r.IntN(3), r.IntN(1000), r.IntN(2) > 0
	wait := time.Duration(r.IntN(200)) * time.Millisecond
	if err := t.control.distance(ctx, far); err != nil {
		return err
	}
	began := time.Now()
	var err error
	switch when {
	case patient:
		err = t.recover(ctx, i)
	case eager:
		before := t.book.received
		wait /= 20
		err = t.follow(ctx, pollFast, t.recovery, func() bool { return t.book.received > before })
	}
	if err == nil {
		err = t.follow(ctx, pollEvery, wait, never)
	}
	if err != nil {
		return err
	}
	waited, queued, text := time.Since(began), t.looks.queued, "the simulator is killed"
	switch {
	case what < 40:
		text, err = "the device is killed", t.killDevice(ctx)
	case what < 70:
		err = t.killSim(ctx)
	default:
		text, err = t.control.move(ctx, deviceID, way)
		t.book.event(t.feeder.written())
	}
	if err != nil {
		return err
	}
	t.say("%4d after %4d ms, with %5d queued: %s. %d kills, %d failovers, %d arrived, %d repeated", i, waited.Milliseconds(), queued, text,
		t.sim.kills+t.device.kills, t.book.moves, t.book.distinct, t.book.repeats)
	return nil
}

func never() bool { return false }

// recover waits until a sample has arrived that was made after everything that has happened.
func (t *trial) recover(ctx context.Context, i int) error {
	began := time.Now()
	if err := t.follow(ctx, pollEvery, t.recovery, t.book.calm); err != nil {
		return err
	}
	if !t.book.calm() {
		return fmt.Errorf("no sample that was made after event %d has arrived within %v", i-1, t.recovery)
	}
	if took := time.Since(began); took > t.looks.longest {
		t.looks.longest, t.looks.slowest = took, fmt.Sprintf("before event %d", i)
	}
	return nil
}

// pollEvery is how often the ledger is read, where nothing is more urgent.
const (
	pollEvery = 100 * time.Millisecond
	pollFast  = 2 * time.Millisecond
)

// follow reads what arrives, every so often, until enough says so, or for d.
func (t *trial) follow(ctx context.Context, every, d time.Duration, enough func() bool) error {
	return t.watch(ctx, every, d, enough, func(ctx context.Context) error {
		if err := t.read(ctx); err != nil || every != pollEvery {
			return err
		}
		t.look()
		return nil
	})
}

// watch calls read in intervals until enough returns true, or for d. It returns an error if a
// program has ended.
func (t *trial) watch(ctx context.Context, every, d time.Duration, enough func() bool, read func(context.Context) error) error {
	end := time.NewTimer(d)
	defer end.Stop()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for !enough() {
		select {
		case <-end.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			if err := errors.Join(t.sim.running(), t.device.running()); err != nil {
				return err
			}
			if err := read(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// read enters what has arrived since the last time.
func (t *trial) read(ctx context.Context) error {
	l, err := t.behind(ctx, t.book.received)
	if err != nil {
		return err
	}
	for _, m := range l.Messages {
		t.book.add(m)
	}
	if l.Distinct != t.book.distinct || l.Duplicates != t.book.repeats || l.Reordered != 0 && !t.book.mixed {
		t.book.fault("the ledger counts %d distinct, %d repeated and %d reordered messages, the book %d and %d", l.Distinct, l.Duplicates, l.Reordered,
			t.book.distinct, t.book.repeats)
	}
	return nil
}

// behind returns the messages after the first n that arrived. It returns an error if the ledger
// lacks one.
func (t *trial) behind(ctx context.Context, n int64) (ledger, error) {
	l, err := t.control.ledger(ctx, deviceID, n)
	if err == nil && (l.Truncated || l.Received != n+int64(len(l.Messages))) {
		err = fmt.Errorf("the ledger has received %d and shows %d behind the first %d, truncated: %v", l.Received, len(l.Messages), n, l.Truncated)
	}
	return l, err
}

// look inspects the outbox from outside, while it is at work.
func (t *trial) look() {
	l, err := outbox.Inspect(t.path("device/" + deviceID + "/outbox"))
	if err != nil {
		if t.looks.some {
			t.book.fault("looking at the outbox while it is at work: %v", err)
		}
		return
	}
	t.looks.some, t.looks.queued, t.looks.most = true, l.Queued, max(t.looks.most, l.Queued)
	if len(l.Gaps) > 0 || l.Quarantined > 0 {
		t.book.fault("the outbox has given something up: gaps %v, quarantine %v", l.Gaps, l.Quarantined)
	}
}

func (t *trial) startSim(ctx context.Context) error {
	told := make(chan string, 1)
	if err := t.sim.start(ctx, told); err != nil {
		return err
	}
	limit := time.NewTimer(t.recovery)
	defer limit.Stop()
	select {
	case text := <-told:
		if !strings.HasPrefix(text, "ready") {
			return fmt.Errorf("the simulator says %q", text)
		}
	case <-t.sim.ended:
		return t.sim.running()
	case <-limit.C:
		return fmt.Errorf("the simulator is not ready within %v", t.recovery)
	}
	i, err := readInfo(t.path("out"))
	t.control.url = i.Control
	return err
}

// readyDevice writes down how the device is started.
func (t *trial) readyDevice() error {
	i, err := readInfo(t.path("out"))
	if err != nil {
		return err
	}
	if err := os.WriteFile(t.path("group.key"), []byte(i.GroupKey), 0o600); err != nil {
		return err
	}
	t.device.args = []string{"run", "--id-scope", i.IDScope, "--provisioning-host", i.ProvisioningHost, "--ca-file", t.path("out/ca.pem"),
		"--group-key-file", t.path("group.key"), "--device-id", deviceID, "--state-dir", t.path("device"), "--telemetry-source", "stdin",
		"--drain-window", fmt.Sprint(t.window), "--drain-order", t.order, "--outbox-sync", t.sync, "--log-format", "json"}
	return nil
}

func (t *trial) startDevice(ctx context.Context) error {
	if err := t.device.start(ctx, nil); err != nil {
		return err
	}
	t.feeder.feed(t.device.in)
	return nil
}

func (t *trial) killDevice(ctx context.Context) error {
	if err := t.device.kill(); err != nil {
		return err
	}
	t.feeder.end()
	t.book.event(t.feeder.written())
	if err := t.read(ctx); err != nil {
		return err
	}
	if l, err := outbox.Inspect(t.path("device/" + deviceID + "/outbox")); err == nil && l.LastSeq < t.book.highest {
		t.book.fault("seq %d has arrived, but the outbox of the killed device ends with %d", t.book.highest, l.LastSeq)
	}
	return t.startDevice(ctx)
}

func (t *trial) killSim(ctx context.Context) error {
	if err := t.sim.kill(); err != nil {
		return err
	}
	t.book.event(t.feeder.written())
	t.control.client.CloseIdleConnections()
	return t.startSim(ctx)
}

// finish lets everything drain, ends the device in order, and holds all against all.
func (t *trial) finish(ctx context.Context) error {
	if err := t.control.heal(ctx); err != nil {
		return err
	}
	if err := t.recover(ctx, -1); err != nil {
		return err
	}
	took, distinct := time.Since(t.feeder.began), t.book.distinct
	if err := t.endDevice(ctx); err != nil {
		return err
	}
	if err := t.read(ctx); err != nil {
		return err
	}
	l, err := outbox.Inspect(t.path("device/" + deviceID + "/outbox"))
	if err != nil {
		return err
	}
	if l.Queued > 0 || l.ID != t.book.outbox {
		t.book.fault("%d samples are left in outbox %s", l.Queued, l.ID)
	}
	t.book.conclude(l.LastSeq, t.feeder.lives)
	if rate := float64(distinct) / took.Seconds(); rate < float64(t.least) {
		t.book.fault("%.0f samples a second: at less than %d (-least) this proves too little", rate, t.least)
	}
	t.verify(ctx)
	t.report(l.LastSeq, float64(distinct)/took.Seconds())
	return t.tell(l.LastSeq)
}

// endDevice closes the device's input, and waits until the device has sent everything and ended.
func (t *trial) endDevice(ctx context.Context) error {
	t.feeder.end()
	limit := time.NewTimer(2 * t.recovery)
	defer limit.Stop()
	select {
	case <-t.device.ended:
	case <-limit.C:
		return fmt.Errorf("the device has not ended within %v of the end of its input", 2*t.recovery)
	case <-ctx.Done():
		return ctx.Err()
	}
	if t.device.err != nil {
		return fmt.Errorf("the device ended with %w", t.device.err)
	}
	return nil
}

// tell writes what the run came to into a file, for other programs.
func (t *trial) tell(last uint64) error {
	if t.result == "" {
		return nil
	}
	text, err := json.Marshal(map[string]any{"kills": t.device.kills + t.sim.kills, "failovers": t.book.moves, "samples": last, "lost": t.book.lost(last),
		"repeated": t.book.repeats, "worst": t.book.worst, "window": t.book.window, "faults": t.book.faults})
	if err != nil {
		return err
	}
	return os.WriteFile(t.result, text, 0o600)
}

// verify asks for the opinion of hubhop itself, on the messages that the ledger still has. Where these are not all, and do not come in
// order, that can be none.
func (t *trial) verify(ctx context.Context) {
	if t.book.mixed && t.book.received > int64(t.ledgerKeep) {
		return
	}
	if err := t.opinion(ctx, t.book.received > int64(t.ledgerKeep)); err != nil {
		t.book.fault("%v", err)
	}
}

// opinion runs `hubhop outbox verify` against the simulator's ledger, and returns an error if it
// objects.
func (t *trial) opinion(ctx context.Context, partial bool) error {
	cmd := exec.CommandContext(ctx, t.sim.path, "outbox", "verify", "--dir", t.path("device/"+deviceID+"/outbox"), "--device-id", deviceID, //nolint:gosec // the program under test
		"--ledger", t.control.url, fmt.Sprintf("--partial=%v", partial))
	cmd.Dir, cmd.Env = t.dir, t.sim.environment()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("hubhop outbox verify: %w: %s", err, out)
	}
	return nil
}

func (t *trial) report(last uint64, rate float64) {
	b, k := &t.book, &t.looks
	t.say("%d kills (device %d, simulator %d) and %d failovers in %v", t.device.kills+t.sim.kills, t.device.kills, t.sim.kills, b.moves,
		time.Since(t.began).Round(time.Second))
	t.say("%d samples, %.0f a second over the whole run; %d lines died unread in the pipes of killed devices", last, rate, t.feeder.written()-last)
	t.say("%d lost, %d repeated, at most %d per event (allowed: %d)", b.lost(last), b.repeats, b.worst, b.window)
	t.say("at most %d queued; up to %.0f a second arrived; what was made after an event had arrived within %v (the slowest was %s)", k.most, b.fastest,
		k.longest.Round(10*time.Millisecond), k.slowest)
}

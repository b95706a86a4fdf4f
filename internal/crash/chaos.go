package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// mostMemory is what a device may have resident at any time: 64 MiB whatever happens, and the ring
// of 16 MiB that takes samples while the disk does not.
const mostMemory = (64 + 16) << 20

// refusal is the time that a device has to say that it cannot start.
const refusal = 20 * time.Second

// chaos is a trial in which system calls of the device fail while hubs die. The device is never
// killed and a burst is shorter than any damage that it may believe in, so each line that it was
// given must arrive.
type chaos struct {
	*trial
	arrived  tally          // of a device that is never killed
	injected map[string]int // calls that have failed, by name
	refused  int            // starts that ended at once with an error
	memory   int64          // the most that a device ever had, in bytes
}

// tally is which lines have arrived.
type tally struct {
	received int64
	lines    map[uint64]string // number of the line → id of the message that brought it
	newest   uint64
	faults   []string
}

func (t *tally) fault(format string, a ...any) {
	if len(t.faults) < maxFaults {
		t.faults = append(t.faults, fmt.Sprintf(format, a...))
	}
}

// add enters one message.
func (t *tally) add(a arrival) {
	t.received++
	if gap := a.Properties["gap"]; gap != nil {
		t.fault("%s announces that %s were given up: no disk was broken for long enough", a.Mid, *gap)
	}
	var body line
	if err := json.Unmarshal(a.Body, &body); err != nil || body.N == 0 || a.Mid == "" {
		t.fault("message %q with body %s is none of the device's", a.Mid, a.Body)
		return
	}
	if was, ok := t.lines[body.N]; ok && was != a.Mid {
		t.fault("line %d came as %s and as %s: a consumer cannot tell that they are one sample", body.N, was, a.Mid)
	}
	t.lines[body.N] = a.Mid
	t.newest = max(t.newest, body.N)
}

// conclude holds what has arrived against what was given: lines 1 to last.
func (t *tally) conclude(last uint64) {
	lost, first := uint64(0), uint64(0)
	for n := uint64(1); n <= last; n++ {
		if _, ok := t.lines[n]; ok {
			continue
		}
		if lost++; lost == 1 {
			first = n
		}
	}
	if lost > 0 {
		t.fault("%d of %d lines never arrived; the first is line %d", lost, last, first)
	}
}

func newChaos(t *trial) *chaos {
	return &chaos{trial: t, arrived: tally{lines: map[uint64]string{}}, injected: map[string]int{}}
}

// play is the whole run. Its error is what kept it from a verdict, or a program that did not do what it must.
func (c *chaos) play(ctx context.Context) error {
	c.say("%d bursts of failing system calls, %d samples/s, SEED=%d, in %s", c.bursts, c.rate, c.seed, c.dir)
	life, end, err := c.begin(ctx)
	defer end()
	if err != nil {
		return err
	}
	c.device.args = append(c.device.args, "--drain-timeout", "30s", "--outbox-max-bytes", "2MiB") // small segments, so that many come and go
	if err := c.census(life); err != nil {
		return err
	}
	if err := c.startDevice(life); err != nil {
		return err
	}
	for i := range c.bursts {
		if err := c.recover(life); err != nil {
			return fmt.Errorf("before burst %d: %w", i, err)
		}
		if err := c.burst(life, i); err != nil {
			return fmt.Errorf("burst %d: %w", i, err)
		}
		if len(c.arrived.faults) > 0 {
			return errors.New("stopped at the first fault")
		}
	}
	return c.finish(life)
}

// census runs a device once under strace, through the death of its hub, and asks whether chaos knows every system call that it makes.
func (c *chaos) census(ctx context.Context) error {
	counts := c.path("census")
	plain := c.device
	c.device.path, c.device.args = "strace", append([]string{"-f", "-c", "-o", counts, plain.path}, plain.args...)
	if err := c.startDevice(ctx); err != nil {
		return fmt.Errorf("%w; install strace (apt-get install strace)", err)
	}
	if err := c.recover(ctx); err != nil {
		return err
	}
	if _, err := c.control.move(ctx, deviceID, 1); err != nil {
		return err
	}
	if err := c.recover(ctx); err != nil {
		return err
	}
	if err := c.endDevice(ctx); err != nil {
		return err
	}
	c.device = plain
	text, err := os.ReadFile(counts)
	if err != nil {
		return err
	}
	if unknown := census(text); len(unknown) > 0 {
		c.arrived.fault("the device makes system calls that chaos neither fails nor leaves alone for a reason: %v (inject.go)", unknown)
		return errors.New("stopped before the first burst")
	}
	return nil
}

// burst fails one system call for a while, mostly while a hub dies, sometimes while the device starts.
func (c *chaos) burst(ctx context.Context, i int) error {
	r := rand.New(rand.NewPCG(c.seed, uint64(i)))
	b, starts, moves, way := newBurst(r, i), r.IntN(5) < 2, r.IntN(10) < 7, r.IntN(1000)
	starts = starts && b.where == anywhere || b.where == atStart
	text := "nothing else happens"
	if starts {
		if err := c.endDevice(ctx); err != nil {
			return err
		}
		if err := c.startStopped(ctx); err != nil {
			return err
		}
		text = "the device starts"
	}
	in, err := inject(ctx, b, c.device.cmd.Process.Pid, c.path("trace"))
	if err != nil {
		return err
	}
	if in == nil {
		c.say("%4d %s: nothing is open that it could be failed on", i, b)
		return nil
	}
	up := true
	if moves {
		var what string
		what, err = c.control.move(ctx, deviceID, way)
		text = strings.TrimPrefix(text+"; "+what, "nothing else happens; ")
	}
	if err == nil && starts {
		if err := resume(ctx, c.device.cmd.Process.Pid); err != nil {
			return err
		}
		up, err = c.started(ctx, b)
	}
	if err == nil && up {
		err = c.follow(ctx, b.lasts, never)
	}
	failed, endErr := in.end()
	if err = errors.Join(err, endErr); err != nil {
		return err
	}
	c.injected[b.name] += failed
	c.say("%4d %s: %d failed; %s; %d lines arrived", i, b, failed, text, len(c.arrived.lines))
	if err := c.control.heal(ctx); err != nil {
		return err
	}
	if !up { // it could not start, said so, and has taken nothing of its input
		c.refused++
		return c.startDevice(ctx)
	}
	return nil
}

// startStopped starts the device, which stands still until it is resumed.
func (c *chaos) startStopped(ctx context.Context) error {
	plain := c.device
	c.device.path, c.device.args = "/bin/sh", append([]string{"-c", `kill -STOP $$; exec "$@"`, "sh", plain.path}, plain.args...)
	err := c.device.start(ctx, nil)
	c.device.path, c.device.args = plain.path, plain.args
	if err != nil {
		return err
	}
	return c.wait(ctx, "the device has not stopped itself", func() (bool, error) {
		state, err := statusOf(c.device.cmd.Process.Pid, "State")
		return strings.HasPrefix(state, "T"), err
	})
}

// started feeds the device once it says that it has started. It is false if the device has ended instead, as it may if it cannot read
// what it was told to: with an exit code and a sentence.
func (c *chaos) started(ctx context.Context, b burst) (bool, error) {
	up := false
	err := c.wait(ctx, "the device has neither started nor ended", func() (bool, error) {
		text, err := c.lastLife()
		up = strings.Contains(text, `"kind":"started"`)
		return up || c.device.running() != nil, err
	})
	if err != nil || up {
		if up {
			c.feeder.feed(c.device.in)
		}
		return up, err
	}
	text, err := c.lastLife()
	if err != nil {
		return false, err
	}
	code := c.device.cmd.ProcessState.ExitCode()
	why := strings.Contains(text, "hubhop: ") || strings.Contains(text, `"exitCode":`) // as a sentence, or in a log in JSON
	if (code != 1 && code != 2 && code != 4) || !why || panicked(text) {
		c.arrived.fault("a start under %s ended with exit code %d and said %q", b, code, text)
	}
	return false, nil
}

// wait looks every so often until what it waits for has come.
func (c *chaos) wait(ctx context.Context, otherwise string, come func() (bool, error)) error {
	limit := time.NewTimer(refusal)
	defer limit.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if yes, err := come(); yes || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-limit.C:
			return fmt.Errorf("%s within %v", otherwise, refusal)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// lastLife is what the device has logged since it was last started.
func (c *chaos) lastLife() (string, error) {
	text, err := os.ReadFile(filepath.Join(c.dir, "device.log"))
	return string(text[min(c.device.logged, int64(len(text))):]), err
}

// panicked says whether a log shows that Go has ended the program.
func panicked(log string) bool {
	return strings.Contains(log, "panic: ") || strings.Contains(log, "fatal error: ") || strings.Contains(log, "\ngoroutine ")
}

// endDevice notes the device's memory and ends it.
func (c *chaos) endDevice(ctx context.Context) error {
	c.weigh()
	return c.trial.endDevice(ctx)
}

// weigh notes how much memory the device has had.
func (c *chaos) weigh() {
	bytes, err := peak(c.device.cmd.Process.Pid)
	if err != nil {
		return // it has just ended, and said why
	}
	c.memory = max(c.memory, bytes)
	if bytes > mostMemory {
		c.arrived.fault("the device had %d MiB in memory, more than %d", bytes>>20, int64(mostMemory)>>20)
	}
}

// recover waits until a line has arrived that was written from now on: so all that was written before is over.
func (c *chaos) recover(ctx context.Context) error {
	from := c.feeder.written()
	if err := c.follow(ctx, c.recovery, func() bool { return c.arrived.newest > from }); err != nil {
		return err
	}
	if c.arrived.newest <= from {
		return fmt.Errorf("no line that was written after the burst has arrived within %v", c.recovery)
	}
	c.weigh()
	return nil
}

// follow reads what arrives until enough says so, or for d.
func (c *chaos) follow(ctx context.Context, d time.Duration, enough func() bool) error {
	return c.watch(ctx, pollEvery, d, enough, c.read)
}

// read enters what has arrived since the last time.
func (c *chaos) read(ctx context.Context) error {
	l, err := c.behind(ctx, c.arrived.received)
	if err != nil {
		return err
	}
	for _, m := range l.Messages {
		c.arrived.add(m)
	}
	return nil
}

// finish lets everything drain, ends the device in order, and counts.
func (c *chaos) finish(ctx context.Context) error {
	if err := c.recover(ctx); err != nil {
		return err
	}
	if err := c.endDevice(ctx); err != nil {
		return err
	}
	if err := c.read(ctx); err != nil {
		return err
	}
	c.arrived.conclude(c.feeder.written())
	text, err := os.ReadFile(filepath.Join(c.dir, "device.log"))
	if err != nil {
		return err
	}
	if panicked(string(text)) {
		c.arrived.fault("the device's log shows a panic")
	}
	if err := c.opinion(ctx, false); err != nil {
		c.arrived.fault("%v", err)
	}
	total := 0
	var never []string
	for _, k := range calls {
		n := c.injected[k.name]
		if total += n; n == 0 {
			never = append(never, k.name)
			continue
		}
		c.say("%6d × %s", n, k.name)
	}
	if len(never) > 0 {
		c.say("never failed, because no burst met one: %s", strings.Join(never, " "))
	}
	if total == 0 {
		c.arrived.fault("no system call has failed: this proves nothing")
	}
	c.say("%d calls failed in %d bursts; %d lines given, %d arrived; %d messages came twice; %d starts refused with a sentence; "+
		"%d MiB of memory at most; %v", total, c.bursts, c.feeder.written(), len(c.arrived.lines),
		c.arrived.received-int64(len(c.arrived.lines)), c.refused, c.memory>>20, time.Since(c.began).Round(time.Second))
	return nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/internal/drill"
)

// mostMemory is how much memory a device may use at any time, in bytes: 64 MiB, and 16 MiB for the
// ring that holds samples while the disk fails.
const mostMemory = (64 + 16) << 20

// refusal is the time in which a device must say that it cannot start.
const refusal = 20 * time.Second

// chaos is a trial in which system calls of the device fail while hubs die. Each line that the
// device was given must arrive, because the device is never killed, and a burst is too short to be
// taken for damage.
type chaos struct {
	*trial
	arrived  *drill.Roll    // the lines that have arrived
	injected map[string]int // calls that have failed, by name
	refused  int            // starts that ended at once with an error
	memory   int64          // the most memory that the device ever used, in bytes
}

func newChaos(t *trial) *chaos {
	return &chaos{trial: t, arrived: drill.NewRoll(), injected: map[string]int{}}
}

// play is the whole run. Its error says why there is no verdict, or which program did not do what
// it must. Then the verdict has what was found until then.
func (c *chaos) play(ctx context.Context) (drill.Verdict, error) {
	c.say("%d bursts of failing system calls, %d samples/s, SEED=%d, in %s", c.bursts, c.rate, c.seed, c.dir)
	life, end, err := c.begin(ctx)
	defer end()
	if err == nil {
		err = c.strike(life)
	}
	if err != nil {
		return c.arrived.Found(), err
	}
	return c.finish(life)
}

// strike does the bursts.
func (c *chaos) strike(ctx context.Context) error {
	c.device.args = append(c.device.args, "--drain-timeout", "30s", "--outbox-max-bytes", "2MiB") // small segments, so that many come and go
	if err := c.census(ctx); err != nil {
		return err
	}
	if err := c.startDevice(ctx); err != nil {
		return err
	}
	for i := range c.bursts {
		if err := c.recover(ctx); err != nil {
			return fmt.Errorf("before burst %d: %w", i, err)
		}
		if err := c.burst(ctx, i); err != nil {
			return fmt.Errorf("burst %d: %w", i, err)
		}
		if c.arrived.Failed() {
			return errStopped
		}
	}
	return nil
}

// census runs a device once under strace, while its hub dies, and checks that chaos knows every
// system call of the device.
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
	if _, err := moveAway(ctx, &c.cloud, deviceID, 1); err != nil {
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
	return c.known(text)
}

// known objects to system calls in a trace that chaos does not know.
func (c *chaos) known(trace []byte) error {
	unknown := census(trace)
	if len(unknown) == 0 {
		return nil
	}
	c.arrived.Object(drill.Misconduct, "the device makes system calls that chaos neither fails nor leaves alone for a reason: %v (inject.go)", unknown)
	return errors.New("stopped before the first burst")
}

// burst fails one system call for a while, mostly while a hub dies, sometimes while the device
// starts.
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
		what, err = moveAway(ctx, &c.cloud, deviceID, way)
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
	c.say("%4d %s: %d failed; %s; %d lines arrived", i, b, failed, text, c.arrived.Distinct())
	if err := drill.Heal(ctx, &c.cloud); err != nil {
		return err
	}
	if !up { // it could not start, has said so, and has read nothing of its input
		c.refused++
		return c.startDevice(ctx)
	}
	return nil
}

// startStopped starts the device as a stopped process; resume lets it run.
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

// started waits until the device says that it has started, and then feeds it. It returns false if
// the device has ended instead. The device may end if it cannot read its files, with an exit code
// and a sentence.
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
	c.refusedWell(b, c.device.cmd.ProcessState.ExitCode(), text)
	return false, nil
}

// refusedWell objects to a start that has ended with an unfit exit code, without a sentence, or
// with a panic. text is its log.
func (c *chaos) refusedWell(b burst, code int, text string) {
	why := strings.Contains(text, "hubhop: ") || strings.Contains(text, `"exitCode":`) // as a sentence, or in a log in JSON
	if (code != 1 && code != 2 && code != 4) || !why || panicked(text) {
		c.arrived.Object(drill.Misconduct, "a start under %s ended with exit code %d and said %q", b, code, text)
	}
}

// wait calls come again and again until it returns true. Its error after the limit begins with
// otherwise.
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

// lastLife returns the device's log since its last start.
func (c *chaos) lastLife() (string, error) {
	text, err := os.ReadFile(filepath.Join(c.dir, "device.log"))
	return string(text[min(c.device.logged, int64(len(text))):]), err
}

// panicked says whether a log shows that Go has ended the program.
func panicked(log string) bool {
	return strings.Contains(log, "panic: ") || strings.Contains(log, "fatal error: ") || strings.Contains(log, "\ngoroutine ")
}

// endDevice notes how much memory the device has used, and ends it.
func (c *chaos) endDevice(ctx context.Context) error {
	c.weigh()
	return c.trial.endDevice(ctx)
}

// weigh notes how much memory the device has used.
func (c *chaos) weigh() {
	bytes, err := peak(c.device.cmd.Process.Pid)
	if err != nil {
		return // it has just ended
	}
	c.bear(bytes)
}

// bear notes that the device has used so much memory, and objects if that is too much.
func (c *chaos) bear(bytes int64) {
	c.memory = max(c.memory, bytes)
	if bytes > mostMemory {
		c.arrived.Object(drill.Misconduct, "the device had %d MiB in memory, more than %d", bytes>>20, int64(mostMemory)>>20)
	}
}

// recover waits until a line arrives that was written after this call, so that the device has
// recovered.
func (c *chaos) recover(ctx context.Context) error {
	from := c.feeder.written()
	if err := c.follow(ctx, c.recovery, func() bool { return c.arrived.Newest > from }); err != nil {
		return err
	}
	if c.arrived.Newest <= from {
		return fmt.Errorf("no line that was written after the burst has arrived within %v", c.recovery)
	}
	c.weigh()
	return nil
}

// follow reads the lines that arrive until enough returns true, or for d.
func (c *chaos) follow(ctx context.Context, d time.Duration, enough func() bool) error {
	return c.watch(ctx, pollEvery, d, enough, c.read)
}

// read enters the lines that have arrived since the last call.
func (c *chaos) read(ctx context.Context) error {
	l, err := c.behind(ctx, c.arrived.Received)
	if err != nil {
		return err
	}
	for _, m := range l.Messages {
		c.arrived.Add(m)
	}
	return nil
}

// finish waits until everything is sent, ends the device in order, and counts.
func (c *chaos) finish(ctx context.Context) (drill.Verdict, error) {
	broken := func(err error) (drill.Verdict, error) { return c.arrived.Found(), err }
	if err := c.recover(ctx); err != nil {
		return broken(err)
	}
	if err := c.endDevice(ctx); err != nil {
		return broken(err)
	}
	if err := c.read(ctx); err != nil {
		return broken(err)
	}
	return c.judge(ctx)
}

// judge compares all lists, once the device has ended and everything that arrived was read.
func (c *chaos) judge(ctx context.Context) (drill.Verdict, error) {
	broken := func(err error) (drill.Verdict, error) { return c.arrived.Found(), err }
	if _, err := c.holds(&c.arrived.Judge); err != nil {
		return broken(err)
	}
	text, err := os.ReadFile(filepath.Join(c.dir, "device.log"))
	if err != nil {
		return broken(err)
	}
	if panicked(string(text)) {
		c.arrived.Object(drill.Misconduct, "the device's log shows a panic")
	}
	c.opinion(ctx, &c.arrived.Judge, false)
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
		c.arrived.Object(drill.Misconduct, "no system call has failed: this proves nothing")
	}
	c.say("%d calls failed in %d bursts; %d lines given, %d arrived; %d messages came twice; %d starts refused with a sentence; "+
		"%d MiB of memory at most; %v", total, c.bursts, c.feeder.written(), c.arrived.Distinct(),
		c.arrived.Received-int64(c.arrived.Distinct()), c.refused, c.memory>>20, time.Since(c.began).Round(time.Second))
	return c.arrived.Conclude(c.feeder.written()), nil
}

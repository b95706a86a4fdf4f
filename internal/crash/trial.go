package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/internal/drill"
	"github.com/hubhop-iot/hubhop/internal/sim"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

// trial is one run: two programs, their directories, and the lines for the device.
type trial struct {
	options
	out    io.Writer
	began  time.Time
	dir    string
	cloud  drill.Control
	sim    program
	device program
	feeder feeder
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

// outbox is the directory of the device's outbox.
func (t *trial) outbox() string { return t.path("device/" + deviceID + "/outbox") }

// say prints a sentence with the time since the start.
func (t *trial) say(format string, a ...any) {
	_, _ = fmt.Fprintf(t.out, "%7.1fs %s\n", time.Since(t.began).Seconds(), fmt.Sprintf(format, a...))
}

// begin starts the simulator, and sets how the device is started. end stops both, and waits for
// their end.
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

// startSim starts the simulator, and waits until it is ready.
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
	t.cloud.URL = i.Control
	return err
}

// readInfo reads what the simulator says of itself.
func readInfo(out string) (i sim.Info, err error) {
	b, err := os.ReadFile(filepath.Join(out, "sim.json"))
	if err != nil {
		return i, err
	}
	return i, json.Unmarshal(b, &i)
}

// readyDevice sets how the device is started.
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

// startDevice starts the device, and feeds it.
func (t *trial) startDevice(ctx context.Context) error {
	if err := t.device.start(ctx, nil); err != nil {
		return err
	}
	t.feeder.feed(t.device.in)
	return nil
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

// The times between two looks into the ledger.
const (
	pollEvery = 100 * time.Millisecond
	pollFast  = 2 * time.Millisecond // where an event must come soon after a sample
)

func never() bool { return false }

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

// behind returns the messages after the first n that arrived. It returns an error if the ledger
// lacks one.
func (t *trial) behind(ctx context.Context, n int64) (sim.Ledger, error) {
	l, err := t.cloud.Ledger(ctx, deviceID, n)
	if err == nil && (l.Truncated || l.Received != n+int64(len(l.Messages))) {
		err = fmt.Errorf("the ledger has received %d and shows %d behind the first %d, truncated: %v", l.Received, len(l.Messages), n, l.Truncated)
	}
	return l, err
}

// holds tells a judge of the outbox of a device that has ended, and returns what is in it.
func (t *trial) holds(j *drill.Judge) (outbox.Look, error) {
	look, err := outbox.Inspect(t.outbox())
	if err != nil {
		return look, err
	}
	return look, j.Holds(t.outbox())
}

// opinion runs `hubhop outbox verify` against the simulator's ledger, and objects if that does.
func (t *trial) opinion(ctx context.Context, j *drill.Judge, partial bool) {
	cmd := exec.CommandContext(ctx, t.sim.path, "outbox", "verify", "--dir", t.outbox(), "--device-id", deviceID, //nolint:gosec // the program under test
		"--ledger", t.cloud.URL, fmt.Sprintf("--partial=%v", partial))
	cmd.Dir, cmd.Env = t.dir, t.sim.environment()
	if out, err := cmd.CombinedOutput(); err != nil {
		j.Object(drill.Misconduct, "hubhop outbox verify: %v: %s", err, out)
	}
}

// Command crash proves that nothing is lost. It runs the built hubhop as two programs: a device,
// and a simulated cloud with a state directory. It kills one or the other with kill -9 at random
// moments, again and again, and moves the device from hub to hub meanwhile. In the end it compares
// three lists: what the cloud has received, what the outbox has numbered, and the lines that the
// device was given. With -bursts it kills nobody, and lets system calls of the device fail. With
// -messages the samples are messages on a broker, which two data flow graphs of the device take, and
// the broker is killed too.
//
// It exits with 0 if the verdict is good, with 3 if it is not, and with 1 or 2 if there is none.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"time"

	"github.com/hubhop-iot/hubhop/internal/drill"
)

// options are the command line.
type options struct {
	hubhop, base, dir  string
	order, sync        string
	kills, moves, rate int
	bursts             int
	messages           int // of a trial of flows
	brokerKills, disks int
	ackEarly           bool
	window, ledgerKeep int
	least              int // samples per second
	seed               uint64
	keep               bool
	recovery           time.Duration
	result             string
}

func main() { os.Exit(run(os.Args[1:], os.Stdout)) }

// The exit codes.
const (
	exitPassed = 0
	exitError  = 1 // there is no verdict
	exitUsage  = 2
	exitFailed = 3
)

// errStopped ends a run at its first finding.
var errStopped = errors.New("stopped at the first fault")

func run(args []string, out io.Writer) int {
	var o options
	f := flag.NewFlagSet("crash", flag.ContinueOnError)
	f.StringVar(&o.hubhop, "hubhop", "./hubhop", "the program under test")
	f.StringVar(&o.base, "base-address", "127.52.0.1", "of the simulator: it and its hubs have addresses from here on (Linux)")
	f.StringVar(&o.dir, "dir", "", "where the directories of this run are made (default: the system's temporary directory)")
	f.IntVar(&o.kills, "kills", 200, "of either program, together")
	f.IntVar(&o.bursts, "bursts", 0, "instead of kills: so many times a system call of the device fails for a while, as strace makes it (Linux)")
	f.IntVar(&o.messages, "messages", 0, "instead of samples of the device: so many messages through mosquitto and two data flow graphs")
	f.IntVar(&o.brokerKills, "broker-kills", 4, "of mosquitto, with -messages")
	f.IntVar(&o.disks, "full-disks", 2, "so many times the disk of the device is full for a while, with -messages (Linux)")
	f.BoolVar(&o.ackEarly, "acknowledge-early", false, "cripple hubhop: each message is acknowledged to mosquitto before hubhop has it; the verdict must be failed")
	f.IntVar(&o.moves, "failovers", 20, "from hub to hub, both ways, at least")
	f.IntVar(&o.rate, "rate", 2500, "samples a second")
	f.IntVar(&o.window, "window", 64, "messages in flight")
	f.IntVar(&o.least, "least", 2000, "samples per second that must have arrived, over the whole run")
	f.IntVar(&o.ledgerKeep, "ledger-keep", 500_000, "messages that the simulator keeps; it must hold all that arrive between two looks, after the longest silence too")
	f.StringVar(&o.order, "drain-order", "fifo", "of the device: fifo or fresh-first")
	f.StringVar(&o.sync, "outbox-sync", "always", "of the device: always, or a duration")
	f.Uint64Var(&o.seed, "seed", 0, "of the schedule (default: by chance)")
	f.BoolVar(&o.keep, "keep", false, "keep the directories whatever the verdict")
	// A device takes three kills of the simulator in a row, each soon after it was up again, for
	// another client with its identity. Then it waits a minute.
	f.DurationVar(&o.recovery, "recovery", 2*time.Minute, "time within which a sample made after an event must arrive")
	f.StringVar(&o.result, "result", "", "write the figures of a run that came to its end into this file, as JSON")
	if err := f.Parse(args); err != nil {
		return exitUsage
	}
	if o.seed == 0 {
		o.seed = rand.Uint64()>>1 | 1
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	t, err := newTrial(o, out)
	if err != nil {
		_, _ = fmt.Fprintln(out, "crash:", err)
		return exitError
	}
	play := newKilling(t).play
	switch {
	case o.messages > 0:
		play = newFlows(t).play
	case o.bursts > 0:
		play = newChaos(t).play
	}
	v, err := play(ctx)
	if err != nil && ctx.Err() != nil {
		_, _ = fmt.Fprintln(out, "crash:", err)
		return exitError
	}
	return t.end(v, err)
}

// end tells the verdict, and returns the exit code. An error of a run that nobody has interrupted
// means that a program did not do what it must, so the verdict is failed.
func (t *trial) end(v drill.Verdict, err error) int {
	if err == nil && v.Outcome == drill.Passed {
		t.say("verdict: passed")
		if !t.keep {
			_ = os.RemoveAll(t.dir)
		}
		return exitPassed
	}
	t.say("verdict: failed")
	for _, text := range v.Texts() {
		t.say("  %s", text)
	}
	if err != nil {
		t.say("  %v", err)
	}
	t.say("everything is kept in %s; the same schedule again: SEED=%d", t.dir, t.seed)
	return exitFailed
}

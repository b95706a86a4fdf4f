package cmd

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/hubhop-iot/hubhop/internal/linequeue"
)

// How soon a further signal forces the end. One signal often comes twice: GNU timeout sends it to
// its child and then to the whole group, and a terminal sends its own to every process that runs
// there.
const (
	typedAgain = 100 * time.Millisecond // nobody presses Ctrl-C twice in less
	sentAgain  = time.Second
)

// notify is Env.Notify of the real process. From the first call on, a broken pipe is only an error
// of a write and does not end the process. Signals are handled until the process ends, because the
// second of a pair may come after the work is done.
func (e *Env) notify(ctx context.Context) (context.Context, context.CancelFunc) {
	// Not signal.Ignore: programs that are started from here would inherit that.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	if !signal.Ignored(syscall.SIGHUP) { // nohup
		signal.Notify(signals, syscall.SIGHUP)
	}
	ctx, stop := context.WithCancel(ctx)
	e.spawn(func() { obey(signals, stop, e.die) })
	return ctx, stop
}

// obey calls stop at the first signal. It calls die at a second Ctrl-C, or at another signal that
// comes a second or more after the first.
func obey(signals <-chan os.Signal, stop func(), die func(os.Signal)) {
	if _, ok := <-signals; !ok {
		return
	}
	first := time.Now()
	stop()
	for sig := range signals {
		since := time.Since(first)
		if since >= sentAgain || sig == os.Interrupt && since >= typedAgain {
			die(sig)
			return
		}
	}
}

// die ends the process by the default effect of a signal, so that its parent sees why it ended.
func (e *Env) die(sig os.Signal) {
	_, _ = fmt.Fprintln(e.Stderr, "hubhop: stopped at once; what was not sent is kept for the next start")
	if q, ok := e.Stderr.(*linequeue.Queue); ok {
		q.CloseSoon()
	}
	signal.Reset(sig)
	if self, err := os.FindProcess(os.Getpid()); err == nil && self.Signal(sig) == nil {
		<-time.After(linequeue.FlushLimit) // process 1 of a container has no default effect
	}
	os.Exit(exitFailure)
}

package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"

	"github.com/hubhop-iot/hubhop/cmd/flow"
	"github.com/hubhop-iot/hubhop/failover"
	"github.com/hubhop-iot/hubhop/internal/central"
	"github.com/hubhop-iot/hubhop/internal/device"
	"github.com/hubhop-iot/hubhop/internal/drill"
	"github.com/hubhop-iot/hubhop/internal/home"
	"github.com/hubhop-iot/hubhop/internal/linequeue"
	"github.com/hubhop-iot/hubhop/internal/program"
	"github.com/hubhop-iot/hubhop/internal/secret"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

// The exit codes. Scripts rely on them.
const (
	exitOK      = 0
	exitFailure = 1 // anything else; also, where a command ends by itself: DPS unreachable
	exitUsage   = 2 // usage or configuration
	exitVerdict = 3 // a verdict failed: of a demo, a drill, flow test, outbox verify, status or flow status
	exitPerson  = 4 // a person must act
)

const exitHelp = `
Exit codes: 0 ok · 1 other failure · 2 usage or configuration · 3 a verdict failed (demo, drill, flow test, flow status, outbox verify, status) ·
4 a person must act (state directory locked). In provision, send and run --once also: 1 DPS unreachable for 60 s ·
4 credentials refused.`

// errUsage marks a fault of the command line or of the configuration.
var errUsage = errors.New("usage")

// usageError is such a fault; its text does not show the mark.
type usageError struct{ err error }

func (e usageError) Error() string        { return e.err.Error() }
func (e usageError) Unwrap() error        { return e.err }
func (e usageError) Is(target error) bool { return target == errUsage }

func usage(err error) error { return usageError{err} }

var exitCodes = []struct { // the first match by errors.Is; success 0, anything else 1
	is   error
	code int
}{
	{errUsage, exitUsage},
	{home.ErrStateDir, exitUsage},
	{outbox.ErrOther, exitUsage},
	{outbox.ErrOlder, exitUsage},
	{outbox.ErrNewer, exitUsage},
	{drill.ErrVerdict, exitVerdict},
	{errLost, exitVerdict},
	{flow.ErrFailed, exitVerdict},
	{flow.ErrFaulty, exitVerdict},
	{errNotReady, exitVerdict},
	{home.ErrLocked, exitPerson},
	{outbox.ErrLocked, exitPerson},
	{device.ErrRefused, exitPerson},
	{failover.ErrRefused, exitPerson},
	{central.ErrRefused, exitPerson},
}

func exitCode(err error) int {
	if err == nil {
		return exitOK
	}
	if ended, ok := errors.AsType[*program.Error](err); ok {
		return ended.Code
	}
	for _, c := range exitCodes {
		if errors.Is(err, c.is) {
			return c.code
		}
	}
	return exitFailure
}

// tellEnd says why the process ends. If the log is JSON, it is a line of the log, so that a program
// can read the log to its end; else it is sentences.
func (e *Env) tellEnd(err error) {
	if e.jsonLog == nil {
		complain(e.Stderr, err)
		return
	}
	texts := faults(err)
	if errors.Is(err, context.Canceled) {
		texts = []string{"interrupted"}
	}
	for _, text := range texts {
		e.jsonLog.Error().Int("exitCode", exitCode(err)).Msg(text)
	}
}

// complain tells a person what went wrong, one fault a line.
func complain(w io.Writer, err error) {
	if errors.Is(err, context.Canceled) {
		_, _ = fmt.Fprintln(w, "hubhop: interrupted")
		return
	}
	all := faults(err)
	if len(all) == 1 {
		_, _ = fmt.Fprintln(w, "hubhop:", all[0])
		return
	}
	_, _ = fmt.Fprintf(w, "hubhop: %d things are wrong:\n", len(all))
	for _, f := range all {
		_, _ = fmt.Fprintln(w, "  -", f)
	}
}

// faults splits an error of errors.Join into its sentences. It escapes them, so that a peer's text
// can neither begin a line nor command the terminal.
func faults(err error) (all []string) {
	switch e := err.(type) { //nolint:errorlint // errors.As would skip the branches of the tree that this function walks
	case usageError:
		return faults(e.err)
	case interface{ Unwrap() []error }:
		var parts, texts []string
		for _, part := range e.Unwrap() {
			parts, texts = append(parts, faults(part)...), append(texts, part.Error())
		}
		if err.Error() == strings.Join(texts, "\n") {
			return parts
		}
	}
	return []string{escaped(clip(secret.Without(strings.TrimSpace(err.Error()))))}
}

// spawn starts a goroutine. A panic in it is reported like one of Main, and ends the process with
// exit code 1.
func (e *Env) spawn(f func()) {
	go func() {
		defer func() {
			if p := recover(); p != nil {
				e.tellBug(p)
				if q, ok := e.Stderr.(*linequeue.Queue); ok {
					q.CloseSoon()
				}
				os.Exit(exitFailure)
			}
		}()
		f()
	}()
}

// tellBug reports a panic, by default without a stack trace.
func (e *Env) tellBug(p any) {
	_, _ = fmt.Fprintf(e.Stderr, "hubhop: this is a bug in hubhop %s: %s; please report it with the command line\n",
		version(), escaped(clip(fmt.Sprint(p))))
	if _, wanted := e.lookup("HUBHOP_TRACE"); wanted {
		_, _ = e.Stderr.Write(debug.Stack())
	}
}

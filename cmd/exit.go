package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/hubhop-iot/hubhop/failover"
	"github.com/hubhop-iot/hubhop/internal/device"
	"github.com/hubhop-iot/hubhop/internal/drill"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

// The exit codes. Scripts rely on them.
const (
	exitOK      = 0
	exitFailure = 1 // anything else, also: DPS unreachable
	exitUsage   = 2 // usage or configuration
	exitVerdict = 3 // a verdict failed: of a demo, of outbox verify
	exitPerson  = 4 // a person must act
)

const exitHelp = `
Exit codes: 0 ok · 1 other failure (also: DPS unreachable for 60 s) · 2 usage or configuration ·
3 a verdict failed (demo, outbox verify) · 4 a person must act (credentials refused, state directory locked).`

// errUsage marks what is wrong with the command line or the configuration.
var errUsage = errors.New("usage")

// usageError is such a fault, told without the mark.
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
	{device.ErrStateDir, exitUsage},
	{outbox.ErrOlder, exitUsage},
	{outbox.ErrNewer, exitUsage},
	{drill.ErrVerdict, exitVerdict},
	{errLost, exitVerdict},
	{device.ErrLocked, exitPerson},
	{device.ErrRefused, exitPerson},
	{failover.ErrRefused, exitPerson},
}

func exitCode(err error) int {
	if err == nil {
		return exitOK
	}
	for _, c := range exitCodes {
		if errors.Is(err, c.is) {
			return c.code
		}
	}
	return exitFailure
}

// complain tells a person what went wrong, one fault a line.
func complain(w io.Writer, err error) {
	if errors.Is(err, context.Canceled) {
		_, _ = fmt.Fprintln(w, "hubhop: interrupted")
		return
	}
	lines := strings.Split(withoutSecrets(strings.TrimSpace(err.Error())), "\n")
	if len(lines) == 1 {
		_, _ = fmt.Fprintln(w, "hubhop:", lines[0])
		return
	}
	_, _ = fmt.Fprintf(w, "hubhop: %d things are wrong:\n", len(lines))
	for _, l := range lines {
		_, _ = fmt.Fprintln(w, "  -", l)
	}
}

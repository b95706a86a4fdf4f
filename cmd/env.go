// Package cmd is the front desk: flags, configuration, exit codes. It builds things and decides
// nothing.
package cmd

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/rs/zerolog"
	"golang.org/x/term"

	"github.com/hubhop-iot/hubhop/internal/device"
	"github.com/hubhop-iot/hubhop/internal/drill/inside"
	"github.com/hubhop-iot/hubhop/internal/namedfile"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

// Env is every touch point with the process.
type Env struct {
	Args           []string // without the program's name
	Environ        []string // KEY=value
	Stdin          io.Reader
	Stdout, Stderr io.Writer // results on the first, logs on the second, never mixed
	Terminal       bool      // Stderr is one
	StdoutTerminal bool
	Hostname       func() (string, error)
	// Notify returns a context that ends when the process is asked to stop. A second request ends
	// the process at once.
	Notify      func(context.Context) (context.Context, context.CancelFunc)
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)

	jsonLog *zerolog.Logger // set if the log is JSON: its last line says why the process ended

	// demoOutbox opens the outbox of the demo's device; nil: as every device does it. Tests put one
	// here that loses samples.
	demoOutbox func(dir string, o outbox.Options) (device.Outbox, error)

	// spoilDrill breaks the embedded target of drills; nil: nothing does. Tests put something here.
	spoilDrill func(*inside.Spoilt)
}

// OSEnv is the real process.
func OSEnv() *Env {
	e := &Env{
		Args: os.Args[1:], Environ: os.Environ(), Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		Terminal: term.IsTerminal(int(os.Stderr.Fd())), StdoutTerminal: term.IsTerminal(int(os.Stdout.Fd())),
		Hostname:    os.Hostname,
		DialContext: new(net.Dialer).DialContext,
	}
	e.Notify = e.notify
	return e
}

// lookup reads an environment variable.
func (e *Env) lookup(name string) (string, bool) {
	for _, kv := range slices.Backward(e.Environ) {
		if value, ok := strings.CutPrefix(kv, name+"="); ok {
			return value, true
		}
	}
	return "", false
}

// Bounds of the files that flags name, in bytes.
const (
	maxModelBytes = 16 << 20
	maxCloudBytes = 64 << 20 // enrollments and templates of the simulator
)

// readArgument reads the file that an argument names, or standard input for "-", up to a number of
// bytes.
func readArgument(env *Env, key, name string, most int64) ([]byte, error) {
	if name != "-" {
		return namedfile.Read(key, name, most)
	}
	data, err := namedfile.ReadUpTo(env.Stdin, most)
	if err != nil {
		return nil, fmt.Errorf("%s: the standard input: %w", key, err)
	}
	return data, nil
}

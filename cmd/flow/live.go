package flow

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/rs/zerolog"

	"github.com/hubhop-iot/hubhop/cmd/window"
	"github.com/hubhop-iot/hubhop/internal/device"
	"github.com/hubhop-iot/hubhop/internal/flow"
	"github.com/hubhop-iot/hubhop/internal/flow/identity"
	"github.com/hubhop-iot/hubhop/internal/home"
	"github.com/hubhop-iot/hubhop/internal/status"
)

// LiveOptions say which flows run, and for whom.
type LiveOptions struct {
	Dir              string // the manifests
	StateDir, Device string
	Log              zerolog.Logger
	DialContext      func(ctx context.Context, network, addr string) (net.Conn, error)
	Usage            func(error) error // marks an error as one of usage or configuration
}

// live are the data flows of hubhop run --flows.
type live struct {
	m       *flow.Manager
	ballast ballast
}

// ballast is never touched, so it takes no memory. But the collector counts it as living, and so
// lets 16 MiB more of garbage gather. What lives in such a process is small: without the ballast it
// would be looked through after each few thousand messages. It is many pieces, because Go clears a
// piece, and so touches it, if any part of it was in use before.
type ballast [128][]byte

func (b *ballast) load() {
	for i := range b {
		b[i] = make([]byte, 8<<20/len(b))
	}
}

// open opens the directory of flows.
func open(w *window.Window, hub flow.Hub, o LiveOptions) (*live, error) {
	m, err := flow.New(flow.Options{Dir: o.Dir, StateDir: filepath.Join(home.Dir(o.StateDir, o.Device), "flows"), Device: o.Device, Hub: hub, Stage: w.FlowStage,
		Token: tokens(os.Getenv, os.Environ()).Token, DialContext: o.DialContext, Log: func(warning bool, name, text string) {
			e := o.Log.Info()
			if warning {
				e = o.Log.Warn()
			}
			if name != "" {
				e = e.Str("flow", name)
			}
			e.Msg(text)
		}})
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, flow.ErrDirectory):
		return nil, o.Usage(fmt.Errorf("flows: %w", err))
	case err != nil:
		return nil, err
	}
	l := &live{m: m}
	l.ballast.load()
	return l, nil
}

// tokens is where access tokens of managed identities come from: the program that the environment
// names, or the identity endpoint of this machine.
func tokens(getenv func(string) string, environ []string) *identity.Source {
	// What hubhop reads from its environment may be a secret that the program need not know.
	environ = slices.DeleteFunc(slices.Clone(environ), func(v string) bool { return strings.HasPrefix(v, "HUBHOP_") })
	s := &identity.Source{
		Environ: environ,
		Program: strings.Fields(getenv("HUBHOP_TOKEN_PROGRAM")), Endpoint: getenv("IDENTITY_ENDPOINT"), Header: getenv("IDENTITY_HEADER"),
		SecretDir: filepath.FromSlash("/var/opt/azcmagent/tokens"),
	}
	if runtime.GOOS == "windows" {
		s.SecretDir = filepath.Join(getenv("ProgramData"), "AzureConnectedMachineAgent", "Tokens")
	}
	if s.Endpoint == "" {
		s.Endpoint = identity.OfVM
	}
	return s
}

// Beside runs data flows beside a device that is open, until ctx ends. The flows stop first, so
// that the device can still send what they have given it.
func Beside(ctx context.Context, d *device.Device, w *window.Window, o LiveOptions) error {
	l, err := open(w, d, o)
	if err != nil {
		return errors.Join(err, d.Close(), w.Close())
	}
	defer w.Serve(ctx, d, l)()
	outlives, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var running sync.WaitGroup
	defer running.Wait()
	ctx, end := context.WithCancel(ctx)
	defer end()
	running.Go(func() {
		defer stop()
		_ = l.m.Run(ctx) // it logs what fails
	})
	return d.Run(outlives)
}

// Alone runs data flows without a device, until ctx ends.
func Alone(ctx context.Context, w *window.Window, o LiveOptions) error {
	h := home.New(home.RealDisk, o.StateDir, o.Device, func(text string) { o.Log.Warn().Msg(text) })
	if err := h.Open(); err != nil {
		return errors.Join(err, w.Close())
	}
	defer h.Close()
	l, err := open(w, nil, o)
	if err != nil {
		return errors.Join(err, w.Close())
	}
	defer w.ServeFlows(ctx, o.Device, l)()
	o.Log.Info().Msg("started without a hub: the data flows of " + o.Dir + " run")
	defer func() { o.Log.Info().Msg("stopped") }()
	return l.m.Run(ctx)
}

// Flows returns the rows of the status.
func (l *live) Flows() []status.Flow {
	rows := []status.Flow{}
	for _, s := range l.m.Status() {
		rows = append(rows, status.Flow{Name: s.Name, State: string(s.State), In: s.In, Out: s.Out, Dropped: s.Dropped, Errors: s.Errors,
			InFlight: s.InFlight, OldestAgeSeconds: math.Round(s.OldestAge.Seconds()*1000) / 1000,
			Gaps: s.Gaps, Fault: s.Fault, Text: s.Text, ClientIDs: append([]string{}, s.ClientIDs...)})
	}
	return rows
}

// Beat is that of the loop that takes over changes.
func (l *live) Beat() status.Beat {
	busy, due := l.m.Beat()
	return status.Beat{Loop: "flows", Busy: busy, Due: due}
}

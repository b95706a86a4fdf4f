package window

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/hubhop-iot/hubhop/internal/device"
	"github.com/hubhop-iot/hubhop/internal/home"
	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/internal/namedfile"
	"github.com/hubhop-iot/hubhop/internal/page"
	"github.com/hubhop-iot/hubhop/internal/secret"
	"github.com/hubhop-iot/hubhop/internal/status"
)

// minToken is the shortest token that opens an address of the network, in bytes.
const minToken = 16

// Options say what is shown of a device, and where.
type Options struct {
	Version    string
	Credential string   // what proves the device's identity, as [status.Credential] has it
	HTTP       string   // address with port; empty: only the control socket is served
	TokenFile  string   // holds the token for an address of the network; empty: there is none
	Methods    []string // direct methods that the device handles
	RuntimeDir string   // of the user, for sockets whose path would be too long; may be empty
	Log        zerolog.Logger
	Levels     *Levels // of the log
}

// Flows are the data flows of a process.
type Flows interface {
	Flows() []status.Flow // for the status; never nil
	Beat() status.Beat    // of the loop that takes over changes of their files
}

// Window is the server of a device's status, and where it listens.
type Window struct {
	o       Options
	server  status.Server
	metrics *status.Metrics
	socket  status.Socket
	tcp     net.Listener // nil: only the control socket is served
	reach   status.Reach // of tcp
}

// Open listens on the TCP address, if there is one, and keeps the events of the journal from now
// on. An error is about the options.
func Open(ctx context.Context, shared *device.Shared, id device.Identity, o Options) (*Window, error) {
	w := &Window{o: o, socket: status.Socket{Dir: home.Dir(id.StateDir, id.DeviceID), Short: status.ShortDir(o.RuntimeDir)}}
	w.server = status.Server{Events: status.NewEvents(), Page: page.Device(), SetLevel: o.Levels.Set, Report: func(text string) {
		shared.Journal.Emit(journal.Event{Kind: journal.Warning, Device: id.DeviceID, Text: text})
	}}
	var err error
	if o.TokenFile != "" {
		w.server.Token, err = readToken(o.TokenFile)
	}
	if err = errors.Join(err, w.listen(ctx)); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	shared.Journal.Sink(w.server.Events.Emit)
	w.metrics = newMetrics(shared, o)
	w.server.Metrics = w.metrics.Handler()
	return w, nil
}

// readToken reads the token of --http-token-file.
func readToken(path string) (string, error) {
	const key = "http-token-file"
	token, err := namedfile.ReadKey(key, path)
	switch {
	case err != nil:
		return "", err
	case len(token) < minToken:
		return "", fmt.Errorf("%s: %s holds a token of %d characters; at least %d are needed (openssl rand -hex 32 makes one)", key, secret.Quotable(path), len(token), minToken)
	case strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }):
		return "", fmt.Errorf("%s: the token in %s has blanks or other characters that no header takes; it must be one word of ASCII", key, secret.Quotable(path))
	}
	return token, nil
}

func (w *Window) listen(ctx context.Context) error {
	if w.o.HTTP == "" {
		return nil
	}
	if _, _, err := net.SplitHostPort(w.o.HTTP); err != nil {
		return fmt.Errorf("http is %s; it must be an address with a port, such as 127.0.0.1:9100", secret.QuotedAddress(w.o.HTTP))
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", w.o.HTTP)
	if err != nil {
		return fmt.Errorf("http: the device cannot listen there: %w; give another address, or port 0 for any", err)
	}
	host, _, _ := net.SplitHostPort(l.Addr().String())
	w.tcp, w.reach = l, status.ReachOf(host)
	return nil
}

// Close closes a window that does not serve.
func (w *Window) Close() error {
	if w.tcp == nil {
		return nil
	}
	return w.tcp.Close()
}

// FlowStage counts a message that has left a stage of a data flow.
func (w *Window) FlowStage(stage string, took time.Duration) { w.metrics.FlowStage(stage, took) }

// Serve shows a device, whose directory this process has locked, and the data flows beside it until
// end is called: also while the device stops. flows is nil if there are none.
func (w *Window) Serve(ctx context.Context, d *device.Device, flows Flows) (end func()) {
	return w.serve(ctx, shown{d, w.o, flows})
}

// ServeFlows is Serve for data flows without a device. name is what the status calls the process.
func (w *Window) ServeFlows(ctx context.Context, name string, flows Flows) (end func()) {
	return w.serve(ctx, alone{name, time.Now(), w.o, flows})
}

// showing is what a window shows.
type showing interface {
	status.Shown
	reading() (status.View, status.Figures)
}

func (w *Window) serve(ctx context.Context, s showing) (end func()) {
	w.server.Shown = s
	w.metrics.Show(s.reading)
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	var serving sync.WaitGroup
	serving.Go(func() { w.server.ServeSocket(ctx, w.socket) })
	if w.tcp != nil {
		w.o.Log.Info().Msgf("the status is at http://%s/", w.tcp.Addr())
		w.warn()
		serving.Go(func() {
			if err := w.server.Serve(ctx, w.tcp, w.reach); err != nil {
				w.server.Report(fmt.Sprintf("the status is served on the control socket only: %v", err))
			}
		})
	}
	return func() {
		stop()
		serving.Wait()
	}
}

// warn tells who can read what on an address of the network.
func (w *Window) warn() {
	if w.reach != status.OnNetwork {
		return
	}
	text := "every host that reaches it can read /healthz, /readyz and /metrics; the rest needs --http-token-file"
	if w.server.Token != "" {
		text = "the token and the answers can be read on the way, because this is no TLS: put a proxy with TLS before it, or use a loopback address and a tunnel"
	}
	w.o.Log.Warn().Msgf("http: %s is no loopback address: %s", w.tcp.Addr(), text)
}

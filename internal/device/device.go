// Package device puts one device together: its identity, its state directory, its outbox, the
// session that keeps it connected, and the five paths that use the session (telemetry, reported
// properties, desired properties, direct methods, cloud-to-device messages).
//
// An idle device has one goroutine of its own, the reader of its link (internal/mqtt), and that of
// the caller if [Device.Run] was called and not [Device.Start]. The session (package failover) runs
// when something has happened. The ticks of all sources of a process share the timer of one
// [telemetry.Sampler], and the looks at the clock one timer of internal/clock. A link has timers
// for its silence, its token and the next reported property. A source with a pace of its own, such
// as [telemetry.Lines], has a goroutine for as long as its input lasts.
//
// Other goroutines live for as long as their work: a dial, a registration, a change of the twin,
// waiting cloud-to-device messages, a method, a batch of the drain, a write that the network does
// not take at once, the end of a link. Those of this package are started in contain.go only, so
// that a panic in one does not stop the others.
package device

import (
	"context"
	"crypto/tls"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hubhop-iot/hubhop/dps"
	"github.com/hubhop-iot/hubhop/failover"
	"github.com/hubhop-iot/hubhop/hub"
	"github.com/hubhop-iot/hubhop/internal/home"
	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/internal/leash"
	"github.com/hubhop-iot/hubhop/telemetry"
)

// ErrRefused says that the cloud refuses this device until a person acts. Only a device that runs
// once ends with this error.
var ErrRefused = errors.New("the cloud refuses this device until somebody acts")

const (
	settleTimeout  = 5 * time.Second // for PUBACKs, and then for methods that came meanwhile, before a token is renewed
	retireTimeout  = time.Second     // for PUBACKs before another link takes over
	renewalTimeout = time.Minute     // for running methods before that, while telemetry flows on
	swapMargin     = 3 * time.Second // before the end of a token its link has been replaced, however the clocks of the two sides differ
)

// Device is one device, from Start to its end.
type Device struct {
	bulkheads
	shared *Shared
	c      *Config // of shared
	id     Identity
	app    App
	brain  *rand.Rand // of the session

	tls     *tls.Config
	dps     atomic.Pointer[dps.Client] // asks or is about to; nil: none
	disk    home.Disk
	home    *home.Home
	cache   *keeper
	time    timekeeping
	cached  *failover.State // what the last run, or the last session, has left; nil once a session has it
	box     Outbox
	handled *home.Handled
	kept    *home.Reported // properties that others report through the device
	twin    twin

	handlers   tally // counts the methods that run
	methods    slots // bounds the methods that run
	stopping   atomic.Bool
	inputEnded atomic.Bool                             // running once: all of the input is in the outbox
	current    atomic.Pointer[failover.Session[*link]] // keeps the device connected
	counters   telemetry.Counters
	floods     floods
	warned     telemetry.Warned

	mu          sync.Mutex
	standing    standing
	traffic     telemetry.Traffic
	lastText    string    // sentence of the last failure, for a device that runs once
	downAt      time.Time // when the last link ended; zero while there is a link
	gone        uint64    // samples that the outbox had dropped or quarantined when the link ended
	renewing    bool
	renewed     bool          // the newest link was made by a renewal of the token
	backlog     uint64        // samples that waited when the link came up, if enough for a line
	backlogGoal uint64        // samples that have left the outbox when the backlog is gone
	links       chan struct{} // closed when a link comes or ends; nil: nobody waits for that
	outage      outage
	oldest      *oldest           // nil: nobody has asked for it
	lastPeer    [2]string         // the hub that was linked last, and its other name
	peers       map[string]string // the same for the hubs before
	refused     chan error        // one slot: a person must act; nil: nobody waits for it, because the device does not run once
}

// New returns a device that has not started. shared is the same for all devices of a process.
func New(shared *Shared, id Identity, app App) *Device {
	d := &Device{shared: shared, c: &shared.Config, id: id, app: app}
	if d.c.Once {
		d.refused = make(chan error, 1)
	}
	d.disk, d.tls = home.RealDisk, d.tlsConfig()
	emit := d.emit
	d.bulkheads, d.floods.emit = bulkheads{emit}, emit
	d.time.Epochs = shared.start().clock.For(d.timeAddress(), emit, d.resumed)
	d.twin = newTwin(d)
	d.brain = split(shared.Rand)
	return d
}

// split gives each user a source of chance of its own: they run at the same time. Nil stays nil.
func split(r *rand.Rand) *rand.Rand {
	if r == nil {
		return nil
	}
	return rand.New(rand.NewPCG(r.Uint64(), r.Uint64()))
}

// Run runs the device until ctx ends, or until its input has ended and everything is sent. A device
// that runs once ends when nothing waits any more. A failure of the network or the cloud ends only
// a device that runs once. Run returns when everything that it started has ended.
func (d *Device) Run(ctx context.Context) error {
	ended := make(chan error, 1)
	if err := d.Start(ctx, func(err error) { ended <- err }); err != nil {
		return err
	}
	return <-ended
}

// Start is Run for a caller that does not wait, such as a fleet: an idle device then costs no
// goroutine but that of its link. It returns an error if the device cannot be opened; see
// [Device.Open]. Else it calls ended once, in a goroutine of its own, with what Run would return.
func (d *Device) Start(ctx context.Context, ended func(error)) error {
	if _, err := d.Open(); err != nil {
		return err
	}
	d.emit(journal.Event{Kind: journal.Started, Text: d.startText()})
	d.standing.begin(d)
	d.outage.begin(d)
	d.shared.start().heap.Devices.Add(1)
	l := &life{d: d, ended: ended}
	l.unwatch = d.watchClock(&l.over)
	d.produce(ctx, func(produce func() error) { // is called once
		d.spawnIn(&l.producing, "input", func() {
			defer l.stop()
			l.produced = produce()
			d.stopping.Store(true)
			asked := ctx.Err() != nil
			if asked && !d.c.Once {
				l.produced = nil // that is not a failure
			}
			d.finish(asked, errors.Is(context.Cause(ctx), ErrLeave))
		})
	})
	l.connect()
	return nil
}

// life is what begins with Start, and how it ends.
type life struct {
	d         *Device
	ended     func(error)
	over      leash.Leash   // of the session; it outlives the context of Start, because what is queued is sent before the end
	pause     time.Duration // after the last panic of the session
	unwatch   func()
	producing sync.WaitGroup
	produced  error // of the input

	mu     sync.Mutex
	hangUp func() // ends the session; nil: there is none
}

// stop ends the session, and then the device.
func (l *life) stop() {
	l.over.End()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.hangUp != nil {
		l.hangUp()
	}
}

// connect begins a session, which keeps the device connected until stop.
func (l *life) connect() {
	err := l.d.run("session", func() error {
		s := l.d.session()
		l.d.current.Store(s)
		l.mu.Lock()
		defer l.mu.Unlock()
		l.hangUp = s.Start(l.disconnected)
		if l.over.Err() != nil {
			l.hangUp()
		}
		return nil
	})
	if err != nil {
		l.d.spawn("session", l.reconnect)
	}
}

// disconnected is called when the session has ended: because of stop, or after a panic.
func (l *life) disconnected(p *failover.PanicError) {
	if p == nil {
		l.conclude()
		return
	}
	_ = l.d.recovered("session", p) // it has been reported
	l.d.cached = &p.State
	l.reconnect()
}

// reconnect begins another session after a panic and a pause, as [bulkheads.keep] does.
func (l *life) reconnect() {
	l.pause = min(max(2*l.pause, bugPauseMin), bugPauseMax)
	if pause(&l.over, l.pause) != nil {
		l.conclude()
		return
	}
	l.connect()
}

// conclude ends the device, and tells so.
func (l *life) conclude() {
	var err error
	if bug := l.d.run("stopping", func() error { err = l.end(); return nil }); bug != nil {
		err = bug
	}
	l.ended(err)
}

// end ends what Start has begun, and closes the device.
func (l *life) end() error {
	d := l.d
	l.producing.Wait()
	err := d.outcome(l.produced)
	l.unwatch()
	d.outage.end(d)
	err = errors.Join(err, d.Close())
	d.emit(d.farewell()) // closing may find more to tell
	d.shared.start().heap.Devices.Add(-1)
	return err
}

// openHome opens and locks the device's directory.
func (d *Device) openHome() error {
	h := home.New(d.disk, d.id.StateDir, d.id.DeviceID, func(text string) { d.warn("", text) })
	d.mu.Lock()
	d.home = h
	d.mu.Unlock()
	return h.Open()
}

// Close closes what Open has opened. Run does it too, so it is for a device that is not run.
func (d *Device) Close() error {
	d.home.TendNow()
	d.handled.Close()
	err := d.box.Close()
	d.floods.close()
	d.time.Close()
	d.home.Close()
	return err
}

// tlsConfig is that of all connections of the device. A device with a certificate has a config of
// its own, and sessions of its own: a session that is resumed carries the certificate.
func (d *Device) tlsConfig() *tls.Config {
	conf := d.shared.start().tls
	if d.id.Certificate == nil {
		return conf
	}
	conf = conf.Clone()
	conf.Certificates, conf.ClientSessionCache = []tls.Certificate{*d.id.Certificate}, tls.NewLRUClientSessionCache(16)
	return conf
}

// tlsFor is tlsConfig for a server, host or host:port. A clone for each connection would cost a
// fleet memory.
func (d *Device) tlsFor(server string) *tls.Config {
	if d.id.Certificate != nil {
		return d.tls
	}
	return d.shared.start().names.Of(d.tls, server)
}

// session wires the brain to the network rooms.
func (d *Device) session() *failover.Session[*link] {
	dialer := &hub.Dialer{
		TLS: d.tls, DialContext: d.dialContext, ModelID: d.app.modelID(), Agent: d.shared.Agent, KeepAlive: d.c.Link.KeepAlive, Window: d.c.Drain.Window,
		Desired: !d.app.Off.Desired, Methods: !d.app.Off.Methods, C2D: !d.app.Off.C2D, Twin: !d.app.Off.Desired || !d.app.Off.Reported, Acked: d.shared.Timings.Acked,
	}
	if d.c.TracePackets {
		dialer.Trace = d.tracePacket
	}
	if d.id.Key != "" {
		dialer.Token = hub.KeyToken(d.time.Now, d.id.Key, d.c.Link.TokenLife)
	}
	cached, options := d.leftState(), d.c.Failover
	options.Rand = d.brain
	if d.id.PinnedHub != "" {
		options.NoDPS = true
		cached.AssignedHub, cached.KnownHubs = d.id.PinnedHub, nil
	}
	return &failover.Session[*link]{
		Options: options,
		Cached:  &cached,
		Dial: func(ctx context.Context, t failover.Target) (*link, error) {
			turns := d.time.Turned()
			var l *link
			err := d.run("dialling", func() (err error) {
				l, err = d.dial(ctx, dialer, t)
				return err
			})
			return l, d.corrected(ctx, err, turns)
		},
		Register: d.register,
		Open: func(ctx context.Context) func() {
			if d.shared.DPSOpenLimit != nil && !d.shared.DPSOpenLimit.Allow() {
				return func() {}
			}
			client := d.client()
			hold := client.Open(ctx)
			return func() {
				hold()
				d.dps.CompareAndSwap(client, nil)
			}
		},
		Serve: func(ctx context.Context, l *link, _ bool, over func()) func() error { return d.serve(ctx, l, over) },
		Save: func(state failover.State) {
			if d.id.PinnedHub != "" {
				return
			}
			state.KnownHubs = slices.Clone(state.KnownHubs)
			state.AssignedAt = d.time.At(state.AssignedAt)
			if !state.RefusedSince.IsZero() {
				state.RefusedSince = d.time.At(state.RefusedSince)
			}
			for i := range state.KnownHubs {
				state.KnownHubs[i].AssignedAt = d.time.At(state.KnownHubs[i].AssignedAt)
			}
			d.cache.save(state)
		},
		Observe: d.observe,
	}
}

// leftState returns what a new session should know.
func (d *Device) leftState() (s failover.State) {
	if d.cached != nil {
		s, d.cached = *d.cached, nil
	}
	return s
}

// register is one registration, within the rate of the process.
func (d *Device) register(ctx context.Context, r dps.Request) (dps.Assignment, error) {
	client := d.client()
	defer d.dps.CompareAndSwap(client, nil)
	if d.shared.DPSLimit != nil {
		r.Admit = d.shared.DPSLimit.Wait
	}
	turns := d.time.Turned()
	var a dps.Assignment
	err := d.run("asking DPS", func() (err error) {
		a, err = client.Register(ctx, r)
		return err
	})
	if err == nil {
		d.handshake()
	}
	return a, d.corrected(ctx, err, turns)
}

// client returns the client that holds a connection to DPS ready, or a new one. A device at rest
// has none.
func (d *Device) client() *dps.Client {
	if client := d.dps.Load(); client != nil {
		return client
	}
	client := d.provisioner()
	d.dps.Store(client)
	return client
}

func (d *Device) provisioner() *dps.Client {
	return &dps.Client{Host: d.c.ProvisioningHost, Transport: d.c.ProvisioningTransport, IDScope: d.id.IDScope,
		RegistrationID: d.id.DeviceID, Key: d.id.Key, ModelID: d.app.modelID(), Agent: d.shared.Agent, TLS: d.tlsFor(d.c.ProvisioningHost), DialContext: d.dialContext,
		Now: d.time.Now, Heard: func(date time.Time) { _ = d.hear(date) }} // an impossible time is ignored
}

// who returns the identity of the device whose state is cached.
func (d *Device) who() failover.State {
	return failover.State{IDScope: d.id.IDScope, RegistrationID: d.id.DeviceID, KeyFingerprint: d.fingerprint()}
}

// fingerprint binds the cache to the credentials without holding them.
func (d *Device) fingerprint() string {
	if d.id.Certificate != nil && len(d.id.Certificate.Certificate) > 0 {
		return dps.Fingerprint(string(d.id.Certificate.Certificate[0]))
	}
	return dps.Fingerprint(d.id.Key)
}

// Register asks DPS which hub the device belongs to, as failover.Provision does, and keeps the
// answer for the next start.
func Register(ctx context.Context, shared *Shared, id Identity, app App) (dps.Assignment, error) {
	d := New(shared, id, app)
	if err := d.openHome(); err != nil {
		return dps.Assignment{}, err
	}
	defer d.home.Close()
	cached := d.openClock(nil)
	defer d.time.Close()
	a, err := failover.Provision(ctx, d.register, onceLimit, d.proof(), d.observe)
	if err != nil {
		return a, err
	}
	d.cache.save(cached.WithAssignment(a, d.time.Now())) // a failing disk does not spoil the answer
	return a, nil
}

package inside

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hubhop-iot/hubhop/internal/bubble"
	"github.com/hubhop-iot/hubhop/internal/clock"
	"github.com/hubhop-iot/hubhop/internal/device"
	"github.com/hubhop-iot/hubhop/internal/drill"
	"github.com/hubhop-iot/hubhop/internal/home"
	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

// Local is a device that runs in this process, as one that could be killed: each of its lives has
// a state directory, connections and a journal of its own. It is a [drill.Party] and [drill.Paced].
type Local struct {
	o     LocalOptions
	pace  *pace
	began time.Time
	ahead atomic.Int64 // of the device's system clock
	dials atomic.Uint64

	mu    sync.Mutex
	id    device.Identity
	life  *localLife // nil: it does not run
	rival *localLife
	old   []*localLife // those that were killed; they end by themselves
	lives int          // that were killed
	made  uint64       // samples of the lives that have ended
	given uint64       // of those, what their outboxes have given up
	last  drill.Look   // of the last life that has ended
}

// LocalOptions say what a [Local] is.
type LocalOptions struct {
	Shared   device.Shared   // how it behaves; Journal and DialContext are set by the Local
	Identity device.Identity // StateDir is set by the Local
	Dir      string          // for the state directories
	Rival    string          // another directory, for the state of a rival

	// App makes the application of one life. chance is that of the run.
	App func(chance *rand.Rand) device.App

	// Dial is the way to the cloud; nil: the system's.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)

	Paced bool   // the rate of the samples can be changed: they come from a source that can
	Seed  uint64 // of the device's own chance
	Real  bool   // time is real, so a crash finds the files at any moment, and chance is real, too

	Heard func(journal.Event) // hears the journal of the device; may be nil
}

// localLife is one process of the device.
type localLife struct {
	dev   *device.Device
	stop  context.CancelCauseFunc // nil: it sends what it holds before
	ended chan struct{}           // closed when it has ended; err is set before
	err   error

	mu    sync.Mutex
	dead  bool
	conns map[net.Conn]bool
}

// NewLocal returns a device that has not been started.
func NewLocal(o LocalOptions) *Local {
	l := &Local{o: o, id: o.Identity, pace: &pace{}, began: time.Now().Add(-time.Minute)}
	l.o.Shared.Clock = l.machine(o.Shared.Clock)
	l.id.StateDir = filepath.Join(o.Dir, "0")
	if o.Dial == nil {
		var d net.Dialer
		l.o.Dial = d.DialContext
	}
	return l
}

// machine is the machine of the device, whose system clock can be wrong.
func (l *Local) machine(of clock.Machine) clock.Machine {
	wall := of.Wall
	if wall == nil {
		wall = time.Now
	}
	of.Wall = func() time.Time { return wall().Round(0).Add(time.Duration(l.ahead.Load())) }
	if !l.o.Real {
		of.Running, of.Boot, of.Built = func() time.Duration { return time.Since(l.began) }, "boot 1", time.Time{}
	}
	return of
}

// ID is the device's id.
func (l *Local) ID() string { return l.id.DeviceID }

// Start starts the device, unless it runs.
func (l *Local) Start() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.life != nil {
		select {
		case <-l.life.ended: // by itself
			l.restLocked()
		default:
			return
		}
	}
	l.life = l.process(l.id, uint64(7+l.lives), l.o.Heard, true)
}

// process runs the device as one of its own.
func (l *Local) process(id device.Identity, stream uint64, heard func(journal.Event), paced bool) *localLife {
	p := &localLife{ended: make(chan struct{}), conns: map[net.Conn]bool{}}
	shared := l.o.Shared
	shared.Journal = new(journal.Journal)
	if heard != nil {
		shared.Journal.Sink(heard)
	}
	shared.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		l.dials.Add(1)
		return p.dial(ctx, l.o.Dial, network, addr)
	}
	if !l.o.Real {
		shared.Rand = rand.New(rand.NewPCG(l.o.Seed, stream))
	}
	app := l.o.App(shared.Rand)
	if l.o.Paced && paced {
		for i := range app.Sources {
			app.Sources[i] = l.pace.source(app.Sources[i])
		}
	}
	p.dev = device.New(&shared, id, app)
	var ctx context.Context
	ctx, p.stop = context.WithCancelCause(context.Background())
	go func() {
		defer close(p.ended)
		defer func() {
			if bug := recover(); bug != nil {
				p.err = fmt.Errorf("the device panicked: %v", bug)
			}
		}()
		p.err = p.dev.Run(ctx)
	}()
	return p
}

// dial is the network of one process.
func (p *localLife) dial(ctx context.Context, way func(ctx context.Context, network, addr string) (net.Conn, error), network, addr string) (net.Conn, error) {
	raw, err := way(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	c := &localConn{raw, p}
	p.mu.Lock()
	dead := p.dead
	if !dead {
		p.conns[c] = true
	}
	p.mu.Unlock()
	if dead {
		_ = raw.Close()
		return nil, &net.OpError{Op: "dial", Net: network, Err: os.NewSyscallError("connect", syscall.ENETUNREACH)}
	}
	return c, nil
}

// localConn is a connection of one process.
type localConn struct {
	net.Conn
	life *localLife
}

func (c *localConn) Close() error {
	c.life.mu.Lock()
	delete(c.life.conns, c)
	c.life.mu.Unlock()
	return c.Conn.Close()
}

// SetLinger is the connection's own, if it has one.
func (c *localConn) SetLinger(sec int) error {
	if l, ok := c.Conn.(interface{ SetLinger(sec int) error }); ok {
		return l.SetLinger(sec)
	}
	return nil
}

// Stop stops the device in order, if it runs.
func (l *Local) Stop() { l.end(func(p *localLife) { p.stop(nil) }) }

// Leave stops the device, if it runs, and takes its network away, so that it sends nothing more.
func (l *Local) Leave() {
	l.end(func(p *localLife) {
		p.cutOff(true)
		p.stop(device.ErrLeave)
	})
}

// end stops the device, if it runs, and waits for its end.
func (l *Local) end(stop func(*localLife)) {
	l.mu.Lock()
	life := l.life
	l.mu.Unlock()
	if life == nil {
		return
	}
	stop(life)
	<-life.ended
	l.mu.Lock()
	defer l.mu.Unlock()
	l.restLocked()
}

// restLocked notes what the last life has left.
func (l *Local) restLocked() {
	s := l.life.dev.Status()
	l.made += s.Made
	l.given += givenUp(s.Outbox)
	l.last = drill.Look{Outbox: s.Outbox, Err: l.life.err}
	l.life = nil
}

// givenUp is how many samples one life's outbox will not hand to any hub.
func givenUp(s outbox.Stats) uint64 { return s.Dropped + s.Quarantined + s.Damaged }

// Crash ends the process as a kill does: the system closes its connections, and the next process
// finds what is in the files at that moment.
func (l *Local) Crash(hard bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.life
	if p == nil {
		return
	}
	if !l.o.Real {
		bubble.Settle() // so that nobody is in the middle of a write
	}
	l.restLocked()
	l.lives++
	next := filepath.Join(l.o.Dir, strconv.Itoa(l.lives))
	if err := os.CopyFS(next, os.DirFS(l.id.StateDir)); err != nil {
		l.last.Err = fmt.Errorf("what the killed process has left cannot be copied: %w", err)
	}
	l.id.StateDir = next
	p.cutOff(hard)
	p.stop(device.ErrLeave) // the rest of it has no network
	l.old = append(l.old, p)
}

// cutOff takes the network of a process away.
func (p *localLife) cutOff(hard bool) {
	p.mu.Lock()
	p.dead = true
	conns := slices.Collect(maps.Keys(p.conns))
	p.mu.Unlock()
	for _, c := range conns {
		if hard {
			_ = c.(*localConn).SetLinger(0)
		}
		_ = c.Close()
	}
}

// StartRival starts another device with the same identity, on a machine of its own.
func (l *Local) StartRival() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.rival != nil {
		return
	}
	id := l.id
	id.StateDir = l.o.Rival
	shared := l.o.Shared
	shared.Clock = clock.Machine{}
	app := l.o.App
	other := &Local{o: l.o, pace: &pace{}}
	other.o.Shared = shared
	other.o.App = func(chance *rand.Rand) device.App {
		a := app(chance)
		a.Off.Telemetry = true
		return a
	}
	l.rival = other.process(id, 99, nil, false)
}

// StopRival ends the rival, if there is one.
func (l *Local) StopRival() {
	l.mu.Lock()
	r := l.rival
	l.rival = nil
	l.mu.Unlock()
	if r != nil {
		r.stop(nil)
		<-r.ended
	}
}

// SetClock makes the system clock of the device wrong.
func (l *Local) SetClock(ahead time.Duration) { l.ahead.Store(int64(ahead)) }

// SetRate changes how many samples the device makes in a second.
func (l *Local) SetRate(perSecond float64) { l.pace.set(perSecond) }

// Identify gives the device another identity, for its next life.
func (l *Local) Identify(change func(*device.Identity)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(&l.id)
}

// Look returns what the device says of itself.
func (l *Local) Look() (drill.Look, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	look := l.last
	look.Made, look.GivenUp, look.Dials, look.Dir = l.made, l.given, l.dials.Load(), home.OutboxDir(l.id.StateDir, l.id.DeviceID)
	if p := l.life; p != nil {
		s := p.dev.Status()
		look.Running, look.Hub, look.Err = true, s.Hub, nil
		look.Made += s.Made
		look.GivenUp += givenUp(s.Outbox)
		if s.Outbox.ID != "" { // else it is not open yet
			look.Outbox = s.Outbox
		}
		select {
		case <-p.ended:
			look.Running, look.Err = false, errors.Join(errors.New("the device has ended by itself"), p.err)
		default:
		}
	}
	return look, true
}

// Close waits for what was killed. The device must have been stopped.
func (l *Local) Close() {
	l.StopRival()
	for _, p := range l.old {
		<-p.ended
	}
}

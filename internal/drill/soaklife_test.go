package drill

import (
	"context"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/internal/clock"
	"github.com/hubhop-iot/hubhop/internal/device"
	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/internal/sample"
)

// soakLife is one process of the device.
type soakLife struct {
	dev   *device.Device
	stop  context.CancelFunc
	ended chan error

	rival bool
	mu    sync.Mutex
	dead  bool
	conns map[*soakConn]bool
}

// Start runs the device as a process of its own, unless it runs.
func (w *soakWorld) Start() {
	if w.life != nil {
		return
	}
	w.life = w.process(strconv.Itoa(w.lives), w.conf, false)
	w.rates = nil // a new process has a new budget
	synctest.Wait()
}

// process runs a device as one of its own. Its journal goes into the trace under a name.
func (w *soakWorld) process(name string, c soakPlan, rival bool) *soakLife {
	l := &soakLife{ended: make(chan error, 1), conns: map[*soakConn]bool{}, rival: rival}
	c.shared.Journal = new(journal.Journal)
	c.shared.Journal.Sink(func(e journal.Event) { w.trace("%s %s %s %s %s", name, e.Kind, e.Rule, e.Text, e.Error) })
	c.shared.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		return w.dial(ctx, l, network, addr)
	}
	c.app.Rand = c.shared.Rand
	l.dev = device.New(&c.shared, c.id, sample.App(c.app))
	var ctx context.Context
	ctx, l.stop = context.WithCancel(context.Background())
	go func() { l.ended <- l.dev.Run(ctx) }()
	return l
}

// Stop stops the device in order, if it runs.
func (w *soakWorld) Stop() {
	if w.life == nil {
		return
	}
	synctest.Wait()
	w.look()
	w.budget()
	w.life.stop()
	if err := <-w.life.ended; err != nil {
		w.v.fault("the device ended with %v", err)
	}
	synctest.Wait()
	if n := len(w.life.conns); n > 0 {
		w.v.fault("%d connections are open after the end", n)
	}
	w.life = nil
}

// StartRival starts another device with the same identity, on a machine of its own.
func (w *soakWorld) StartRival() {
	if w.other != nil {
		return
	}
	c := w.conf
	c.app.Off.Telemetry, c.id.StateDir, c.shared.Clock = true, filepath.Join(w.dir, "rival"), clock.Machine{}
	c.shared.Rand = rand.New(rand.NewPCG(w.s.With.Seed, 99))
	w.other = w.process("  rival", c, true)
}

// StopRival ends the rival, if there is one.
func (w *soakWorld) StopRival() {
	if w.other != nil {
		w.other.stop()
		<-w.other.ended
		w.other = nil
	}
}

// Crash ends the process as a kill does: the system closes its sockets, and the next process finds
// what is in the files at that moment.
func (w *soakWorld) Crash(hard bool) {
	l := w.life
	if l == nil {
		return
	}
	synctest.Wait() // so that nobody is in the middle of a write
	w.look()
	w.budget()
	w.lives++
	next := filepath.Join(w.dir, strconv.Itoa(w.lives))
	if err := os.CopyFS(next, os.DirFS(w.conf.id.StateDir)); err != nil {
		w.v.fault("copying the state: %v", err)
	}
	w.conf.id.StateDir = next
	w.conf.shared.Rand = rand.New(rand.NewPCG(w.s.With.Seed, uint64(7+w.lives)))
	l.mu.Lock()
	l.dead = true
	conns := slices.Collect(maps.Keys(l.conns))
	l.mu.Unlock()
	for _, c := range conns {
		if hard {
			_ = c.SetLinger(0)
		}
		_ = c.Close()
	}
	l.stop() // the rest of it has no network
	w.old = append(w.old, l)
	w.life = nil
}

// SetClock makes the clock of the device's machine wrong.
func (w *soakWorld) SetClock(ahead time.Duration) { w.clock.Set(ahead) }

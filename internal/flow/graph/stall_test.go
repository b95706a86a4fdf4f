package graph

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/internal/flow/node"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk/memdisk"
)

// Whatever holds up a graph is no silence of its sources: no window closes meanwhile by the clock.

// broker is a source that keeps what is published, and leaves only so many messages unacknowledged.
type broker struct {
	most int
	wake chan struct{}

	mu    sync.Mutex
	kept  []node.Message
	owed  int
	acked int
}

func newBroker(most int) *broker { return &broker{most: most, wake: make(chan struct{}, 1)} }

func (b *broker) rouse() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

func (b *broker) publish(m node.Message) {
	b.mu.Lock()
	b.kept = append(b.kept, m)
	b.mu.Unlock()
	b.rouse()
}

func (b *broker) next() (m node.Message, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.kept) == 0 || b.owed == b.most {
		return m, false
	}
	m, b.kept = b.kept[0], b.kept[1:]
	b.owed++
	return m, true
}

func (b *broker) Run(ctx context.Context, take func(node.Delivery) bool) error {
	for {
		for m, ok := b.next(); ok; m, ok = b.next() {
			if !take(node.Delivery{Message: m, From: b}) {
				return nil
			}
		}
		select {
		case <-b.wake:
		case <-ctx.Done():
			return nil
		}
	}
}

// Acked is heard by the broker a moment later, as over a network.
func (b *broker) Acked(tickets []uint64) {
	n := len(tickets)
	time.AfterFunc(10*time.Millisecond, func() {
		b.mu.Lock()
		b.owed -= n
		b.acked += n
		b.mu.Unlock()
		b.rouse()
	})
}

// hanging is a disk on which what is written to the journal takes until after a time to be safe.
type hanging struct {
	disk.FS
	since   time.Time
	howLong time.Duration
}

func (h hanging) Open(name string, flag int) (disk.File, error) {
	f, err := h.FS.Open(name, flag)
	if strings.HasSuffix(name, ".seg") {
		f = hangingFile{f, h}
	}
	return f, err
}

type hangingFile struct {
	disk.File
	h hanging
}

func (f hangingFile) Sync() error {
	if now := time.Now(); !now.Before(f.h.since) {
		time.Sleep(f.h.since.Add(f.h.howLong).Sub(now))
	}
	return f.File.Sync()
}

// minutes lets each source have a message each second for three minutes, dated. during is called
// before each.
func minutes(during func(second int), sources ...*broker) {
	for i := range 180 {
		during(i)
		for k, b := range sources {
			b.publish(at(time.Now(), fmt.Sprintf("%c%d", 'a'+k, i)))
		}
		time.Sleep(time.Second)
	}
	time.Sleep(time.Minute)
	synctest.Wait()
}

// wholeWindows checks that all messages came in windows of ten seconds, and each in its own.
func wholeWindows(t *testing.T, g *Graph, out *far, sources int) {
	t.Helper()
	equal(t, "late", g.Status().Late, 0)
	equal(t, "windows", len(out.bodies()), 18)
	for _, body := range out.bodies() {
		if n := strings.Count(body, "+") + 1; n != 10*sources {
			t.Errorf("a window of %d messages, want %d: %s", n, 10*sources, body)
		}
	}
}

// joined is a window of ten seconds behind some sources.
func joined(out node.Destination, sources ...*broker) Plan {
	p := chain(sources[0], out, &tumbling{length: 10 * time.Second})
	for i, b := range sources[1:] {
		name := fmt.Sprintf("in%d", i+2)
		p.Sources = append(p.Sources, SourceNode{Name: name, Source: b})
		p.Edges = append(p.Edges, Edge{From: name, To: "op1"})
	}
	return p
}

func TestAStallOfTheDiskIsNoSilenceOfTheSources(t *testing.T) {
	for name, most := range map[string][]int{"one source": {3}, "two sources": {3, 100}, "a full window": {2000, 2000}} {
		for _, hangs := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, hangs %v", name, hangs), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					disk, out := memdisk.New(), newFar()
					var sources []*broker
					for _, n := range most {
						sources = append(sources, newBroker(n))
					}
					p := joined(out, sources...)
					p.Settings.MaxMessages = 50
					o := crashOptions(disk)
					ill := time.Now().Add(33 * time.Second)
					if hangs {
						o.FS = hanging{disk, ill, time.Minute}
					} else {
						disk.SetFault(func(int, string, string) error {
							if now := time.Now(); now.Before(ill) || now.Sub(ill) > time.Minute {
								return nil
							}
							return memdisk.ErrSpace
						})
					}
					g, stop := start(t, p, o)
					defer stop()
					minutes(func(int) {}, sources...)
					wholeWindows(t, g, out, len(sources))
				})
			})
		}
	}
}

func TestAStallOfADestinationIsNoSilenceOfTheSources(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, out, side := newBroker(100), newBroker(100), newFar(), newFar()
		p := joined(out, a, b)
		p.Destinations = append(p.Destinations, DestinationNode{Name: "side", Destination: side})
		p.Edges = append(p.Edges, Edge{From: "in", To: "side"})
		p.Settings.MaxMessages = 5
		g, stop := start(t, p, testJournal(t))
		defer stop()
		minutes(func(second int) {
			switch second {
			case 33:
				side.mu.Lock()
				side.shut = true
				side.mu.Unlock()
			case 93:
				side.open()
			}
		}, a, b)
		wholeWindows(t, g, out, 2)
	})
}

func TestAnOperatorThatTakesItsTimeIsNoSilenceOfTheSources(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, out := newBroker(100), newBroker(100), newFar()
		p := joined(out, a, b)
		p.Operators = append(p.Operators, OperatorNode{Name: "slow", Op: mapFunc(func(m *node.Message) error {
			if string(m.Payload) == "a33" {
				time.Sleep(time.Minute)
			}
			return nil
		})})
		p.Edges[0] = Edge{From: "in", To: "slow"}
		p.Edges = append(p.Edges, Edge{From: "slow", To: "op1"})
		g, stop := start(t, p, testJournal(t))
		defer stop()
		minutes(func(int) {}, a, b)
		wholeWindows(t, g, out, 2)
	})
}

func TestAProcessThatWasHeldUpHearsItsSourcesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, out := newHand(), newFar()
		var lost atomic.Int64
		g, stop := start(t, chain(in, out, &tumbling{length: 10 * time.Second}), testJournal(t), func(g *Graph) {
			g.steady = func() time.Time { return time.Now().Add(time.Duration(lost.Load())) }
		})
		defer stop()
		now := time.Now()
		in.give(at(now, "1"))
		synctest.Wait()
		lost.Store(int64(time.Minute)) // the next timer, that of the checkpoint, comes a minute late
		time.Sleep(checkpointPause + time.Millisecond)
		synctest.Wait()
		in.give(at(now.Add(2*time.Second), "2"), at(now.Add(71*time.Second), "3")) // what came meanwhile
		synctest.Wait()
		equalAll(t, "out", out.bodies(), "1+2")
		equal(t, "late", g.Status().Late, 0)
		time.Sleep(time.Minute)
		synctest.Wait()
		equalAll(t, "out", out.bodies(), "1+2", "3")
	})
}

func TestASourceThatFailsIsNotSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, out := &unsteady{hand: newHand(), fail: make(chan struct{})}, newFar()
		p := chain(in, out, &tumbling{length: 10 * time.Second})
		p.Settings.RetryMin = 20 * time.Second
		g, stop := start(t, p, testJournal(t))
		defer stop()
		now := time.Now()
		in.give(at(now, "1"))
		synctest.Wait()
		in.fail <- struct{}{}
		synctest.Wait()
		in.give(at(now.Add(2*time.Second), "2"), at(now.Add(15*time.Second), "3")) // when it runs again
		synctest.Wait()
		equalAll(t, "out", out.bodies(), "1+2")
		equal(t, "late", g.Status().Late, 0)
	})
}

// unsteady is a source that fails when it is told to.
type unsteady struct {
	*hand
	fail chan struct{}
}

func (u *unsteady) Run(ctx context.Context, take func(node.Delivery) bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var err error
	go func() {
		select {
		case <-u.fail:
			err = errTest
			cancel()
		case <-ctx.Done():
		}
	}()
	_ = u.hand.Run(ctx, take)
	return err
}

func TestNoWindowClosesByTheClockWhileAGraphIsStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, out, side := newHand(), newFar(), newFar()
		side.shut = true // so stopping takes long
		p := chain(in, out, &tumbling{length: 10 * time.Second})
		p.Destinations = append(p.Destinations, DestinationNode{Name: "side", Destination: side})
		p.Edges = append(p.Edges, Edge{From: "in", To: "side"})
		o := testJournal(t)
		g, stop := start(t, p, o)
		now := time.Now()
		in.give(at(now, "1"))
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		g.Stop(ctx)
		stop()
		equalAll(t, "out", out.bodies())

		again := newHand()
		p.Sources[0].Source, p.Operators[0].Op = again, &tumbling{length: 10 * time.Second}
		g, stop = start(t, p, o)
		defer stop()
		again.give(at(now.Add(2*time.Second), "2"), at(now.Add(12*time.Second), "3")) // what came meanwhile
		synctest.Wait()
		equalAll(t, "out", out.bodies(), "1+2")
		equal(t, "late", g.Status().Late, 0)
	})
}

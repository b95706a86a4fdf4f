package graph

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/internal/flow/node"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk/memdisk"
)

// A history is several lives of a graph with one source or two. Each life ends by a kill or a power
// cut before a random call of the disk, or because it is stopped. Meanwhile the disk is full for a
// while, and the destination is away for a while. In the end nothing is lost, nothing has come
// twice that no kill explains, and each message is in the window of its own time, unless dates and
// clocks are unruly.

// keeper is a broker over the lives of a graph: it sends again what a life has not acknowledged.
type keeper struct {
	most int // that may be unacknowledged

	mu    sync.Mutex
	kept  []kept // in order
	sent  int    // of those, to this life
	next  uint64
	again map[string]bool // what was sent to two lives
	here  *visit
}

type kept struct {
	m      node.Message
	ticket uint64
}

func (k *keeper) publish(m node.Message) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.next++
	k.kept = append(k.kept, kept{m, k.next})
	if k.here != nil {
		k.here.rouse()
	}
}

// visit is a keeper as one life sees it.
type visit struct {
	k    *keeper
	gone *life
	wake chan struct{}
}

func (k *keeper) visit(l *life) *visit {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, x := range k.kept[:k.sent] {
		k.again[string(x.m.Payload)] = true
	}
	k.sent = 0
	k.here = &visit{k: k, gone: l, wake: make(chan struct{}, 1)}
	return k.here
}

func (v *visit) rouse() {
	select {
	case v.wake <- struct{}{}:
	default:
	}
}

func (v *visit) pick() (d node.Delivery, ok bool) {
	v.k.mu.Lock()
	defer v.k.mu.Unlock()
	if v.gone.isOver() || v.k.sent == min(len(v.k.kept), v.k.most) {
		return d, false
	}
	x := v.k.kept[v.k.sent]
	v.k.sent++
	x.m.Payload = slices.Clone(x.m.Payload)
	return node.Delivery{Message: x.m, From: v, Ticket: x.ticket}, true
}

func (v *visit) Run(ctx context.Context, take func(node.Delivery) bool) error {
	for {
		for d, ok := v.pick(); ok; d, ok = v.pick() {
			if !take(d) {
				return nil
			}
		}
		select {
		case <-v.wake:
		case <-ctx.Done():
			return nil
		}
	}
}

// Acked is heard by the broker a moment later, as over a network.
func (v *visit) Acked(tickets []uint64) {
	tickets = slices.Clone(tickets)
	time.AfterFunc(10*time.Millisecond, func() { v.heard(tickets) })
}

func (v *visit) heard(tickets []uint64) {
	defer v.rouse()
	v.k.mu.Lock()
	defer v.k.mu.Unlock()
	for _, t := range tickets {
		i := slices.IndexFunc(v.k.kept, func(x kept) bool { return x.ticket == t })
		if v.gone.isOver() || i < 0 {
			continue
		}
		v.k.kept = slices.Delete(v.k.kept, i, i+1)
		v.k.sent--
	}
}

// life is from a start of the graph to its end.
type life struct {
	mu   sync.Mutex
	over bool
}

func (l *life) isOver() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.over
}

func (l *life) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over = true
}

// door is a destination as one life sees it.
type door struct {
	*far
	gone *life
}

func (d door) Send(ctx context.Context, ms []node.Message, to node.Completion, tickets []uint64) (int, error) {
	if d.gone.isOver() {
		<-ctx.Done()
		return 0, ctx.Err()
	}
	return d.far.Send(ctx, ms, to, tickets)
}

// history is what happened to a graph, by a seed.
type history struct {
	rnd     *rand.Rand
	ops     func() []any  // of the graph: a window, or a delay
	length  time.Duration // of the window
	isNamed bool          // each output is named after the end of its window
	unruly  bool          // messages are dated at random, and the clock is set between lives
	kind    string        // of the operators that change between lives; empty: none do
	sources []*keeper
	out     *far
	born    map[string]time.Time // of each message
}

func (h *history) between(from, to time.Duration) time.Duration {
	return from + time.Duration(h.rnd.Int64N(int64(to-from)))
}

// live lets a graph live for a while on a disk. It returns the disk that is left.
func (h *history) live(t *testing.T, disk *memdisk.FS, last bool) *memdisk.FS {
	l := &life{}
	p := chain(h.sources[0].visit(l), door{h.out, l}, h.ops()...)
	if h.kind != "" {
		p = ruled(h.sources[0].visit(l), door{h.out, l}, h.kind, h.rnd.IntN(3), h.rnd.IntN(3))
	}
	for i, k := range h.sources[1:] {
		name := fmt.Sprintf("in%d", i+2)
		p.Sources = append(p.Sources, SourceNode{Name: name, Source: k.visit(l)})
		p.Edges = append(p.Edges, Edge{From: name, To: p.Edges[0].To})
	}
	p.Settings = Settings{MaxMessages: 10, JournalBytes: 1 << 20, MaxBytes: 64 << 10}
	ill := time.Now().Add(h.between(0, time.Minute))
	healed := ill.Add(h.between(0, 40*time.Second))
	calls, killAt := 0, 10+h.rnd.IntN(300)
	isCut := h.rnd.IntN(3) == 0
	limit := h.between(time.Second, 2*time.Minute)
	if last {
		limit = 5 * time.Hour // the time of a source may be as far behind as the clock was set
	}
	var left *memdisk.FS
	killed := make(chan struct{})
	cut := rand.New(rand.NewPCG(h.rnd.Uint64(), 0))
	end := func(disk *memdisk.FS) {
		l.end()
		if left = disk.Killed(); isCut {
			left = disk.PowerCut(cut)
		}
		close(killed)
	}
	disk.SetFault(func(int, string, string) error {
		if calls++; calls == killAt && !last {
			end(disk.Copied())
		}
		if now := time.Now(); !last && now.After(ill) && now.Before(healed) {
			return memdisk.ErrSpace
		}
		return nil
	})
	o := crashOptions(disk)
	o.Remake = remake
	if h.unruly {
		set := h.between(-2*time.Hour, 2*time.Hour)
		o.Now = func() time.Time { return time.Now().Add(set) }
	}
	g, stop := start(t, p, o)
	select {
	case <-killed:
	case <-time.After(limit):
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		if h.kind != "" && h.rnd.IntN(2) == 0 {
			g.StopFor(ctx, ruled(nil, nil, h.kind, h.rnd.IntN(3), h.rnd.IntN(3))) // perhaps the plan changes once more
		} else {
			g.Stop(ctx)
		}
		cancel()
		l.end()
	}
	stop()
	disk.SetFault(nil)
	if left == nil {
		left = disk.Killed()
	}
	return left
}

func playHistory(t *testing.T, seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 1))
	kinds := []string{"window", "early", "accumulate", "delay"}
	kind := kinds[rnd.IntN(len(kinds))]
	h := &history{rnd: rnd, isNamed: kind == "window" || kind == "accumulate", ops: memory[kind], length: 5 * time.Second, out: newFar(), born: map[string]time.Time{}}
	h.unruly = rnd.IntN(2) == 0
	if rnd.IntN(2) == 0 {
		h.kind, h.isNamed = kind, false
	}
	for range 1 + rnd.IntN(2) {
		h.sources = append(h.sources, &keeper{most: []int{3, 100}[rnd.IntN(2)], again: map[string]bool{}})
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var world sync.WaitGroup
	for i, k := range h.sources {
		rnd := rand.New(rand.NewPCG(seed, uint64(i)+2))
		world.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				body := fmt.Sprintf("%c%d", 'a'+i, n)
				h.out.mu.Lock()
				h.born[body] = time.Now()
				h.out.mu.Unlock()
				date := time.Now()
				if h.unruly {
					date = date.Add(time.Duration(rnd.Int64N(int64(40*time.Second))) - 20*time.Second)
				}
				k.publish(at(date, body))
				sleep(ctx, time.Duration(rnd.Int64N(int64(4*time.Second))))
			}
		})
	}
	world.Go(func() {
		rnd := rand.New(rand.NewPCG(seed, 9))
		for ctx.Err() == nil {
			sleep(ctx, time.Duration(rnd.Int64N(int64(time.Minute))))
			h.out.mu.Lock()
			h.out.shut = true
			h.out.mu.Unlock()
			sleep(ctx, time.Duration(rnd.Int64N(int64(40*time.Second))))
			h.out.open()
		}
	})
	disk := memdisk.New()
	for range 6 {
		disk = h.live(t, disk, false)
		sleep(ctx, time.Duration(rnd.Int64N(int64(20*time.Second))))
		h.out.mu.Lock()
		h.out.owed = nil
		h.out.mu.Unlock()
	}
	cancel()
	world.Wait()
	h.out.open()
	h.live(t, disk, true)
	h.check(t)
}

func (h *history) check(t *testing.T) {
	payloads, windows := map[string]string{}, map[string][]string{}
	for i := range h.out.got {
		m := &h.out.got[i]
		if before, ok := payloads[m.ID]; ok {
			if before != string(m.Payload) {
				t.Errorf("%s was %q and is %q", m.ID, before, m.Payload)
			}
			continue
		}
		payloads[m.ID] = string(m.Payload)
		if !slices.Contains(h.out.safe, m.ID) {
			continue // the destination has not said that it has it
		}
		for body := range strings.SplitSeq(strings.TrimSpace(string(m.Payload)), "+") {
			windows[body] = append(windows[body], m.ID)
		}
	}
	again := map[string]bool{}
	for _, k := range h.sources {
		for body := range k.again {
			again[body] = true
		}
		equal(t, "kept", len(k.kept), 0)
	}
	for body, born := range h.born {
		own := "/" + born.UTC().Truncate(h.length).Add(h.length).Format(time.RFC3339Nano) + "/"
		n := len(windows[body])
		switch {
		case n == 0:
			t.Errorf("%s is lost", body)
		case n > 1 && !again[body]:
			t.Errorf("%s is in %v", body, windows[body])
		case h.isNamed && !h.unruly && !slices.ContainsFunc(windows[body], func(id string) bool { return strings.Contains(id, own) }):
			t.Errorf("%s is in %v, want %s", body, windows[body], own)
		}
	}
}

// lives is how many histories are played; SEEDS in the environment says more.
var lives = func() int { n, _ := strconv.Atoi(os.Getenv("SEEDS")); return max(n, 100) }()

func TestTheLivesOfAGraph(t *testing.T) {
	for seed := 0; seed < lives; seed += few(1, 20) {
		t.Run(strconv.Itoa(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { playHistory(t, uint64(seed)) })
		})
	}
}

package outbox

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/telemetry/message"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk/memdisk"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/format"
)

// world is a box with a producer and a consumer who remember everything, on a disk that may fail
// and lose power.
type world struct {
	t    *testing.T
	seed uint64
	rnd  *rand.Rand
	disk *memdisk.FS
	o    Options
	b    *Box
	far  *consumer
	mu   sync.Mutex
	log  []string // what was done, for when it fails

	n       int               // bodies made
	safe    map[string]string // bodies that Append has promised, with their ids where those are sure
	soft    map[string]string // bodies that are in memory only
	rings   map[string]bool   // outbox ids of memory
	loose   []string          // of those that are safe, the newest: a power cut may take them
	flight  []Record
	acked   map[string]bool                       // bodies
	fault   func(call int, op, name string) error // of every disk that a crash leaves, too
	crashed bool
	ahead   bool // some records have been taken ahead of others
	blind   bool // the box was blind once, so positions may have been counted anew
}

func newWorld(t *testing.T, seed uint64, o Options) *world {
	w := &world{
		t: t, seed: seed, rnd: rand.New(rand.NewPCG(seed, 77)), disk: memdisk.New(), o: o, far: newConsumer(),
		safe: map[string]string{}, soft: map[string]string{}, rings: map[string]bool{}, acked: map[string]bool{},
	}
	w.o.Stamp = stampPositions
	w.o.Report = func(p Problem) {
		w.logf("  %v %s %d-%d: %s (%v)", p.Kind, p.ID, p.First, p.Last, p.Text, p.Err)
	}
	return w
}

func (w *world) logf(format string, args ...any) {
	w.mu.Lock() // the timer that syncs acknowledgements reports, too
	defer w.mu.Unlock()
	w.log = append(w.log, fmt.Sprintf(format, args...))
}

// sleep lets the timers of the box run. What they make a fault look at, it looks at under w.mu.
func (w *world) sleep(d time.Duration) {
	w.logf("sleep %v", d)
	time.Sleep(d)
	synctest.Wait()
}

func (w *world) fatalf(format string, args ...any) {
	w.t.Helper()
	w.t.Fatalf("seed %d: %s\n%s", w.seed, fmt.Sprintf(format, args...), strings.Join(w.log, "\n"))
}

func (w *world) open() {
	w.t.Helper()
	if w.fault != nil {
		w.disk.SetFault(w.fault)
	}
	w.o.FS = w.disk
	b, err := Open("/box", w.o)
	if err != nil {
		w.fatalf("Open: %v", err)
	}
	w.b, w.flight = b, nil
	w.blind = w.blind || b.isBlind()
	w.note()
}

// note looks where messages go now.
func (w *world) note() {
	s := w.b.Stats()
	if s.Degraded {
		for _, text := range w.loose {
			delete(w.safe, text)
			w.soft[text] = ""
		}
		w.loose = nil
	} else {
		w.loose = w.loose[max(len(w.loose)-int(s.Unsynced), 0):]
	}
	if !s.Degraded {
		maps.Copy(w.safe, w.soft)
		clear(w.soft)
	} else if s.ID != w.b.id.String() {
		w.rings[s.ID] = true
	}
}

func (w *world) append(k, size int) {
	w.t.Helper()
	before := w.b.Stats()
	ms := make([]message.Message, k)
	var made []string
	for i := range ms {
		w.n++
		text := fmt.Sprintf("%d %s", w.n, strings.Repeat(".", w.rnd.IntN(size)))
		made = append(made, text)
		ms[i].Body = []byte(text)
	}
	if err := w.b.TryAppend(ms...); err != nil {
		if !errors.Is(err, ErrFull) || w.o.Full != Block {
			w.fatalf("append: %v", err)
		}
		return
	}
	if w.o.SyncEvery > 0 {
		w.loose = append(w.loose, made...)
		for _, text := range made {
			w.safe[text] = "" // it may get another one
		}
		w.note()
		w.logf("append %d..%d: %d of %d unsynced", w.n-k+1, w.n, len(w.loose), w.b.Stats().Queued)
		return
	}
	w.note()
	after := w.b.Stats()
	w.logf("append %d..%d: %s seq %d, degraded %v", w.n-k+1, w.n, after.ID, after.LastSeq, after.Degraded)
	for i, text := range made {
		id := ""
		if after.ID == before.ID && after.LastSeq == before.LastSeq+uint64(k) {
			id = fmt.Sprintf("%s-%d", after.ID, before.LastSeq+1+uint64(i))
		}
		if after.Degraded {
			w.soft[text] = id
		} else {
			w.safe[text] = id
		}
	}
}

// fetch takes what comes next; all of it arrives, in this order.
func (w *world) fetch(limit int) {
	w.t.Helper()
	after := uint64(0)
	if n := len(w.flight); n > 0 {
		after = w.flight[n-1].Pos
	}
	r := tryNext(w.t, w.b, after, limit)
	w.logf("fetch behind %d: %v", after, idsOf(r))
	for i, x := range r {
		if x.Gap != "" {
			w.logf("  %s tells %s", x.ID, x.Gap)
		}
		if !w.blind && !isStamped(x) {
			w.fatalf("%s was stamped with another position than %d: %v", x.ID, x.Pos, x.Created)
		}
		if i > 0 && x.Pos <= r[i-1].Pos || x.Pos <= after {
			w.fatalf("place %d comes too late", x.Pos)
		}
		_, again := w.far.received[x.ID]
		if old, again := w.far.received[x.ID]; again && old != string(x.Body) {
			w.fatalf("id %s names %q and %q", x.ID, old, x.Body)
		}
		box, seq := splitID(w.t, x.ID)
		if !again && seq < w.far.top[box] && !w.far.gaps[box][seq] && !w.ahead { // a drop that a failing disk could not note down may be undone by a crash
			w.fatalf("%s comes behind %d", x.ID, w.far.top[box])
		}
		w.far.take(w.t, x)
	}
	w.flight = append(w.flight, r...)
}

// fetchAhead takes the newest, ahead of the others, and acknowledges them.
func (w *world) fetchAhead(n int) {
	w.t.Helper()
	after := w.b.Newest(n)
	if after == 0 || !w.b.Has(after) {
		return
	}
	w.ahead = true
	r := tryNext(w.t, w.b, after, n)
	w.logf("fetch ahead, behind %d: %v", after, idsOf(r))
	for _, x := range r {
		if x.Gap != "" {
			w.logf("  %s tells %s", x.ID, x.Gap)
		}
		w.far.take(w.t, x)
		w.acked[string(x.Body)] = true
	}
	ackAll(w.t, w.b, r)
	w.flight = nil
}

func (w *world) ack() {
	w.t.Helper()
	for i := w.rnd.IntN(len(w.flight) + 1); i > 0; i-- {
		at := min(w.rnd.IntN(len(w.flight)), w.rnd.IntN(len(w.flight)))
		w.acked[string(w.flight[at].Body)] = true
		w.logf("ack %s", w.flight[at].ID)
		if err := w.b.Ack(w.flight[at].Pos); err != nil {
			w.fatalf("ack: %v", err)
		}
		w.flight = slices.Delete(w.flight, at, at+1)
	}
}

func (w *world) ackAll() {
	w.t.Helper()
	for _, r := range w.flight {
		w.acked[string(r.Body)] = true
	}
	ackAll(w.t, w.b, w.flight)
	w.flight = nil
}

// crash ends the process. What is only in memory is gone.
func (w *world) crash(power bool) {
	w.logf("crash, power %v", power)
	old := w.b
	w.disk.SetFault(nil) // what its owner does from now on is no part of the run
	if power {
		for _, text := range w.loose {
			delete(w.safe, text)
		}
		w.loose = nil
		w.disk = w.disk.PowerCut(w.rnd)
	} else {
		w.disk = w.disk.Killed()
	}
	w.crashed = true
	clear(w.soft)
	old.fs = memdisk.New() // the dead write nothing
	_ = old.Close()
	w.open()
}

func (w *world) close() {
	err := w.b.Close()
	w.logf("close: %v", err)
	if err == nil {
		maps.Copy(w.safe, w.soft)
	} else { // it says that they are lost
		for _, text := range w.loose {
			delete(w.safe, text)
		}
	}
	w.loose = nil
	clear(w.soft)
}

// settle heals the disk, lets everything arrive and balances the account. lossless: nothing may
// have been dropped.
func (w *world) settle(lossless bool) {
	w.t.Helper()
	w.logf("heal")
	w.fault = nil
	w.disk.SetFault(nil)
	w.close()
	w.open()
	if w.b.Stats().Degraded {
		w.fatalf("degraded on a good disk")
	}
	turns := 2 * format.MaxGaps // so that every gap finds somebody to tell it
	if lossless {
		turns = 2
	}
	for range turns {
		w.append(1, 2)
		if err := w.b.Sync(); err != nil {
			w.fatalf("sync: %v", err)
		}
		for w.b.Stats().Queued > 0 {
			w.fetch(10)
			w.ackAll()
		}
	}
	if w.b.Stats().Queued > 0 {
		w.fatalf("%d left", w.b.Stats().Queued)
	}
	arrived := map[string]bool{}
	for _, text := range w.far.received {
		arrived[text] = true
	}
	for text, id := range w.safe {
		if arrived[text] {
			if id != "" && w.far.received[id] != text {
				w.fatalf("%q should have come as %s, which is %q", text, id, w.far.received[id])
			}
			continue
		}
		box, seq := "", uint64(0)
		if id != "" {
			box, seq = splitID(w.t, id)
		}
		isTold := id == "" || w.far.gaps[box][seq] || seq > w.far.top[box] || w.isUntold(box)
		if lossless || !isTold {
			w.fatalf("%q (%s) was promised and never came", text, id)
		}
	}
	for _, id := range w.far.unaccounted() {
		if box, _ := splitID(w.t, id); (!w.rings[box] || !w.crashed) && !w.isUntold(box) {
			w.fatalf("%s is not accounted for", id)
		}
	}
	if lossless && len(w.far.gaps) > 0 {
		w.fatalf("gaps were told of: %v", w.far.gaps)
	}
	closeBox(w.t, w.b)
}

// isUntold says of an outbox id that what is dropped of it may be told by nobody: it has ended, and
// its last records went ahead.
func (w *world) isUntold(box string) bool { return w.ahead && w.rings[box] }

// present checks that what was promised and has not arrived is in the line.
func (w *world) present() {
	w.t.Helper()
	if w.b.tail != nil {
		return // some of it is held back until the disk takes it
	}
	if w.o.SyncEvery > 0 {
		if err := w.b.Sync(); err != nil {
			w.fatalf("sync: %v", err)
		}
		if w.note(); len(w.soft) > 0 {
			return
		}
	}
	here := map[string]bool{}
	for _, r := range queued(w.t, w.b) {
		here[string(r.Body)] = true
	}
	for _, text := range w.far.received {
		here[text] = true
	}
	for text, id := range w.safe {
		if !here[text] {
			w.fatalf("%q (%s) is not in the line any more: %s", text, id, w.b.dump())
		}
	}
}

// rest lets everything arrive that can be read now, and sleeps until the box rests, if it can.
func (w *world) rest() {
	w.t.Helper()
	for range 100 {
		if w.fetch(20); len(w.flight) == 0 {
			break
		}
		w.ackAll()
	}
	w.sleep(3 * time.Second)
}

// step does something.
func (w *world) step(drops bool) {
	w.t.Helper()
	switch p := w.rnd.IntN(100); {
	case p < 40:
		w.append(1+w.rnd.IntN(5), 300)
	case p < 60:
		w.fetch(1 + w.rnd.IntN(10))
	case p < 80:
		w.ack()
	case p < 84:
		w.flight = nil // another link: all over again
		if w.seed%2 == 1 {
			w.fetchAhead(1 + w.rnd.IntN(20))
		}
	case p < 86:
		w.rest()
	case p < 88:
		w.sleep(time.Duration(w.rnd.IntN(7000)) * time.Millisecond)
	case p < 91:
		w.close()
		w.open()
	case p < 94:
		w.crash(false)
	case p < 97:
		w.crash(true)
	default:
		if drops && len(w.flight) > 0 {
			at := w.rnd.IntN(len(w.flight))
			w.logf("quarantine %s", w.flight[at].ID)
			if err := w.b.Quarantine(w.flight[at].Pos, errors.New("poison")); err != nil {
				w.fatalf("quarantine: %v", err)
			}
			w.flight = w.flight[:at]
		}
	}
	w.note()
}

var moreSeeds = flag.Int("seeds", 1, "how many times the usual number of seeds")

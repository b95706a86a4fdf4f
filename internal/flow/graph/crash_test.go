package graph

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/internal/flow/node"
	"github.com/hubhop-iot/hubhop/internal/racing"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk/memdisk"
)

// A run of a graph is recorded call by call of its disk. Each moment before such a call is one at
// which the process may be killed, or the power may fail. From each of them the graph is started
// again, and the source hands in again what was not acknowledged.

// moment is what was true before a call.
type moment struct {
	call     string
	disk     *memdisk.FS
	acked    map[uint64]bool
	received map[string]string // payloads by id
	safe     []string          // ids of those that will not be lost, because the destination has said so
}

// memory is a graph of each kind that remembers something.
var memory = map[string]func() []any{
	"window":     func() []any { return []any{&tumbling{length: 5 * time.Second}} },
	"early":      func() []any { return []any{&tumbling{length: 5 * time.Second, most: 3}} },
	"accumulate": func() []any { return []any{tumble(5 * time.Second), foldFunc(join)} },
	"delay":      func() []any { return []any{mapDelay("")} },
	"last":       func() []any { return []any{&lastSeen{}} },
}

const crashMessages = 20

func crashMessage(n uint64) node.Message { return at(sec(float64(n)), strconv.FormatUint(n, 10)) }

// crashSettings let only messages move the time, and keep the files small, of which there are many
// copies.
var crashSettings = Settings{Idle: time.Hour, JournalBytes: 1 << 20, MaxBytes: 64 << 10}

func crashOptions(disk *memdisk.FS) Options { return Options{Dir: "/g", FS: disk} }

// record runs a graph, and returns its moments, and what a run without an end gives out.
func record(t *testing.T, ops func() []any) (all []moment, whole map[string]string) {
	synctest.Test(t, func(t *testing.T) {
		disk, in, out := memdisk.New(), newHand(), newFar()
		p := chain(in, out, ops()...)
		p.Settings = crashSettings
		disk.SetFault(func(_ int, op, name string) error {
			m := moment{call: op + " " + name, disk: disk.Copied(), acked: map[uint64]bool{}, received: out.byID()}
			out.mu.Lock()
			m.safe = slices.Clone(out.safe)
			out.mu.Unlock()
			in.mu.Lock()
			for _, n := range in.acked {
				m.acked[n] = true
			}
			in.mu.Unlock()
			all = append(all, m)
			return nil
		})
		_, stop := start(t, p, crashOptions(disk))
		for n := uint64(1); n <= crashMessages; n++ {
			out.mu.Lock()
			out.shut = n%7 > 3 // what comes out is not safe at once
			isOpen := !out.shut
			out.mu.Unlock()
			if isOpen {
				out.open()
			}
			in.give(crashMessage(n))
			synctest.Wait()
			if n%4 == 0 {
				time.Sleep(2 * time.Second) // time for a checkpoint
			}
		}
		out.open()
		in.give(at(sec(1000), "end"))
		time.Sleep(2 * time.Second)
		synctest.Wait()
		whole = out.byID()
		stop()
		disk.SetFault(nil)
	})
	return all, whole
}

func (f *far) byID() map[string]string {
	f.mu.Lock()
	defer f.mu.Unlock()
	ids := map[string]string{}
	for i := range f.got {
		ids[f.got[i].ID] = string(f.got[i].Payload)
	}
	return ids
}

// goOn starts a graph again on a disk. It returns what comes out, in order.
func (m *moment) goOn(t *testing.T, disk *memdisk.FS, ops []any, log func(string)) (out []node.Message) {
	synctest.Test(t, func(t *testing.T) {
		in, far := newHand(), newFar()
		p := chain(in, far, ops...)
		p.Settings = crashSettings
		o := crashOptions(disk)
		o.Log = log
		g, stop := start(t, p, o)
		defer stop()
		for n := uint64(1); n <= crashMessages; n++ {
			if !m.acked[n] {
				in.give(crashMessage(n))
			}
		}
		in.give(at(sec(1000), "end"), at(sec(2000), "end"))
		synctest.Wait()
		if s := g.Status(); s.InFlight != 0 || s.Text != "" || s.Errors != 0 {
			t.Errorf("at the end: %+v", s)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		g.Stop(ctx)
		out = far.got
	})
	return out
}

// check says what is wrong with what came out after a moment.
func (m *moment) check(t *testing.T, out []node.Message) {
	t.Helper()
	seen := map[uint64]int{}
	note := func(payload string) (first uint64) {
		for _, part := range strings.FieldsFunc(payload, func(r rune) bool { return r == '+' || r == '<' || r == ' ' }) {
			if n, err := strconv.ParseUint(part, 10, 64); err == nil {
				seen[n]++
				if first == 0 {
					first = n
				}
			}
		}
		return first
	}
	ids := maps.Clone(m.received)
	for _, id := range m.safe {
		note(m.received[id])
	}
	top := uint64(0)
	for i := range out {
		payload := string(out[i].Payload)
		if before, again := ids[out[i].ID]; again && before != payload {
			t.Errorf("%s was %q and is %q", out[i].ID, before, payload)
		}
		ids[out[i].ID] = payload
		if first := note(payload); first != 0 && first < top && m.acked[first] {
			t.Errorf("%q comes behind %d", payload, top)
		} else {
			top = max(top, first)
		}
	}
	for n := uint64(1); n <= crashMessages; n++ {
		if seen[n] == 0 {
			t.Errorf("%d is lost", n)
		}
	}
}

// few returns n: a test plays each n-th case. n is larger with -short, and far larger under the
// race detector, which has seen the goroutines when it has seen a life of each kind.
func few(usual, underRace int) int {
	switch {
	case racing.On:
		return underRace
	case testing.Short():
		return 4 * usual
	}
	return usual
}

// sample picks some of many cases: one of so many, and the first of each kind.
type sample struct {
	every       int
	kinds       map[string]bool
	seen, taken int
}

// has says whether the next case, which has some kinds, is one of the sample.
func (s *sample) has(kinds ...string) bool {
	s.seen++
	has := s.seen%s.every == 0 || slices.ContainsFunc(kinds, func(k string) bool { return !s.kinds[k] })
	if !has {
		return false
	}
	s.taken++
	if s.kinds == nil {
		s.kinds = map[string]bool{}
	}
	for _, k := range kinds {
		s.kinds[k] = true
	}
	return true
}

func TestAGraphThatIsKilledGoesOnWithTheSameOutputs(t *testing.T) {
	for name, ops := range memory {
		t.Run(name, func(t *testing.T) {
			all, whole := record(t, ops)
			some := sample{every: few(1, 37)}
			for i := range all {
				m := &all[i]
				if !some.has(m.call) {
					continue
				}
				out := m.goOn(t, m.disk.Killed(), ops(), nil)
				m.check(t, out)
				// Unless the last message was in the journal and not yet acknowledged, so that it
				// came twice, everything is as if nothing had happened. (The first moments are
				// before there is a journal. The ids begin with that.)
				if len(m.acked) > 0 && !m.cameTwice(out) {
					got := maps.Clone(m.received)
					for k := range out {
						got[out[k].ID] = string(out[k].Payload)
					}
					for id, payload := range whole {
						if !strings.HasPrefix(payload, "end") && got[id] != payload {
							t.Errorf("%s: %s is %q, and was %q without a crash", m.call, id, got[id], payload)
						}
					}
				}
				if t.Failed() {
					t.Fatalf("moment %d of %d, before %s", i, len(all), m.call)
				}
			}
			t.Logf("%d moments of %d", some.taken, len(all))
		})
	}
}

// cameTwice says whether a message was handed in again although the journal had it.
func (m *moment) cameTwice(out []node.Message) bool {
	count := map[string]int{}
	seen := map[string]bool{}
	each := func(id, payload string) {
		if seen[id] {
			return
		}
		seen[id] = true
		for part := range strings.SplitSeq(payload, "+") {
			part, _, _ = strings.Cut(part, "<")
			count[strings.TrimSpace(part)]++
		}
	}
	for id, payload := range m.received {
		each(id, payload)
	}
	for i := range out {
		each(out[i].ID, string(out[i].Payload))
	}
	return slices.ContainsFunc(slices.Collect(maps.Keys(count)), func(k string) bool { return k != "end" && count[k] > 1 })
}

func TestAGraphSurvivesPowerCuts(t *testing.T) {
	for name, ops := range memory {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			all, _ := record(t, ops)
			rnd := rand.New(rand.NewPCG(1, 2))
			moments, disks := sample{every: few(1, 37)}, sample{every: few(3, 7)}
			for i := range all {
				m := &all[i]
				if !moments.has(m.call) {
					continue
				}
				m.disk.Disks(rnd, 0, func(disk *memdisk.FS, cut string) {
					if !disks.has(m.call, strings.TrimRight(cut, "0123456789of ")) {
						return
					}
					m.check(t, m.goOn(t, disk, ops(), func(text string) {
						if strings.Contains(text, "damaged") || strings.Contains(text, "lost") {
							t.Errorf("%s", text)
						}
					}))
					if t.Failed() {
						t.Fatalf("moment %d of %d, before %s, %s", i, len(all), m.call, cut)
					}
				})
			}
			t.Logf("%d moments of %d, %d disks of %d", moments.taken, moments.seen, disks.taken, disks.seen)
		})
	}
}

func TestTicksAreReplayed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk, in, out := memdisk.New(), newHand(), newFar()
		_, stop := start(t, chain(in, out, &tumbling{length: 10 * time.Second}), crashOptions(disk))
		out.shut = true
		in.give(text("1"))
		time.Sleep(10 * time.Second)
		in.give(text("2"))
		synctest.Wait()
		killed := disk.Killed()
		equalAll(t, "before", out.bodies(), "1")
		stop()

		again := newFar()
		in2 := newHand()
		_, stop = start(t, chain(in2, again, &tumbling{length: 10 * time.Second}), crashOptions(killed))
		defer stop()
		synctest.Wait()
		equalAll(t, "ids", again.ids(), out.ids()...)
		time.Sleep(time.Minute)
		synctest.Wait()
		equalAll(t, "payloads", again.bodies(), "1", "2")
	})
}

func TestWhatIsAcknowledgedIsInTheJournal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk, in, out := memdisk.New(), newHand(), newFar()
		g, stop := start(t, chain(in, out, &lastSeen{}), crashOptions(disk))
		defer stop()
		in.give(text("1"))
		synctest.Wait()
		equal(t, "acknowledged", in.ackedCount(), 1)
		disk.SetFault(func(int, string, string) error { return memdisk.ErrSpace })
		in.give(text("2"))
		time.Sleep(time.Minute)
		synctest.Wait()
		equal(t, "acknowledged while the disk is full", in.ackedCount(), 1)
		if s := g.Status(); s.State != Failing || !strings.Contains(s.Text, "journal") {
			t.Errorf("%+v", s)
		}
		disk.SetFault(nil)
		time.Sleep(time.Minute)
		synctest.Wait()
		equal(t, "acknowledged", in.ackedCount(), 2)
		equalAll(t, "out", out.bodies(), "1<", "2<1")
		if s := g.Status(); s.State != Running || s.Text != "" {
			t.Errorf("%+v", s)
		}
	})
}

func TestAChangedGraphTakesWhatTheOldOneLeft(t *testing.T) {
	for name, ops := range map[string][]any{
		"another that remembers": {&lastSeen{}, mapFunc(func(*node.Message) error { return nil })},
		"one that does not":      {mapFunc(func(m *node.Message) error { m.Payload = append(m.Payload, '!'); return nil })},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				disk, in, out := memdisk.New(), newHand(), newFar()
				_, stop := start(t, chain(in, out, &tumbling{length: time.Hour}), crashOptions(disk))
				in.give(text("1"))
				time.Sleep(5 * time.Second) // a checkpoint has it: it is in a window of the old graph
				in.give(text("2"), text("3"))
				synctest.Wait()
				killed := disk.Killed()
				stop()

				var said logs
				o := crashOptions(killed)
				o.Log = said.add
				next := newFar()
				_, stop = start(t, chain(newHand(), next, ops...), o)
				time.Sleep(5 * time.Second)
				want := []string{"2<", "3<2"}
				if len(ops) == 1 {
					want = []string{"2!", "3!"}
				}
				equalAll(t, "out", next.bodies(), want...)
				stop()
				equal(t, "said", said.count("has changed"), 1)

				third := newFar()
				_, stop = start(t, chain(newHand(), third, ops...), o)
				time.Sleep(5 * time.Second)
				equalAll(t, "out again", third.bodies())
				stop()
				equal(t, "said", said.count("has changed"), 1)
			})
		})
	}
}

func TestACheckpointThatIsDamagedIsSetAside(t *testing.T) {
	for name, damage := range map[string]func([]byte) []byte{
		"a bit":   func(b []byte) []byte { b[len(b)-1]++; return b },
		"its end": func(b []byte) []byte { return b[:len(b)-1] },
		"all":     func([]byte) []byte { return nil },
	} {
		t.Run(name, func(t *testing.T) { synctest.Test(t, func(t *testing.T) { damagedCheckpoint(t, damage) }) })
	}
}

func damagedCheckpoint(t *testing.T, damage func([]byte) []byte) {
	disk, in, out := memdisk.New(), newHand(), newFar()
	_, stop := start(t, chain(in, out, &lastSeen{}), crashOptions(disk))
	in.give(text("1"))
	time.Sleep(5 * time.Second)
	in.give(text("2"))
	synctest.Wait()
	killed := disk.Killed()
	stop()
	killed.Edit("/g/checkpoint", damage)
	var said logs
	o := crashOptions(killed)
	o.Log = said.add
	next := newFar()
	g, stop := start(t, chain(newHand(), next, &lastSeen{}), o)
	synctest.Wait()
	equalAll(t, "out", next.bodies(), "2<")
	equal(t, "said", said.count("damaged"), 1)
	s := g.Status()
	equal(t, "errors", s.Errors, 1)
	equal(t, "the status says it", strings.Contains(s.Text, "the graph has forgotten what it remembered"), true)
	stop()
	if killed.File("/g/checkpoint.bad") == nil {
		t.Error("the file is gone")
	}
}

// TestARecordThatIsDamagedCountsAsAnError, and the status says it.
func TestARecordThatIsDamagedCountsAsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk, in, out := memdisk.New(), newHand(), newFar()
		out.shut = true
		_, stop := start(t, chain(in, out, &lastSeen{}), crashOptions(disk))
		for _, body := range []string{"first", "second", "third"} {
			in.give(text(body))
			synctest.Wait()
		}
		killed := disk.Killed()
		stop()
		names, err := killed.List("/g/journal")
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			killed.Edit("/g/journal/"+name, func(b []byte) []byte { return bytes.Replace(b, []byte("second"), []byte("sec0nd"), 1) })
		}
		next := newFar()
		o := crashOptions(killed)
		g, stop := start(t, chain(newHand(), next, &lastSeen{}), o)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		defer stop()
		s := g.Status()
		equal(t, fmt.Sprintf("errors among %q of %+v", next.bodies(), s), s.Errors, 1)
		equal(t, "the status says it: "+s.Text, strings.Contains(s.Text, "1 messages are missing"), true)
	})
}

// checkpoints counts the checkpoints that are written to a disk.
func checkpoints(disk *memdisk.FS) *atomic.Int64 {
	var n atomic.Int64
	disk.SetFault(func(_ int, op, name string) error {
		if op == "rename" && strings.HasPrefix(name, checkpointName) {
			n.Add(1)
		}
		return nil
	})
	return &n
}

func TestAKillUnderSteadyTrafficRepeatsASecond(t *testing.T) {
	for name, op := range map[string]func() any{
		"last":   func() any { return &lastSeen{} },
		"window": func() any { return &tumbling{length: time.Second} },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				disk, in, out := memdisk.New(), newHand(), newFar()
				written := checkpoints(disk)
				_, stop := start(t, chain(in, out, op()), crashOptions(disk))
				defer stop()
				began := time.Now()
				for i := 1; i <= 300; i++ {
					in.give(at(time.Now(), strconv.Itoa(i)))
					time.Sleep(100 * time.Millisecond)
					if i%37 > 0 {
						continue
					}
					synctest.Wait()
					next := newFar()
					_, stop := start(t, chain(newHand(), next, op()), crashOptions(disk.Killed()))
					synctest.Wait()
					if n := len(next.ids()); n > 11 {
						t.Errorf("%d outputs come again of a kill after %v", n, time.Since(began))
					}
					stop()
				}
				synctest.Wait()
				if n := written.Load(); n < 25 || n > 31 {
					t.Errorf("%d checkpoints were written in 30 s", n)
				}
				time.Sleep(5 * time.Second)
				synctest.Wait()
				before := written.Load()
				time.Sleep(time.Hour)
				synctest.Wait()
				equal(t, "checkpoints of an idle hour", written.Load()-before, 0)
			})
		})
	}
}

// large remembers the last message, and ten MiB of nothing.
type large struct{ lastSeen }

func (l *large) Save(out []byte) []byte { return append(out, make([]byte, 10*checkpointEvery)...) }

func TestALargeCheckpointIsWrittenLessOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk, in, out := memdisk.New(), newHand(), newFar()
		written := checkpoints(disk)
		g, stop := start(t, chain(in, out, &large{}), crashOptions(disk))
		defer stop()
		for range 50 {
			in.give(text("x"))
			time.Sleep(2 * time.Second)
		}
		synctest.Wait()
		if n := written.Load(); n < 8 || n > 11 {
			t.Errorf("%d checkpoints of ten MiB were written in 100 s", n)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		equal(t, "journal", g.Status().Journal, 0)
	})
}

func TestAJournalIsGivenBackAsItIsCheckpointed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk, in, out := memdisk.New(), newHand(), newFar()
		p := chain(in, out, &lastSeen{})
		g, stop := start(t, p, crashOptions(disk))
		defer stop()
		big := strings.Repeat("x", 10_000)
		for range 1000 {
			in.give(text(big))
		}
		synctest.Wait()
		if s := g.Status(); s.Journal > 2*checkpointEvery {
			t.Errorf("%d bytes of the journal are not covered", s.Journal)
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		equal(t, "journal", g.Status().Journal, 0)
		bytes := 0
		for name, n := range disk.Names {
			if strings.HasPrefix(name, "/g/journal") {
				bytes += len(n.Data)
			}
		}
		if bytes > 3<<20 {
			t.Errorf("the journal has %d bytes on the disk", bytes)
		}
	})
}

func TestAFullJournalStopsTheSourceAndGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk, in, out := memdisk.New(), newHand(), newFar()
		p := chain(in, out, &lastSeen{})
		p.Settings.JournalBytes, p.Settings.MaxBytes = 2<<20, 100_000
		g, stop := start(t, p, crashOptions(disk))
		defer stop()
		out.shut = true
		in.give(text("first")) // is not safe, so no checkpoint covers what comes behind it
		synctest.Wait()
		out.mu.Lock()
		owed := out.owed
		out.owed, out.shut = nil, false
		out.mu.Unlock()
		go func() {
			for i := range 1000 {
				in.give(text(fmt.Sprintf("%d%s", i, strings.Repeat("x", 10_000))))
			}
		}()
		synctest.Wait()
		if s := g.Status(); s.In > 250 || !strings.Contains(s.Text, "journal") {
			t.Errorf("%+v", s)
		}
		owed[0]()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		equal(t, "out", g.Status().Out, 1001)
	})
}

func FuzzDecodeEvent(f *testing.F) {
	m := at(sec(1), "x")
	m.Snapshot = &node.Snapshot{Format: "png", Frame: []byte{1}}
	m.Expires = sec(5)
	f.Add(appendMessage(nil, "in", &m))
	f.Add(appendFlush(nil, []string{"w"}))
	f.Add(appendTick(nil, []SourceNode{{Name: "in"}}, []node.Time{{Nanos: 5}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := decodeEvent(b)
		if err != nil || !x.isMessage() {
			return
		}
		again, err := decodeEvent(appendMessage(nil, x.source, &x.m))
		if err != nil {
			t.Fatal(err)
		}
		if fmt.Sprintf("%+v", again) != fmt.Sprintf("%+v", x) && x.m.Snapshot == nil {
			t.Errorf("%+v became %+v", x, again)
		}
	})
}

package outbox

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk/memdisk"
)

// segmentSyncs counts the syncs of segments.
type segmentSyncs struct {
	*memdisk.FS
	n atomic.Int64
}

func (s *segmentSyncs) Open(name string, flag int) (disk.File, error) {
	f, err := s.FS.Open(name, flag)
	if err == nil && strings.HasSuffix(name, segSuffix) {
		f = countedSync{f, &s.n}
	}
	return f, err
}

type countedSync struct {
	disk.File
	n *atomic.Int64
}

func (f countedSync) Sync() error {
	f.n.Add(1)
	return f.File.Sync()
}

func TestRelaxedSyncsOncePerInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := &segmentSyncs{FS: memdisk.New()}
		b := openBox(t, "/box", Options{FS: disk, SyncEvery: 10 * time.Second})
		for n := range 1000 { // in 100 s
			appendBodies(t, b, body(n))
			time.Sleep(100 * time.Millisecond)
		}
		synctest.Wait()
		if n := disk.n.Load(); n < 9 || n > 11 {
			t.Errorf("%d syncs in ten intervals", n)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		before := disk.n.Load()
		time.Sleep(time.Hour)
		if s := b.Stats(); disk.n.Load() != before || s.Unsynced != 0 || s.Queued != 1000 || s.LastSeq != 1000 {
			t.Errorf("%d syncs while nothing happened; %+v", disk.n.Load()-before, s)
		}
		closeBox(t, b)
	})
}

func TestRelaxedHandsOutOnlyWhatIsSynced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := openBox(t, "/box", Options{FS: memdisk.New(), SyncEvery: time.Minute})
		appendBodies(t, b, bodies(1, 3)...)
		if s := b.Stats(); s.Queued != 3 || s.Unsynced != 3 || s.LastSeq != 3 || b.Has(0) || b.Ack(1) == nil {
			t.Errorf("%+v; Has %v", s, b.Has(0))
		}
		start := time.Now()
		r, err := next(t.Context(), b, 0, 10)
		if waited := time.Since(start); err != nil || len(r) != 3 || waited != time.Minute {
			t.Errorf("%v after %v: %v", idsOf(r), waited, err)
		}
		appendBodies(t, b, body(4))
		if err := b.Sync(); err != nil || !b.Has(3) || b.Stats().Unsynced != 0 {
			t.Errorf("after Sync: %v, %+v", err, b.Stats())
		}
		// Who waits for an empty line does not wait for the timer.
		appendBodies(t, b, body(5))
		empty := make(chan error)
		go func() { empty <- b.WaitEmpty(t.Context()) }()
		synctest.Wait()
		start = time.Now()
		ackAll(t, b, queued(t, b))
		if err := <-empty; err != nil || time.Since(start) != 0 {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		appendBodies(t, b, strings.Repeat("x", 700<<10))
		if b.Has(5) {
			t.Error("one large message was synced at once")
		}
		appendBodies(t, b, strings.Repeat("x", 700<<10)) // more than 1 MiB together
		if s := b.Stats(); !b.Has(5) || s.Unsynced > 1 {
			t.Errorf("%+v", s)
		}
		closeBox(t, b)
	})
}

// What was not synced survives a kill and may be taken by a power cut, from its end on; Close
// syncs; and seqs that a power cut gave back name nothing that anybody has seen.
func TestRelaxedCrashes(t *testing.T) {
	t.Parallel()
	took := map[int]bool{}
	for seed := range uint64(100 * *moreSeeds) {
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 5))
			disk := memdisk.New()
			o := Options{FS: disk, SyncEvery: time.Second}
			b := openBox(t, "/box", o)
			appendBodies(t, b, bodies(1, 3)...)
			time.Sleep(time.Second)
			synctest.Wait()
			appendBodies(t, b, bodies(4, 6)...)
			appendBodies(t, b, bodies(7, 9)...)

			o.FS = disk.Killed()
			killed := openBox(t, "/box", o)
			equalAll(t, "after a kill", bodiesOf(queued(t, killed)), bodies(1, 9))
			closeBox(t, killed)

			o.FS = disk.PowerCut(rnd)
			o.Report = func(p Problem) {
				if p.Kind != TornTail {
					t.Errorf("%v: %s", p.Kind, p.Text)
				}
			}
			cut := openBox(t, "/box", o)
			left := queued(t, cut)
			equalAll(t, "after a power cut", bodiesOf(left), bodies(1, max(len(left), 3)))
			took[9-len(left)] = true
			appendBodies(t, cut, "new")
			closeBox(t, cut)
			o.FS = o.FS.(*memdisk.FS).PowerCut(rnd)
			o.Report = nil
			again := openBox(t, "/box", o)
			r := queued(t, again)
			if n := len(r); n != len(left)+1 || r[n-1].ID != fmt.Sprintf("%s-%d", b.id, len(left)+1) || string(r[n-1].Body) != "new" {
				t.Errorf("Close has not synced: %q", idsOf(r))
			}
			closeBox(t, again)
			closeBox(t, b)
		})
	}
	if !took[0] || !took[6] || len(took) < 4 {
		t.Errorf("power cuts took only %v", took)
	}
}

// A disk that fails when it is time to sync does not lose what Append had returned nil for: it goes
// to memory, and back.
func TestRelaxedSyncFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk, reported := memdisk.New(), &reports{}
		b := openBox(t, "/box", Options{FS: disk, SyncEvery: time.Second, Report: reported.add})
		appendBodies(t, b, bodies(1, 3)...)
		failed := false
		disk.SetFault(func(_ int, op, name string) error {
			if op == "sync" && strings.HasSuffix(name, segSuffix) && !failed {
				failed = true
				return memdisk.ErrIO
			}
			return nil
		})
		time.Sleep(time.Second)
		synctest.Wait()
		r := queued(t, b)
		equalAll(t, "in a new segment", bodiesOf(r), bodies(1, 3))
		equal(t, "id", r[2].ID, b.id.Name(3))
		equal(t, "degraded", reported.count(Degraded), 0)

		appendBodies(t, b, bodies(4, 6)...)
		disk.SetFault(allFail)
		time.Sleep(time.Second)
		synctest.Wait()
		if s := b.Stats(); !s.Degraded || s.Unsynced != 0 || s.Queued != 6 {
			t.Errorf("%+v", s)
		}
		equalAll(t, "from memory", bodiesOf(queued(t, b)), bodies(1, 6))
		disk.SetFault(nil)
		time.Sleep(retryEvery)
		appendBodies(t, b, body(7))
		if err := b.Sync(); err != nil {
			t.Fatal(err)
		}
		equalAll(t, "back", bodiesOf(queued(t, b)), bodies(1, 7))

		appendBodies(t, b, body(8))
		disk.SetFault(allFail)
		if err := b.Close(); err == nil || !strings.Contains(err.Error(), "1 messages") {
			t.Errorf("Close: %v", err)
		}
		if err := b.Sync(); !errors.Is(err, ErrClosed) {
			t.Errorf("Sync: %v", err)
		}
	})
}

// Producers, a reader and the timer at once, on a disk that takes its time: what comes is in order
// and complete.
func TestRelaxedEverybodyAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := openBox(t, "/box", Options{FS: slowFS{memdisk.New()}, SyncEvery: 20 * time.Millisecond, MaxBytes: 256 << 10, Full: Block})
		const producers, each = 8, 100
		for range producers {
			go func() {
				for n := range each {
					appendBodies(t, b, body(n)+strings.Repeat(".", 100))
					time.Sleep(time.Millisecond)
				}
			}()
		}
		last := uint64(0)
		for last < producers*each {
			r, err := next(context.Background(), b, last, 64)
			if err != nil {
				t.Fatal(err)
			}
			for _, x := range r {
				if last++; x.Pos != last || x.ID != b.id.Name(last) {
					t.Fatalf("%s at %d, want %d", x.ID, x.Pos, last)
				}
			}
			ackAll(t, b, r)
		}
		closeBox(t, b)
	})
}

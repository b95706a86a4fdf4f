package outbox

import (
	"context"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/telemetry/message"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk/memdisk"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/format"
)

func TestNextOfParts(t *testing.T) {
	disk := memdisk.New()
	b := openBox(t, "/box", Options{FS: disk, MaxBytes: smallBox})
	defer func() { closeBox(t, b) }()
	appendBodies(t, b, bodies(1, 200)...) // several segments
	split := b.Newest(3)
	if split != 197 || b.Newest(200) != 0 || b.Newest(500) != 0 || b.Newest(199) != 1 {
		t.Fatalf("Newest(3) is %d, Newest(199) %d, Newest(200) %d", split, b.Newest(199), b.Newest(200))
	}
	next := func(parts ...Part) []string {
		t.Helper()
		r, err := nextOf(context.Background(), b, 1000, parts...)
		if err != nil {
			t.Fatal(err)
		}
		return bodiesOf(r)
	}
	equalAll(t, "the newest", next(Part{After: split}, Part{Until: split + 1}), bodies(198, 200))
	equalAll(t, "the others", next(Part{After: 200}, Part{Until: split + 1}), bodies(1, 197))
	equalAll(t, "a middle", next(Part{After: 50, Until: 61}), bodies(51, 60))
	if !b.Has(199) || b.Has(200) {
		t.Errorf("Has(199) %v, Has(200) %v", b.Has(199), b.Has(200))
	}
	// Damage in front of the bound is no concern of what is behind it.
	for pos := range uint64(10) {
		if err := b.Ack(51 + pos); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := nextOf(ctx, b, 10, Part{After: 50, Until: 61}); err == nil {
		t.Error("something came from an empty part")
	}
}

// A reader in an empty part waits, and what is appended ends its wait, in whichever part it is.
func TestNextOfWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := openBox(t, "/box", Options{FS: memdisk.New()})
		appendBodies(t, b, bodies(1, 5)...)
		got := make(chan []Record, 1)
		go func() {
			r, _ := nextOf(t.Context(), b, 10, Part{After: 5}, Part{After: 2, Until: 3})
			got <- r
		}()
		synctest.Wait()
		select {
		case r := <-got:
			t.Fatalf("%q came", bodiesOf(r))
		default:
		}
		appendBodies(t, b, body(6))
		equalAll(t, "then", bodiesOf(<-got), bodies(6, 6))
		closeBox(t, b)
	})
}

// Fresh records that are acknowledged ahead of a long backlog cost one span, and neither a kill nor
// a power cut after the sync makes them come again. Readers that leave too many holes are sent to
// the oldest.
func TestAcknowledgedAheadOfABacklog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := memdisk.New()
		o := Options{FS: disk}
		b := openBox(t, "/box", o)
		appendBodies(t, b, bodies(1, 5000)...)
		fresh, n := b.Newest(16), 5000
		for range 300 {
			n++
			appendBodies(t, b, body(n))
			r, err := nextOf(t.Context(), b, 64, Part{After: fresh}, Part{Until: fresh + 1})
			if err != nil {
				t.Fatal(err)
			}
			ackAll(t, b, r)
			fresh = r[len(r)-1].Pos
		}
		equal(t, "spans", len(b.acks.Spans), 1)
		equal(t, "queued", b.Stats().Queued, 4984)
		o.FS = disk.Killed()
		again := openBox(t, "/box", o)
		equal(t, "queued after a kill", again.Stats().Queued, 4984)

		for hole := range maxHoles + 5 { // every link finds a new backlog, and loses its connection before the old one is empty
			appendBodies(t, again, bodies(1, 20)...)
			after := again.Newest(4)
			if isFIFO := hole >= maxHoles-1; (after == 0) != isFIFO {
				t.Fatalf("hole %d: Newest is %d", hole, after)
			}
			if after == 0 {
				continue
			}
			r, err := next(t.Context(), again, after, 10)
			if err != nil || len(r) != 4 {
				t.Fatal(err, idsOf(r))
			}
			ackAll(t, again, r)
		}
		queued := again.Stats().Queued
		o.FS = o.FS.(*memdisk.FS).Killed()
		third := openBox(t, "/box", o)
		equal(t, "queued after the holes", third.Stats().Queued, queued)
		for _, x := range []*Box{b, again, third} {
			closeBox(t, x)
		}
	})
}

// A hub that acknowledges a backlog far out of order makes more spans than a slot has room for.
// Those that are left out come again after a kill; that of the fresh records, whose segments are
// deleted, must not be one of them.
func TestFarOutOfOrderBehindFreshOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := memdisk.New()
		o := Options{FS: disk, MaxBytes: 4 << 20}
		b := openBox(t, "/box", o)
		appendBodies(t, b, bodies(1, 5000)...)
		fresh, n := b.Newest(16), 5000
		for range 200 {
			appendBodies(t, b, bodies(n+1, n+100)...)
			n += 100
			for b.Has(fresh) {
				r, err := nextOf(t.Context(), b, 64, Part{After: fresh})
				if err != nil {
					t.Fatal(err)
				}
				ackAll(t, b, r)
				fresh = r[len(r)-1].Pos
			}
		}
		time.Sleep(3 * time.Second) // the slot is synced, whole segments are deleted
		acked := 0
		for pos := uint64(2); pos <= 400; pos += 2 {
			if err := b.Ack(pos); err != nil {
				t.Fatal(err)
			}
			acked++
		}
		time.Sleep(3 * time.Second)
		want := b.Stats().Queued
		o.FS = disk.Killed()
		again := openBox(t, "/box", o)
		if got := again.Stats().Queued; got < want || got > want+uint64(acked-format.MaxSpans+1) {
			t.Errorf("%d records come again", got-want)
		}
		equal(t, "damaged", again.Stats().Damaged, 0)
		equal(t, "gaps", len(again.gaps), 0)
		closeBox(t, again)
		closeBox(t, b)
	})
}

// Acknowledgements that come in one run and empty a segment behind one that still holds records
// make room for who waits for it.
func TestRunThatMakesRoomWakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := openBox(t, "/box", Options{FS: memdisk.New(), MaxBytes: 1 << 20, Full: Block})
		m := message.Message{Body: make([]byte, 4000)}
		for b.TryAppend(m) == nil {
		}
		appended := make(chan error, 1)
		go func() { appended <- b.Append(t.Context(), m) }()
		synctest.Wait()
		b.mu.Lock()
		var run []uint64
		for pos := b.segs[1].end - 1; pos < b.segs[2].end; pos++ {
			run = append(run, pos)
		}
		b.mu.Unlock()
		if err := b.Ack(run...); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		select {
		case err := <-appended:
			if err != nil {
				t.Error(err)
			}
		default:
			t.Error("it still waits")
			if err := b.Ack(1); err != nil {
				t.Fatal(err)
			}
			for pos := uint64(2); pos < run[0]; pos++ {
				_ = b.Ack(pos)
			}
			<-appended
		}
		closeBox(t, b)
	})
}

// Segments that left ahead of a backlog are deleted like others, and give their room back: a full
// outbox need not drop its backlog for what has arrived already.
func TestRoomComesBackAheadOfABacklog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := memdisk.New()
		o := Options{FS: disk, MaxBytes: smallBox}
		b := openBox(t, "/box", o)
		n := 0
		for b.Stats().QueuedBytes < smallBox-3*4096 {
			n++
			appendBodies(t, b, body(n))
		}
		backlog := n
		fresh := b.Newest(1)
		for range 4 * backlog { // four times what it holds
			n++
			appendBodies(t, b, body(n))
			r, err := next(t.Context(), b, fresh, 10)
			if err != nil {
				t.Fatal(err)
			}
			ackAll(t, b, r)
			fresh = r[len(r)-1].Pos
		}
		if s := b.Stats(); s.Dropped != 0 || int(s.Queued) != backlog-1 {
			t.Errorf("of %d: %+v", backlog, s)
		}
		names, _ := disk.List("/box")
		if len(names) > 64+10 {
			t.Errorf("%d files", len(names))
		}
		for _, left := range []*memdisk.FS{disk.Killed(), disk.PowerCut(rand.New(rand.NewPCG(1, 1)))} {
			o.FS = left
			again := openBox(t, "/box", o)
			r := queued(t, again)
			if len(r) < backlog-1 {
				t.Fatalf("%d are left of %d", len(r), backlog-1)
			}
			equalAll(t, "the backlog", bodiesOf(r[:backlog-1]), bodies(1, backlog-1))
			if s := again.Stats(); s.Damaged != 0 {
				t.Errorf("%+v", s)
			}
			ackAll(t, again, r)
			closeBox(t, again)
			names, _ := o.FS.List("/box")
			if len(names) > 3 {
				t.Errorf("left are %v", names)
			}
		}
		closeBox(t, b)
	})
}

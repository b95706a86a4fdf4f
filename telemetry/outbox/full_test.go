package outbox

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/telemetry/message"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk/memdisk"
)

// TestAppendOverTheBound: a program that stops may go over the bound with what it has in its
// hands; the bound holds for everybody else.
func TestAppendOverTheBound(t *testing.T) {
	box, err := Open(t.TempDir(), Options{MaxBytes: 1 << 20, Full: Block})
	if err != nil {
		t.Fatal(err)
	}
	m := message.Message{Body: make([]byte, 100<<10)}
	n := 0
	for ; box.TryAppend(m) == nil; n++ {
	}
	if err := box.AppendOver(m, m); err != nil {
		t.Fatal(err)
	}
	if err := box.TryAppend(m); !errors.Is(err, ErrFull) {
		t.Errorf("the bound is gone: %v", err)
	}
	read, last := 0, Record{}
	for read < n+2 {
		records, err := next(t.Context(), box, last.Pos, n+3)
		if err != nil {
			t.Fatal(err)
		}
		read, last = read+len(records), records[len(records)-1]
	}
	if !strings.HasSuffix(last.ID, fmt.Sprintf("-%d", n+2)) {
		t.Errorf("the last of %d records is %s", n+2, last.ID)
	}
	if err := box.Close(); err != nil {
		t.Error(err)
	}
}

func TestBlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := memdisk.New()
		b := openBox(t, "/box", Options{FS: disk, MaxBytes: 64 << 10, Full: Block})
		m := message.Message{Body: make([]byte, 1000)}
		n := uint64(0)
		for ; b.TryAppend(m) == nil; n++ {
		}
		if n < 50 || n > 64 {
			t.Errorf("%d records of 1 KB fit into 64 KiB", n)
		}
		equal(t, "LastSeq", b.Stats().LastSeq, n)

		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		start := time.Now()
		err := b.Append(ctx, m)
		cancel()
		if !errors.Is(err, ErrFull) || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		equal(t, "waited", time.Since(start), time.Minute)
		equal(t, "LastSeq after refusals", b.Stats().LastSeq, n)

		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if err := b.Append(t.Context(), m); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		equal(t, "LastSeq while they wait", b.Stats().LastSeq, n)
		after := uint64(0)
		for b.Stats().LastSeq < n+20 || b.Stats().Queued > 0 {
			r := tryNext(t, b, after, 3)
			after = r[len(r)-1].Pos
			ackAll(t, b, r)
			synctest.Wait()
		}
		wg.Wait()
		equal(t, "dropped", b.Stats().Dropped, 0)
		closeBox(t, b)
	})
}

func TestDropOldest(t *testing.T) {
	disk := memdisk.New()
	var got reports
	b := openBox(t, "/box", Options{FS: disk, MaxBytes: 64 << 10, Report: got.add})
	pad := strings.Repeat(".", 1000)
	for n := 1; n <= 200; n++ {
		appendBodies(t, b, fmt.Sprintf("%d%s", n, pad))
		if s := b.Stats(); s.QueuedBytes > 64<<10 {
			t.Fatalf("%d bytes queued", s.QueuedBytes)
		}
	}
	s := b.Stats()
	r := queued(t, b)
	equal(t, "queued and dropped", uint64(len(r))+s.Dropped, 200)
	if len(r) < 48 {
		t.Errorf("only %d kept", len(r))
	}
	equal(t, "the newest", r[len(r)-1].ID, fmt.Sprintf("%s-200", s.ID))
	equal(t, "gap", r[0].Gap, fmt.Sprintf("1-%d", s.Dropped))
	equal(t, "gap of the next", r[1].Gap, "")
	if got.count(Dropped) == 0 {
		t.Error("nobody was told")
	}
	size := 0
	for name, node := range disk.Names {
		if segNum(filepath.Base(name)) > 0 {
			size += len(node.Data)
		}
	}
	if size > 68<<10 {
		t.Errorf("%d bytes on disk", size)
	}
	// The gap outlives a crash, and is told until the record that tells it is acknowledged.
	closeBox(t, b)
	b = openBox(t, "/box", Options{FS: disk, MaxBytes: 64 << 10})
	r = queued(t, b)
	equal(t, "gap after a restart", r[0].Gap, fmt.Sprintf("1-%d", s.Dropped))
	ackAll(t, b, r[1:3])
	equal(t, "gap again", queued(t, b)[0].Gap, fmt.Sprintf("1-%d", s.Dropped))
	ackAll(t, b, r[:1])
	equal(t, "gap when it was told", queued(t, b)[0].Gap, "")
	closeBox(t, b)
}

// TestDropInFlight: records are dropped while they are in flight. Their acknowledgement comes
// late and changes nothing, and if one of them was to tell of a gap, the gap grows.
func TestDropInFlight(t *testing.T) {
	b := openBox(t, "/box", Options{FS: memdisk.New(), MaxBytes: 64 << 10})
	pad := strings.Repeat(".", 1000)
	fill := func(n int) {
		for range n {
			appendBodies(t, b, pad)
		}
	}
	fill(100)
	flight := tryNext(t, b, 0, 30)
	gap := flight[0].Gap
	if !strings.HasPrefix(gap, "1-") {
		t.Fatalf("gap %q", gap)
	}
	ackAll(t, b, flight[20:21])
	fill(20)
	before := b.Stats()
	ackAll(t, b, flight[:10]) // all dropped meanwhile
	equal(t, "queued", b.Stats().Queued, before.Queued)
	equal(t, "acked", b.Stats().Acked, before.Acked)
	r := tryNext(t, b, 0, 1)
	_, seq := splitID(t, r[0].ID)
	_, acked := splitID(t, flight[20].ID)
	switch {
	case seq < acked:
		equal(t, "gap", r[0].Gap, fmt.Sprintf("1-%d", seq-1))
	case seq == acked+1:
		equal(t, "gap", r[0].Gap, fmt.Sprintf("1-%d", acked-1))
	default:
		equal(t, "gap", r[0].Gap, fmt.Sprintf("%d-%d", acked+1, seq-1))
	}
	closeBox(t, b)
}

func TestMaxAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := openBox(t, "/box", Options{FS: memdisk.New(), MaxAge: time.Hour, MaxBytes: 64 << 10})
		appendBodies(t, b, "1", "2")
		time.Sleep(40 * time.Minute)
		appendBodies(t, b, "3")
		time.Sleep(20 * time.Minute)
		equal(t, "at the age exactly", len(queued(t, b)), 3)
		time.Sleep(time.Second)
		r := queued(t, b)
		equalAll(t, "left", bodiesOf(r), []string{"3"})
		equal(t, "gap", r[0].Gap, "1-2")
		equal(t, "dropped", b.Stats().Dropped, 2)
		ackAll(t, b, r)

		// Nobody reads: whole segments go when something is appended.
		for range 40 {
			appendBodies(t, b, strings.Repeat(".", 1000))
		}
		closeBox(t, b)
		b = openBox(t, "/box", Options{FS: b.fs, MaxAge: time.Hour, MaxBytes: 64 << 10})
		time.Sleep(2 * time.Hour)
		appendBodies(t, b, "new")
		if s := b.Stats(); s.Queued > 2 {
			t.Errorf("%d queued", s.Queued)
		}
		closeBox(t, b)
	})
}

// TestMaxAgeOverSeveralIDs: old records of several outbox ids, read together, leave a gap in
// each.
func TestMaxAgeOverSeveralIDs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := memdisk.New()
		for _, machine := range []string{"a", "b"} {
			b := openBox(t, "/box", Options{FS: disk, Machine: machine})
			appendBodies(t, b, bodies(1, 3)...)
			ackAll(t, b, queued(t, b)[1:2])
			time.Sleep(2 * time.Hour)
			appendBodies(t, b, "young "+machine)
			closeBox(t, b)
		}
		b := openBox(t, "/box", Options{FS: disk, MaxAge: 3 * time.Hour})
		time.Sleep(2 * time.Hour)
		r := queued(t, b)
		equalAll(t, "left", bodiesOf(r), []string{"young b"})
		equal(t, "gap", r[0].Gap, "1-3")
		equal(t, "dropped", b.Stats().Dropped, 5)
		equal(t, "gaps", len(b.gaps), 3) // of the old id, 1-1 and 4-4, which nobody is left to tell
		closeBox(t, b)
	})
}

// TestClockGoesBack: a clock that goes back makes nobody older.
func TestClockGoesBack(t *testing.T) {
	b := openBox(t, "/box", Options{FS: memdisk.New(), MaxAge: time.Hour})
	if err := b.Append(t.Context(), message.Message{Created: time.Now().Add(24 * time.Hour)}); err != nil {
		t.Fatal(err)
	}
	equal(t, "queued", len(queued(t, b)), 1)
	closeBox(t, b)
}

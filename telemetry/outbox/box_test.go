package outbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/telemetry/message"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk/memdisk"
)

// The contract, one promise per line. Each runs on a disk in memory and on the real one.
func TestContract(t *testing.T) {
	for _, c := range []struct {
		promise string
		o       Options
		test    func(t *testing.T, b *Box, reopen func() *Box)
	}{
		{"what goes in comes out, whole and in order", Options{}, func(t *testing.T, b *Box, _ func() *Box) {
			in := message.Message{
				Body: []byte(`{"a":1}`), ContentType: "application/json", ContentEncoding: "utf-8", Component: "engine",
				Created:    time.Date(2026, 2, 3, 4, 5, 6, 789_000_001, time.FixedZone("", 3600)),
				Properties: map[string]string{"k": "v", "": "empty", "z": ""},
			}
			if err := b.Append(t.Context(), in, message.Message{}); err != nil {
				t.Fatal(err)
			}
			r := queued(t, b)
			equal(t, "records", len(r), 2)
			got := r[0].Message
			if !got.Created.Equal(in.Created) || got.Created.Location() != time.UTC {
				t.Errorf("created %v", got.Created)
			}
			got.Created, in.Created = time.Time{}, time.Time{}
			equal(t, "message", fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", in))
			if age := time.Since(r[1].Created); age < 0 || age > time.Minute {
				t.Errorf("without a creation time: %v", r[1].Created)
			}
			equal(t, "empty body", len(r[1].Body), 0)
		}},
		{"ids: 16 hex digits, seq from 1 without gaps", Options{}, func(t *testing.T, b *Box, _ func() *Box) {
			appendBodies(t, b, bodies(1, 3)...)
			ids := idsOf(queued(t, b))
			if !regexp.MustCompile(`^[0-9a-f]{16}-1$`).MatchString(ids[0]) {
				t.Errorf("id %q", ids[0])
			}
			box := strings.TrimSuffix(ids[0], "-1")
			equalAll(t, "ids", ids, []string{box + "-1", box + "-2", box + "-3"})
			equal(t, "Stats.ID", b.Stats().ID, box)
			equal(t, "Stats.LastSeq", b.Stats().LastSeq, 3)
		}},
		{"a restart keeps ids, places and order", Options{}, func(t *testing.T, b *Box, reopen func() *Box) {
			appendBodies(t, b, bodies(1, 5)...)
			before := queued(t, b)
			b = reopen()
			after := queued(t, b)
			equalAll(t, "ids", idsOf(after), idsOf(before))
			equalAll(t, "bodies", bodiesOf(after), bodies(1, 5))
			equal(t, "place", after[4].Pos, before[4].Pos)
			appendBodies(t, b, body(6))
			equal(t, "next seq", b.Stats().LastSeq, 6)
		}},
		{"seqs go on when everything was acknowledged", Options{MaxBytes: 64 << 10}, func(t *testing.T, b *Box, reopen func() *Box) {
			id := b.Stats().ID
			for i := range 5 {
				for n := range 40 {
					appendBodies(t, b, fmt.Sprintf("%d %d %0*d", i, n, 200, 0))
				}
				ackAll(t, b, queued(t, b))
				b = reopen()
				equal(t, "queued", b.Stats().Queued, 0)
				equal(t, "LastSeq", b.Stats().LastSeq, uint64(40*(i+1)))
				equal(t, "ID", b.Stats().ID, id)
			}
		}},
		{"acknowledgements out of order, twice, and after a restart", Options{}, func(t *testing.T, b *Box, reopen func() *Box) {
			appendBodies(t, b, bodies(1, 6)...)
			r := queued(t, b)
			ackAll(t, b, []Record{r[1], r[3], r[1], r[4]})
			equalAll(t, "left", bodiesOf(queued(t, b)), []string{body(1), body(3), body(6)})
			equal(t, "Acked", b.Stats().Acked, 3)
			b = reopen()
			equalAll(t, "left after a restart", bodiesOf(queued(t, b)), []string{body(1), body(3), body(6)})
			ackAll(t, b, r)
			equal(t, "queued", b.Stats().Queued, 0)
			equal(t, "spans", len(b.acks.Spans), 0)
		}},
		{"a place that never was is an error", Options{}, func(t *testing.T, b *Box, _ func() *Box) {
			appendBodies(t, b, body(1))
			for _, pos := range []uint64{0, 2, 1 << 60} {
				if b.Ack(pos) == nil || b.Quarantine(pos, nil) == nil {
					t.Errorf("place %d was taken", pos)
				}
			}
		}},
		{"Read: behind a place, up to a limit, always at least one", Options{}, func(t *testing.T, b *Box, _ func() *Box) {
			big := strings.Repeat("x", maxBodies+1)
			appendBodies(t, b, "1", "2", "3", big, "5")
			r, err := next(t.Context(), b, 0, 2)
			if err != nil {
				t.Fatal(err)
			}
			equalAll(t, "first", bodiesOf(r), []string{"1", "2"})
			r, _ = next(t.Context(), b, r[1].Pos, 100)
			equalAll(t, "second", bodiesOf(r), []string{"3"})
			r, _ = next(t.Context(), b, r[0].Pos, 100)
			equal(t, "the big one alone", len(r), 1)
			r, _ = next(t.Context(), b, r[0].Pos, 0)
			equalAll(t, "limit 0", bodiesOf(r), []string{"5"})
		}},
		{"a quarantined record leaves a file and a gap", Options{}, func(t *testing.T, b *Box, reopen func() *Box) {
			appendBodies(t, b, bodies(1, 3)...)
			r := queued(t, b)
			if err := b.Quarantine(r[1].Pos, errors.New("poison")); err != nil {
				t.Fatal(err)
			}
			if err := b.Quarantine(r[1].Pos, errors.New("poison")); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				r = queued(t, b)
				equalAll(t, "left", bodiesOf(r), []string{body(1), body(3)})
				equal(t, "gap before it", r[0].Gap, "")
				equal(t, "gap behind it", r[1].Gap, "2-2")
				b = reopen()
			}
			f, err := b.fs.Open(filepath.Join(b.dir, quarantineName), os.O_RDONLY)
			if err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 4096)
			n, _ := f.ReadAt(buf, 0)
			_ = f.Close()
			line := string(buf[:n])
			if !strings.Contains(line, `"why":"poison"`) || !strings.Contains(line, `"body":"Ym9keSAy"`) || strings.Count(line, "\n") != 1 {
				t.Errorf("quarantine file: %s", line)
			}
			ackAll(t, b, queued(t, b))
			appendBodies(t, b, body(4))
			equal(t, "gap after it was told", queued(t, b)[0].Gap, "")
		}},
		{"a message that is too large is refused for good, and takes no seq", Options{MaxBytes: 32 << 20}, func(t *testing.T, b *Box, _ func() *Box) {
			err := b.Append(t.Context(), message.Message{Body: []byte("small")}, message.Message{Body: make([]byte, MaxRecord)})
			var p interface{ Permanent() bool }
			if !errors.Is(err, ErrTooLarge) || !errors.As(err, &p) || !p.Permanent() {
				t.Errorf("got %v", err)
			}
			if err := b.Append(t.Context(), message.Message{Body: make([]byte, MaxRecord-64)}); err != nil {
				t.Error(err)
			}
			many := make([]message.Message, 33)
			for i := range many {
				many[i].Body = make([]byte, MaxRecord-64)
			}
			if err := b.Append(t.Context(), many...); !errors.Is(err, ErrTooLarge) {
				t.Errorf("more than the box holds: %v", err)
			}
			equal(t, "LastSeq", b.Stats().LastSeq, 1)
			equal(t, "body", len(queued(t, b)[0].Body), MaxRecord-64)
		}},
		{"nothing at all is nothing", Options{}, func(t *testing.T, b *Box, _ func() *Box) {
			if err := errors.Join(b.Append(t.Context()), b.TryAppend(), b.WaitEmpty(t.Context())); err != nil {
				t.Error(err)
			}
			equal(t, "Queued", b.Stats().Queued, 0)
		}},
		{"a ctx that has ended does not keep a message out that has room", Options{}, func(t *testing.T, b *Box, _ func() *Box) {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if err := b.Append(ctx, message.Message{}); err != nil {
				t.Error(err)
			}
			if _, err := next(ctx, b, 0, 1); !errors.Is(err, context.Canceled) {
				t.Errorf("next: %v", err)
			}
		}},
		{"the figures", Options{}, func(t *testing.T, b *Box, _ func() *Box) {
			if err := b.Append(t.Context(), message.Message{Body: make([]byte, 1000)}, message.Message{}); err != nil {
				t.Fatal(err)
			}
			s := b.Stats()
			if s.QueuedBytes < 1000 || s.QueuedBytes > 1400 {
				t.Errorf("bytes: %d", s.QueuedBytes)
			}
			ackAll(t, b, queued(t, b)[:1])
			if s = b.Stats(); s.Queued != 1 || s.Appended != 2 || s.Acked != 1 {
				t.Errorf("after one ack: %+v", s)
			}
		}},
		{"another machine: a new outbox id for what comes, the old one for what is queued", Options{Machine: "a"}, func(t *testing.T, b *Box, reopen func() *Box) {
			appendBodies(t, b, bodies(1, 2)...)
			old := b.Stats().ID
			b.opt.Machine = "b"
			b = reopen()
			equal(t, "LastSeq", b.Stats().LastSeq, 0)
			appendBodies(t, b, body(3))
			b = reopen()
			appendBodies(t, b, body(4))
			now := b.Stats().ID
			if now == old {
				t.Error("the outbox id is still the same")
			}
			equalAll(t, "ids", idsOf(queued(t, b)), []string{old + "-1", old + "-2", now + "-1", now + "-2"})
			equalAll(t, "bodies", bodiesOf(queued(t, b)), bodies(1, 4))
			b.opt.Machine = ""
			b = reopen()
			equal(t, "not comparing", b.Stats().ID, now)
		}},
		{"Close: once is enough, and everything else says so", Options{}, func(t *testing.T, b *Box, reopen func() *Box) {
			appendBodies(t, b, body(1))
			closeBox(t, b)
			closeBox(t, b)
			_, err := next(t.Context(), b, 0, 1)
			for _, err := range []error{err, b.Append(t.Context(), message.Message{}), b.TryAppend(message.Message{}), b.Ack(1), b.Quarantine(1, nil), b.WaitEmpty(t.Context())} {
				if !errors.Is(err, ErrClosed) {
					t.Errorf("after Close: %v", err)
				}
			}
			equalAll(t, "left", bodiesOf(queued(t, reopen())), []string{body(1)})
		}},
	} {
		run := func(t *testing.T, dir string, disk disk.FS) {
			o := c.o
			o.FS = disk
			o.Report = func(p Problem) {
				if p.Kind != Quarantined {
					t.Errorf("problem: %v %s (%v)", p.Kind, p.Text, p.Err)
				}
			}
			b := openBox(t, dir, o)
			c.test(t, b, func() *Box {
				o.Machine = b.opt.Machine
				closeBox(t, b)
				b = openBox(t, dir, o)
				return b
			})
			closeBox(t, b)
		}
		t.Run(c.promise, func(t *testing.T) {
			run(t, filepath.Join(t.TempDir(), "new", "box"), nil)
			run(t, "/box", memdisk.New())
		})
	}
}

func TestNextWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := openBox(t, t.TempDir(), Options{})
		got := make(chan string, 1)
		go func() {
			r, err := next(t.Context(), b, 0, 1)
			if err != nil {
				t.Error(err)
			}
			got <- string(r[0].Body)
		}()
		synctest.Wait()
		if len(got) > 0 {
			t.Error("it did not wait")
		}
		appendBodies(t, b, "hello")
		equal(t, "body", <-got, "hello")

		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		start := time.Now()
		if _, err := next(ctx, b, 1, 1); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		equal(t, "waited", time.Since(start), time.Minute)
		closeBox(t, b)
	})
}

func TestWaitEmpty(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := openBox(t, t.TempDir(), Options{})
		appendBodies(t, b, "1", "2")
		done := make(chan error, 1)
		go func() { done <- b.WaitEmpty(t.Context()) }()
		synctest.Wait()
		ackAll(t, b, queued(t, b)[1:])
		synctest.Wait()
		if len(done) > 0 {
			t.Error("there is one left")
		}
		ackAll(t, b, queued(t, b))
		if err := <-done; err != nil {
			t.Error(err)
		}
		closeBox(t, b)
	})
}

func TestCloseUnblocksEverybody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := openBox(t, "/box", Options{FS: memdisk.New(), MaxBytes: 2000, Full: Block})
		for b.TryAppend(message.Message{Body: make([]byte, 100)}) == nil {
		}
		errs := make(chan error, 3)
		go func() { errs <- b.WaitEmpty(t.Context()) }()
		go func() { errs <- b.Append(t.Context(), message.Message{Body: make([]byte, 1000)}) }()
		go func() { _, err := next(t.Context(), b, 1000, 1); errs <- err }()
		synctest.Wait()
		closeBox(t, b)
		for range 3 {
			if err := <-errs; !errors.Is(err, ErrClosed) {
				t.Errorf("got %v", err)
			}
		}
	})
}

// An acknowledgement is written at once, and synced once after a second, whatever their number; an
// idle box does nothing.
func TestAckIsWrittenAtOnceAndSyncedSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := memdisk.New()
		b := openBox(t, "/box", Options{FS: disk})
		appendBodies(t, b, bodies(1, 50)...)
		r := queued(t, b)
		syncs, writes := disk.Count("sync"), disk.Count("write")
		ackAll(t, b, r[:40])
		equal(t, "syncs at once", disk.Count("sync")-syncs, 0)
		equal(t, "writes at once", disk.Count("write")-writes, 40)

		killed := openBox(t, "/box", Options{FS: disk.Killed()})
		equal(t, "queued after a kill", killed.Stats().Queued, 10)
		closeBox(t, killed)

		time.Sleep(syncEvery - time.Millisecond)
		synctest.Wait()
		equal(t, "syncs before the second is over", disk.Count("sync")-syncs, 0)
		time.Sleep(time.Millisecond)
		synctest.Wait()
		equal(t, "syncs after it", disk.Count("sync")-syncs, 1)
		cut := openBox(t, "/box", Options{FS: disk.PowerCut(disk.Rand)})
		equal(t, "queued after a power cut", cut.Stats().Queued, 10)
		closeBox(t, cut)

		calls := disk.Calls
		time.Sleep(time.Hour)
		synctest.Wait()
		equal(t, "calls while idle", disk.Calls-calls, 0)
		closeBox(t, b)
	})
}

func TestAckFarOutOfOrder(t *testing.T) {
	b := openBox(t, "/box", Options{FS: memdisk.New()})
	ms := make([]message.Message, 2*maxSpans+10)
	if err := b.Append(t.Context(), ms...); err != nil {
		t.Fatal(err)
	}
	refused := uint64(0)
	for pos := uint64(2); pos <= uint64(len(ms)); pos += 2 {
		if b.Ack(pos) != nil {
			refused++
		}
	}
	equal(t, "refused", refused, 5)
	equal(t, "queued", b.Stats().Queued, uint64(len(ms)-maxSpans))
	for pos := uint64(1); pos <= uint64(len(ms)); pos++ {
		if err := b.Ack(pos); err != nil {
			t.Fatal(err)
		}
	}
	equal(t, "queued at the end", b.Stats().Queued, 0)
	closeBox(t, b)
}

// What is queued is on the disk and nowhere else.
func TestMemoryDoesNotGrowWithTheBacklog(t *testing.T) {
	b := openBox(t, t.TempDir(), Options{})
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	ms := make([]message.Message, 1000)
	for i := range ms {
		ms[i].Body = make([]byte, 200)
	}
	before := heap()
	for range 100 {
		if err := b.Append(t.Context(), ms...); err != nil {
			t.Fatal(err)
		}
	}
	after := uint64(0)
	for after < 100_000 {
		r := tryNext(t, b, after, 64)
		after = r[len(r)-1].Pos
	}
	if now := heap(); now > before+3<<20 {
		t.Errorf("%d bytes of heap for a backlog of %d bytes", now-before, b.Stats().QueuedBytes)
	}
	closeBox(t, b)
}

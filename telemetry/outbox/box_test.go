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
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/telemetry/message"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk"
)

// A program that stops may go over the bound with what it has in its hands; the bound holds for
// everybody else.
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
			run(t, "/box", newMemFS())
		})
	}
}

func TestOptions(t *testing.T) {
	_, err := Open(t.TempDir(), Options{MaxBytes: -1, MaxAge: -1, Full: 7})
	for _, word := range []string{"MaxBytes", "MaxAge", "Full"} {
		if err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%v does not name %s", err, word)
		}
	}
}

func TestSecondOpenIsRefused(t *testing.T) {
	dir := t.TempDir()
	b := openBox(t, dir, Options{})
	if _, err := Open(dir, Options{}); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), dir) {
		t.Errorf("got %v", err)
	}
	closeBox(t, b)
	closeBox(t, openBox(t, dir, Options{}))
}

func TestOpenNeedsADirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(file, Options{}); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("got %v", err)
	}
}

func TestDirectoryIsPrivate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	b := openBox(t, dir, Options{})
	defer closeBox(t, b)
	appendBodies(t, b, "x")
	for name, want := range map[string]os.FileMode{"": 0o700, cursorName: 0o600, segName(1): 0o600, "lock": 0o600} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		equal(t, name, info.Mode().Perm(), want)
	}
}

// A directory of a newer format is left exactly as it is.
func TestOtherFormatIsRefused(t *testing.T) {
	refuse := func(t *testing.T, file string, version byte, want error) {
		disk := newMemFS()
		b := openBox(t, "/box", Options{FS: disk})
		appendBodies(t, b, "x")
		closeBox(t, b)
		disk.edit("/box/"+file, func(data []byte) []byte {
			magic := string(data[:8])
			newer := append([]byte(magic), version, 0, 0, 0)
			newer = le.AppendUint32(newer, checksum(newer))
			for at := range data {
				if strings.HasPrefix(string(data[at:]), magic) {
					copy(data[at:], newer)
				}
			}
			return data
		})
		before := disk.calls
		_, err := Open("/box", Options{FS: disk})
		if !errors.Is(err, want) || !strings.Contains(err.Error(), file) {
			t.Errorf("got %v", err)
		}
		equal(t, "calls that change something", disk.calls, before)
		if _, err := Open("/box", Options{FS: disk}); errors.Is(err, ErrLocked) {
			t.Error("the lock was kept")
		}
	}
	for _, file := range []string{cursorName, segName(1)} {
		refuse(t, file, 2, ErrNewer)
		refuse(t, file, 0, ErrOlder)
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
		b := openBox(t, "/box", Options{FS: newMemFS(), MaxBytes: 2000, Full: Block})
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
		disk := newMemFS()
		b := openBox(t, "/box", Options{FS: disk})
		appendBodies(t, b, bodies(1, 50)...)
		r := queued(t, b)
		syncs, writes := disk.count("sync"), disk.count("write")
		ackAll(t, b, r[:40])
		equal(t, "syncs at once", disk.count("sync")-syncs, 0)
		equal(t, "writes at once", disk.count("write")-writes, 40)

		killed := openBox(t, "/box", Options{FS: disk.killed()})
		equal(t, "queued after a kill", killed.Stats().Queued, 10)
		closeBox(t, killed)

		time.Sleep(syncEvery - time.Millisecond)
		synctest.Wait()
		equal(t, "syncs before the second is over", disk.count("sync")-syncs, 0)
		time.Sleep(time.Millisecond)
		synctest.Wait()
		equal(t, "syncs after it", disk.count("sync")-syncs, 1)
		cut := openBox(t, "/box", Options{FS: disk.powerCut(disk.rnd)})
		equal(t, "queued after a power cut", cut.Stats().Queued, 10)
		closeBox(t, cut)

		calls := disk.calls
		time.Sleep(time.Hour)
		synctest.Wait()
		equal(t, "calls while idle", disk.calls-calls, 0)
		closeBox(t, b)
	})
}

func TestAckFarOutOfOrder(t *testing.T) {
	b := openBox(t, "/box", Options{FS: newMemFS()})
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

func TestBlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := newMemFS()
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
	disk := newMemFS()
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
	for name, node := range disk.names {
		if segNum(filepath.Base(name)) > 0 {
			size += len(node.data)
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

// Records that are dropped while they are in flight: their acknowledgement comes late and changes
// nothing, and if one of them was to tell of a gap, the gap grows.
func TestDropInFlight(t *testing.T) {
	b := openBox(t, "/box", Options{FS: newMemFS(), MaxBytes: 64 << 10})
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
		b := openBox(t, "/box", Options{FS: newMemFS(), MaxAge: time.Hour, MaxBytes: 64 << 10})
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

// Old records of several outbox ids, read together, leave a gap in each.
func TestMaxAgeOverSeveralIDs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := newMemFS()
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

// A clock that goes back makes nobody older.
func TestClockGoesBack(t *testing.T) {
	b := openBox(t, "/box", Options{FS: newMemFS(), MaxAge: time.Hour})
	if err := b.Append(t.Context(), message.Message{Created: time.Now().Add(24 * time.Hour)}); err != nil {
		t.Fatal(err)
	}
	equal(t, "queued", len(queued(t, b)), 1)
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

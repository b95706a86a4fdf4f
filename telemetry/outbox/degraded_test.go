package outbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/telemetry/message"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk/memdisk"
)

func allFail(int, string, string) error { return memdisk.ErrSpace }

// The disk fails, and works again: ids of memory in between, everything arrives, in order, under
// ids that do not change.
func TestDegradedAndBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := memdisk.New()
		var got reports
		b := openBox(t, "/box", Options{FS: disk, Report: got.add})
		appendBodies(t, b, "1", "2")
		id := b.Stats().ID
		disk.SetFault(allFail)
		appendBodies(t, b, "3", "4")
		s := b.Stats()
		if !s.Degraded || s.ID == id || s.LastSeq != 2 || s.Queued != 4 {
			t.Errorf("degraded: %+v", s)
		}
		equal(t, "reported", got.count(Degraded), 1)
		if p := got.all[len(got.all)-1]; !errors.Is(p.Err, syscall.ENOSPC) || !strings.Contains(p.Text, "/box") {
			t.Errorf("reported: %+v", p)
		}
		before := queued(t, b)
		equalAll(t, "bodies", bodiesOf(before), []string{"1", "2", "3", "4"})
		ackAll(t, b, before[2:3]) // the first one in memory
		appendBodies(t, b, "5")

		disk.SetFault(nil)
		appendBodies(t, b, "6")
		if !b.Stats().Degraded {
			t.Error("the disk was tried again at once")
		}
		time.Sleep(retryEvery)
		appendBodies(t, b, "7")
		if b.Stats().Degraded {
			t.Error("still degraded")
		}
		equal(t, "reported", got.count(Recovered), 1)
		memory := s.ID
		check := func(b *Box) {
			t.Helper()
			r := queued(t, b)
			equalAll(t, "bodies", bodiesOf(r), []string{"1", "2", "4", "5", "6", "7"})
			equalAll(t, "ids", idsOf(r), []string{id + "-1", id + "-2", memory + "-2", memory + "-3", memory + "-4", id + "-3"})
			for _, x := range r {
				equal(t, "gap", x.Gap, "")
			}
		}
		check(b)
		killed := openBox(t, "/box", Options{FS: disk.Killed()})
		check(killed)
		appendBodies(t, killed, "8")
		equal(t, "seq goes on", killed.Stats().LastSeq, 4)
		equal(t, "id goes on", killed.Stats().ID, id)
		closeBox(t, killed)
		closeBox(t, b)
	})
}

func TestDegradedUntilClose(t *testing.T) {
	for _, heal := range []bool{true, false} {
		disk := memdisk.New()
		b := openBox(t, "/box", Options{FS: disk})
		appendBodies(t, b, "1")
		disk.SetFault(allFail)
		appendBodies(t, b, "2", "3")
		if heal {
			disk.SetFault(nil)
		}
		err := b.Close()
		if heal && err != nil || !heal && (!errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "2 messages")) {
			t.Errorf("Close: %v", err)
		}
		disk.SetFault(nil)
		b = openBox(t, "/box", Options{FS: disk})
		left := bodiesOf(queued(t, b))
		if heal {
			equalAll(t, "left", left, []string{"1", "2", "3"})
		} else if !slices.Equal(left, []string{"1", "2", "3"}[:len(left)]) || len(left) == 0 { // a failed write may have written
			t.Errorf("left: %q", left)
		}
		closeBox(t, b)
	}
}

// One failing sync is not the end: the batch goes to another segment, under the ids that it had.
func TestSyncFailsOnce(t *testing.T) {
	disk := memdisk.New()
	b := openBox(t, "/box", Options{FS: disk})
	appendBodies(t, b, "1")
	failed := false
	disk.SetFault(func(_ int, op, name string) error {
		if op == "sync" && segNum(name) > 0 && !failed {
			failed = true
			return memdisk.ErrIO
		}
		return nil
	})
	appendBodies(t, b, "2", "3")
	s := b.Stats()
	if !failed || s.Degraded || s.LastSeq != 3 || len(b.segs) != 2 {
		t.Errorf("%+v, %d segments", s, len(b.segs))
	}
	for _, after := range []*memdisk.FS{disk.Killed(), disk.PowerCut(disk.Rand)} {
		b := openBox(t, "/box", Options{FS: after})
		equalAll(t, "left", bodiesOf(queued(t, b)), []string{"1", "2", "3"})
		closeBox(t, b)
	}
	closeBox(t, b)
}

func TestRingIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := memdisk.New()
		var got reports
		b := openBox(t, "/box", Options{FS: disk, Report: got.add})
		disk.SetFault(allFail)
		for range 200 {
			if err := b.Append(t.Context(), message.Message{Body: make([]byte, 200<<10)}); err != nil {
				t.Fatal(err)
			}
		}
		s := b.Stats()
		if s.QueuedBytes > maxRing || s.QueuedBytes < maxRing*9/10 {
			t.Errorf("%d bytes in memory", s.QueuedBytes)
		}
		equal(t, "queued and dropped", s.Queued+s.Dropped, 200)
		r := tryNext(t, b, 0, 1)
		equal(t, "gap", r[0].Gap, fmt.Sprintf("1-%d", s.Dropped))
		disk.SetFault(nil)
		time.Sleep(retryEvery)
		appendBodies(t, b, "new")
		equal(t, "gap when it is on the disk", tryNext(t, b, 0, 1)[0].Gap, fmt.Sprintf("1-%d", s.Dropped))
		equal(t, "queued", b.Stats().Queued, s.Queued+1)
		closeBox(t, b)
	})
}

// A producer that waits for room in memory goes on when the disk works again, although nobody else
// calls.
func TestBlockedByAFullRing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := memdisk.New()
		b := openBox(t, "/box", Options{FS: disk, MaxBytes: 64 << 20, Full: Block})
		disk.SetFault(allFail)
		m := message.Message{Body: make([]byte, 1000<<10)}
		n := 0
		for ; b.TryAppend(m) == nil; n++ {
		}
		if n < 15 || n > 16 {
			t.Errorf("%d MB in memory", n)
		}
		done := make(chan error, 1)
		go func() { done <- b.Append(t.Context(), m) }()
		time.Sleep(time.Minute)
		if len(done) > 0 {
			t.Fatalf("it did not wait: %v", <-done)
		}
		start := time.Now()
		disk.SetFault(nil)
		if err := <-done; err != nil || time.Since(start) > retryEvery {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		s := b.Stats()
		if s.Degraded || s.Queued != uint64(n+1) || s.Dropped > 0 {
			t.Errorf("%+v", s)
		}
		closeBox(t, b)
	})
}

// A disk that cannot be written to at the start: what is there is handed out, what comes is kept in
// memory.
func TestOpenOnABrokenDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, killed := range []bool{false, true} {
			disk := memdisk.New()
			b := openBox(t, "/box", Options{FS: disk})
			appendBodies(t, b, "1", "2")
			tryNext(t, b, 0, 1) // so that the cursor knows that they are synced
			appendBodies(t, b, "3")
			id := b.Stats().ID
			if killed {
				disk = disk.Killed()
			} else {
				closeBox(t, b)
			}
			disk.SetFault(allFail)
			var got reports
			b = openBox(t, "/box", Options{FS: disk, Report: got.add})
			equal(t, "degraded", got.count(Degraded), 1)
			appendBodies(t, b, "4")
			want := []string{"1", "2", "3", "4"}
			if killed { // whether the third was ever synced nobody knows
				want = []string{"1", "2", "4"}
			}
			r := queued(t, b)
			equalAll(t, "handed out", bodiesOf(r), want)
			ackAll(t, b, r[:1])

			disk.SetFault(nil)
			time.Sleep(retryEvery)
			appendBodies(t, b, "5")
			r = queued(t, b)
			equalAll(t, "on a good disk", bodiesOf(r), []string{"2", "3", "4", "5"})
			equal(t, "id", r[1].ID, id+"-3")
			if box, seq := splitID(t, r[3].ID); killed == (box == id) || box == id && seq != 4 {
				t.Errorf("the new one is %s", r[3].ID)
			}
			closeBox(t, b)
		}
	})
}

func TestOpenWithoutRoomForACursor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := memdisk.New()
		disk.SetFault(allFail)
		b := openBox(t, "/box", Options{FS: disk})
		appendBodies(t, b, "1")
		ackAll(t, b, queued(t, b))
		appendBodies(t, b, "2")
		disk.SetFault(nil)
		time.Sleep(retryEvery)
		appendBodies(t, b, "3")
		equal(t, "degraded", b.Stats().Degraded, false)
		closeBox(t, b)
		b = openBox(t, "/box", Options{FS: disk})
		equalAll(t, "left", bodiesOf(queued(t, b)), []string{"2", "3"})
		closeBox(t, b)
	})
}

// A real directory that loses its permission to write, and a real file system without room.
func TestReadOnlyDirectory(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may write in every directory, so no write would fail")
	}
	dir := filepath.Join(t.TempDir(), "box")
	b := openBox(t, dir, Options{})
	appendBodies(t, b, "1")
	closeBox(t, b)
	if err := os.Chmod(dir, 0o500); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.Chmod(dir, 0o700) }()
	b = openBox(t, dir, Options{})
	equalAll(t, "left", bodiesOf(queued(t, b)), []string{"1"})
	closeBox(t, b)
}

func TestKindString(t *testing.T) {
	seen := map[string]bool{}
	for k := TornTail; k <= Missing; k++ {
		if s := k.String(); seen[s] || strings.HasPrefix(s, "Kind(") {
			t.Errorf("%d is %q", k, s)
		}
		seen[k.String()] = true
	}
	equal(t, "another", Kind(99).String(), "Kind(99)")
}

package outbox

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk/memdisk"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/format"
)

// resting opens a box, lets a message arrive and waits until the box rests.
func resting(t *testing.T, disk *memdisk.FS, got *reports) *Box {
	t.Helper()
	b := openBox(t, "/box", Options{FS: disk, Report: got.add})
	appendBodies(t, b, "1")
	ackAll(t, b, queued(t, b))
	time.Sleep(2 * syncEvery)
	synctest.Wait()
	if b.writer != nil || b.cur.file != nil || b.buf != nil {
		t.Fatal("it does not rest")
	}
	return b
}

// A box in which nothing is queued has closed its files; a message wakes it, with no more syncs
// than one that was awake; and after a restart everything is as it was.
func TestRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got reports
		disk := memdisk.New()
		b := resting(t, disk, &got)
		syncs, dirs := disk.Count("sync"), disk.Count("syncdir")
		for n := 2; n < 5; n++ {
			appendBodies(t, b, body(n))
			ackAll(t, b, queued(t, b))
			time.Sleep(2 * syncEvery)
			synctest.Wait()
			if b.writer != nil || b.cur.file != nil {
				t.Errorf("it does not rest after %d messages", n)
			}
		}
		equal(t, "syncs, of three messages and three acknowledgements", disk.Count("sync")-syncs, 6)
		equal(t, "syncs of the directory", disk.Count("syncdir")-dirs, 0)
		if names := disk.Count("create"); names > 3 {
			t.Errorf("%d files were made", names)
		}
		size := int64(len(disk.File(b.path(1)).Data))
		closeBox(t, b)
		if now := int64(len(disk.File(b.path(1)).Data)); now >= size || now != b.segs[0].size {
			t.Errorf("the segment has %d bytes, of %d", now, size)
		}
		again := openBox(t, "/box", Options{FS: disk, Report: got.add})
		if again.cur.file != nil {
			t.Error("an empty box does not rest from the beginning")
		}
		appendBodies(t, again, "5")
		r := queued(t, again)
		equal(t, "id", r[0].ID, b.ID()+"-5")
		equal(t, "reports", len(got.all), 0)
		closeBox(t, again)
	})
}

// A box that rests after each message remembers the zeros in its segment, and does not lay them
// again.
func TestRestKeepsTheZeros(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got reports
		disk := memdisk.New()
		b := resting(t, disk, &got)
		const messages = 64
		before := disk.Count("write")
		for range messages {
			appendBodies(t, b, strings.Repeat("s", 200))
			ackAll(t, b, queued(t, b))
			time.Sleep(2 * syncEvery)
			synctest.Wait()
		}
		const each = 4 // writes, of a message, its acknowledgement and the cursor
		equal(t, "zeros", disk.Count("write")-before-each*messages, 6)
		closeBox(t, b)
		again := openBox(t, "/box", Options{FS: disk, Report: got.add})
		size := b.segs[0].size
		appendBodies(t, again, "s")
		if n := again.writer.size - size; again.laid != again.writer.size+n {
			t.Errorf("a message of %d bytes after a restart is followed by zeros up to %d", n, again.laid)
		}
		closeBox(t, again)
	})
}

// Whatever happens to the files of a box that rests, the next message is durable, and no seq names
// two of them.
func TestRestWhileFilesChange(t *testing.T) {
	for name, v := range map[string]struct {
		change func(t *testing.T, disk *memdisk.FS, b *Box)
		kinds  string // of the reports
	}{
		"the segment is deleted": {func(t *testing.T, disk *memdisk.FS, b *Box) { must(t, disk.Remove(b.path(1))) }, ""},
		"the cursor is deleted":  {func(t *testing.T, disk *memdisk.FS, _ *Box) { must(t, disk.Remove("/box/"+cursorName)) }, ""},
		"both are deleted": {func(t *testing.T, disk *memdisk.FS, b *Box) {
			must(t, disk.Remove(b.path(1)))
			must(t, disk.Remove("/box/"+cursorName))
		}, ""},
		"the segment is replaced":    {func(t *testing.T, disk *memdisk.FS, b *Box) { replace(t, disk, b.path(1)) }, ""},
		"the cursor is replaced":     {func(t *testing.T, disk *memdisk.FS, _ *Box) { replace(t, disk, "/box/"+cursorName) }, ""},
		"no file can be opened once": {func(_ *testing.T, disk *memdisk.FS, _ *Box) { failOnce(disk, "open") }, ""},
		"no file can be read once":   {func(_ *testing.T, disk *memdisk.FS, _ *Box) { failOnce(disk, "read") }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var got reports
				disk := memdisk.New()
				b := resting(t, disk, &got)
				v.change(t, disk, b)
				appendBodies(t, b, "2", "3")
				r := queued(t, b)
				equal(t, "bodies", strings.Join(bodiesOf(r), " "), "2 3")
				if err := b.Ack(r[0].Pos); err != nil {
					t.Error(err)
				}
				time.Sleep(10 * time.Second)
				if s := b.Stats(); s.Degraded || s.AcksNotSaved || s.Err != nil || s.ID != b.ID() {
					t.Errorf("%+v", s)
				}
				disk = disk.Killed()
				again := openBox(t, "/box", Options{FS: disk, Report: got.add})
				r = append(r[:1], queued(t, again)...)
				equal(t, "ids after a kill", strings.Join(idsOf(r), " "), fmt.Sprintf("%s-2 %s-3", b.ID(), b.ID()))
				for _, p := range got.all {
					if p.Messages > 0 {
						t.Errorf("%v: %s", p.Kind, p.Text)
					}
				}
				closeBox(t, again)
				b.fs = memdisk.New()
				_ = b.Close()
			})
		})
	}
}

// TestRestingBoxClosesWithItsCursor: whatever has happened to the cursor of a box that rests, Close
// leaves a good one, and nothing is sent again after a restart.
func TestRestingBoxClosesWithItsCursor(t *testing.T) {
	for name, change := range map[string]func(t *testing.T, disk *memdisk.FS){
		"it is deleted":               func(t *testing.T, disk *memdisk.FS) { must(t, disk.Remove("/box/"+cursorName)) },
		"it is replaced":              func(t *testing.T, disk *memdisk.FS) { replace(t, disk, "/box/"+cursorName) },
		"it cannot be opened at once": func(_ *testing.T, disk *memdisk.FS) { failOnce(disk, "open") },
		"it cannot be read at once":   func(_ *testing.T, disk *memdisk.FS) { failOnce(disk, "read") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var got reports
				disk := memdisk.New()
				b := resting(t, disk, &got)
				change(t, disk)
				b.mu.Lock()
				b.reopen = nil // so that the failure is that of the cursor
				b.mu.Unlock()
				closeBox(t, b)
				again := openBox(t, "/box", Options{FS: disk.Killed(), Report: got.add})
				if s := again.Stats(); s.Queued != 0 || s.ID != b.ID() {
					t.Errorf("%+v", s)
				}
				closeBox(t, again)
			})
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// replace puts another file in the place of one, with bytes that are nobody's.
func replace(t *testing.T, disk *memdisk.FS, name string) {
	t.Helper()
	must(t, disk.Rename(name, name+".away"))
	f, err := disk.Open(name, readWrite|create)
	must(t, err)
	_, err = f.WriteAt([]byte("something else"), 0)
	must(t, err)
	must(t, f.Close())
}

func failOnce(disk *memdisk.FS, what string) {
	failed := false
	disk.Deny = func(op, _ string) error {
		if op == what && !failed {
			failed = true
			return syscall.EMFILE
		}
		return nil
	}
}

// What an idle box costs: no open file but its lock, and little memory. docs/benchmarks.md has the
// figures.
func TestIdleBoxIsCheap(t *testing.T) {
	const boxes = 200
	for name, v := range map[string]struct {
		open         func(t *testing.T, i int) *Box
		bytes, files int
	}{
		"memory": {func(t *testing.T, _ int) *Box {
			b, err := NewMemory(Options{})
			must(t, err)
			return b
		}, 1 << 10, 0},
		"disk": {func(t *testing.T, i int) *Box {
			return openBox(t, filepath.Join(t.TempDir(), fmt.Sprint(i)), Options{})
		}, 3 << 10, 2},
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			opened := openFiles()
			runtime.GC()
			runtime.ReadMemStats(&before)
			all := map[int]*Box{}
			for i := range boxes {
				b := v.open(t, i)
				appendBodies(t, b, strings.Repeat("x", 1000))
				ackAll(t, b, queued(t, b))
				b.Notify(func() {}, Part{After: b.Last()})
				all[i] = b
			}
			if v.files > 0 {
				time.Sleep(syncEvery + 500*time.Millisecond)
			}
			runtime.GC()
			runtime.GC()
			runtime.ReadMemStats(&after)
			if n := openFiles() - opened; n > v.files*boxes {
				t.Errorf("%d open files", n)
			}
			each := (int(after.HeapAlloc) - int(before.HeapAlloc)) / boxes
			if t.Logf("%d bytes each", each); each > v.bytes {
				t.Errorf("%d bytes each", each)
			}
			for b := range maps.Values(all) {
				closeBox(t, b)
			}
		})
	}
}

// openFiles is how many descriptors this process has; 0 where nobody can tell.
func openFiles() int {
	entries, _ := os.ReadDir("/proc/self/fd")
	return len(entries)
}

// TestBoxRestsNotWhileItsCursorIsSynced: on a slow disk, one sync of the acknowledgements may begin
// before the box rests after the one before. The file stays open for it.
func TestBoxRestsNotWhileItsCursorIsSynced(t *testing.T) {
	slow := &haltedSyncs{FS: memdisk.New(), begun: make(chan struct{}), goOn: make(chan struct{})}
	var got reports
	b := openBox(t, "/box", Options{FS: slow, Report: got.add})
	appendBodies(t, b, "1")
	ackAll(t, b, queued(t, b))
	slow.slow.Store(true)
	synced := make(chan error)
	go func() { synced <- b.syncAcks(true) }()
	<-slow.begun
	b.rest()
	slow.slow.Store(false)
	close(slow.goOn)
	if err := <-synced; err != nil || b.Stats().AcksNotSaved || len(got.all) > 0 {
		t.Errorf("%v, %+v, %v", err, b.Stats(), got.all)
	}
	b.rest()
	if b.cur.file != nil {
		t.Error("it does not rest afterwards")
	}
	closeBox(t, b)
}

// haltedSyncs is a disk on which a sync waits once it has begun, if slow.
type haltedSyncs struct {
	*memdisk.FS
	slow        atomic.Bool
	begun, goOn chan struct{}
}

func (s *haltedSyncs) Open(name string, flag int) (disk.File, error) {
	f, err := s.FS.Open(name, flag)
	if err != nil {
		return nil, err
	}
	return haltedFile{f, s}, nil
}

type haltedFile struct {
	disk.File
	fs *haltedSyncs
}

func (f haltedFile) Sync() error {
	if f.fs.slow.Load() {
		f.fs.begun <- struct{}{}
		<-f.fs.goOn
	}
	return f.File.Sync()
}

// TestARestingBoxReadsOnlyWhatIsNew counts the bytes that are read from the disk for one message,
// with a segment that holds many messages that have left, before and after a restart.
func TestARestingBoxReadsOnlyWhatIsNew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := memdisk.New()
		b := openBox(t, "/box", Options{FS: disk})
		appendBodies(t, b, bodies(1, 2000)...)
		for b.Stats().Queued > 0 {
			ackAll(t, b, queued(t, b))
		}
		one := func(n int) {
			time.Sleep(2 * syncEvery)
			synctest.Wait()
			if b.writer != nil {
				t.Fatal("it does not rest")
			}
			before := disk.Count("bytes read")
			appendBodies(t, b, body(n))
			r := queued(t, b)
			if len(r) != 1 || string(r[0].Body) != body(n) {
				t.Fatalf("%d: it hands out %+v", n, r)
			}
			ackAll(t, b, r)
			if read := disk.Count("bytes read") - before; read == 0 || read > format.SlotSize+format.FramesStart+1000 {
				t.Errorf("%d bytes were read for message %d", read, n)
			}
		}
		for n := range 3 {
			one(2001 + n)
		}
		closeBox(t, b)
		b = openBox(t, "/box", Options{FS: disk})
		one(2004)
		if len(b.segs) != 1 || b.segs[0].size < 60_000 {
			t.Errorf("%d segments, the first one of %d bytes: this test is about a long one", len(b.segs), b.segs[0].size)
		}
		closeBox(t, b)
	})
}

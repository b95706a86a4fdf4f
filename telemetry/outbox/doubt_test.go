package outbox

import (
	"bytes"
	"errors"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/telemetry/message"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk/memdisk"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/format"
)

// damagedFS fails the reads of one file with an error of the data, from a byte on.
type damagedFS struct {
	disk.FS
	name string
	from int64
	err  error
	well atomic.Bool // it is mended
}

type damagedFile struct {
	disk.File
	fs *damagedFS
}

func (d *damagedFS) Open(name string, flag int) (disk.File, error) {
	f, err := d.FS.Open(name, flag)
	if err == nil && filepath.Base(name) == d.name {
		f = damagedFile{f, d}
	}
	return f, err
}

func (f damagedFile) ReadAt(b []byte, at int64) (int, error) {
	if !f.fs.well.Load() && at+int64(len(b)) > f.fs.from {
		return 0, f.fs.err
	}
	return f.File.ReadAt(b, at)
}

// TestDamageIsBelievedInTheEnd: a file that the disk cannot read is tried for a minute, with
// reports. Then the messages that could not be read are told, the file is kept, and the line goes
// on. Before that no message leaves the line.
func TestDamageIsBelievedInTheEnd(t *testing.T) {
	for _, mends := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			disk := memdisk.New()
			var got reports
			b := openBox(t, "/box", Options{FS: disk, MaxBytes: smallBox, Report: got.add})
			for n := 1; n <= 3; n++ {
				appendBodies(t, b, bodies(5*n-4, 5*n)...)
				b.closeSegment()
			}
			frame := int64(cost(encode(&message.Message{Body: []byte(body(1)), Created: time.Now()})))
			bad := &damagedFS{FS: disk, name: segName(2), from: format.FramesStart + 2*frame + 5, err: syscall.EIO}
			b.fs = bad
			r := tryNextNow(t, b, 0, 100)
			equalAll(t, "what can be read", bodiesOf(r), bodies(1, 7))
			ackAll(t, b, r)
			time.Sleep(50 * time.Second)
			if s := b.Stats(); !s.Unreadable || !errors.Is(s.Err, syscall.EIO) || s.Damaged > 0 {
				t.Errorf("after 50 s: %+v", s)
			}
			equal(t, "told", got.count(Unreadable), 1)
			equalAll(t, "meanwhile", bodiesOf(tryNextNow(t, b, 0, 100)), nil)
			appendBodies(t, b, "16")
			bad.well.Store(mends)
			r = queued(t, b)
			if mends {
				equalAll(t, "in the end", bodiesOf(r), append(bodies(8, 15), "16"))
				equal(t, "told", got.count(Readable), 1)
				equal(t, "corrupt", got.count(Corrupt), 0)
			} else {
				equalAll(t, "in the end", bodiesOf(r), append(bodies(11, 15), "16"))
				equal(t, "gap", r[0].Gap, "8-10")
				equal(t, "corrupt", got.count(Corrupt), 1)
			}
			ackAll(t, b, r)
			time.Sleep(2 * time.Second)
			if kept := disk.File("/box/" + segName(2) + badSuffix); (kept != nil) == mends {
				t.Errorf("kept: %v", kept != nil)
			}
			closeBox(t, b)
		})
	}
}

// tryNextNow returns the records that can be read at once.
func tryNextNow(t *testing.T, b *Box, after uint64, limit int) []Record {
	t.Helper()
	var batch Batch
	defer batch.Release()
	r, err := b.Read(&batch, limit, 1<<20, Part{After: after})
	if err != nil {
		t.Fatal(err)
	}
	var all []Record
	for _, x := range r {
		x.Body = bytes.Clone(x.Body)
		all = append(all, x)
	}
	return all
}

// TestWrongChecksumForAWhile: a reader that got wrong bytes reads them again before it gives
// anything up.
func TestWrongChecksumForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := memdisk.New()
		var got reports
		b := openBox(t, "/box", Options{FS: disk, MaxBytes: smallBox, Report: got.add})
		appendBodies(t, b, bodies(1, 5)...)
		b.closeSegment()
		appendBodies(t, b, "6")
		flip := func() {
			disk.Edit("/box/"+segName(1), func(data []byte) []byte { data[format.FramesStart+format.FrameSize+3] ^= 1; return data })
		}
		flip()
		equal(t, "read at once", len(tryNextNow(t, b, 0, 10)), 0)
		time.Sleep(30 * time.Second)
		flip()
		equalAll(t, "when it is right again", bodiesOf(queued(t, b)), append(bodies(1, 5), "6"))
		equal(t, "lost", b.Stats().Damaged, 0)
		closeBox(t, b)
	})
}

// TestBlindOpen: an outbox that cannot be read at the start opens all the same. New messages are
// kept in memory, and are handed out after those on the disk, when the disk can be read.
func TestBlindOpen(t *testing.T) {
	for _, op := range []string{"list", "open", "read", "size"} {
		synctest.Test(t, func(t *testing.T) {
			disk := memdisk.New()
			b := openBox(t, "/box", Options{FS: disk})
			appendBodies(t, b, "1", "2")
			id := b.ID()
			closeBox(t, b)
			disk.SetDeny(func(o, _ string) error {
				if o == op {
					return syscall.EMFILE
				}
				return nil
			})
			var got reports
			b = openBox(t, "/box", Options{FS: disk, Report: got.add})
			appendBodies(t, b, "3", "4")
			if s := b.Stats(); !s.Degraded || !s.Unreadable || !errors.Is(s.Err, syscall.EMFILE) || s.Queued != 2 || got.count(Degraded) != 1 {
				t.Errorf("%s: %+v", op, s)
			}
			equal(t, op+": handed out", len(tryNextNow(t, b, 0, 10)), 0)
			came := make(chan []Record)
			go func() {
				r, err := next(t.Context(), b, 0, 10)
				if err != nil {
					t.Error(err)
				}
				came <- r
			}()
			time.Sleep(3 * time.Hour)
			if len(came) > 0 {
				t.Errorf("%s: it did not wait", op)
			}
			start := time.Now()
			disk.SetDeny(nil)
			r := <-came
			if d := time.Since(start); d > retryEvery {
				t.Errorf("%s: it came after %v", op, d)
			}
			equalAll(t, op, bodiesOf(r), []string{"1", "2", "3", "4"})
			equal(t, op+": id", r[0].ID, id+"-1")
			ackAll(t, b, r)
			appendBodies(t, b, "5")
			if s := b.Stats(); s.Degraded || s.Queued != 1 || s.LastSeq != 3 {
				t.Errorf("%s: %+v", op, s)
			}
			closeBox(t, b)
		})
	}
}

// TestBlindOpenOfADamagedDisk: a file that cannot be read for a minute after the start is set
// aside, and no seq is used twice.
func TestBlindOpenOfADamagedDisk(t *testing.T) {
	for _, file := range []string{cursorName, identityName, segName(1), segName(2)} {
		synctest.Test(t, func(t *testing.T) {
			disk := memdisk.New()
			id := Identity{IDScope: "0ne", Device: "d"}
			b := openBox(t, "/box", Options{FS: disk, For: id})
			appendBodies(t, b, "1", "2")
			b.closeSegment()
			b.reopen = nil
			appendBodies(t, b, "3", "4")
			tryNextNow(t, b, 0, 10)
			closeBox(t, b)
			before := b.ID()
			var got reports
			bad := &damagedFS{FS: disk, name: file, err: syscall.EIO}
			b = openBox(t, "/box", Options{FS: bad, For: id, Report: got.add})
			appendBodies(t, b, "5")
			if s := b.Stats(); !s.Degraded || !s.Unreadable {
				t.Errorf("%s: %+v", file, s)
			}
			time.Sleep(30 * time.Second)
			appendBodies(t, b, "6")
			if s := b.Stats(); !s.Unreadable {
				t.Errorf("%s: it gave up too soon: %+v", file, s)
			}
			time.Sleep(doubtFor)
			appendBodies(t, b, "7")
			bad.well.Store(true)
			time.Sleep(10 * time.Second)
			appendBodies(t, b, "8")
			if s := b.Stats(); s.Degraded || s.Unreadable || got.count(Corrupt) == 0 {
				t.Errorf("%s: %+v", file, s)
			}
			far := newConsumer()
			for _, r := range queued(t, b) {
				far.take(t, r)
			}
			if len(far.received) < 6 {
				t.Errorf("%s: %v", file, far.received)
			}
			for box, top := range far.top {
				if file == segName(2) && box == before && top > 4 {
					t.Errorf("%s: the seqs of %s go on", file, box)
				}
			}
			if missing := far.unaccounted(); len(missing) > 0 {
				t.Errorf("%s: %v", file, missing)
			}
			ackAll(t, b, queued(t, b))
			time.Sleep(2 * time.Second)
			closeBox(t, b)
			if disk.File("/box/"+file+badSuffix) == nil {
				t.Errorf("%s was not kept", file)
			}
		})
	}
}

// TestPoisonOnAFullDisk: a message that can never be sent and cannot be set aside blocks no other
// message, and is not lost.
func TestPoisonOnAFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := memdisk.New()
		var got reports
		b := openBox(t, "/box", Options{FS: disk, Report: got.add})
		appendBodies(t, b, "1", "poison", "3")
		disk.SetDeny(func(_, name string) error {
			if name == quarantineName {
				return syscall.ENOSPC
			}
			return nil
		})
		r := queued(t, b)
		if err := b.Quarantine(r[1].Pos, errors.New("too large")); err != nil {
			t.Fatal(err)
		}
		equalAll(t, "handed out", bodiesOf(queued(t, b)), []string{"1", "3"})
		ackAll(t, b, []Record{r[0], r[2]})
		if s := b.Stats(); s.Queued != 1 || s.Quarantined != 0 || got.count(Unreadable) != 1 {
			t.Errorf("%+v", s)
		}
		if err := b.WaitEmpty(t.Context()); err != nil { // nothing waits to be sent
			t.Error(err)
		}
		killed := openBox(t, "/box", Options{FS: disk.Killed()})
		equalAll(t, "after a restart", bodiesOf(queued(t, killed)), []string{"poison"})
		closeBox(t, killed)
		disk.SetDeny(nil)
		time.Sleep(retryEvery)
		equal(t, "handed out", len(tryNextNow(t, b, 0, 10)), 0)
		if s := b.Stats(); s.Queued != 0 || s.Quarantined != 1 {
			t.Errorf("%+v", s)
		}
		for q := range entries(strings.NewReader(string(disk.File("/box/" + quarantineName).Data))) {
			equal(t, "set aside", string(q.Body)+": "+q.Why, "poison: too large")
		}
		appendBodies(t, b, "4")
		equal(t, "gap", queued(t, b)[0].Gap, "2-2")
		closeBox(t, b)
	})
}

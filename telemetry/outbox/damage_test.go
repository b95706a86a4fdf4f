package outbox

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk/memdisk"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/format"
)

const (
	damagedRecords = 20
	smallBox       = 256 << 10 // segments of 4 KiB
)

// sample is a disk with a box of 20 records, each of a commit of its own if commits is set. If it
// was closed, the cursor knows that everything was synced; if it was killed, it knows nothing.
func sample(t testing.TB, commits, closed bool) *memdisk.FS {
	t.Helper()
	disk := memdisk.New()
	b := openBox(t, "/box", Options{FS: disk, MaxBytes: smallBox})
	if commits {
		for n := 1; n <= damagedRecords; n++ {
			appendBodies(t, b, body(n))
		}
	} else {
		appendBodies(t, b, bodies(1, damagedRecords)...)
	}
	killed := disk.Killed()
	closeBox(t, b)
	if closed {
		return disk.Killed()
	}
	return killed
}

// wholeFrames is how many records end within the first n bytes of the segment of sample.
func wholeFrames(t testing.TB, disk *memdisk.FS, n int) int {
	t.Helper()
	data := disk.Names["/box/"+segName(1)].Data
	h, _, err := format.ReadHeader(memdisk.Bytes(data))
	if err != nil {
		t.Fatal(err)
	}
	sc := format.Scanner{File: memdisk.Bytes(data), Header: h, Size: int64(n), At: format.FramesStart, Most: format.ReadAhead}
	whole := 0
	for {
		if fr, err := sc.Next(); err != nil {
			t.Fatal(err)
		} else if fr == nil {
			return whole
		}
		whole++
	}
}

// The newest segment is cut at every byte, or zeroed from there on. What is whole is kept, new
// records are taken, and everything is accounted for: if the cursor knows that the rest had been
// synced, as a gap, else not at all, for nothing of it had been handed out.
func TestEveryTornTail(t *testing.T) {
	t.Parallel()
	for _, commits := range []bool{true, false} {
		for _, closed := range []bool{true, false} {
			whole := sample(t, commits, closed)
			used := int(sizeOf(t, whole))
			for n := range used + 1 {
				for _, zeroed := range []bool{false, true} {
					disk := whole.Killed()
					disk.Edit("/box/"+segName(1), func(data []byte) []byte {
						if zeroed {
							clear(data[n:])
							return data
						}
						return data[:n]
					})
					kept := 0
					if n >= format.HeaderSize {
						kept = wholeFrames(t, whole, n)
					}
					name := fmt.Sprintf("cut at %d of %d, commits %v, closed %v, zeroed %v", n, used, commits, closed, zeroed)
					reopenTorn(t, name, disk, kept, closed)
				}
			}
		}
	}
}

func reopenTorn(t *testing.T, name string, disk *memdisk.FS, kept int, known bool) {
	t.Helper()
	b := openBox(t, "/box", Options{FS: disk, MaxBytes: smallBox})
	appendBodies(t, b, "new")
	r := queued(t, b)
	want := append(bodies(1, kept), "new")
	seq, gap := uint64(kept+1), ""
	if known {
		seq = damagedRecords + 1
		if kept < damagedRecords {
			gap = fmt.Sprintf("%d-%d", kept+1, damagedRecords)
		}
	}
	if !slices.Equal(bodiesOf(r), want) {
		t.Fatalf("%s: left are %q, want %q", name, bodiesOf(r), want)
	}
	last := r[len(r)-1]
	if _, got := splitID(t, last.ID); got != seq || last.Gap != gap {
		t.Fatalf("%s: the new one is %s with gap %q, want seq %d and gap %q", name, last.ID, last.Gap, seq, gap)
	}
	closeBox(t, b)
	b = openBox(t, "/box", Options{FS: disk, MaxBytes: smallBox, Report: func(p Problem) { t.Errorf("%s: opened again: %s", name, p.Text) }})
	if again := queued(t, b); !slices.Equal(idsOf(again), idsOf(r)) {
		t.Fatalf("%s: opened again: %q", name, bodiesOf(again))
	}
	closeBox(t, b)
	if t.Failed() {
		t.FailNow()
	}
}

func sizeOf(t testing.TB, disk *memdisk.FS) int64 {
	t.Helper()
	l, err := load(disk.Killed(), "/box", owning)
	if err != nil {
		t.Fatal(err)
	}
	return l.segs[len(l.segs)-1].size
}

// A bit flips, at every byte, in the newest segment or in an older one. Never a wrong body, never a
// used id for another message, everything else is kept, and every seq is accounted for.
func TestEveryFlippedBit(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name                   string
		commits, closed, older bool
	}{
		{"newest, closed", true, true, false},
		{"newest, closed, one commit", false, true, false},
		{"newest, killed", true, false, false},
		{"newest, killed, one commit", false, false, false},
		{"older", true, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			disk := sample(t, c.commits, c.closed)
			want := bodies(1, damagedRecords)
			if c.older {
				b := openBox(t, "/box", Options{FS: disk, MaxBytes: smallBox})
				b.reopen = nil // as if it were full
				appendBodies(t, b, "newer")
				closeBox(t, b)
				want = append(want, "newer")
			}
			size := len(disk.Names["/box/"+segName(1)].Data)
			if !c.closed {
				size = int(sizeOf(t, disk)) + 20 // and a little of what is still unwritten
			}
			for at := range size {
				flipped := disk.Killed()
				flipped.Edit("/box/"+segName(1), func(data []byte) []byte {
					data[at] ^= 1 << (at % 8)
					return data
				})
				synctest.Test(t, func(t *testing.T) { openFlipped(t, fmt.Sprintf("byte %d", at), flipped, want, c.closed, c.commits) })
				if t.Failed() {
					t.FailNow()
				}
			}
		})
	}
}

// openFlipped checks what is left of records 1 to len(want) when one bit of them is wrong.
func openFlipped(t *testing.T, name string, disk *memdisk.FS, want []string, known, commits bool) {
	t.Helper()
	var got reports
	b := openBox(t, "/box", Options{FS: disk, MaxBytes: smallBox, Report: got.add})
	far := newConsumer()
	r := queued(t, b)
	appendBodies(t, b, "behind it")
	r = append(r, queued(t, b)...)
	for _, x := range r {
		far.take(t, x)
		if _, seq := splitID(t, x.ID); seq <= uint64(len(want)) && string(x.Body) != want[seq-1] && string(x.Body) != "behind it" {
			t.Fatalf("%s: %s is %q", name, x.ID, x.Body)
		}
	}
	// One record at most is gone, unless all were of one commit that may never have been completed.
	if left := b.Stats().Queued; left < uint64(len(want)) && (known || commits) {
		t.Fatalf("%s: only %q are left", name, bodiesOf(r))
	}
	if missing := far.unaccounted(); len(missing) > 0 {
		t.Fatalf("%s: not accounted for: %v", name, missing)
	}
	if got.count(Corrupt)+got.count(TornTail) == 0 {
		t.Fatalf("%s: nobody was told", name)
	}
	if known {
		_, seq := splitID(t, r[len(r)-1].ID)
		equal(t, name+": seq behind it", seq, uint64(len(want)+1))
	}
	closeBox(t, b)
}

// The same for the cursor: the worst that happens is that something is sent again.
func TestEveryFlippedBitOfTheCursor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := memdisk.New()
		far := newConsumer()
		b := openBox(t, "/box", Options{FS: disk, MaxBytes: 64 << 10, Machine: "m"})
		pad := strings.Repeat(".", 500)
		for n := 1; n <= 300; n++ { // so that there is a gap, too
			appendBodies(t, b, fmt.Sprint(n, pad))
		}
		for _, r := range queued(t, b)[:20] {
			far.take(t, r)
			if err := b.Ack(r.Pos); err != nil {
				t.Fatal(err)
			}
		}
		left := idsOf(queued(t, b))
		id := b.Stats().ID
		closeBox(t, b)
		for at := range format.Slots * format.SlotSize {
			if at%format.SlotSize > 300 && at%97 != 0 { // unused
				continue
			}
			flipped := disk.Killed()
			flipped.Edit("/box/"+cursorName, func(data []byte) []byte {
				data[at] ^= 1 << (at % 8)
				return data
			})
			b := openBox(t, "/box", Options{FS: flipped, MaxBytes: 64 << 10, Machine: "m"})
			r := queued(t, b)
			if ids := idsOf(r); !slices.Equal(ids[len(ids)-len(left):], left) {
				t.Fatalf("byte %d: left are %v", at, ids)
			}
			appendBodies(t, b, "new")
			equal(t, "outbox id", b.Stats().ID, id)
			equal(t, "seq", b.Stats().LastSeq, 301)
			closeBox(t, b)
		}
	})
}

// Without any cursor nothing is lost, and no id is used twice.
func TestCursorIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, how := range []string{"deleted", "garbage"} {
			disk := memdisk.New()
			var got reports
			b := openBox(t, "/box", Options{FS: disk, MaxBytes: smallBox})
			appendBodies(t, b, bodies(1, 5)...)
			ackAll(t, b, queued(t, b)[:2])
			id := b.Stats().ID
			closeBox(t, b)
			if how == "deleted" {
				delete(disk.Names, "/box/"+cursorName)
			} else {
				disk.Edit("/box/"+cursorName, func(data []byte) []byte { return make([]byte, len(data)) })
				defer func() {
					if disk.Names["/box/"+cursorName+badSuffix] == nil {
						t.Error("the old file was not kept")
					}
				}()
			}
			b = openBox(t, "/box", Options{FS: disk, MaxBytes: smallBox, Report: got.add})
			appendBodies(t, b, "new")
			r := queued(t, b)
			equalAll(t, how, bodiesOf(r), append(bodies(1, 5), "new"))
			if now, seq := splitID(t, r[5].ID); now == id || seq != 1 {
				t.Errorf("%s: the new one is %s", how, r[5].ID)
			}
			equal(t, how+": reported", got.count(map[string]Kind{"deleted": Missing, "garbage": Corrupt}[how]), 1)
			closeBox(t, b)
		}
	})
}

// Whole files are gone.
func TestSegmentIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for gone := uint64(1); gone <= 4; gone++ {
			disk := memdisk.New()
			b := openBox(t, "/box", Options{FS: disk, MaxBytes: smallBox})
			for n := 1; n <= 4; n++ {
				b.closeSegment()
				b.reopen = nil
				appendBodies(t, b, bodies(3*n-2, 3*n)...)
			}
			equal(t, "segments", len(b.segs), 4)
			first := queued(t, b)[0].ID
			closeBox(t, b)
			delete(disk.Names, "/box/"+segName(gone))
			var got reports
			b = openBox(t, "/box", Options{FS: disk, MaxBytes: smallBox, Report: got.add})
			appendBodies(t, b, "new")
			far := newConsumer()
			for _, r := range queued(t, b) {
				far.take(t, r)
			}
			equal(t, "received", len(far.received), 10)
			if m := far.unaccounted(); len(m) > 0 {
				t.Errorf("segment %d is gone: not accounted for: %v", gone, m)
			}
			equal(t, "damaged", b.Stats().Damaged, 3)
			if got.count(Corrupt) != 1 {
				t.Errorf("segment %d is gone: %v", gone, got.all)
			}
			box, _ := splitID(t, first)
			equal(t, "new id", b.Stats().ID, box)
			equal(t, "new seq", b.Stats().LastSeq, 13)
			closeBox(t, b)
		}
	})
}

// A body may contain what looks like frames of its own segment; behind damage they must not pass
// for records.
func TestForgedFramesInABody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := memdisk.New()
		b := openBox(t, "/box", Options{FS: disk, MaxBytes: smallBox})
		appendBodies(t, b, "first")
		copied := string(disk.Names["/box/"+segName(1)].Data[format.FramesStart : format.FramesStart+60])
		appendBodies(t, b, copied+copied, "last")
		closeBox(t, b)
		disk.Edit("/box/"+segName(1), func(data []byte) []byte {
			data[format.FramesStart+40+format.FrameSize] ^= 1 // somewhere in the header of the second frame
			return data
		})
		b = openBox(t, "/box", Options{FS: disk, MaxBytes: smallBox})
		for _, r := range queued(t, b) {
			if s := string(r.Body); s != "first" && s != "last" && s != copied+copied {
				t.Errorf("got %q", s)
			}
		}
		closeBox(t, b)
	})
}

// A segment that cannot be read is given a second chance, and then the line goes on without it.
func TestReadErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := memdisk.New()
		b := openBox(t, "/box", Options{FS: disk, MaxBytes: smallBox})
		appendBodies(t, b, bodies(1, 3)...)
		b.closeSegment()
		appendBodies(t, b, "new")
		broken := &readFault{FS: disk, name: segName(1), fail: 1}
		b.fs = broken
		equalAll(t, "after one error", bodiesOf(queued(t, b)), append(bodies(1, 3), "new"))
		broken.fail = 1 << 30
		r := queued(t, b)
		equalAll(t, "after many", bodiesOf(r), []string{"new"})
		equal(t, "gap", r[0].Gap, "1-3")
		b.fs = disk
		closeBox(t, b)
	})
}

type readFault struct {
	disk.FS
	name string
	fail int
}

func (f *readFault) Open(name string, flag int) (disk.File, error) {
	if filepath.Base(name) == f.name && f.fail > 0 {
		f.fail--
		return nil, memdisk.ErrIO
	}
	return f.FS.Open(name, flag)
}

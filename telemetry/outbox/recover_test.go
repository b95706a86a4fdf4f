package outbox

import (
	"errors"
	"math/rand/v2"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/internal/racing"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk/memdisk"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/format"
)

// A commit whose sync failed, found after a restart in the page cache only: before it is handed out
// it is written again, for a sync alone would find nothing to do.
func TestRecoveryDoesNotTrustThePageCache(t *testing.T) {
	for seed := range uint64(20) {
		disk := memdisk.New()
		disk.Rand = rand.New(rand.NewPCG(seed, 0))
		b := openBox(t, "/box", Options{FS: disk})
		appendBodies(t, b, "1")
		disk.SetFault(func(_ int, op, _ string) error {
			if op != "write" {
				return memdisk.ErrIO
			}
			return nil
		})
		appendBodies(t, b, "2") // to memory, in the end; but its frame stays where it was
		disk = disk.Killed()
		b = openBox(t, "/box", Options{FS: disk})
		equalAll(t, "handed out", bodiesOf(queued(t, b)), []string{"1", "2"})
		b = openBox(t, "/box", Options{FS: disk.PowerCut(disk.Rand)})
		equalAll(t, "after a power cut", bodiesOf(queued(t, b)), []string{"1", "2"})
		closeBox(t, b)
	}
}

// A newer segment that never got a message cannot be deleted: what is written now must not be where
// it would overrule it.
func TestEmptySegmentInTheWay(t *testing.T) {
	disk := memdisk.New()
	b := openBox(t, "/box", Options{FS: disk})
	appendBodies(t, b, "1", "2")
	closeBox(t, b)
	h := format.NewHeader(b.id, 3, 3, format.NewSalt())
	f, err := disk.Open("/box/"+segName(2), os.O_RDWR|os.O_CREATE)
	if err == nil {
		_, err = f.WriteAt(h.AppendTo(nil), 0)
	}
	if err = errors.Join(err, f.Sync(), disk.SyncDir("/box")); err != nil {
		t.Fatal(err)
	}
	disk.SetFault(func(_ int, op, _ string) error {
		if op == "remove" {
			return memdisk.ErrIO
		}
		return nil
	})
	b = openBox(t, "/box", Options{FS: disk})
	appendBodies(t, b, "3", "4")
	b.closeSegment()
	appendBodies(t, b, "5")
	closeBox(t, b)
	b = openBox(t, "/box", Options{FS: disk})
	equalAll(t, "left", bodiesOf(queued(t, b)), []string{"1", "2", "3", "4", "5"})
	closeBox(t, b)
}

// A segment that was given up and could not be deleted is overruled by the one that took its
// position.
func TestOverruledSegment(t *testing.T) {
	for _, kill := range []bool{true, false} {
		disk := memdisk.New()
		b := openBox(t, "/box", Options{FS: disk})
		appendBodies(t, b, "1")
		b.closeSegment()
		b.reopen = nil
		failed := false
		disk.SetFault(func(_ int, op, name string) error {
			if op == "sync" && segNum(name) > 0 && !failed {
				failed = true
				return memdisk.ErrIO
			}
			if op == "remove" {
				return memdisk.ErrIO
			}
			return nil
		})
		appendBodies(t, b, "2")
		disk.SetFault(nil)
		appendBodies(t, b, "3")
		if kill {
			disk = disk.Killed()
		} else {
			disk = disk.PowerCut(disk.Rand)
		}
		again := openBox(t, "/box", Options{FS: disk})
		r := queued(t, again)
		equalAll(t, "left", bodiesOf(r), []string{"1", "2", "3"})
		equal(t, "gap", r[1].Gap+r[2].Gap, "")
		closeBox(t, again)
		closeBox(t, b)
	}
}

// A record that was to tell of a gap far before it leaves the line itself: another one tells.
func TestGapFindsAnotherTeller(t *testing.T) {
	b := openBox(t, "/box", Options{FS: memdisk.New()})
	appendBodies(t, b, bodies(1, 5)...)
	r := queued(t, b)
	ackAll(t, b, r[2:3])
	for _, i := range []int{1, 3} {
		if err := b.Quarantine(r[i].Pos, errors.New("poison")); err != nil {
			t.Fatal(err)
		}
		told := queued(t, b)
		equal(t, "told", told[1].Gap, []string{"", "2-2", "", "4-4"}[i])
	}
	appendBodies(t, b, "6")
	equal(t, "told later", queued(t, b)[2].Gap, "2-2")
	closeBox(t, b)
}

// A gap grows after a record was sent with what it was before: that record's arrival does not
// settle it.
func TestGapGrowsInFlight(t *testing.T) {
	b := openBox(t, "/box", Options{FS: memdisk.New()})
	appendBodies(t, b, bodies(1, 4)...)
	r := queued(t, b)
	poison := func(i int) {
		if err := b.Quarantine(r[i].Pos, errors.New("poison")); err != nil {
			t.Fatal(err)
		}
	}
	poison(1)
	equal(t, "told", tryNext(t, b, 2, 1)[0].Gap, "2-2")
	poison(0)
	ackAll(t, b, r[2:3])
	equal(t, "told again", tryNext(t, b, 2, 1)[0].Gap, "1-2")
	closeBox(t, b)
}

// While one slot of the cursor is being synced, acknowledgements go to another, and never to the
// one that was synced before: at no moment does a power cut find none.
func TestThereIsAlwaysASlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := memdisk.New()
		b := openBox(t, "/box", Options{FS: slowFS{disk}})
		appendBodies(t, b, bodies(1, 200)...)
		cuts := 10
		if racing.On {
			cuts = 2
		}
		for pos := uint64(2); pos <= 200; pos += 4 { // out of order, so that a slot is larger than a sector
			for i := range uint64(2) {
				if err := b.Ack(pos + 2*i); err != nil {
					t.Fatal(err)
				}
				for range cuts {
					_, number, err := format.ReadSlots(memdisk.Bytes(disk.PowerCut(disk.Rand).Names["/box/"+cursorName].Data))
					if err != nil || number < 0 {
						t.Fatalf("no slot after acknowledgement %d: %v", pos+2*i, err)
					}
				}
				time.Sleep(syncEvery + time.Millisecond/2) // the first time into the sync, which takes a millisecond
			}
		}
		closeBox(t, b)
	})
}

// More gaps than are kept are joined; nothing is forgotten.
func TestManyGaps(t *testing.T) {
	disk := memdisk.New()
	b := openBox(t, "/box", Options{FS: disk})
	const n = 5 * format.MaxGaps
	appendBodies(t, b, bodies(1, n)...)
	far := newConsumer()
	for _, r := range queued(t, b) {
		if _, seq := splitID(t, r.ID); seq%2 == 0 {
			if err := b.Quarantine(r.Pos, errors.New("poison")); err != nil {
				t.Fatal(err)
			}
			continue
		}
		far.take(t, Record{ID: r.ID})
		if err := b.Ack(r.Pos); err != nil {
			t.Fatal(err)
		}
	}
	equal(t, "gaps", len(b.gaps), format.MaxGaps)
	closeBox(t, b)
	b = openBox(t, "/box", Options{FS: disk})
	appendBodies(t, b, bodies(1, format.MaxGaps)...)
	for _, r := range queued(t, b) {
		far.take(t, r)
	}
	if missing := far.unaccounted(); len(missing) > 0 {
		t.Errorf("not accounted for: %v", missing)
	}
	closeBox(t, b)
}

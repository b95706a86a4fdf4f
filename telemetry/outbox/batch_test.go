package outbox

import (
	"slices"
	"strings"
	"testing"
)

// What was read ahead serves the next calls, and hides nothing that came later.
func TestReadGoesOnWhereItEnded(t *testing.T) {
	fs := &opening{memFS: newMemFS()}
	var r reports
	b := openBox(t, "box", Options{FS: fs, Report: r.add})
	defer closeBox(t, b)
	var batch Batch
	var got, ids []string
	after := uint64(0)
	read := func(limit, want int) {
		t.Helper()
		records, err := b.Read(t.Context(), &batch, limit, Part{After: after})
		if err != nil || len(records) != want {
			t.Fatalf("%d records, %v; want %d", len(records), err, want)
		}
		after = records[want-1].Pos
		for _, x := range records {
			got, ids = append(got, strings.Clone(string(x.Body))), append(ids, x.ID)
		}
	}
	appendBodies(t, b, bodies(1, 10)...)
	read(3, 3)
	opened := fs.opened
	read(3, 3)
	if n := fs.opened; n != opened {
		t.Errorf("%d files were opened for what was read ahead", n-opened)
	}
	appendBodies(t, b, bodies(11, 20)...) // into the file that was read ahead when they were not there
	read(100, 14)
	appendBodies(t, b, bodies(21, 22)...)
	read(100, 2)
	equalAll(t, "read", got, bodies(1, 22))
	for i, id := range ids {
		equal(t, "id", id, b.id.name(uint64(i+1)))
	}
	if s := b.Stats(); s.Damaged != 0 || r.count(Corrupt) != 0 {
		t.Errorf("%+v", s)
	}
}

// opening counts the files that are opened.
type opening struct {
	*memFS
	opened int
}

func (o *opening) Open(name string, flag int) (File, error) {
	o.opened++
	return o.memFS.Open(name, flag)
}

// One call acknowledges what came together: runs, single ones, what has left already; and what is wrong with one place is no loss to
// the others.
func TestAckOfManyPlaces(t *testing.T) {
	fs := newMemFS()
	b := openBox(t, "box", Options{FS: fs})
	appendBodies(t, b, bodies(1, 20)...)
	if err := b.Quarantine(4, errDamaged); err != nil {
		t.Fatal(err)
	}
	equal(t, "gap", tryNext(t, b, 3, 1)[0].Gap, "4-4") // 5 tells it
	saved := b.cur.turn
	if err := b.Ack(1, 2, 3, 4, 5, 6, 9, 8, 3, 15, 16); err != nil {
		t.Error(err)
	}
	equal(t, "writes of the cursor", b.cur.turn-saved, 1)
	if err := b.Ack(0, 18, 19, 20, 21, 22); err == nil {
		t.Error("places that never were are acknowledged")
	}
	want := []string{body(7), body(10), body(11), body(12), body(13), body(14), body(17)}
	equalAll(t, "left", bodiesOf(queued(t, b)), want)
	equal(t, "acknowledged", b.Stats().Acked, 12)
	equal(t, "gaps still to be told", len(b.gaps), 0)
	fs = fs.killed()
	b = openBox(t, "box", Options{FS: fs})
	equalAll(t, "left after a kill", bodiesOf(queued(t, b)), want)
	if slices.ContainsFunc(queued(t, b), func(r Record) bool { return r.Gap != "" }) {
		t.Error("the gap is told again")
	}
	closeBox(t, b)
}

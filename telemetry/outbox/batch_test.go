package outbox

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/telemetry/message"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk/memdisk"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/format"
)

// What was read ahead serves the next calls, and hides nothing that came later.
func TestReadGoesOnWhereItEnded(t *testing.T) {
	fs := &opening{FS: memdisk.New()}
	var r reports
	b := openBox(t, "box", Options{FS: fs, Report: r.add})
	defer closeBox(t, b)
	var batch Batch
	var got, ids []string
	after := uint64(0)
	read := func(limit, want int) {
		t.Helper()
		records, err := b.Read(&batch, limit, maxBodies, Part{After: after})
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
	opened, looked := fs.opened, fs.read
	read(3, 3)
	if fs.opened != opened || fs.read != looked {
		t.Errorf("%d files were opened, and read %d times, for what was read ahead", fs.opened-opened, fs.read-looked)
	}
	appendBodies(t, b, bodies(11, 20)...) // into the file that was read ahead when they were not there
	read(100, 14)
	appendBodies(t, b, bodies(21, 22)...)
	read(100, 2)
	equalAll(t, "read", got, bodies(1, 22))
	for i, id := range ids {
		equal(t, "id", id, b.id.Name(uint64(i+1)))
	}
	if s := b.Stats(); s.Damaged != 0 || r.count(Corrupt) != 0 {
		t.Errorf("%+v", s)
	}
}

// What messages next to each other have in common is decoded once; what they have not is not mixed
// up.
func TestDecoderAfterOthers(t *testing.T) {
	at := time.Date(2026, 3, 1, 8, 30, 0, 123456789, time.UTC)
	var d format.Decoder
	m := message.Message{Properties: map[string]string{"left": "behind"}}
	for i, want := range []message.Message{
		{Body: []byte("1"), ContentType: "a", ContentEncoding: "b", Component: "c", Created: at},
		{Body: []byte("2"), ContentType: "a", ContentEncoding: "b", Component: "c", Created: at.Add(time.Second)},
		{Body: []byte("3"), ContentType: "a", ContentEncoding: "b", Component: "c", Created: at, Properties: map[string]string{"k": "v"}},
		{Body: []byte("4"), ContentType: "a", ContentEncoding: "b", Component: "c", Created: at},
		{Body: []byte("5"), ContentType: "ab", ContentEncoding: "", Component: "c", Created: at},
		{Body: []byte("\x01a\x01b\x01c\x00"), Created: at},
		{Body: []byte("\x01a\x01b\x01c\x00"), ContentType: "a", ContentEncoding: "b", Component: "c", Created: time.Unix(-1, 5).UTC()},
		{Body: []byte{}, Properties: map[string]string{"": "", "k": "w"}, Created: at},
	} {
		if err := d.Decode(&m, encode(&want).Payload); err != nil || !reflect.DeepEqual(m, want) {
			t.Errorf("%d: %+v, %v; want %+v", i, m, err, want)
		}
		if d.Decode(&message.Message{}, []byte("\x00\x00\x01a\x01b\xff")) == nil { // which spoils nothing
			t.Error("nonsense is taken for a message")
		}
	}
}

// The id of a record is made from the one before it, if that is next to it.
func TestNamesAfterOthers(t *testing.T) {
	var batch Batch
	for _, v := range []struct {
		id  format.ID
		seq uint64
	}{{7, 8}, {7, 9}, {7, 10}, {7, 11}, {8, 12}, {8, 13}, {8, 15}, {7, 16}, {7, 99}, {7, 100}, {7, 101}, {7, 100}} {
		batch.addName(v.id, v.seq)
		batch.records = append(batch.records, Record{})
		batch.name()
		equal(t, "id", batch.records[len(batch.records)-1].ID, v.id.Name(v.seq))
	}
	equal(t, "the first", batch.records[0].ID, format.ID(7).Name(8))
	batch.reset()
	batch.addName(7, 101) // nothing is before it now
	equal(t, "id", string(batch.ids), format.ID(7).Name(101))
}

// A reader may have no use for what it was given, and take it again later, without going through
// the whole segment for it.
func TestReadingAgainIsCheap(t *testing.T) {
	fs := &opening{FS: memdisk.New()}
	b := openBox(t, "box", Options{FS: fs})
	defer closeBox(t, b)
	large := strings.Repeat("x", 30<<10)
	for i := range 30 {
		appendBodies(t, b, fmt.Sprint(i, large))
	}
	var batch Batch
	for after := uint64(0); after < 27; after += 2 {
		fs.read = 0
		records, err := b.Read(&batch, 3, maxBodies, Part{After: after})
		if err != nil || len(records) != 3 || !strings.HasPrefix(string(records[2].Body), fmt.Sprint(after+2, "x")) {
			t.Fatalf("behind %d: %d records, %v", after, len(records), err)
		}
		if fs.read > 3 {
			t.Errorf("behind %d the disk was read %d times", after, fs.read)
		}
	}
}

// A batch's memory serves one record after the other, and none tells the gap of another.
func TestReadTellsOnlyItsOwnGap(t *testing.T) {
	b := openBox(t, "box", Options{FS: memdisk.New()})
	defer closeBox(t, b)
	appendBodies(t, b, bodies(1, 4)...)
	if err := b.Quarantine(1, errDamaged); err != nil {
		t.Fatal(err)
	}
	var batch Batch
	for after, want := range []string{1: "1-1", 2: "", 3: ""} {
		if after == 0 {
			continue
		}
		records, err := b.Read(&batch, 1, maxBodies, Part{After: uint64(after)})
		if err != nil || len(records) != 1 || records[0].Gap != want {
			t.Fatalf("%+v, %v", records, err)
		}
		if err := b.Ack(records[0].Pos); err != nil {
			t.Fatal(err)
		}
	}
}

// opening counts the files that are opened, and how often they are read.
type opening struct {
	*memdisk.FS
	opened, read int
}

func (o *opening) Open(name string, flag int) (disk.File, error) {
	o.opened++
	f, err := o.FS.Open(name, flag)
	return countedReads{f, o}, err
}

type countedReads struct {
	disk.File
	o *opening
}

func (f countedReads) ReadAt(b []byte, at int64) (int, error) {
	f.o.read++
	return f.File.ReadAt(b, at)
}

// One call acknowledges what came together: runs, single ones, what has left already; and what is
// wrong with one position is no loss to the others.
func TestAckOfManyPlaces(t *testing.T) {
	fs := memdisk.New()
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
	fs = fs.Killed()
	b = openBox(t, "box", Options{FS: fs})
	equalAll(t, "left after a kill", bodiesOf(queued(t, b)), want)
	if slices.ContainsFunc(queued(t, b), func(r Record) bool { return r.Gap != "" }) {
		t.Error("the gap is told again")
	}
	closeBox(t, b)
}

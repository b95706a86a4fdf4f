package outbox

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/telemetry/message"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk/memdisk"
)

// What a box promises whatever it keeps its messages in, docs/outbox.md section 1.
var contract = map[string]func(t *testing.T, open func(o Options) *Box){
	"in order, under ids without a gap, until it is acknowledged": func(t *testing.T, open func(o Options) *Box) {
		b := open(Options{})
		if b.Last() != 0 || b.Stats().LastSeq != 0 {
			t.Errorf("a new box is at %d", b.Last())
		}
		made := time.Date(2026, 3, 1, 8, 30, 0, 123456789, time.FixedZone("", 3600))
		m := message.Message{Body: []byte("{}"), ContentType: "a/b", ContentEncoding: "c", Created: made, Component: "d", Properties: map[string]string{"e": "f", "": ""}}
		if err := b.Append(t.Context(), m, message.Message{}); err != nil {
			t.Fatal(err)
		}
		appendBodies(t, b, bodies(3, 10)...)
		r := queued(t, b)
		equal(t, "records", len(r), 10)
		if !r[0].Created.Equal(made) || r[0].Created.Location() != time.UTC || r[1].Created.IsZero() {
			t.Errorf("made %v and %v", r[0].Created, r[1].Created)
		}
		if m.Created = r[0].Created; fmt.Sprint(r[0].Message) != fmt.Sprint(m) {
			t.Errorf("%+v came back as %+v", m, r[0].Message)
		}
		for i, x := range r {
			equal(t, "id", x.ID, fmt.Sprintf("%s-%d", b.ID(), i+1))
			equal(t, "position", x.Pos, uint64(i+1))
		}
		equal(t, "asked again", fmt.Sprint(idsOf(queued(t, b))), fmt.Sprint(idsOf(r)))
		if !b.HasID(b.ID()) || b.HasID("0123456789abcdef") || b.Last() != 10 {
			t.Errorf("last %d", b.Last())
		}
		ackAll(t, b, []Record{r[3], r[0], r[3], r[8]})
		equal(t, "left", fmt.Sprint(seqsOf(t, queued(t, b))), "[2 3 5 6 7 8 10]")
		for _, pos := range []uint64{0, 11} {
			if b.Ack(pos) == nil {
				t.Errorf("position %d is acknowledged", pos)
			}
		}
		ackAll(t, b, r)
		appendBodies(t, b, "11")
		equal(t, "left", fmt.Sprint(seqsOf(t, queued(t, b))), "[11]")
		if s := b.Stats(); s.Queued != 1 || s.Appended != 11 || s.Acked != 10 || s.LastSeq != 11 || s.QueuedBytes <= 0 || s.ID != b.ID() || s.Degraded || s.Err != nil {
			t.Errorf("%+v", s)
		}
	},
	"parts of the line": func(t *testing.T, open func(o Options) *Box) {
		b := open(Options{})
		appendBodies(t, b, bodies(1, 20)...)
		equal(t, "newest", b.Newest(5), 15)
		equal(t, "newest of too few", b.Newest(20), 0)
		var batch Batch
		defer batch.Release()
		read := func(limit, bytes int, parts ...Part) string {
			r, err := b.Read(&batch, limit, bytes, parts...)
			if err != nil {
				t.Error(err)
			}
			return fmt.Sprint(seqsOf(t, r))
		}
		equal(t, "the fresh ones", read(100, 1<<20, Part{After: 15}, Part{Until: 16}), "[16 17 18 19 20]")
		equal(t, "a few", read(2, 1<<20, Part{After: 20}, Part{After: 3, Until: 16}), "[4 5]")
		equal(t, "up to a bound", read(9, 1<<20, Part{After: 13, Until: 16}), "[14 15]")
		equal(t, "up to some bytes", read(9, 14, Part{After: 13}), "[14 15]")
		equal(t, "one at least", read(9, 0, Part{After: 13}), "[14]")
		equal(t, "none", read(9, 9, Part{After: 20}, Part{Until: 1}), "[]")
	},
	"a full box that blocks": func(t *testing.T, open func(o Options) *Box) {
		b := open(Options{MaxBytes: 64 << 10, Full: Block})
		n := 0
		put := func() error { n++; return b.TryAppend(message.Message{Body: make([]byte, 1000)}) }
		for put() == nil {
		}
		if n < 40 || n > 64 || !errors.Is(put(), ErrFull) || b.Stats().Dropped != 0 {
			t.Errorf("full after %d", n)
		}
		last := b.Last()
		ctx, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		if err := b.Append(ctx, message.Message{Body: make([]byte, 1000)}); !errors.Is(err, ErrFull) {
			t.Errorf("waited in vain: %v", err)
		}
		if err := b.AppendOver(message.Message{Body: make([]byte, 1000)}); err != nil || b.Last() != last+1 {
			t.Errorf("over the bound: %v, last %d after %d", err, b.Last(), last)
		}
		done := make(chan error, 1)
		go func() { done <- b.Append(t.Context(), message.Message{Body: make([]byte, 1000)}) }()
		time.Sleep(time.Minute)
		select {
		case err := <-done:
			t.Errorf("did not wait: %v", err)
		default:
		}
		ackAll(t, b, queued(t, b))
		if err := <-done; err != nil || b.Last() != last+2 {
			t.Errorf("%v, last %d", err, b.Last())
		}
		if err := b.TryAppend(message.Message{Body: make([]byte, 65<<10)}); !errors.Is(err, ErrTooLarge) {
			t.Errorf("larger than the box: %v", err)
		}
	},
	"a full box that drops, and tells": func(t *testing.T, open func(o Options) *Box) {
		far, lost := newConsumer(), uint64(0)
		b := open(Options{MaxBytes: 64 << 10, Report: func(p Problem) {
			if p.Kind == Dropped {
				lost += p.Messages
			}
		}})
		for i := range 300 {
			appendBodies(t, b, fmt.Sprintf("%d %01000d", i, 0))
			if i%100 == 50 { // one arrives now and then
				r := queued(t, b)
				far.take(t, r[0])
				ackAll(t, b, r[:1])
			}
		}
		s := b.Stats()
		if s.Queued < 40 || s.Queued > 64 || s.Dropped != lost || s.Dropped+s.Queued+s.Acked != 300 || s.QueuedBytes > 64<<10 {
			t.Errorf("%d reported, %+v", lost, s)
		}
		for _, x := range queued(t, b) {
			far.take(t, x)
			ackAll(t, b, []Record{x})
		}
		if missing := far.unaccounted(); len(missing) > 0 {
			t.Errorf("not accounted for: %v", missing)
		}
		equal(t, "newest", far.top[b.ID()], 300)
	},
	"too old": func(t *testing.T, open func(o Options) *Box) {
		b := open(Options{MaxAge: time.Hour, Age: func(pos uint64, made time.Time) time.Duration {
			if pos == 2 {
				return 0
			}
			return time.Since(made)
		}})
		appendBodies(t, b, "1", "2", "3")
		time.Sleep(2 * time.Hour)
		appendBodies(t, b, "4")
		r := queued(t, b)
		equal(t, "left", fmt.Sprint(seqsOf(t, r)), "[2 4]")
		equal(t, "gaps", r[0].Gap+" "+r[1].Gap, "1-1 3-3")
		equal(t, "dropped", b.Stats().Dropped, 2)
	},
	"poison": func(t *testing.T, open func(o Options) *Box) {
		var got reports
		b := open(Options{Report: got.add})
		appendBodies(t, b, "1", "2", "3")
		r := queued(t, b)
		if err := b.Quarantine(r[1].Pos, errors.New("too large")); err != nil {
			t.Error(err)
		}
		if err := b.Quarantine(r[1].Pos, nil); err != nil {
			t.Error(err)
		}
		left := queued(t, b)
		equal(t, "left", fmt.Sprint(seqsOf(t, left)), "[1 3]")
		equal(t, "gap", left[1].Gap, "2-2")
		equal(t, "reports", got.count(Quarantined), 1)
		if s := b.Stats(); s.Quarantined != 1 || s.Queued != 2 {
			t.Errorf("%+v", s)
		}
		if b.Quarantine(9, nil) == nil {
			t.Error("what is not there is set aside")
		}
	},
	"too large": func(t *testing.T, open func(o Options) *Box) {
		b := open(Options{})
		err := b.Append(t.Context(), message.Message{Body: make([]byte, MaxRecord+1)})
		p, ok := errors.AsType[interface {
			error
			Permanent() bool
		}](err)
		if !errors.Is(err, ErrTooLarge) || !ok || !p.Permanent() || b.Last() != 0 {
			t.Errorf("%v, last %d", err, b.Last())
		}
	},
	"waiting": func(t *testing.T, open func(o Options) *Box) {
		b := open(Options{})
		if err := b.WaitEmpty(t.Context()); err != nil {
			t.Error(err)
		}
		var c notices
		b.Notify(c.wake, Part{})
		c.equal(t, 0)
		appendBodies(t, b, "1")
		c.equal(t, 1)
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := b.WaitEmpty(short); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if err := b.Wait(short, Part{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if err := b.Wait(t.Context(), Part{}); err != nil {
			t.Error(err)
		}
		empty := make(chan error, 1)
		go func() { empty <- b.WaitEmpty(t.Context()) }()
		time.Sleep(time.Second)
		ackAll(t, b, queued(t, b))
		if err := <-empty; err != nil {
			t.Error(err)
		}
		if err := b.Sync(); err != nil {
			t.Error(err)
		}
	},
	"stamps": func(t *testing.T, open func(o Options) *Box) {
		b := open(Options{Stamp: stampPositions, MaxBytes: 64 << 10})
		for n := range 100 {
			appendBodies(t, b, bodies(0, n%9)...)
		}
		for _, r := range queued(t, b) {
			if !isStamped(r) {
				t.Fatalf("%s at %d was stamped %v", r.ID, r.Pos, r.Created)
			}
		}
	},
	"many at once": func(t *testing.T, open func(o Options) *Box) {
		b := open(Options{Full: Block, MaxBytes: 64 << 10})
		var all sync.WaitGroup
		for p := range 5 {
			all.Go(func() {
				for n := range 100 {
					if err := b.Append(t.Context(), message.Message{Body: fmt.Appendf(nil, "%d %d %0*d", p, n, 500, 0)}); err != nil {
						t.Error(err)
					}
				}
			})
		}
		far, got := newConsumer(), 0
		for got < 500 {
			if err := b.Wait(t.Context(), Part{}); err != nil {
				t.Fatal(err)
			}
			var batch Batch
			r, err := b.Read(&batch, 7, 1<<20, Part{})
			if err != nil {
				t.Fatal(err)
			}
			for _, x := range r {
				far.take(t, x)
			}
			got += len(r)
			ackAll(t, b, r)
			batch.Release()
		}
		all.Wait()
		if missing := far.unaccounted(); len(missing) > 0 || len(far.gaps) > 0 || b.Stats().Queued > 0 {
			t.Errorf("not accounted for: %v; gaps %v", missing, far.gaps)
		}
	},
	"discarded": func(t *testing.T, open func(o Options) *Box) {
		b := open(Options{})
		for range 2 {
			n, err := b.Discard()
			if n != 0 || err != nil {
				t.Errorf("dropped %d of none: %v", n, err)
			}
		}
		appendBodies(t, b, bodies(1, 5)...)
		ackAll(t, b, queued(t, b)[:2])
		n, err := b.Discard()
		if n != 3 || err != nil || b.Stats().Queued != 0 || b.Stats().Dropped != 3 {
			t.Errorf("dropped %d: %v; %+v", n, err, b.Stats())
		}
		appendBodies(t, b, "6")
		r := queued(t, b)
		equal(t, "left", fmt.Sprint(seqsOf(t, r)), "[6]")
		equal(t, "gap", r[0].Gap, "3-5")
		closeBox(t, b)
		if _, err := b.Discard(); !errors.Is(err, ErrClosed) {
			t.Errorf("closed: %v", err)
		}
	},
	"closed": func(t *testing.T, open func(o Options) *Box) {
		b := open(Options{})
		appendBodies(t, b, "1")
		waits := make(chan error, 2)
		go func() { waits <- b.Wait(t.Context(), Part{After: 1}) }()
		go func() { waits <- b.WaitEmpty(t.Context()) }()
		time.Sleep(time.Second)
		closeBox(t, b)
		closeBox(t, b)
		var batch Batch
		_, read := b.Read(&batch, 1, 1, Part{})
		for _, err := range []error{<-waits, <-waits, read, b.TryAppend(message.Message{}), b.Ack(1), b.Quarantine(1, nil), b.Sync(), b.Wait(t.Context(), Part{})} {
			if !errors.Is(err, ErrClosed) {
				t.Errorf("got %v", err)
			}
		}
	},
}

func TestDiskAndMemoryKeepTheContract(t *testing.T) {
	kinds := map[string]func(t *testing.T, o Options) (*Box, error){
		"disk":   func(_ *testing.T, o Options) (*Box, error) { o.FS = memdisk.New(); return Open("/box", o) },
		"memory": func(_ *testing.T, o Options) (*Box, error) { return NewMemory(o) },
	}
	for kind, open := range kinds {
		for name, test := range contract {
			t.Run(kind+"/"+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					test(t, func(o Options) *Box {
						b, err := open(t, o)
						if err != nil {
							t.Fatal(err)
						}
						t.Cleanup(func() { _ = b.Close() })
						return b
					})
				})
			})
		}
	}
	for kind, open := range kinds {
		if _, err := open(t, Options{MaxAge: -1}); err == nil || !strings.Contains(err.Error(), "MaxAge") {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

// seqsOf gives the seqs of records.
func seqsOf(t *testing.T, records []Record) (all []uint64) {
	t.Helper()
	for _, r := range records {
		_, seq := splitID(t, r.ID)
		all = append(all, seq)
	}
	return slices.Clip(all)
}

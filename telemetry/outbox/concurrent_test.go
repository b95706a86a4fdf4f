package outbox

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/telemetry/message"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk/memdisk"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/format"
)

// slowFS takes a millisecond for a sync, as a disk does.
type slowFS struct{ disk.FS }

type slowFile struct{ disk.File }

func (s slowFS) Open(name string, flag int) (disk.File, error) {
	f, err := s.FS.Open(name, flag)
	return slowFile{f}, err
}

func (f slowFile) Sync() error {
	time.Sleep(time.Millisecond)
	return f.File.Sync()
}

// Producers that append at the same time share syncs, and all of one Append stays together.
func TestGroupCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := memdisk.New()
		b := openBox(t, "/box", Options{FS: slowFS{disk}})
		appendBodies(t, b, "first")
		syncs := disk.Count("sync")
		const producers, rounds = 64, 10
		var wg sync.WaitGroup
		for p := range producers {
			wg.Go(func() {
				for n := range rounds {
					pair := []message.Message{{Body: fmt.Appendf(nil, "%d.%d a", p, n)}, {Body: fmt.Appendf(nil, "%d.%d b", p, n)}}
					if err := b.Append(t.Context(), pair...); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		if n := disk.Count("sync") - syncs; n > 3*rounds {
			t.Errorf("%d syncs for %d appends", n, producers*rounds)
		}
		r := queued(t, b)[1:]
		equal(t, "records", len(r), 2*producers*rounds)
		next := map[string]int{}
		for i := 0; i < len(r); i += 2 {
			first, second := string(r[i].Body), string(r[i+1].Body)
			if strings.TrimSuffix(first, " a") != strings.TrimSuffix(second, " b") {
				t.Fatalf("%q is followed by %q", first, second)
			}
			p, n, _ := strings.Cut(first, ".")
			if n != fmt.Sprintf("%d a", next[p]) {
				t.Fatalf("producer %s: %q out of order", p, first)
			}
			next[p]++
		}
		closeBox(t, b)
	})
}

// One producer alone: an Append is a write and a sync. Only when the records have come to the end of
// the zeros, it also writes as many zeros as this process has written records.
func TestOneAppendIsOneSync(t *testing.T) {
	disk := memdisk.New()
	b := openBox(t, "/box", Options{FS: disk})
	appendBodies(t, b, "first")
	calls, syncs := disk.Calls, disk.Count("sync")
	for range 100 {
		appendBodies(t, b, "next")
	}
	equal(t, "syncs", disk.Count("sync")-syncs, 100)
	equal(t, "calls", disk.Calls-calls, 200+4)
	closeBox(t, b)
}

// Everybody at once, on a real disk, in a box that is too small: producers, a drainer that
// acknowledges out of order, a second reader, somebody who looks at the figures, and poison. Every
// seq is accounted for.
func TestEverybodyAtOnce(t *testing.T) {
	b := openBox(t, t.TempDir(), Options{MaxBytes: 40 << 10, Report: func(Problem) {}})
	const producers, each = 8, 150
	var producing, others sync.WaitGroup
	for p := range producers {
		producing.Go(func() {
			for n := range each {
				if err := b.Append(t.Context(), message.Message{Body: fmt.Appendf(nil, "%d.%d %0*d", p, n, rand.IntN(400), 0)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	ctx, stop := context.WithCancel(t.Context())
	var done atomic.Bool
	far := newConsumer()
	others.Go(func() {
		after := uint64(0)
		for turn := 0; ; turn++ {
			r, err := next(ctx, b, after, 64)
			if err != nil {
				if !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
				return
			}
			after = r[len(r)-1].Pos
			for _, x := range r {
				if rand.IntN(200) == 0 && !done.Load() {
					if err := b.Quarantine(x.Pos, errors.New("poison")); err != nil {
						t.Error(err)
					}
					after = 0
					break
				}
				far.take(t, x)
			}
			rand.Shuffle(len(r), func(i, j int) { r[i], r[j] = r[j], r[i] })
			for _, x := range r {
				if _, arrived := far.received[x.ID]; arrived && rand.IntN(20) > 0 {
					if err := b.Ack(x.Pos); err != nil {
						t.Error(err)
					}
				}
			}
			if turn%10 == 0 || done.Load() {
				after = 0
			}
		}
	})
	others.Go(func() {
		after := uint64(0)
		for {
			r, err := next(ctx, b, after, 10)
			if err != nil {
				return
			}
			after = r[len(r)-1].Pos
		}
	})
	others.Go(func() {
		for ctx.Err() == nil {
			if s := b.Stats(); s.QueuedBytes > 41<<10 {
				t.Errorf("%d bytes queued", s.QueuedBytes)
			}
			_, _ = Inspect(b.dir)
		}
	})
	producing.Wait()
	done.Store(true)
	for range 2 * format.MaxGaps { // so that every gap finds somebody to tell it
		appendBodies(t, b, "end")
		if err := b.WaitEmpty(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	others.Wait()
	if missing := far.unaccounted(); len(missing) > 0 {
		t.Errorf("not accounted for: %v", missing)
	}
	s := b.Stats()
	equal(t, "appended", s.Appended, producers*each+2*format.MaxGaps)
	equal(t, "left", s.Acked+s.Dropped+s.Quarantined, s.Appended)
	t.Logf("%+v", s)
	closeBox(t, b)
}

// Small commits find zeros in front of them, so that their syncs wait for no journal. Large ones,
// and the end of a segment, do without, and the disk never has more than twice the records.
func TestSmallCommitsFindZeros(t *testing.T) {
	disk := memdisk.New()
	b := openBox(t, "/box", Options{FS: disk})
	laid := func(do func(), appends int) int {
		before := disk.Count("write")
		do()
		return disk.Count("write") - before - appends
	}
	small := strings.Repeat("s", 200)
	equal(t, "zeros before 64 small commits", laid(func() {
		for range 64 {
			appendBodies(t, b, small)
		}
	}, 64), 6)
	equal(t, "zeros before large commits", laid(func() {
		for range 8 {
			appendBodies(t, b, strings.Repeat("l", 20<<10))
		}
	}, 8), 0)
	equal(t, "zeros in a segment that is far ahead: each 64 KiB", laid(func() {
		for range 1024 {
			appendBodies(t, b, small)
		}
	}, 1024), 4)
	closeBox(t, b)
}

package telemetry

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/telemetry/outbox"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk"
)

// slowDisk is the real disk, whose syncs take their time.
type slowDisk struct {
	disk.FS
	sync func() time.Duration
}

type slowFile struct {
	disk.File
	disk slowDisk
}

func (d slowDisk) Open(name string, flag int) (disk.File, error) {
	f, err := d.FS.Open(name, flag)
	return slowFile{f, d}, err
}

func (f slowFile) Sync() error {
	time.Sleep(f.disk.sync())
	return f.File.Sync()
}

// skips counts the ticks that a feed reported as skipped.
type skips struct {
	mu  sync.Mutex
	all map[SkipReason]int
}

func (s *skips) add(n int, why SkipReason) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = map[SkipReason]int{}
	}
	s.all[why] += n
}

// TestASlowDiskSwallowsNoTick: a sync takes 300 ms, and a sample is due each 8 ms. Each is made at
// its time, in order, and is durable when Feed has returned. Samples without room to wait are
// counted and told.
func TestASlowDiskSwallowsNoTick(t *testing.T) {
	for _, v := range []struct {
		sync          time.Duration
		made, skipped uint64
	}{
		{300 * time.Millisecond, 600, 0},
		{time.Minute, 0, 0}, // the first sync, and nothing but it: what was made meanwhile is 1 and 1,024
	} {
		synctest.Test(t, func(t *testing.T) {
			const interval, ticks = 8 * time.Millisecond, 600
			run := ticks*interval - interval/2
			if v.sync == time.Minute {
				run = 5000*interval - interval/2
				v.made, v.skipped = 1+maxWaiting, 5000-1-maxWaiting
			}
			fast := true
			box, err := outbox.Open(t.TempDir(), outbox.Options{FS: slowDisk{disk.Real(), func() time.Duration {
				if fast {
					return 0
				}
				return v.sync
			}}})
			if err != nil {
				t.Fatal(err)
			}
			fast = false
			ctx, stop := context.WithTimeout(t.Context(), run)
			defer stop()
			counters, told, n := new(Counters), new(skips), 0
			err = Feed(ctx, Every(interval, func(time.Time) ([]byte, error) {
				n++
				return fmt.Appendf(nil, `{"n":%d}`, n), nil
			}), box, FeedOptions{Counters: counters, Skipped: told.add})
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
			if made, skipped := counters.Made.Load(), counters.Skipped.Load(); made != v.made || skipped != v.skipped {
				t.Errorf("a sync takes %v: %d made, %d skipped; want %d and %d", v.sync, made, skipped, v.made, v.skipped)
			}
			if told.all[SkipSlow] != int(v.skipped) || len(told.all) > 1 {
				t.Errorf("a sync takes %v: told %v", v.sync, told.all)
			}
			if s := box.Stats(); s.Queued != v.made || s.LastSeq != v.made {
				t.Errorf("a sync takes %v: %+v", v.sync, s)
			}
			start := time.Time{}
			for i, after := 1, uint64(0); i <= int(v.made); {
				r, err := next(t, box, after, 100)
				if err != nil {
					t.Fatal(err)
				}
				for _, x := range r {
					if i == 1 {
						start = x.Created
					}
					if due := start.Add(time.Duration(i-1) * interval); string(x.Body) != fmt.Sprintf(`{"n":%d}`, i) || !x.Created.Equal(due) {
						t.Fatalf("sample %d is %s of %v, due %v", i, x.Body, x.Created, due)
					}
					i, after = i+1, x.Pos
				}
			}
			if err := box.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestLateTicksAreCounted: a read that takes longer than the interval skips the ticks in its time.
func TestLateTicksAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithTimeout(t.Context(), 90500*time.Millisecond)
		defer stop()
		counters, told, n := new(Counters), new(skips), 0
		_ = Feed(ctx, Every(time.Second, func(time.Time) ([]byte, error) {
			if n++; n%10 == 0 {
				time.Sleep(2500 * time.Millisecond)
			}
			return []byte("{}"), nil
		}), newFakeBox(), FeedOptions{Counters: counters, Skipped: told.add})
		made, skipped := counters.Made.Load(), counters.Skipped.Load()
		if made+skipped != 91 || skipped != 14 || told.all[SkipLate] != 14 {
			t.Errorf("%d made, %d skipped, told %v", made, skipped, told.all)
		}
	})
}

// TestLargeSamplesThatWaitAreBounded: samples that wait for a disk take 1 MiB at most.
func TestLargeSamplesThatWaitAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hung := false
		box, err := outbox.Open(t.TempDir(), outbox.Options{FS: slowDisk{disk.Real(), func() time.Duration {
			if hung {
				return time.Hour
			}
			return 0
		}}})
		if err != nil {
			t.Fatal(err)
		}
		hung = true
		ctx, stop := context.WithTimeout(t.Context(), 99500*time.Millisecond)
		defer stop()
		told := new(skips)
		body := []byte(`{"s":"` + strings.Repeat("x", 100<<10) + `"}`)
		counters := new(Counters)
		_ = Feed(ctx, Every(time.Second, func(time.Time) ([]byte, error) { return body, nil }), box, FeedOptions{Skipped: told.add, Counters: counters})
		if made := counters.Made.Load(); made != 1+10 || told.all[SkipSlow] != 100-11 {
			t.Errorf("%d made, %v", made, told.all)
		}
		hung = false
		if err := box.Close(); err != nil {
			t.Error(err)
		}
	})
}

// next returns the oldest records behind a position, up to limit of them. It waits for one. The
// records are valid until t ends.
func next(t *testing.T, b *outbox.Box, after uint64, limit int) ([]outbox.Record, error) {
	batch := new(outbox.Batch)
	t.Cleanup(batch.Release)
	for {
		if err := b.Wait(t.Context(), outbox.Part{After: after}); err != nil {
			return nil, err
		}
		records, err := b.Read(batch, limit, 512<<10, outbox.Part{After: after})
		if len(records) > 0 || err != nil {
			return records, err
		}
	}
}

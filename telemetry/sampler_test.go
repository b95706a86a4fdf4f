package telemetry

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/internal/bubble"
)

// TestSamplerKeepsEveryGrid: many sources share one sampler. Each is asked at the exact times of
// its own grid, and no goroutine waits between the ticks.
func TestSamplerKeepsEveryGrid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const sources, ticks = 200, 30
		s := NewSampler(0)
		began := time.Now()
		before := bubble.Goroutines()
		var stops []func()
		var ended, asked atomic.Int64
		for i := range sources {
			interval := time.Second + time.Duration(i)*time.Millisecond
			first, n := time.Duration(i)*time.Millisecond, 0
			read := func(now time.Time) ([]byte, error) {
				asked.Add(1)
				if want := first + time.Duration(n)*interval; now.Sub(began) != want {
					t.Errorf("source %d: tick %d at %v, not %v", i, n, now.Sub(began), want)
				}
				n++
				return []byte(`{}`), nil
			}
			stops = append(stops, StartFeed(t.Context(), Every(interval, read), discard{}, FeedOptions{Sampler: s}, func(err error) {
				ended.Add(1)
				if !errors.Is(err, context.Canceled) {
					t.Errorf("source %d ended with %v", i, err)
				}
			}))
			time.Sleep(time.Millisecond)
		}
		time.Sleep(ticks*time.Second + 500*time.Microsecond)
		synctest.Wait()
		noMoreGoroutines(t, before)
		if n := asked.Load(); n < sources*(ticks-6) {
			t.Errorf("asked %d times", n)
		}
		for _, stop := range stops {
			stop()
		}
		n := asked.Load()
		time.Sleep(time.Hour)
		if ended.Load() != sources || asked.Load() != n {
			t.Errorf("%d have ended, asked %d times afterwards", ended.Load(), asked.Load()-n)
		}
	})
}

// TestSamplerIsBounded: the sampler asks no more sources at once than its bound. The others wait
// for their turn, and their ticks that pass meanwhile are skipped.
func TestSamplerIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewSampler(3)
		var mu sync.Mutex
		asked, most, now := map[int]int{}, 0, 0
		var counters Counters
		var stops []func()
		for i := range 9 {
			read := func(time.Time) ([]byte, error) {
				mu.Lock()
				asked[i]++
				now++
				most = max(most, now)
				mu.Unlock()
				time.Sleep(700 * time.Millisecond)
				mu.Lock()
				now--
				mu.Unlock()
				return []byte(`{}`), nil
			}
			stops = append(stops, StartFeed(t.Context(), Every(time.Second, read), discard{}, FeedOptions{Sampler: s, Counters: &counters}, func(error) {}))
		}
		time.Sleep(time.Minute)
		for _, stop := range stops {
			stop()
		}
		for i := range 9 {
			if n := asked[i]; n < 18 || n > 32 { // 3 workers have time for 257 readings
				t.Errorf("source %d was asked %d times", i, n)
			}
		}
		if most != 3 || counters.Skipped.Load() == 0 || now != 0 {
			t.Errorf("%d at once, %d skipped, %d are asked still", most, counters.Skipped.Load(), now)
		}
	})
}

// Stopping a feed waits for the reading under way, whose sample is kept.
func TestStoppedFeedFinishesItsReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box := newFakeBox()
		stop := StartFeed(t.Context(), Every(time.Hour, func(time.Time) ([]byte, error) {
			time.Sleep(time.Minute)
			return []byte(`{}`), nil
		}), box, FeedOptions{}, func(err error) {
			if !errors.Is(err, context.Canceled) || len(box.held()) != 1 {
				t.Errorf("ended with %v, %d held", err, len(box.held()))
			}
		})
		time.Sleep(time.Second)
		began := time.Now()
		stop()
		if took := time.Since(began); took != 59*time.Second {
			t.Errorf("took %v", took)
		}
	})
}

// TestWaitingSourceKeepsNoWorker: a scheduled source that waits for room occupies no worker. Its
// ticks that pass meanwhile are skipped, and it goes on at its own times.
func TestWaitingSourceKeepsNoWorker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, box := NewSampler(1), newFakeBox()
		box.limit = 2
		began := time.Now()
		var mu sync.Mutex
		var at []float64
		others := 0
		asked := func() (string, int) {
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			return fmt.Sprint(at), others
		}
		waits := Source{Interval: 10 * time.Second, Full: Wait, Read: func(now time.Time) ([]byte, error) {
			mu.Lock()
			defer mu.Unlock()
			at = append(at, now.Sub(began).Seconds())
			return []byte(`{}`), nil
		}}
		other := Every(time.Second, func(time.Time) ([]byte, error) {
			mu.Lock()
			defer mu.Unlock()
			others++
			return []byte(`{}`), nil
		})
		told, counters := new(skips), new(Counters)
		stop := StartFeed(t.Context(), waits, box, FeedOptions{Sampler: s, Skipped: told.add, Counters: counters}, func(error) {})
		stopOther := StartFeed(t.Context(), other, discard{}, FeedOptions{Sampler: s}, func(error) {})
		time.Sleep(55*time.Second + 500*time.Millisecond) // the third sample waits since 20 s
		if at, others := asked(); others != 56 || at != "[0 10 20]" {
			t.Errorf("the other one was asked %d times, the one that waits at %s", others, at)
		}
		if err := box.Ack(10); err != nil {
			t.Error(err)
		}
		if err := box.Ack(20); err != nil {
			t.Error(err)
		}
		time.Sleep(6 * time.Second)
		if at, _ := asked(); at != "[0 10 20 60]" || counters.Made.Load() != 4 {
			t.Errorf("asked at %v, %d made", at, counters.Made.Load())
		}
		time.Sleep(20 * time.Second) // the next one waits
		stop()
		stopOther()
		if n := told.all[SkipLate]; n < 3 {
			t.Errorf("skipped %v", told.all)
		}
		if n := len(box.held()); n != 3 { // what was read has gone in above the bound
			t.Errorf("%d held", n)
		}
	})
}

// TestPanicEndsOneFeed: a source that panics ends its own feed and no other. The error of that feed
// is what the containment has made of the panic.
func TestPanicEndsOneFeed(t *testing.T) {
	contain := func(f func() error) (err error) {
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("a bug: %v", p)
			}
		}()
		return f()
	}
	synctest.Test(t, func(t *testing.T) {
		s, box := NewSampler(1), newFakeBox()
		n, others := 0, 0
		var mu sync.Mutex
		var ended []error
		end := func(err error) {
			mu.Lock()
			defer mu.Unlock()
			ended = append(ended, err)
		}
		o := FeedOptions{Sampler: s, Contain: contain}
		StartFeed(t.Context(), Every(time.Second, func(time.Time) ([]byte, error) {
			if n++; n == 3 {
				panic("sensor")
			}
			return []byte(`{}`), nil
		}), box, o, end)
		stop := StartFeed(t.Context(), Every(time.Second, func(time.Time) ([]byte, error) { others++; return []byte(`{}`), nil }), box, o, func(error) {})
		StartFeed(t.Context(), Source{Run: func(context.Context, func(...Sample), func(error)) error { panic("input") }}, box, o,
			end)
		time.Sleep(10*time.Second + time.Millisecond)
		stop()
		synctest.Wait()
		if fmt.Sprint(ended) != "[a bug: input a bug: sensor]" || n != 3 || others != 11 {
			t.Errorf("ended with %v; asked %d and %d times", ended, n, others)
		}
	})
}

// noMoreGoroutines fails if the bubble has more goroutines than before.
func noMoreGoroutines(t *testing.T, before int) {
	t.Helper()
	if n := bubble.Goroutines() - before; n > 0 {
		stacks := make([]byte, 1<<20)
		t.Errorf("%d goroutines more: %s", n, stacks[:runtime.Stack(stacks, true)])
	}
}

// TestSourcesThatHangStopNoOther: as many sources as the bound and more are asked and do not
// answer. The others are asked as before, and those that hang go on when they answer at last.
func TestSourcesThatHangStopNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const hanging, others = 11, 20
		s, before := NewSampler(3), bubble.Goroutines()
		release := make(chan struct{})
		var hung, asked atomic.Int64
		var counters Counters
		var stops []func()
		start := func(read Read, c *Counters) {
			stops = append(stops, StartFeed(t.Context(), Every(5*time.Second, read), discard{}, FeedOptions{Sampler: s, Counters: c}, func(error) {}))
		}
		for range hanging {
			start(func(time.Time) ([]byte, error) {
				hung.Add(1)
				<-release
				return []byte(`{}`), nil
			}, nil)
		}
		for range others {
			start(func(time.Time) ([]byte, error) {
				asked.Add(1)
				return []byte(`{}`), nil
			}, &counters)
		}
		time.Sleep(time.Minute + 2*time.Second)
		asked.Store(0)
		counters.Skipped.Store(0)
		time.Sleep(time.Minute)
		if n := asked.Load(); n != others*12 || counters.Skipped.Load() != 0 || hung.Load() != hanging {
			t.Errorf("asked %d times, %d skipped, %d hang", n, counters.Skipped.Load(), hung.Load())
		}
		close(release)
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := hung.Load(); n != hanging*13 {
			t.Errorf("those that hung were asked %d times", n)
		}
		noMoreGoroutines(t, before)
		for _, stop := range stops {
			stop()
		}
		if s.workers != 0 || len(s.running) != 0 || len(s.ready) != 0 {
			t.Errorf("%d workers, %d running, %d ready", s.workers, len(s.running), len(s.ready))
		}
	})
}

// TestTaskIsNeverRunTwiceAtOnce: a task that was resumed before its run has returned is run again
// only afterwards, and stopping it waits for the run.
func TestTaskIsNeverRunTwiceAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewSampler(0)
		var now, runs atomic.Int64
		k := new(task)
		k.run = func() time.Time {
			if now.Add(1) > 1 {
				t.Error("it runs twice at once")
			}
			runs.Add(1)
			s.resume(k, time.Now())
			time.Sleep(time.Second)
			now.Add(-1)
			return time.Time{}
		}
		s.start(k)
		time.Sleep(10*time.Second + 500*time.Millisecond)
		s.stop(k)
		if n := runs.Load(); n != 11 || now.Load() != 0 {
			t.Errorf("%d runs, %d at once", n, now.Load())
		}
	})
}

// TestDueIsWhenTheNextSourceIsAsked: a sampler with sources that wait, then with one that hangs and
// one that waits for its worker.
func TestDueIsWhenTheNextSourceIsAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewSampler(1)
		if due := s.Due(); !due.IsZero() {
			t.Errorf("without sources it is due %v", due)
		}
		hang := make(chan struct{})
		began := time.Now()
		hanging := &task{run: func() time.Time { <-hang; return time.Time{} }}
		s.start(&task{run: func() time.Time { return time.Now().Add(time.Minute) }})
		synctest.Wait()
		if due := s.Due(); !due.Equal(began.Add(time.Minute)) {
			t.Errorf("it is due %v", due)
		}
		time.Sleep(time.Minute - time.Second)
		s.start(hanging)
		time.Sleep(time.Second) // the first source is due, and the only worker hangs
		synctest.Wait()
		if due := s.Due(); !due.Equal(began.Add(time.Minute)) {
			t.Errorf("while no worker is free it is due %v", due)
		}
		time.Sleep(stuckAfter)
		synctest.Wait()
		if due := s.Due(); !due.After(time.Now()) {
			t.Errorf("after another worker has taken over it is due %v", due)
		}
		close(hang)
		synctest.Wait()
		s.mu.Lock()
		s.timer.Stop()
		s.mu.Unlock()
	})
}

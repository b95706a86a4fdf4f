package telemetry

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// ticks runs a source for d of virtual time and returns the seconds at which samples came. wait is
// how long each read takes.
func ticks(t *testing.T, interval, d time.Duration, wait func(n int) time.Duration) []float64 {
	t.Helper()
	var at []float64
	start, n := time.Now(), 0
	src := Every(interval, func(now time.Time) ([]byte, error) {
		if !now.Equal(time.Now()) {
			t.Errorf("read was told %v at %v", now, time.Now())
		}
		at = append(at, now.Sub(start).Seconds())
		if n++; wait != nil {
			time.Sleep(wait(n))
		}
		return []byte(`{}`), nil
	})
	ctx, stop := context.WithTimeout(t.Context(), d)
	defer stop()
	err := Feed(ctx, src, discard{}, FeedOptions{Bad: func(err error) { t.Error(err) }})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("ended with %v", err)
	}
	return at
}

func TestEveryKeepsItsPhase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		at := ticks(t, 5*time.Second, time.Hour+time.Second, nil)
		if len(at) != 721 {
			t.Fatalf("%d ticks in an hour, want 721", len(at))
		}
		for i, s := range at {
			if s != float64(5*i) {
				t.Fatalf("tick %d at %v s", i, s)
			}
		}
	})
	synctest.Test(t, func(t *testing.T) { // a read that takes its time moves no other
		at := ticks(t, 5*time.Second, time.Hour+time.Second, func(int) time.Duration { return 1700 * time.Millisecond })
		if len(at) != 721 || at[720] != 3600 {
			t.Errorf("%d ticks, the last at %v", len(at), at[len(at)-1])
		}
	})
	synctest.Test(t, func(t *testing.T) { // what was missed is not made up for
		at := ticks(t, 5*time.Second, 61*time.Second, func(n int) time.Duration {
			if n == 3 {
				return 17 * time.Second
			}
			return 0
		})
		if want := []float64{0, 5, 10, 30, 35, 40, 45, 50, 55, 60}; !slices.Equal(at, want) {
			t.Errorf("ticks at %v, want %v", at, want)
		}
	})
	synctest.Test(t, func(t *testing.T) { // exactly an interval late is the next tick, not this one
		at := ticks(t, 5*time.Second, 21*time.Second, func(n int) time.Duration {
			if n == 1 {
				return 5 * time.Second
			}
			return 0
		})
		if want := []float64{0, 10, 15, 20}; !slices.Equal(at, want) {
			t.Errorf("ticks at %v, want %v", at, want)
		}
	})
}

func TestEveryGoesOnAfterAFailedRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, errSensor := 0, errors.New("sensor")
		var faults []error
		src := Every(time.Second, func(time.Time) ([]byte, error) {
			if n++; n%2 == 0 {
				return nil, errSensor
			}
			return []byte(`{}`), nil
		})
		ctx, stop := context.WithTimeout(t.Context(), 9500*time.Millisecond)
		defer stop()
		counters := new(Counters)
		_ = Feed(ctx, src, discard{}, FeedOptions{Counters: counters, Bad: func(err error) { faults = append(faults, err) }})
		made := counters.Made.Load()
		if made != 5 || len(faults) != 5 || !errors.Is(faults[0], errSensor) {
			t.Errorf("%d made, faults %v", made, faults)
		}
	})
}

func TestEveryRefusesAnIntervalOfNothing(t *testing.T) {
	for _, interval := range []time.Duration{0, -time.Second} {
		src := Every(interval, nil)
		err := Feed(t.Context(), src, discard{}, FeedOptions{})
		if err == nil {
			t.Errorf("%v is taken", interval)
		}
	}
}

func TestEveryStoppedReadsNothing(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	stop()
	src := Every(time.Hour, func(time.Time) ([]byte, error) { t.Error("read"); return nil, nil })
	err := Feed(ctx, src, discard{}, FeedOptions{})
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

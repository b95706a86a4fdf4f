package telemetry

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"math/rand/v2"
	"regexp"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// ticks runs a source for d of virtual time and gives the seconds at which samples came. wait is how long each read takes.
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
	err := src.poll(ctx, func(...Sample) {}, func(err error) { t.Error(err) }, func(int) {})
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
		n, made, errSensor := 0, 0, errors.New("sensor")
		var faults []error
		src := Every(time.Second, func(time.Time) ([]byte, error) {
			if n++; n%2 == 0 {
				return nil, errSensor
			}
			return []byte(`{}`), nil
		})
		ctx, stop := context.WithTimeout(t.Context(), 9500*time.Millisecond)
		defer stop()
		_ = src.poll(ctx, func(s ...Sample) { made += len(s) }, func(err error) { faults = append(faults, err) }, func(int) {})
		if made != 5 || len(faults) != 5 || !errors.Is(faults[0], errSensor) {
			t.Errorf("%d made, faults %v", made, faults)
		}
	})
}

func TestEveryRefusesAnIntervalOfNothing(t *testing.T) {
	for _, interval := range []time.Duration{0, -time.Second} {
		src := Every(interval, nil)
		err := src.poll(t.Context(), nil, nil, nil)
		if err == nil {
			t.Errorf("%v is taken", interval)
		}
	}
}

func TestEveryStoppedReadsNothing(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	stop()
	src := Every(time.Hour, func(time.Time) ([]byte, error) { t.Error("read"); return nil, nil })
	err := src.poll(ctx, nil, nil, nil)
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// Two of the samples send "21.50", text, against a model that says double.
var simulatedBody = regexp.MustCompile(`^\{"temp":[0-9]{2,3}(\.[0-9]{1,2})?,"humidity":[0-9]{1,3}(\.[0-9]{1,2})?\}$`)

func TestSimulatedRoom(t *testing.T) {
	type room struct{ Temp, Humidity float64 }
	for _, interval := range []time.Duration{100 * time.Millisecond, 5 * time.Second, time.Hour} {
		read, now := NewSimulated(rand.New(rand.NewPCG(1, 2))), time.Unix(0, 0)
		var last room
		var moved, least, most float64 = 0, 200, 0
		const count = 20000
		for i := range count {
			body, err := read(now)
			if err != nil || !simulatedBody.Match(body) {
				t.Fatalf("%s %v", body, err)
			}
			var r room
			if err := json.Unmarshal(body, &r); err != nil {
				t.Fatal(err)
			}
			if r.Temp < 20 || r.Temp > 120 || r.Humidity < 0 || r.Humidity > 100 {
				t.Fatalf("out of range: %s", body)
			}
			if i > 0 {
				moved += math.Abs(r.Temp - last.Temp)
			}
			last, least, most = r, min(least, r.Temp), max(most, r.Temp)
			now = now.Add(interval)
		}
		step := moved / (count - 1)
		t.Logf("every %v: mean step %.2f, from %.2f to %.2f", interval, step, least, most)
		if interval <= 5*time.Second && (step > 3 || step == 0) { // white noise of this spread would step 17
			t.Errorf("every %v: mean step of %.2f is noise", interval, step)
		}
		if most-least < 20 {
			t.Errorf("every %v: wanders from %.2f to %.2f only", interval, least, most)
		}
	}
	a, _ := NewSimulated(rand.New(rand.NewPCG(7, 7)))(time.Now())
	b, _ := NewSimulated(rand.New(rand.NewPCG(7, 7)))(time.Now())
	c, _ := NewSimulated(nil)(time.Now())
	if string(a) != string(b) || string(a) == string(c) {
		t.Errorf("same seed %s %s, none %s", a, b, c)
	}
	read := NewSimulated(nil) // a clock that is set back
	for _, at := range []int64{1000, 10, 1000, 10} {
		if body, err := read(time.Unix(at, 0)); err != nil || !simulatedBody.Match(body) {
			t.Errorf("%s %v", body, err)
		}
	}
}

func TestSimulatedBattery(t *testing.T) {
	read, now := NewSimulatedBattery(rand.New(rand.NewPCG(1, 2))), time.Unix(0, 0)
	least, most, last := 100.0, 0.0, 0.0
	for i := range 10000 { // two days
		v, err := read(now)
		if err != nil || v < 0 || v > 100 || v != math.Round(v*100)/100 {
			t.Fatalf("%v %v", v, err)
		}
		if i > 0 && math.Abs(v-last) > 1 {
			t.Fatalf("jumps from %v to %v in 15 s", last, v)
		}
		least, most, last = min(least, v), max(most, v), v
		now = now.Add(15 * time.Second)
	}
	if least > 25 || least < 15 || most < 99 {
		t.Errorf("from %v to %v", least, most)
	}
	for range 20 { // and asked once a week it stays in its range
		now = now.Add(7 * 24 * time.Hour)
		if v, _ := read(now); v < 0 || v > 100 {
			t.Errorf("%v", v)
		}
	}
}

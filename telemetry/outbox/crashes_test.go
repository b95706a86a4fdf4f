package outbox

import (
	"testing"
	"testing/synctest"
	"time"
)

func seeds(t *testing.T, n int, run func(t *testing.T, seed uint64)) {
	if testing.Short() {
		n /= 4
	}
	n *= *moreSeeds
	for seed := range uint64(n) {
		synctest.Test(t, func(t *testing.T) { run(t, seed) })
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// TestCrashes: whatever happens to process and power, everything promised arrives, under one id,
// in order, and nothing is said to be missing.
func TestCrashes(t *testing.T) {
	t.Parallel()
	seeds(t, 100, func(t *testing.T, seed uint64) {
		w := newWorld(t, seed, Options{MaxBytes: 256 << 10})
		w.open()
		for range 150 {
			w.step(false)
		}
		w.settle(true)
	})
}

// TestCrashesRelaxed: when appends are synced now and then, a killed process loses nothing, a
// power cut no more than was not synced, and an id names one message all the same.
func TestCrashesRelaxed(t *testing.T) {
	t.Parallel()
	seeds(t, 100, func(t *testing.T, seed uint64) {
		w := newWorld(t, seed, Options{MaxBytes: 256 << 10, SyncEvery: time.Duration(1+seed%5) * time.Second})
		w.open()
		for range 150 {
			w.step(false)
		}
		w.settle(true)
	})
}

// TestGapsAccountForEverything: in a box that is too small, and with poison, every seq is
// accounted for, whatever happens to process and power.
func TestGapsAccountForEverything(t *testing.T) {
	t.Parallel()
	seeds(t, 100, func(t *testing.T, seed uint64) {
		w := newWorld(t, seed, Options{MaxBytes: 8 << 10})
		w.open()
		for range 200 {
			w.step(true)
		}
		w.settle(false)
	})
}

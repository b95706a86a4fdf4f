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

// TestCrashes: whatever happens to process and power, what a box promises for its options is kept.
func TestCrashes(t *testing.T) {
	for name, c := range map[string]struct {
		syncs    bool // appends are synced now and then, not each
		maxBytes int64
		steps    int
		poison   bool
	}{
		"everything promised arrives, under one id, in order, and nothing is said to be missing": {maxBytes: 256 << 10, steps: 150},
		"a kill loses nothing, a power cut what was not synced, and an id names one message":     {syncs: true, maxBytes: 256 << 10, steps: 150},
		"in a box that is too small, and with poison, every sequence number is accounted for":    {maxBytes: 8 << 10, steps: 200, poison: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			seeds(t, 100, func(t *testing.T, seed uint64) {
				o := Options{MaxBytes: c.maxBytes}
				if c.syncs {
					o.SyncEvery = time.Duration(1+seed%5) * time.Second
				}
				w := newWorld(t, seed, o)
				w.open()
				for range c.steps {
					w.step(c.poison)
				}
				w.settle(!c.poison)
			})
		})
	}
}

package drill

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestSoak plays the schedules of SOAK_SEEDS: how many, or from:to.
func TestSoak(t *testing.T) {
	from, to := uint64(1), uint64(50)
	if v := os.Getenv("SOAK_SEEDS"); v != "" {
		first, last, isRange := strings.Cut(v, ":")
		if !isRange {
			first, last = "1", v
		}
		if _, err := fmt.Sscan(first+" "+last, &from, &to); err != nil {
			t.Fatalf("SOAK_SEEDS=%s: a number, or from:to", v)
		}
	}
	next := atomic.Uint64{}
	next.Store(from - 1)
	var mu sync.Mutex
	var backs []soakBack
	var samples uint64
	began := time.Now()
	failures := atomic.Int64{}
	t.Run("seeds", func(t *testing.T) {
		for i := range runtime.GOMAXPROCS(0) {
			t.Run(fmt.Sprintf("worker %d", i), func(t *testing.T) {
				t.Parallel()
				for seed := next.Add(1); seed <= to && failures.Load() < 10; seed = next.Add(1) {
					v := soak(t, Draw(seed))
					for _, line := range v.trace {
						t.Log(line)
					}
					if len(v.Findings) > 0 {
						failures.Add(1)
						tellShrunk(t, seed, Draw(seed), v)
					}
					mu.Lock()
					backs = append(backs, soakBack{seed, v.back})
					samples += v.samples
					mu.Unlock()
				}
			})
		}
	})
	slices.SortFunc(backs, func(a, b soakBack) int { return int(b.back - a.back) })
	if len(backs) > 0 {
		t.Logf("%d seeds in %v, %d samples; back after the last fault: median %v, p99 %v, longest %v", len(backs), time.Since(began).Round(time.Second),
			samples, backs[len(backs)/2].back, backs[len(backs)/100].back, backs[:min(8, len(backs))])
	}
}

type soakBack struct {
	seed uint64
	back time.Duration
}

func (b soakBack) String() string { return fmt.Sprintf("%v (seed %d)", b.back, b.seed) }

// tellShrunk fails the test with the smallest schedule that still fails.
func tellShrunk(t *testing.T, seed uint64, s Schedule, v *soaked) {
	t.Helper()
	t.Errorf("seed %d: %s\n%s", seed, strings.Join(v.texts(), "\n  "), s)
	var last *soaked // of a schedule that failed
	small, again := Shrink(s, func(s Schedule) bool {
		v := soak(t, s)
		if len(v.Findings) > 0 {
			last = v
		}
		return len(v.Findings) > 0
	})
	if !again {
		t.Errorf("seed %d does not fail again", seed)
		return
	}
	t.Errorf("seed %d, shrunk; keep it as internal/drill/testdata/soak/<what it is about>.txt:\n# %s\n%s", seed, strings.Join(last.texts(), "\n# "), small)
}

// TestSoakSchedules plays the schedules that failed once. SOAK_FILE names another one.
func TestSoakSchedules(t *testing.T) {
	files, err := filepath.Glob("testdata/soak/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	if one := os.Getenv("SOAK_FILE"); one != "" {
		files = []string{one}
	}
	for _, name := range files {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			s, err := ParseSchedule(string(text))
			if err != nil {
				t.Fatal(err)
			}
			v := soak(t, s)
			for _, f := range v.texts() {
				t.Error(f)
			}
			for _, line := range v.trace {
				t.Log(line)
			}
		})
	}
}

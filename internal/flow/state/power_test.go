package state

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/internal/flow/node"
	"github.com/hubhop-iot/hubhop/internal/racing"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk/memdisk"
)

// A run of a store is recorded call by call of its disk. Each moment before such a call is one at
// which the power may fail. From each of them many disks are made, and each must open with what was
// acknowledged: for every key its last change, or the one that was under way.

// held is what a key has.
type held struct {
	value   string // "-" is nothing
	version node.Time
	fence   node.Time // zero: none
}

// ledger is what a store has acknowledged, and what it was asked for and has not answered.
type ledger struct {
	mu     sync.Mutex
	has    map[string]held
	asked  string // the key that is under way; empty: none is
	wanted held   // and what it is to have then; its version is not known
	top    node.Time
}

// moment is what was true before a call of the disk.
type moment struct {
	call   string
	disk   *memdisk.FS
	has    map[string]held
	asked  string
	wanted held
	top    node.Time
}

// small makes a store whose log is made short every few changes, over segments of a few hundred
// bytes.
func small(disk *memdisk.FS) Options {
	return Options{MaxBytes: 4000, spare: 3000, Outbox: outbox.Options{FS: disk}}
}

// change asks the store for one change at random, and notes its answer.
func (l *ledger) change(ctx context.Context, t *testing.T, s *Store, rnd *rand.Rand) {
	t.Helper()
	key := fmt.Sprint("k", rnd.IntN(6))
	l.mu.Lock()
	now := l.has[key]
	if now.value == "" {
		now.value = "-"
	}
	l.asked, l.wanted = key, held{value: "-"}
	var o SetOptions
	var fence *node.Time
	if now.fence != (node.Time{}) {
		fence = &node.Time{Nanos: now.fence.Nanos + int64(rnd.IntN(2))}
	} else if rnd.IntN(5) == 0 {
		fence = &node.Time{Nanos: 1}
	}
	kind := rnd.IntN(4)
	value := strings.Repeat(string(rune('a'+rnd.IntN(26))), 1+rnd.IntN(250))
	if kind > 0 {
		l.wanted.value = value
		if fence != nil {
			l.wanted.fence = *fence
		}
	}
	wanted := l.wanted
	l.mu.Unlock()
	var version node.Time
	var err error
	var done bool
	if kind == 0 {
		var n int
		n, version, err = s.Del(ctx, key, fence, node.Time{})
		done = n == 1
		if err == nil && done != (now.value != "-") {
			t.Errorf("DEL %s, which is %.9q, gives %d", key, now.value, n)
		}
	} else {
		o.Fence = fence
		done, version, err = s.Set(ctx, key, []byte(value), o)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, ErrClosed) {
			t.Errorf("%s: %v", key, err)
		}
		return // it may still take place
	}
	l.asked = ""
	if done {
		if !l.top.Before(version) {
			t.Errorf("version %v follows %v", version, l.top)
		}
		wanted.version, l.top = version, version
		l.has[key] = wanted
	}
}

// openSmall opens a small store, and fails the test for every problem of its log.
func openSmall(t *testing.T, disk *memdisk.FS, name string) *Store {
	t.Helper()
	s, err := Open("/store", small(disk))
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return s
}

// check opens what a power cut has left, and compares it with what was acknowledged.
func (m *moment) check(t *testing.T, disk *memdisk.FS, name string) {
	t.Helper()
	s := openSmall(t, disk, name)
	for i := range 6 {
		key := fmt.Sprint("k", i)
		want, ok := m.has[key]
		if !ok {
			want.value = "-"
		}
		got := held{value: "-"}
		if e := s.entries[key]; e != nil {
			got = held{value: string(e.data), version: e.version}
			if e.fence != nil {
				got.fence = *e.fence
			}
		}
		if want.value == "-" {
			want.version = node.Time{}
		}
		if got == want || key == m.asked && got.value == m.wanted.value && got.fence == m.wanted.fence {
			continue
		}
		t.Errorf("%s: %s is %+.40v, want %+.40v", name, key, got, want)
	}
	if _, version, err := s.Set(t.Context(), "new", nil, SetOptions{}); err != nil || !m.top.Before(version) {
		t.Errorf("%s: the next version is %v after %v, %v", name, version, m.top, err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("%s: %v", name, err)
	}
}

// record runs a store, which is closed and opened again at times, and returns its moments, and how
// many changes have left the log.
func record(t *testing.T, seed uint64, changes int) (all []moment, short int) {
	synctest.Test(t, func(t *testing.T) {
		disk, l, rnd := memdisk.New(), &ledger{has: map[string]held{}}, rand.New(rand.NewPCG(seed, 1))
		disk.SetFault(func(_ int, op, name string) error {
			l.mu.Lock()
			defer l.mu.Unlock()
			all = append(all, moment{op + " " + name, disk.Copied(), maps.Clone(l.has), l.asked, l.wanted, l.top})
			return nil
		})
		s := openSmall(t, disk, "the first start")
		for i := range changes {
			l.change(t.Context(), t, s, rnd)
			if i%10 == 9 {
				time.Sleep(2 * time.Second) // acknowledgements are synced
			}
			if i%25 == 24 {
				short += int(s.log.Stats().Acked)
				if err := s.Close(); err != nil {
					t.Error(err)
				}
				s = openSmall(t, disk, "a restart")
			}
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		disk.SetFault(nil)
	})
	return all, short
}

// TestAPowerCutTakesNothingThatWasAcknowledged at any call of the disk, whatever of what was not
// synced reaches the platter. The system's clock begins again in each check, so a version that is
// above all before has to come of the log.
func TestAPowerCutTakesNothingThatWasAcknowledged(t *testing.T) {
	moments, disks, step := 0, 0, 1
	switch {
	case racing.On: // it has seen the goroutines when it has seen some
		step = 37
	case testing.Short():
		step = 4
	}
	for seed := range uint64(2) {
		all, short := record(t, seed, 100)
		if short == 0 {
			t.Fatal("the log was never made short")
		}
		rnd := rand.New(rand.NewPCG(seed, 3))
		for i := int(seed); i < len(all); i += 2 * step {
			m := &all[i]
			moments++
			m.disk.Disks(rnd, 3, func(disk *memdisk.FS, cut string) {
				disks++
				synctest.Test(t, func(t *testing.T) {
					m.check(t, disk, fmt.Sprintf("moment %d of %d, before %s, %s", i, len(all), m.call, cut))
				})
			})
			if t.Failed() {
				return
			}
		}
	}
	t.Logf("%d moments, %d disks", moments, disks)
}

// TestAKillTakesNothingThatWasAcknowledged at any call of the disk.
func TestAKillTakesNothingThatWasAcknowledged(t *testing.T) {
	all, _ := record(t, 7, 150)
	for i := range all {
		m := &all[i]
		synctest.Test(t, func(t *testing.T) {
			m.check(t, m.disk.Killed(), fmt.Sprintf("moment %d of %d, before %s", i, len(all), m.call))
		})
		if t.Failed() {
			return
		}
	}
	t.Logf("%d moments", len(all))
}

// TestEveryCallFailsOnce: each call that changes the disk fails in turn, a write also after some of
// its bytes. The store goes on, and then the power is cut, the process killed, or nothing happens.
func TestEveryCallFailsOnce(t *testing.T) {
	// run is a life of a store in which one call fails. It returns how many there were.
	run := func(t *testing.T, failing int, short func(int) int, end string) (calls int) {
		synctest.Test(t, func(t *testing.T) {
			disk, l, rnd := memdisk.New(), &ledger{has: map[string]held{}}, rand.New(rand.NewPCG(5, 5))
			disk.Short = short
			var cut moment
			disk.SetFault(func(call int, op, name string) error {
				if calls = call; call != failing {
					return nil
				}
				if call%2 == 0 {
					return memdisk.ErrSpace
				}
				return memdisk.ErrIO
			})
			s, err := Open("/store", small(disk))
			if err != nil { // a person must act; the next start finds a disk that works
				s = openSmall(t, disk, "the second start")
			}
			for i := range 30 {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
				l.change(ctx, t, s, rnd)
				cancel()
				if l.asked != "" {
					t.Errorf("the change of %s is not made within ten minutes", l.asked)
				}
				if i%10 == 9 {
					time.Sleep(2 * time.Second)
				}
			}
			synctest.Wait()
			cut = moment{has: maps.Clone(l.has), top: l.top}
			switch end {
			case "power":
				cut.disk = disk.PowerCut(rnd)
			case "kill":
				cut.disk = disk.Killed()
			}
			disk.SetFault(nil)
			if err := s.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
			if cut.disk == nil {
				cut.disk = disk
			}
			cut.check(t, cut.disk, fmt.Sprintf("call %d fails, then %q", failing, end))
		})
		return calls
	}
	last := run(t, -1, nil, "")
	if last < 60 {
		t.Fatalf("only %d calls", last)
	}
	ends := []string{"", "kill", "power"}
	for failing := 1; failing <= last; failing++ {
		for i, short := range []func(int) int{func(int) int { return 0 }, func(n int) int { return n / 2 }, func(n int) int { return n }} {
			if testing.Short() && (failing+i)%3 > 0 {
				continue
			}
			run(t, failing, short, ends[(failing+i)%3])
			if t.Failed() {
				return
			}
		}
	}
	t.Logf("%d calls", last)
}

package graph

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk/memdisk"
)

// after returns what is true when a graph that goes on after a moment has come so far. given are
// the numbers of the messages that its source hands in again, in order.
func (m *moment) after(t *testing.T, call string, disk *memdisk.FS, in *hand, out *far, given []uint64) moment {
	next := moment{call: call, disk: disk, acked: maps.Clone(m.acked), received: maps.Clone(m.received), safe: slices.Clone(m.safe)}
	for id, payload := range out.byID() {
		if before, again := next.received[id]; again && before != payload {
			t.Errorf("%s was %q and is %q", id, before, payload)
		}
		next.received[id] = payload
	}
	out.mu.Lock()
	next.safe = append(next.safe, out.safe...)
	out.mu.Unlock()
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, ticket := range in.acked {
		if ticket <= uint64(len(given)) {
			next.acked[given[ticket-1]] = true
		}
	}
	return next
}

// lacking returns the numbers of the messages that were not acknowledged.
func (m *moment) lacking() (all []uint64) {
	for n := uint64(1); n <= crashMessages; n++ {
		if !m.acked[n] {
			all = append(all, n)
		}
	}
	return all
}

// again records how a graph recovers on a disk, and returns the moments of that.
func (m *moment) again(t *testing.T, disk *memdisk.FS, ops []any) (all []moment) {
	synctest.Test(t, func(t *testing.T) {
		in, out, given := newHand(), newFar(), m.lacking()
		p := chain(in, out, ops...)
		p.Settings = crashSettings
		out.shut = true
		disk.SetFault(func(_ int, op, name string) error {
			all = append(all, m.after(t, op+" "+name, disk.Copied(), in, out, given))
			return nil
		})
		_, stop := start(t, p, crashOptions(disk))
		synctest.Wait()
		for i, n := range given {
			if i == len(given)/2 {
				time.Sleep(2 * time.Second) // a checkpoint of what is not safe yet
				out.open()
			}
			in.give(crashMessage(n))
		}
		time.Sleep(2 * time.Second)
		out.open()
		synctest.Wait()
		stop()
		disk.SetFault(nil)
	})
	return all
}

// TestAGraphSurvivesAnotherCrashWhileItRecovers: the power fails at a moment of a run, and fails or
// the process is killed at a moment of what comes then. Nothing is lost, and what comes out again
// has the same id and payload.
func TestAGraphSurvivesAnotherCrashWhileItRecovers(t *testing.T) {
	for name, ops := range memory {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			all, _ := record(t, ops)
			rnd := rand.New(rand.NewPCG(3, 4))
			firsts, seconds := sample{every: few(4, 37)}, sample{every: few(3, 17)}
			crashes := 0
			for i := range all {
				m := &all[i]
				if !firsts.has(m.call) {
					continue
				}
				disk := m.disk.PowerCut(rnd)
				for j, next := range m.again(t, disk, ops()) {
					if !seconds.has(next.call) {
						continue
					}
					crashes++
					disk := next.disk.Killed()
					if j%2 == 0 {
						disk = next.disk.PowerCut(rnd)
					}
					next.check(t, next.goOn(t, disk, ops(), nil))
					if t.Failed() {
						t.Fatalf("moment %d of %d, before %s; then moment %d, before %s", i, len(all), m.call, j, next.call)
					}
				}
			}
			t.Logf("%d second crashes", crashes)
		})
	}
}

// TestEachCallOfTheJournalAndCheckpointsFailsOnce, a write also after some of its bytes. The graph
// goes on, loses nothing and repeats nothing, and what it leaves on the disk can be gone on with.
func TestEachCallOfTheJournalAndCheckpointsFailsOnce(t *testing.T) {
	for name, ops := range memory {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// run is a life in which one call fails. It returns how many there were.
			run := func(failing int, short func(int) int) (calls int) {
				nothing := &moment{acked: map[uint64]bool{}, received: map[string]string{}}
				given := nothing.lacking()
				var left moment
				synctest.Test(t, func(t *testing.T) {
					disk, in, out := memdisk.New(), newHand(), newFar()
					disk.Short = short
					disk.SetFault(func(call int, _, _ string) error {
						if calls = call; call != failing {
							return nil
						}
						return []error{memdisk.ErrIO, memdisk.ErrSpace}[call%2]
					})
					p := chain(in, out, ops()...)
					p.Settings = crashSettings
					g, stop := start(t, p, crashOptions(disk))
					defer stop()
					for _, n := range given {
						in.give(crashMessage(n))
						if n%4 == 0 {
							time.Sleep(2 * time.Second) // time for a checkpoint
						}
					}
					time.Sleep(5 * time.Minute)
					synctest.Wait()
					if s := g.Status(); s.State != Running || s.Text != "" || s.Errors != 0 || in.ackedCount() != crashMessages {
						t.Errorf("%d messages are acknowledged, %+v", in.ackedCount(), s)
					}
					if got, ids := len(out.bodies()), len(out.byID()); got != ids {
						t.Errorf("%d outputs have %d ids", got, ids)
					}
					disk.SetFault(nil)
					left = nothing.after(t, "", disk.Killed(), in, out, given)
				})
				left.check(t, left.goOn(t, left.disk, ops(), nil))
				return calls
			}
			last := run(-1, nil)
			which := sample{every: few(1, 37)}
			for failing := 1; failing <= last; failing++ {
				for i, short := range []func(int) int{func(int) int { return 0 }, func(n int) int { return n / 2 }, func(n int) int { return n }} {
					if !which.has() {
						continue
					}
					if run(failing, short); t.Failed() {
						t.Fatalf("call %d of %d fails in way %d", failing, last, i)
					}
				}
			}
			t.Logf("%d calls", last)
		})
	}
}

// TestEachSubsetOfFewUnsyncedChangesIsSurvived: of each moment with few changes that were not
// synced, every subset of them reaches the platter.
func TestEachSubsetOfFewUnsyncedChangesIsSurvived(t *testing.T) {
	for name, ops := range memory {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			all, _ := record(t, ops)
			rnd := rand.New(rand.NewPCG(5, 6))
			disks := 0
			which := sample{every: few(2, 37)}
			for i := range all {
				m := &all[i]
				if n := m.disk.Units(); n > 4 {
					continue
				}
				m.disk.Disks(rnd, 4, func(disk *memdisk.FS, cut string) {
					if !which.has() {
						return
					}
					disks++
					m.check(t, m.goOn(t, disk, ops(), nil))
					if t.Failed() {
						t.Fatalf("moment %d of %d, before %s, %s", i, len(all), m.call, cut)
					}
				})
			}
			if disks == 0 {
				t.Error("no moment has few changes")
			}
			t.Logf("%d disks", disks)
		})
	}
}

package outbox

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk/memdisk"
)

// TestFailingDiskRelaxed: appends are synced now and then, on a disk that fails now and then.
// Nothing is lost that was synced, and everything arrives in the end.
func TestFailingDiskRelaxed(t *testing.T) {
	t.Parallel()
	seeds(t, 100, func(t *testing.T, seed uint64) {
		w := newWorld(t, seed, Options{MaxBytes: 256 << 10, SyncEvery: time.Second})
		w.open()
		for range 200 {
			if w.rnd.IntN(10) == 0 {
				w.fail(w.disk.Calls+1+w.rnd.IntN(10), w.rnd.IntN(30)*w.rnd.IntN(2))
			}
			w.step(false)
			if w.rnd.IntN(25) == 0 {
				w.present()
			}
		}
		w.settle(true)
	})
}

// TestFailingDisk: the disk fails now and then, once or for a while. What was promised arrives
// all the same, under one id and in order.
func TestFailingDisk(t *testing.T) {
	t.Parallel()
	seeds(t, 150, func(t *testing.T, seed uint64) {
		o := Options{MaxBytes: 256 << 10}
		drops := seed%3 == 0
		if drops {
			o.MaxBytes = 8 << 10
		}
		w := newWorld(t, seed, o)
		w.open()
		for range 200 {
			if w.rnd.IntN(10) == 0 {
				w.fail(w.disk.Calls+1+w.rnd.IntN(10), w.rnd.IntN(30)*w.rnd.IntN(2))
			}
			w.step(drops)
			if !drops && w.rnd.IntN(25) == 0 {
				w.present()
			}
		}
		w.settle(!drops)
	})
}

// fail lets calls from the given one on fail.
func (w *world) fail(from, more int) {
	w.logf("calls %d to %d fail", from, from+more)
	w.disk.SetFault(func(call int, op, name string) error {
		if call < from || call > from+more {
			return nil
		}
		w.logf("  call %d, %s %s, fails", call, op, name)
		if call%2 == 0 {
			return memdisk.ErrSpace
		}
		return memdisk.ErrIO
	})
}

// TestEveryCallFailsOnce: every call that changes the disk fails once, in a run that comes by
// everything there is: segments that fill up and are deleted, acknowledgements and their sync,
// quarantine, restarts. Then, at every later moment in turn, nothing, a kill, or a power cut.
func TestEveryCallFailsOnce(t *testing.T) {
	t.Parallel()
	scenario := func(w *world, crash int) {
		for i := range 12 {
			w.append(1+i%4, 100)
			w.fetch(3)
			if i%3 == 1 {
				w.ack()
			}
			if i%4 == 2 {
				w.sleep(2 * time.Second)
				w.note()
			}
			if i == 6 {
				w.close()
				w.open()
			}
			if i == 8 || i == 10 {
				w.rest()
			}
			if i == crash {
				w.crash(true)
			}
			if i == -crash {
				w.crash(false)
			}
		}
	}
	last := 0
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, Options{MaxBytes: 16 << 10})
		w.open()
		scenario(w, 100)
		last = w.disk.Calls
		w.settle(true)
	})
	if last < 80 {
		t.Fatalf("only %d calls", last)
	}
	step := 1
	if testing.Short() {
		step = 5
	}
	for call := 1; call <= last; call += step {
		for i, crash := range []int{100, 2, -2, 5, -5, 9, -9, 11, -11} {
			if i%3 != call%3 && *moreSeeds == 1 {
				continue
			}
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 1, Options{MaxBytes: 16 << 10})
				w.fail(call, 0)
				w.open()
				scenario(w, crash)
				w.settle(true)
			})
			if t.Failed() {
				t.Fatalf("call %d fails, crash at %d", call, crash)
			}
		}
	}
}

func (b *Box) dump() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := fmt.Sprintf("next %d diskEnd %d acks %+v tail %+v seq %d", b.next, b.diskEnd, b.acks, b.tail, b.seq)
	for _, x := range b.segs {
		s += fmt.Sprintf("\n    seg %x: %v base %d end %d seq %d size %d", x.num, x.ID, x.Base, x.end, x.BaseSeq, x.size)
	}
	if b.ring != nil {
		s += fmt.Sprintf("\n    ring %v base %d end %d", b.ring.id, b.ring.base, b.ring.end())
	}
	return s
}

// TestEveryCallFailsEveryWay: every call that changes the disk fails once, in every way it can:
// with no room and with an input error, and a write also after none, one, half, all but one and
// all of its bytes. The run comes by everything there is, in two lives and their recovery. Right
// after the call, the process is killed or the power cut, or the run goes on; what was promised
// is there, and everything arrives in the end.
func TestEveryCallFailsEveryWay(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]Options{
		"always":  {MaxBytes: 16 << 10},
		"relaxed": {MaxBytes: 16 << 10, SyncEvery: 500 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) { everyCallFails(t, o) })
	}
}

func everyCallFails(t *testing.T, o Options) {
	// run is a life of a world in which one call fails. It returns the calls there were.
	run := func(t *testing.T, failing int, err error, short func(n int) int, crash string) (calls []string) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 1, o)
			failed := false
			w.fault = func(_ int, op, name string) error {
				w.mu.Lock()
				defer w.mu.Unlock()
				calls = append(calls, op+" "+name)
				if len(calls)-1 != failing {
					return nil
				}
				w.log = append(w.log, fmt.Sprintf("  %s %s fails", op, name))
				failed = true
				w.disk.Short = short
				return err
			}
			w.open()
			then := func() {
				if !failed {
					return
				}
				switch failed = false; crash {
				case "kill":
					w.crash(false)
				case "power":
					w.crash(true)
				}
				w.present()
			}
			for i := range 10 {
				then()
				w.append(1+i%4, 100)
				then()
				w.fetch(3)
				if i%3 == 1 {
					w.ackAll()
				}
				then()
				if i%3 == 2 {
					w.sleep(2 * time.Second)
					w.note()
				}
				if i == 3 {
					w.crash(false)
				}
				if i == 6 {
					w.close()
					w.open()
				}
				if i >= 8 {
					w.rest()
				}
			}
			then()
			w.settle(true)
		})
		return calls
	}
	clean := run(t, -1, nil, nil, "")
	seen := map[string]bool{}
	for failing, call := range clean {
		op, _, _ := strings.Cut(call, " ")
		seen[op] = true
		ways := []func(n int) int{nil}
		if op == "write" {
			ways = []func(n int) int{
				func(int) int { return 0 }, func(n int) int { return min(n, 1) }, func(n int) int { return n / 2 },
				func(n int) int { return n - 1 }, func(n int) int { return n },
			}
		}
		for i, short := range ways {
			for j, crash := range []string{"", "kill", "power"} {
				err := error(memdisk.ErrSpace)
				if (failing+i+j)%2 == 0 {
					err = memdisk.ErrIO
				}
				run(t, failing, err, short, crash)
				if t.Failed() {
					t.Fatalf("call %d, %s, way %d, then %q", failing, call, i, crash)
				}
			}
		}
	}
	for _, op := range []string{"create", "write", "sync", "truncate", "rename", "remove", "syncdir"} {
		if !seen[op] {
			t.Errorf("the run has no %s", op)
		}
	}
	t.Logf("%d calls", len(clean))
}

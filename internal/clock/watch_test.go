package clock

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/internal/virtual"
)

// asker is a device that asks for the time when it may.
type asker struct {
	*Epochs
	asked []time.Duration // when, since the beginning of the test
	ask   func(context.Context) error
}

// watch lets it look at the clock until the test ends.
func (a *asker) watch(t *testing.T) {
	began := time.Now()
	a.Open(noFile{}, nil)
	var asking sync.WaitGroup
	w := a.Watch(func(r *Round, may bool) bool {
		if !may || !a.Wanted(r) {
			return false
		}
		asking.Go(func() {
			a.Ask(t.Context(), false, func(ctx context.Context) error {
				a.asked = append(a.asked, time.Since(began))
				return a.ask(ctx)
			}, func(error) {})
		})
		return true
	})
	t.Cleanup(func() { w.End(); asking.Wait(); a.Close() })
}

// noFile keeps nothing.
type noFile struct{}

func (noFile) Load() (File, error) { return File{}, nil }
func (noFile) Save(File) error     { return nil }
func (noFile) Mark(error)          {}

// TestSourceThatNeverAnswersKeepsTheTimeFromNobody: devices of one process ask different servers
// for the time. One that does not answer costs the others nothing: they ask their own within
// seconds. Devices that ask the same server ask it together.
func TestSourceThatNeverAnswersKeepsTheTimeFromNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := New(facts(virtual.NewMachine(-2 * time.Hour)))
		hangs := func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, LookEvery)
			defer cancel()
			<-ctx.Done()
			return context.Cause(ctx)
		}
		var all []*asker
		for _, whom := range []string{"mute:443", "mute:443", "well:443", "well:443"} {
			a := &asker{Epochs: k.For(whom, silent, func(time.Duration) {}), ask: hangs}
			if whom == "well:443" {
				a.ask = func(context.Context) error {
					time.Sleep(100 * time.Millisecond)
					return a.Hear(time.Now(), whom)
				}
			}
			a.watch(t)
			all = append(all, a)
		}
		time.Sleep(5*time.Minute + time.Second)
		synctest.Wait()
		if got := all[2].asked; !slices.Equal(got, []time.Duration{LookEvery}) || len(all[3].asked) > 0 {
			t.Errorf("the server that answers was asked after %v, and by the other device after %v", got, all[3].asked)
		}
		if got := all[0].asked; !slices.Equal(got, []time.Duration{LookEvery}) || len(all[1].asked) > 0 {
			t.Errorf("the mute one was asked after %v, and by the other device after %v, although the time is known", got, all[1].asked)
		}
		if off := time.Until(k.Now()); off.Abs() > time.Second {
			t.Errorf("the time is off by %v", off)
		}
	})
}

// TestLooksComeWithSamples: a device that makes a sample each 5 s or oftener is not woken to look
// at the clock. A device with rarer samples looks each 5 s all the same.
func TestLooksComeWithSamples(t *testing.T) {
	for _, every := range []time.Duration{time.Second, 4 * time.Second, LookEvery, 2 * LookEvery} {
		for phase := range 10 {
			synctest.Test(t, func(t *testing.T) {
				k := New(facts(virtual.NewMachine(0))).For("dps:443", silent, func(time.Duration) {})
				k.Open(noFile{}, nil)
				defer k.Close()
				began := time.Now()
				var looks []time.Duration
				w := k.Watch(func(*Round, bool) bool { looks = append(looks, time.Since(began)); return false })
				first := time.Duration(phase)*every/10 + time.Millisecond
				time.Sleep(first)
				for n := range 100 {
					k.Stamp(uint64(n+1), nil)
					time.Sleep(every)
				}
				w.End()
				alone := 0
				last := time.Duration(0)
				for _, at := range looks {
					if at-last > LookEvery {
						t.Errorf("samples each %v, the first one after %v: no look between %v and %v", every, first, last, at)
					}
					if last = at; at > first && (at-first)%every != 0 {
						alone++
					}
				}
				if every <= LookEvery && alone > 0 || last < 100*every-LookEvery {
					t.Errorf("samples each %v, the first one after %v: %d of %d looks were made without a sample, the last one after %v",
						every, first, alone, len(looks), last)
				}
			})
		}
	}
}

// TestClocksAreReadOnceForAllDevices: a process with many devices does not read the clocks of the
// machine for each of them at each look.
func TestClocksAreReadOnceForAllDevices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var readings atomic.Int64
		c := facts(virtual.NewMachine(0))
		running := c.Running
		c.Running = func() time.Duration { readings.Add(1); return running() }
		k, began := New(c), time.Now()
		var told []time.Duration
		for range 3 {
			e := k.For("dps:443", silent, func(time.Duration) {})
			e.Open(noFile{}, nil)
			defer e.Close()
			defer e.Watch(func(r *Round, _ bool) bool {
				_, _ = e.Stale(r, true), e.Wanted(r)
				told = append(told, r.Now().Sub(began))
				return false
			}).End()
		}
		before := readings.Load()
		time.Sleep(2*LookEvery + time.Second)
		synctest.Wait()
		want := []time.Duration{LookEvery, LookEvery, LookEvery, 2 * LookEvery, 2 * LookEvery, 2 * LookEvery}
		if n := readings.Load() - before; !slices.Equal(told, want) || n != 2 {
			t.Errorf("%d readings; the devices were told %v, not %v", n, told, want)
		}
	})
}

package clock

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/internal/virtual"
	"github.com/hubhop-iot/hubhop/telemetry/message"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

// aLine is an outbox.
type aLine struct {
	last uint64
	ids  []string
}

func (l aLine) Last() uint64         { return l.last }
func (l aLine) ID() string           { return l.ids[0] }
func (l aLine) HasID(id string) bool { return slices.Contains(l.ids, id) }

// TestMaxAgeHoldsWithAWrongClock: whatever the clock was when a device started, an outage does not
// make it drop samples that it should keep, and it does drop older ones.
func TestMaxAgeHoldsWithAWrongClock(t *testing.T) {
	for name, off := range map[string]func() time.Duration{"2 days fast": always(48 * time.Hour), "2 h fast": always(2 * time.Hour), "2 h slow": always(-2 * time.Hour), "1970": func() time.Duration { return time.Until(time.Unix(20, 0)) }, "right": always(0)} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const maxAge = time.Hour
				k := own(facts(virtual.NewMachine(off())), silent)
				made := map[uint64]time.Time{}
				dropped := uint64(0)
				box, err := outbox.Open(filepath.Join(t.TempDir(), "outbox"), outbox.Options{MaxBytes: 4 << 20, MaxAge: maxAge, Age: k.Age, Stamp: k.Stamp,
					Report: func(p outbox.Problem) {
						dropped += p.Messages
						if age := time.Since(made[p.Last]); age < maxAge-RightWithin { // a place and its seq are the same here
							t.Errorf("%s, up to one that was made %v ago", p.Text, age)
						}
					}})
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = box.Close() }()
				put := func() {
					if err := box.Append(t.Context(), message.Message{Body: make([]byte, 2000), Created: time.Now()}); err != nil {
						t.Fatal(err)
					}
					made[box.Last()] = time.Now()
				}
				for range 5 {
					put()
					time.Sleep(time.Second)
				}
				_ = k.Hear(time.Now(), "DPS")
				for range 65 { // all is well, and arrives
					put()
					_ = box.Ack(box.Last())
					time.Sleep(time.Minute)
				}
				for range 400 {
					put()
					time.Sleep(15 * time.Second)
				}
				if kept := box.Stats().Queued; dropped == 0 || kept < 240 || kept > 300 {
					t.Errorf("%d dropped, %d kept", dropped, kept)
				}
			})
		})
	}
}

// TestAge: what nobody knows costs no sample.
func TestAge(t *testing.T) {
	const day = 24 * time.Hour
	for name, v := range map[string]struct {
		off    time.Duration // of the system clock
		heard  bool
		newest time.Duration // ago, that the state directory knows of
		epoch  func(now time.Time) Epoch
		stamp  time.Duration // ago
		want   time.Duration
	}{
		"no epoch":                         {stamp: 9 * day},
		"of an earlier boot, unproved":     {epoch: func(now time.Time) Epoch { return Epoch{Boot: "boot 0", Begins: now.Add(-9 * day)} }, heard: true, stamp: 9 * day, want: time.Minute},
		"of an earlier boot, proved":       {epoch: func(time.Time) Epoch { return Epoch{Boot: "boot 0", Proved: true} }, heard: true, stamp: 9 * day, want: 9 * day},
		"proved, with a fix":               {epoch: func(time.Time) Epoch { return Epoch{Boot: "boot 0", Proved: true, Fix: 2 * day} }, heard: true, stamp: 9 * day, want: 7 * day},
		"proved, the clock ahead":          {off: 30 * day, newest: time.Hour, epoch: func(time.Time) Epoch { return Epoch{Boot: "boot 0", Proved: true} }, stamp: time.Minute, want: time.Minute - time.Hour},
		"proved, and long ago for sure":    {off: 30 * day, newest: time.Hour, epoch: func(time.Time) Epoch { return Epoch{Boot: "boot 0", Proved: true} }, stamp: 2 * day, want: 2*day - time.Hour},
		"of this boot, the clock set":      {off: 30 * day, epoch: func(now time.Time) Epoch { return Epoch{Boot: "boot 1", Begins: now.Add(-time.Minute)} }, stamp: 20 * time.Second, want: 20 * time.Second},
		"proved in this boot, another run": {off: 30 * day, epoch: func(now time.Time) Epoch { return Epoch{Boot: "boot 1", Proved: true, Begins: now.Add(-time.Minute)} }, stamp: 20 * time.Second, want: 20 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := own(facts(virtual.NewMachine(v.off)), silent) // which has been running for a minute
				now := time.Now().Round(0)
				f := File{Newest: now.Add(-v.newest)}
				if v.epoch != nil {
					f.Epochs = []Epoch{v.epoch(now)}
				}
				k.restore(f, nil)
				if v.heard {
					_ = k.Hear(now.Add(-time.Second/2), "DPS")
				}
				if got := k.Age(7, now.Add(-v.stamp)); got != v.want {
					t.Errorf("%v old, not %v", got, v.want)
				}
			})
		})
	}
}

// TestWrongAnswerIsAskedForAgain: the cloud may have named a wrong time. If things fail minutes
// later as with a wrong clock, the device asks again; otherwise it does not.
func TestWrongAnswerIsAskedForAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := own(facts(virtual.NewMachine(0)), silent)
		for _, off := range []time.Duration{3 * time.Hour, 0} {
			_ = k.Hear(time.Now().Add(off), "DPS")
			time.Sleep(time.Minute)
			if k.due(true) || k.due(false) {
				t.Error("asked again at once")
			}
			time.Sleep(doubtAgain)
			if k.due(false) {
				t.Error("asked again without a reason")
			}
			if !k.due(true) {
				t.Error("not asked again for a reason")
			}
			if k.due(true) {
				t.Error("asked twice at once")
			}
		}
	})
}

// TestTimeBeforeTheProgram: it is never earlier than when the program was made, whoever says so.
func TestTimeBeforeTheProgram(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := facts(virtual.NewMachine(0))
		c.Built = time.Now()
		k := own(c, silent)
		if err := k.Hear(c.Built.AddDate(-1, 0, 0), "DPS"); err == nil || !strings.Contains(err.Error(), "DPS says that it is 1999-01-01T00:00:00Z, but this program was made at 2000-01-01T00:00:00Z") {
			t.Errorf("said %v", err)
		}
		if now := k.Now(); now.Before(c.Built) || k.Turned() > 0 || !k.due(true) {
			t.Errorf("it is %v, and that was the cloud's word", now)
		}
		if err := k.Hear(c.Built.Add(-RightWithin), "DPS"); err != nil {
			t.Errorf("a clock that is nearly right: %v", err)
		}
	})
}

// TestNewestClockFileIsKept: of two writes of the clock file, the one that began later ends later.
// Meanwhile a caller that only wants to know the time does not wait for the disk.
func TestNewestClockFileIsKept(t *testing.T) {
	m := virtual.NewMachine(0) // no bubble: there, nobody may wait for a lock
	k := own(facts(m), silent)
	writing, goOn := make(chan struct{}), make(chan struct{})
	var begun atomic.Bool
	var disk File
	k.keep = func(f File) error {
		if begun.CompareAndSwap(false, true) {
			close(writing)
			<-goOn
		}
		disk = f
		return nil
	}
	var all sync.WaitGroup
	all.Go(func() { k.Stamp(1, nil) })
	<-writing
	second := make(chan struct{})
	all.Go(func() { _ = k.Hear(time.Now().Add(2*time.Hour), "DPS"); close(second) })
	for k.Turned() == 0 {
		time.Sleep(time.Millisecond)
	}
	k.Now()
	select {
	case <-second: // it has not waited for the first
	case <-time.After(50 * time.Millisecond):
	}
	close(goOn)
	all.Wait()
	if len(disk.Epochs) != 1 || !disk.Epochs[0].Proved || disk.Epochs[0].Fix == 0 {
		t.Errorf("on the disk: %+v", disk)
	}
}

// TestClockFileIsTriedAgain: what could not be written is written later, and told once.
func TestClockFileIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told, tried := 0, 0
		k := own(facts(virtual.NewMachine(0)), func(journal.Event) { told++ })
		full := errors.New("no space left on device")
		var kept File
		k.keep = func(f File) error { tried++; kept = f; return full }
		_ = k.Hear(time.Now(), "DPS")
		for range 60 {
			time.Sleep(LookEvery)
			k.Pass(true)
		}
		if told != 1 || tried < 4 || tried > 6 {
			t.Errorf("tried %d times in 5 minutes, told %d times", tried, told)
		}
		full = nil
		for range 30 {
			time.Sleep(LookEvery)
			k.Pass(true)
		}
		if n := tried; kept.Newest.IsZero() || n > 7 {
			t.Errorf("tried %d times, and kept %v", n, kept)
		}
	})
}

// TestOnlyEpochsOfLostSamplesAreForgotten: only the epochs of lost samples are forgotten, and all
// epochs of another outbox.
func TestOnlyEpochsOfLostSamplesAreForgotten(t *testing.T) {
	const fix = time.Hour
	epochs := []Epoch{{From: 1, Boot: "old", Proved: true, Fix: fix}, {From: 51, Boot: "old", Proved: true}, {From: 101, Boot: "old", Proved: true, Fix: 3 * fix}}
	for name, v := range map[string]struct {
		of    string // the file's
		line  aLine
		first time.Duration // how the sample at place 50 is corrected
		left  int
	}{
		"all there":                   {"a", aLine{120, []string{"a"}}, fix, 3},
		"the newest have not come":    {"a", aLine{100, []string{"a"}}, fix, 3},
		"the newest two were lost":    {"a", aLine{99, []string{"a"}}, fix, 2},
		"a new id, and old samples":   {"a", aLine{120, []string{"b", "a"}}, fix, 3},
		"another outbox":              {"a", aLine{120, []string{"b"}}, 0, 0},
		"an outbox that was deleted":  {"a", aLine{0, []string{"b"}}, 0, 0},
		"a file that names no outbox": {"", aLine{120, []string{"b"}}, fix, 3},
	} {
		t.Run(name, func(t *testing.T) {
			k := own(Machine{}, silent)
			k.restore(File{Outbox: v.of, Epochs: slices.Clone(epochs)}, v.line)
			if got := k.Made(50, time.Unix(0, 0)).Sub(time.Unix(0, 0)); got != v.first || len(k.file.Epochs) != v.left {
				t.Errorf("corrected by %v; %d epochs are left", got, len(k.file.Epochs))
			}
			var kept File
			k.keep = func(f File) error { kept = f; return nil }
			k.flush()
			if id := v.line.ids[0]; id != v.of && kept.Outbox != id {
				t.Errorf("the next run will not know outbox %s: %+v", id, kept)
			}
		})
	}
}

// asking is an outbox that asks for the age of a message under the lock that Last takes.
type asking struct {
	aLine
	clock *Epochs
}

func (l asking) Last() uint64 {
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		l.clock.Age(1, time.Now())
	}()
	<-asked
	return l.last
}

// TestRestoreWaitsForNoAge: the content of a clock file that is read late can be used while the
// outbox asks for ages.
func TestRestoreWaitsForNoAge(t *testing.T) {
	k := own(Machine{}, silent)
	k.restore(File{Outbox: "a", Epochs: []Epoch{{From: 1}}}, asking{aLine{1, []string{"a"}}, k})
	if n := len(k.file.Epochs); n != 1 {
		t.Errorf("%d epochs", n)
	}
}

// TestEachSampleBelongsToTheEpochOfItsStamp: several sources append at the same time, and the clock
// changes meanwhile. Each position belongs to the epoch in which its sample was stamped, and the
// file on the disk says so before the sample is durable.
func TestEachSampleBelongsToTheEpochOfItsStamp(t *testing.T) {
	m := virtual.NewMachine(0)
	k := own(facts(m), silent)
	var disk atomic.Pointer[File]
	k.keep = func(f File) error { disk.Store(&f); return nil }
	var mu sync.Mutex
	stamped := map[uint64]Epoch{}
	box, err := outbox.Open(filepath.Join(t.TempDir(), "outbox"), outbox.Options{Age: k.Age, Stamp: func(first uint64, made []time.Time) {
		k.Stamp(first, made)
		f := disk.Load()
		mu.Lock()
		defer mu.Unlock()
		for i := range made {
			pos := first + uint64(i)
			e, known := epochOf(f.Epochs, pos)
			if !known {
				t.Errorf("the disk has no epoch of position %d", pos)
			}
			stamped[pos] = e
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = box.Close() }()
	var all sync.WaitGroup
	for range 6 {
		all.Go(func() {
			for n := range 50 {
				if err := box.Append(t.Context(), slices.Repeat([]message.Message{{Created: time.Now()}}, 1+n%3)...); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Go(func() { // the system clock is set again and again, until the cloud has said what time it is
		for n := range 20 {
			for box.Last() < uint64(20*n) { // so that samples lie between
				time.Sleep(time.Millisecond)
			}
			m.Set(time.Duration(n) * time.Hour)
		}
		_ = k.Hear(time.Now(), "DPS")
	})
	all.Wait()
	f := disk.Load()
	if last := box.Last(); len(stamped) != 6*99 || last != 6*99 || len(f.Epochs) < 3 {
		t.Errorf("%d stamped, %d appended, %d epochs", len(stamped), last, len(f.Epochs))
	}
	for pos, was := range stamped {
		if e, _ := epochOf(f.Epochs, pos); e.From != was.From || e.Boot != was.Boot {
			t.Errorf("position %d was stamped in %+v and is now of %+v", pos, was, e)
		}
	}
}

// own is a clock that one device alone goes by.
func own(c Machine, tell func(journal.Event)) *Epochs {
	k := New(c).For("dps:443", tell, func(time.Duration) {})
	k.all = append(k.all, k)
	return k
}

// TestTimesReadFromTheSystemClockAreCorrected: times that this process has read from the system
// clock are corrected, also if the clock was set since. Times from elsewhere stay.
func TestTimesReadFromTheSystemClockAreCorrected(t *testing.T) {
	m := virtual.NewMachine(0) // no bubble: there, times carry no reading of Go's own clock
	m.Set(-2 * time.Hour)
	k := own(facts(m), func(journal.Event) {})
	read := time.Now()
	if got := k.At(read).Sub(read.Add(-2 * time.Hour)); got.Abs() > time.Second {
		t.Errorf("off by %v", got)
	}
	k.Hear(time.Now(), "a test")
	if got := k.At(read).Sub(read); got.Abs() > 2*time.Second {
		t.Errorf("off by %v when the time is known", got)
	}
	if old := read.Round(0).Add(-time.Hour); !k.At(old).Equal(old) {
		t.Error("a time from elsewhere has changed")
	}
}

// TestSystemClock: what the program takes for its age is in the past.
func TestSystemClock(t *testing.T) {
	if built := System().Built; built.After(time.Now()) || built.Year() < 2026 {
		t.Errorf("built at %v", built)
	}
}

// silent tells nobody.
func silent(journal.Event) {}

// facts is what a machine knows of the time.
func facts(m *virtual.Machine) Machine {
	return Machine{Wall: m.Wall, Running: m.Running, Boot: "boot 1"}
}

// always is a clock that is off by the same at all times.
func always(d time.Duration) func() time.Duration { return func() time.Duration { return d } }

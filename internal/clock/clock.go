// Package clock is the time that the devices of a process go by, where the system clock may be
// wrong, and what each of them keeps of it: which clock has stamped the samples in its outbox.
package clock

import (
	"fmt"
	"math"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/hubhop-iot/hubhop/internal/journal"
)

// Machine is what a machine and a program know of time. The zero value is the system clock as Go
// reads it.
type Machine struct {
	Wall func() time.Time // the system clock, which may be wrong, and may be set at any time; nil: time.Now
	// Running is how long the machine has been running, including suspensions. Nil: the time is
	// Go's, which may stand still in a suspension. A system clock that leaps ahead then counts as a
	// suspension.
	Running func() time.Duration
	Boot    string    // names the moment that Running counts from; "": it is this process's own
	Built   time.Time // the program is not older; zero: unknown
}

// System is this machine's, and this program's.
func System() Machine {
	c := Machine{Built: built()}
	c.Running, c.Boot = uptime()
	return c
}

// built is a time before which this program cannot have been built. It is the time of its newest
// commit if the build has noted that (go build in a repository), else the time of the release of Go
// that it needs (go run, go test).
func built() time.Time {
	at := time.Date(2026, time.February, 1, 0, 0, 0, 0, time.UTC) // Go 1.26
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if t, err := time.Parse(time.RFC3339, s.Value); s.Key == "vcs.time" && err == nil && t.After(at) {
				at = t
			}
		}
	}
	return at
}

// How exact a clock must be, and how often it is looked at and written down. LookEvery, NoteEvery
// and KeepAgain are exported for the tests of the device.
const (
	RightWithin = time.Minute     // a clock that is so far off does no harm
	leap        = 2 * time.Second // a clock that moves so far against another one was set
	LookEvery   = 5 * time.Second // how soon it is noticed that the machine was suspended, or its clock set

	askEvery   = 30 * time.Second // questions for the time, after failures that a wrong clock would explain
	firstAsk   = time.Minute      // and without such a reason, while there is no answer; doubles
	maxAskWait = time.Hour
	askAgain   = 6 * time.Hour   // while the system clock is wrong: what counts a machine's uptime is no clock for days
	doubtAgain = 5 * time.Minute // what the cloud has said once, after failures that a wrong clock would explain

	NoteEvery = time.Hour   // how often the state directory is told that time goes on
	KeepAgain = time.Minute // how soon that is tried again
)

// Clock is the time that the devices of a process go by. It is the latest of three times: what the
// system clock says, when the program was built, and what the state directories know; until the
// cloud has named the time. A system clock that this shows to be wrong is not believed until it
// agrees again. Until then the time is counted on by how long the machine has been running.
//
// A moment is kept as the time at which Running was zero if the moment is now. So clocks that run
// alike differ by a constant.
type Clock struct {
	c      Machine
	boot   string
	counts bool      // Running goes on while the machine is suspended
	born   time.Time // by Go's own clock, for durations

	mu      sync.Mutex         // also guards the epochs of all devices
	all     []*Epochs          // of the devices that are open
	sources map[string]*source // of these devices, by address
	floor   time.Time          // the beginning, if the time is the earliest that it can be
	system  time.Time          // the beginning by the system clock, when it was last looked at
	truth   time.Time          // the beginning by the cloud; zero until it has named a time
	astray  bool               // the system clock is wrong
	doubt   bool               // it was set since the cloud named the time
	dated   time.Time          // the beginning that samples were dated by last
	lag     time.Duration      // how far Running is ahead of Go's own clock
	turns   int                // how often the cloud has changed what is believed
	heard   time.Duration      // Running when the cloud last named the time
	anew    time.Duration      // Running since which the pauses between questions count
	// What is to be told, without the lock:
	news  []news
	slept time.Duration

	watching sync.Mutex // held while the watchers look at the clock; before mu
	watches  []*Watch
	rounds   uint64      // of looks
	early    time.Time   // when they last looked before it was due
	timer    *time.Timer // of their next look; nil: none was started
}

// news is an event that one device is to tell: that of the epochs, or any if that is nil.
type news struct {
	of *Epochs
	e  journal.Event
}

// New returns a clock that goes by what a machine knows.
func New(c Machine) *Clock {
	k := &Clock{c: c, boot: c.Boot, counts: c.Running != nil, born: time.Now()}
	if k.c.Wall == nil {
		k.c.Wall = time.Now
	}
	if k.c.Running == nil {
		k.c.Running = func() time.Duration { return time.Since(k.born) }
	}
	if k.boot == "" {
		k.boot = fmt.Sprintf("process %d", k.born.UnixNano())
	}
	k.lag = k.c.Running()
	k.floor = beginning(c.Built, k.lag)
	return k
}

// beginning is what the time was when Running was zero.
func beginning(t time.Time, running time.Duration) time.Time { return t.Round(0).Add(-running) }

// NotBefore says that it is t already.
func (k *Clock) NotBefore(t time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if b := beginning(t, k.c.Running()); b.After(k.floor) {
		k.floor = b
	}
}

// Horizon returns the latest time that is believed in a file. It depends only on facts that need no
// file: the system clock, and when the program was built. With a checksum the limit is ten years
// later, or none if the build time is unknown, because a machine without a battery has only the
// file. Without a checksum the limit is one day later, because a single flipped bit could be
// believed.
func (k *Clock) Horizon(sealed bool) time.Time {
	latest := k.c.Wall()
	if k.c.Built.After(latest) {
		latest = k.c.Built
	}
	switch {
	case !sealed:
		return latest.Add(24 * time.Hour)
	case k.c.Built.IsZero():
		return latest.Add(math.MaxInt64)
	default:
		return latest.Add(10 * 365 * 24 * time.Hour)
	}
}

// Now is the time.
func (k *Clock) Now() time.Time {
	defer k.share()
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.readLocked()
}

func (k *Clock) readLocked() time.Time {
	base, running := k.lookLocked()
	return base.Add(running).UTC()
}

// At corrects a time that the process took from the system clock. A time from elsewhere has no
// reading of Go's monotonic clock, and stays as it is.
func (k *Clock) At(t time.Time) time.Time {
	if wall := t.Round(0); t == wall { //nolint:staticcheck // QF1009: the reading is what matters, not the time
		return t
	}
	return k.Now().Add(-time.Since(t))
}

// lookLocked reads the clocks and notices what has happened to them. It returns the base that is
// believed.
func (k *Clock) lookLocked() (base time.Time, running time.Duration) {
	running = k.c.Running()
	system := beginning(k.c.Wall(), running)
	if lag := running - time.Since(k.born); lag-k.lag >= leap {
		k.slept += lag - k.lag
		k.lag = lag
	}
	moved := system.Sub(k.system)
	switch {
	case k.system.IsZero():
	case moved.Abs() >= leap:
		k.setLocked(system, moved, running)
	case !k.truth.IsZero() && !k.astray:
		k.truth = system // somebody keeps it right, in small steps
	}
	k.system = system
	if k.astray && system.Sub(k.truth).Abs() <= RightWithin {
		k.truth, k.astray = system, false
		k.news = append(k.news, news{e: journal.Event{Kind: journal.ClockRight, Text: "this machine's clock is right now"}})
	}
	base = k.believedLocked()
	if base.Sub(k.dated).Abs() >= leap {
		k.dated = base
		for _, e := range k.all {
			e.datedLocked(base, !k.truth.IsZero())
		}
	}
	return base, running
}

func (k *Clock) believedLocked() time.Time {
	switch {
	case k.astray:
		return k.truth
	case !k.truth.IsZero() || k.system.After(k.floor):
		return k.system
	default:
		return k.floor
	}
}

// setLocked handles a system clock that was set by moved, or that went on while the machine was
// suspended.
func (k *Clock) setLocked(system time.Time, moved, running time.Duration) {
	suspended := moved > 0 && !k.counts // perhaps
	if suspended {
		k.slept += moved
	}
	if k.truth.IsZero() {
		return // whatever it is now, the cloud has not said
	}
	k.doubt, k.anew = true, running
	switch off := system.Sub(k.truth); {
	case k.astray:
	case off.Abs() <= RightWithin:
		k.truth = system
	case suspended: // then it is the one clock that went on
		k.truth = time.Time{}
	default:
		k.astray = true
		k.wrongLocked(off, "the cloud's", system.Add(-off).Add(running))
	}
}

// wrongLocked tells that the system clock is ahead of somebody's by off.
func (k *Clock) wrongLocked(off time.Duration, whose string, right time.Time) {
	way := "behind"
	if off > 0 {
		way = "ahead of"
	}
	k.news = append(k.news, news{e: journal.Event{Kind: journal.ClockWrong, Text: fmt.Sprintf(
		"this machine's clock is %s %s %s, where it is %s; the device goes on with that time; set the clock (timedatectl set-ntp true)",
		Size(off.Abs()), way, whose, right.UTC().Format(time.RFC3339))}})
}

// Size says how far a clock is off.
func Size(d time.Duration) string {
	if d >= 72*time.Hour {
		return fmt.Sprintf("%.0f days", d.Hours()/24)
	}
	return d.Round(time.Second).String()
}

// Turned counts the times the cloud has corrected this clock.
func (k *Clock) Turned() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.turns
}

// suspect says whether something speaks against the system clock: somebody set it after the time
// was known, or it shows a time before one that has certainly passed.
func (k *Clock) suspect() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.lookLocked()
	return k.doubt || k.astray || k.system.Before(k.floor)
}

// flush writes down what the next run of each device should know, and tells what there is to tell.
// It returns when what was changed before is on the disk, unless that fails. It must not be called
// with a lock held.
func (k *Clock) flush() {
	k.mu.Lock()
	all := slices.DeleteFunc(slices.Clone(k.all), func(e *Epochs) bool { return !e.dirtyLocked() })
	k.mu.Unlock()
	for _, e := range all {
		e.write()
	}
	k.share()
}

// share reports the news about the clock: what is wrong with it once, that the machine has slept to
// each device. It must not be called with a lock held.
func (k *Clock) share() {
	k.mu.Lock()
	if len(k.news) == 0 && k.slept == 0 || len(k.all) == 0 {
		k.mu.Unlock()
		return
	}
	news, slept, all := k.news, k.slept, slices.Clone(k.all)
	k.news, k.slept = nil, 0
	k.mu.Unlock()
	for _, n := range news {
		of := n.of
		if of == nil {
			of = all[0]
		}
		of.tell(n.e)
	}
	if slept > 0 {
		for _, e := range all {
			e.woke(slept)
		}
	}
}

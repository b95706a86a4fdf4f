package clock

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hubhop-iot/hubhop/internal/journal"
)

// A sample is stamped with the time that is believed when it is made, and the outbox keeps that for
// ever. If the time turns out to have been wrong, the sample is corrected on its way out. So the
// device must know by which clock each sample was stamped. The samples that one clock has stamped,
// from one position of the outbox to the next epoch's first, are an epoch.

// Epochs is the clock as one device uses it: with the epochs of its outbox, and the file that keeps
// them. The clock's mu guards what has no other guard.
type Epochs struct {
	*Clock
	source *source // whom the device asks for the time
	tell   func(journal.Event)
	woke   func(slept time.Duration) // the machine has slept
	keep   func(File) error          // writes the file

	fixes   atomic.Pointer[[]Epoch] // see made
	file    File
	changed int // how often file was
	kept    int // as changed, of what was written last

	keeping sync.Mutex // held, before mu, while file is written: what was read later must not be there first
	failed  time.Time  // when that failed last, by Go's own clock; zero: it has not
}

// Keeper keeps the file of one device.
type Keeper interface {
	Load() (File, error) // an error means that the disk could not read it, so it must not be overwritten
	Save(f File) error
	Mark(err error) // what is wrong with the file; nil: nothing
}

// For returns the clock for one device. whom is the address where the device asks for the time:
// devices with the same one ask together. tell is told what happens to the clock, and woke how long
// the machine was suspended; both are called without locks. Before [Epochs.Open] neither is called.
func (k *Clock) For(whom string, tell func(journal.Event), woke func(slept time.Duration)) *Epochs {
	return &Epochs{Clock: k, source: newSource(whom), tell: tell, woke: woke, keep: func(File) error { return nil }}
}

// Open takes over what the last run has kept, now or as soon as the disk can read it. It is
// followed by [Epochs.Close]. The outbox may be nil: then nobody looks at it.
func (k *Epochs) Open(keeper Keeper, l Line) {
	read := func() error {
		file, err := keeper.Load()
		if err == nil {
			k.restore(file, l)
		}
		return err
	}
	unread := read() != nil
	k.keep = func(file File) error {
		err := error(nil)
		if unread { // a file that was not read must not be overwritten
			if err = read(); err == nil {
				unread = false
				k.mu.Lock()
				file = k.file.clone()
				k.mu.Unlock()
			}
		}
		if err == nil {
			err = keeper.Save(file)
		}
		keeper.Mark(err)
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if unread {
		k.changed++ // so that it is tried again
	}
	k.all = append(k.all, k)
	k.openLocked()
}

// Kept returns what the next run should know, as it is now. Tests alone use it.
func (k *Epochs) Kept() File {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.file.clone()
}

// Close takes the device away from the clock.
func (k *Epochs) Close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if i := slices.Index(k.all, k); i >= 0 {
		k.all = slices.Delete(k.all, i, i+1)
		k.closeLocked()
	}
}

// Hear takes the time that the cloud has named just now, to the device of e. It comes over a
// connection that a good certificate stands for. An error says why it cannot be.
func (e *Epochs) Hear(date time.Time, whose string) error {
	k := e.Clock
	if !k.c.Built.IsZero() && date.Before(k.c.Built.Add(-RightWithin)) {
		return fmt.Errorf("%s says that it is %s, but this program was made at %s", whose, date.UTC().Format(time.RFC3339), k.c.Built.UTC().Format(time.RFC3339))
	}
	defer k.flush()
	k.mu.Lock()
	defer k.mu.Unlock()
	before, running := k.lookLocked()
	named := beginning(date.Add(time.Second/2), running) // a Date is cut to seconds
	off := k.system.Sub(named)
	wasAstray := k.astray
	if k.astray = off.Abs() > RightWithin; k.astray {
		k.truth = named
	} else {
		k.truth = k.system
	}
	if before.Sub(k.truth).Abs() > RightWithin {
		k.turns++
	}
	k.doubt, k.anew, k.heard = false, running, running
	switch {
	case k.astray && !wasAstray:
		k.wrongLocked(off, "that of "+whose, date)
	case wasAstray && !k.astray: // it had been right, and what was counted on was not
		k.news = append(k.news, news{e: journal.Event{Kind: journal.ClockRight, Text: "this machine's clock is right"}})
	}
	now := k.truth.Add(running).UTC()
	for _, one := range k.all {
		dated := one.datedLocked(k.truth, true)
		if one == e || dated || one.file.Newest.After(now) { // also to an earlier time: the file was wrong
			one.file.Newest = now
			one.changed++
		}
	}
	return nil
}

// Epoch says which clock has stamped the samples from a position on.
type Epoch struct {
	From   uint64        `json:"from"`  // the first position
	Boot   string        `json:"boot"`  // which run of the machine
	Begins time.Time     `json:"begin"` // the time that was believed, as the clock keeps it
	Proved bool          `json:"proved"`
	Fix    time.Duration `json:"fixNs,omitempty"` // how much later it really was
}

// maxEpochs bounds the file. Older samples stay as they are stamped.
const maxEpochs = 64

// File is what the next run should know.
type File struct {
	Newest time.Time `json:"newest"` // it is later
	Outbox string    `json:"outbox"` // the id of the one whose places these are
	Epochs []Epoch   `json:"epochs"`
}

func (f File) clone() File {
	f.Epochs = slices.Clone(f.Epochs)
	return f
}

// Check returns an error if a file says what cannot be. horizon returns the latest time that is
// believed in it, see [Clock.Horizon].
func (f *File) Check(sealed bool, horizon func(sealed bool) time.Time) error {
	limit := horizon(true)
	for _, e := range f.Epochs {
		if e.Begins.After(limit) || e.Fix.Abs() > maxFix || len(e.Boot) > maxBoot {
			return fmt.Errorf("it has samples stamped by a clock that stood at %s", e.Begins.UTC().Format(time.RFC3339))
		}
	}
	if len(f.Outbox) > maxBoot {
		return fmt.Errorf("it names an outbox of %d bytes", len(f.Outbox))
	}
	if limit := horizon(sealed); f.Newest.After(limit) {
		return fmt.Errorf("it says that it was %s, and it can hardly be later than %s", f.Newest.UTC().Format(time.RFC3339), limit.UTC().Format(time.RFC3339))
	}
	if n := len(f.Epochs); n > maxEpochs {
		f.Epochs = f.Epochs[n-maxEpochs:]
	}
	return nil
}

const (
	maxFix  = 200 * 365 * 24 * time.Hour // of a sample's time
	maxBoot = 256                        // bytes of an id in the file
)

// Line is the outbox whose samples are stamped.
type Line interface {
	Last() uint64 // the newest place
	ID() string
	HasID(id string) bool
}

// restore takes over the file of the last run. If the disk was read late, it puts the old entries
// before those of this run.
func (k *Epochs) restore(f File, l Line) {
	k.NotBefore(f.Newest)
	id := f.Outbox
	if l != nil { // it is asked without k.mu, because it asks for ages under its own lock
		if f.Outbox != "" && !l.HasID(f.Outbox) {
			f.Epochs = nil
		}
		next := l.Last() + 1 // samples behind it were not synced before the power went
		f.Epochs = slices.DeleteFunc(f.Epochs, func(e Epoch) bool { return e.From > next })
		id = l.ID()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if own := k.file; len(own.Epochs) > 0 {
		from := own.Epochs[0].From
		f.Epochs = slices.DeleteFunc(f.Epochs, func(e Epoch) bool { return e.From >= from })
		f.Epochs = append(f.Epochs, own.Epochs...)
		if n := len(f.Epochs); n > maxEpochs {
			f.Epochs = f.Epochs[n-maxEpochs:]
		}
		k.changed++
	}
	if k.file.Newest.After(f.Newest) {
		f.Newest = k.file.Newest
	}
	if f.Outbox != id {
		f.Outbox = id
		k.changed++
	}
	k.file = f
	k.publishLocked()
}

// Stamp is the Stamp of the outbox: it corrects times that sources have taken from the system
// clock. When it begins an epoch it writes that down before it returns, so that no sample is
// durable whose epoch a restart would not know. The outbox waits for it, so it reports nothing.
func (k *Epochs) Stamp(first uint64, made []time.Time) {
	defer k.lookEarly()
	defer k.write()
	k.mu.Lock()
	defer k.mu.Unlock()
	base, running := k.lookLocked()
	now := base.Add(running).UTC()
	if e := (Epoch{From: first, Boot: k.boot, Begins: base, Proved: !k.truth.IsZero()}); !k.continuesLocked(e) {
		k.file.Epochs = append(k.file.Epochs, e)
		if n := len(k.file.Epochs); n > maxEpochs {
			k.file.Epochs = slices.Delete(k.file.Epochs, 0, n-maxEpochs)
		}
		k.changed++
		k.publishLocked()
	}
	for i, at := range made {
		made[i] = now.Add(-time.Since(at))
	}
}

// continuesLocked says whether samples of e may be counted to the epoch before.
func (k *Epochs) continuesLocked(e Epoch) bool {
	n := len(k.file.Epochs)
	if n == 0 {
		return false
	}
	before := k.file.Epochs[n-1]
	if e.Proved || before.Proved {
		return e.Proved && before.Proved && before.Fix == 0 // what is proved is the time, whatever counts it
	}
	return e.Boot == before.Boot && e.Begins.Sub(before.Begins).Abs() < leap
}

// datedLocked dates anew what was stamped before the time was known, while this machine has been
// running: for good when the cloud has named the time, else as it is believed now. It says whether
// that has changed an epoch.
func (k *Epochs) datedLocked(base time.Time, proved bool) (changed bool) {
	for i := range k.file.Epochs {
		if e := &k.file.Epochs[i]; !e.Proved && e.Boot == k.boot {
			was := *e
			e.Proved, e.Fix = proved, 0
			if fix := base.Sub(e.Begins); fix.Abs() > RightWithin {
				e.Fix = fix
			}
			changed = changed || *e != was
		}
	}
	k.publishLocked()
	return changed
}

func (k *Epochs) publishLocked() {
	if !slices.ContainsFunc(k.file.Epochs, func(e Epoch) bool { return e.Fix != 0 }) {
		k.fixes.Store(nil)
		return
	}
	k.fixes.Store(new(slices.Clone(k.file.Epochs)))
}

// Made is when the sample at a place was really made, as far as that is known.
func (k *Epochs) Made(pos uint64, stamped time.Time) time.Time {
	epochs := k.fixes.Load()
	if epochs == nil {
		return stamped
	}
	e, _ := epochOf(*epochs, pos)
	return stamped.Add(e.Fix)
}

// epochOf is the one of the sample at a place.
func epochOf(epochs []Epoch, pos uint64) (e Epoch, known bool) {
	for _, e := range slices.Backward(epochs) {
		if e.From <= pos {
			return e, true
		}
	}
	return Epoch{}, false
}

// Age is how old the sample at a position is at least. Where nobody knows the age it returns less,
// because doubt must not cost a sample. The outbox calls it and may hold its lock, so Age reports
// nothing.
func (k *Epochs) Age(pos uint64, stamped time.Time) time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	base, running := k.lookLocked()
	e, known := epochOf(k.file.Epochs, pos)
	switch {
	case !known:
		return 0
	case e.Proved && !k.truth.IsZero():
		return base.Add(running).Sub(stamped.Add(e.Fix))
	case e.Boot == k.boot: // whatever the time is, so much of it has passed
		return running - stamped.Sub(e.Begins)
	case e.Proved: // the system clock may be ahead
		return k.floor.Add(running).Sub(stamped.Add(e.Fix))
	default: // it was made before this machine was started
		return running
	}
}

// Stale says at a look whether [Epochs.Pass] has something to do. vouched is as for Pass.
func (k *Epochs) Stale(r *Round, vouched bool) bool {
	now := r.Now()
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.dirtyLocked() || vouched && now.Sub(k.file.Newest) >= NoteEvery || len(k.news) > 0 || k.slept > 0
}

// Pass lets the next run know that time goes on. vouched says that a certificate was good at the
// time that is believed.
func (k *Epochs) Pass(vouched bool) {
	k.passed(vouched)
	k.write()
	k.share()
}

func (k *Epochs) passed(vouched bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if now := k.readLocked(); vouched && now.Sub(k.file.Newest) >= NoteEvery {
		k.file.Newest = now
		k.changed++
	}
}

// write writes the file if it has changed. After a failure it tries again a minute later.
func (k *Epochs) write() {
	k.keeping.Lock()
	defer k.keeping.Unlock()
	k.mu.Lock()
	changed := k.changed
	if changed == k.kept || !k.failed.IsZero() && time.Since(k.failed) < KeepAgain {
		k.mu.Unlock()
		return
	}
	file := k.file.clone()
	k.mu.Unlock()
	err := k.keep(file)
	if err == nil {
		k.mu.Lock()
		k.kept = changed
		k.mu.Unlock()
		k.failed = time.Time{}
		return
	}
	if k.failed.IsZero() { // else it was told
		k.mu.Lock()
		k.news = append(k.news, news{k, journal.Event{Kind: journal.Warning, Text: fmt.Sprintf("cannot keep the time for the next start: %v", err)}})
		k.mu.Unlock()
	}
	k.failed = time.Now()
}

// dirtyLocked says whether the file has changed since it was written.
func (k *Epochs) dirtyLocked() bool { return k.changed != k.kept }

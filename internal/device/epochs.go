package device

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

// epochs is the clock as one device uses it: with the epochs of its outbox, and the file that keeps
// them. The clock's mu guards what has no other guard.
type epochs struct {
	*clock
	tell func(journal.Event)
	woke func(slept time.Duration) // the machine has slept
	keep func(clockFile) error     // writes the file

	fixes   atomic.Pointer[[]epoch] // see made
	file    clockFile
	changed int // how often file was
	kept    int // as changed, of what was written last

	keeping sync.Mutex // held, before mu, while file is written: what was read later must not be there first
	failed  time.Time  // when that failed last, by Go's own clock; zero: it has not
}

// newEpochs returns the clock for one device, which tell and woke are of.
func newEpochs(k *clock, tell func(journal.Event), woke func(time.Duration)) *epochs {
	return &epochs{clock: k, tell: tell, woke: woke, keep: func(clockFile) error { return nil }}
}

// epoch says which clock has stamped the samples from a position on.
type epoch struct {
	From   uint64        `json:"from"`  // the first position
	Boot   string        `json:"boot"`  // which run of the machine
	Begins time.Time     `json:"begin"` // the time that was believed, as the clock keeps it
	Proved bool          `json:"proved"`
	Fix    time.Duration `json:"fixNs,omitempty"` // how much later it really was
}

// maxEpochs bounds the file. Older samples stay as they are stamped.
const maxEpochs = 64

// clockFile is what the next run should know.
type clockFile struct {
	Newest time.Time `json:"newest"` // it is later
	Outbox string    `json:"outbox"` // the id of the one whose places these are
	Epochs []epoch   `json:"epochs"`
}

func (f clockFile) clone() clockFile {
	f.Epochs = slices.Clone(f.Epochs)
	return f
}

// loadClock reads clock.json. horizon returns the latest time that is believed in it.
func (h *home) loadClock(horizon func(sealed bool) time.Time) (f clockFile, err error) {
	found, err := h.load(timeFile, &f, func(sealed bool) error {
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
		return nil
	})
	if !found {
		return clockFile{}, err
	}
	if n := len(f.Epochs); n > maxEpochs {
		f.Epochs = f.Epochs[n-maxEpochs:]
	}
	return f, nil
}

const (
	maxFix  = 200 * 365 * 24 * time.Hour // of a sample's time
	maxBoot = 256                        // bytes of an id in the file
)

func (h *home) saveClock(f clockFile) error { return h.save(timeFile, f) }

// line is the outbox whose samples are stamped.
type line interface {
	Last() uint64 // the newest place
	ID() string
	HasID(id string) bool
}

// restore takes over the file of the last run. If the disk was read late, it puts the old entries
// before those of this run.
func (k *epochs) restore(f clockFile, l line) {
	k.notBefore(f.Newest)
	id := f.Outbox
	if l != nil { // it is asked without k.mu, because it asks for ages under its own lock
		if f.Outbox != "" && !l.HasID(f.Outbox) {
			f.Epochs = nil
		}
		next := l.Last() + 1 // samples behind it were not synced before the power went
		f.Epochs = slices.DeleteFunc(f.Epochs, func(e epoch) bool { return e.From > next })
		id = l.ID()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if own := k.file; len(own.Epochs) > 0 {
		from := own.Epochs[0].From
		f.Epochs = slices.DeleteFunc(f.Epochs, func(e epoch) bool { return e.From >= from })
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

// stamp is the Stamp of the outbox: it corrects times that sources have taken from the system
// clock. When it begins an epoch it writes that down before it returns, so that no sample is
// durable whose epoch a restart would not know. The outbox waits for it, so it reports nothing.
func (k *epochs) stamp(first uint64, made []time.Time) {
	defer k.write()
	k.mu.Lock()
	defer k.mu.Unlock()
	base, running := k.lookLocked()
	now := base.Add(running).UTC()
	if e := (epoch{From: first, Boot: k.boot, Begins: base, Proved: !k.truth.IsZero()}); !k.continuesLocked(e) {
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
func (k *epochs) continuesLocked(e epoch) bool {
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
func (k *epochs) datedLocked(base time.Time, proved bool) (changed bool) {
	for i := range k.file.Epochs {
		if e := &k.file.Epochs[i]; !e.Proved && e.Boot == k.boot {
			was := *e
			e.Proved, e.Fix = proved, 0
			if fix := base.Sub(e.Begins); fix.Abs() > rightWithin {
				e.Fix = fix
			}
			changed = changed || *e != was
		}
	}
	k.publishLocked()
	return changed
}

func (k *epochs) publishLocked() {
	if !slices.ContainsFunc(k.file.Epochs, func(e epoch) bool { return e.Fix != 0 }) {
		k.fixes.Store(nil)
		return
	}
	k.fixes.Store(new(slices.Clone(k.file.Epochs)))
}

// made is when the sample at a place was really made, as far as that is known.
func (k *epochs) made(pos uint64, stamped time.Time) time.Time {
	epochs := k.fixes.Load()
	if epochs == nil {
		return stamped
	}
	e, _ := epochOf(*epochs, pos)
	return stamped.Add(e.Fix)
}

// epochOf is the one of the sample at a place.
func epochOf(epochs []epoch, pos uint64) (e epoch, known bool) {
	for _, e := range slices.Backward(epochs) {
		if e.From <= pos {
			return e, true
		}
	}
	return epoch{}, false
}

// age is how old the sample at a position is at least. Where nobody knows the age it returns less,
// because doubt must not cost a sample. The outbox calls it and may hold its lock, so age reports
// nothing.
func (k *epochs) age(pos uint64, stamped time.Time) time.Duration {
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

// stale says whether pass has something to do.
func (k *epochs) stale(vouched bool) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.readLocked()
	return k.dirtyLocked() || vouched && now.Sub(k.file.Newest) >= noteEvery || len(k.news) > 0 || k.slept > 0
}

// pass lets the next run know that time goes on. vouched says that a certificate was good at the
// time that is believed.
func (k *epochs) pass(vouched bool) {
	k.passed(vouched)
	k.write()
	k.share()
}

func (k *epochs) passed(vouched bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if now := k.readLocked(); vouched && now.Sub(k.file.Newest) >= noteEvery {
		k.file.Newest = now
		k.changed++
	}
}

// write writes the file if it has changed. After a failure it tries again a minute later.
func (k *epochs) write() {
	k.keeping.Lock()
	defer k.keeping.Unlock()
	k.mu.Lock()
	changed := k.changed
	if changed == k.kept || !k.failed.IsZero() && time.Since(k.failed) < keepAgain {
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
func (k *epochs) dirtyLocked() bool { return k.changed != k.kept }

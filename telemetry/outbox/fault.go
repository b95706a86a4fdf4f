package outbox

import (
	"errors"
	"time"

	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/format"
)

// An error of the disk is of one of three kinds, and each is met in its own way:
//
//   - damage: the data itself is bad. It is read again for a minute; then what cannot be read is
//     set aside, and the line goes on.
//   - missing: the file is not there. The directory is asked; if it can be read and does not list
//     the file, the file is lost.
//   - any other: it says nothing about the data (no descriptor is free, no memory, no permission,
//     no room). Reading waits until it has passed, however long that takes, and takes nothing out
//     of the line.
//
// An unknown error counts as the third kind.

// isDamage says that an error means bad data.
func isDamage(err error) bool {
	return errors.Is(err, errDamaged) || errors.Is(err, format.ErrHeader) || errors.Is(err, ErrSpecial) || disk.IsDamage(err)
}

// needsPerson says that an error does not pass by itself: a person must choose another directory,
// or change this one.
func needsPerson(err error) bool {
	return disk.NeedsPerson(err) || errors.Is(err, ErrOther) || format.IsVersion(err)
}

const (
	// doubtFor is how long damage is read again before it is believed.
	doubtFor = time.Minute
	// missFor is how long a file must be missing from its directory before it is believed to be
	// gone.
	missFor = 2 * time.Second

	// firstPause and lastPause are the first and the longest wait before a read is tried again;
	// waits double.
	firstPause = 100 * time.Millisecond
	lastPause  = 5 * time.Second
)

// trouble is why a segment cannot be read now. Box.mu guards it.
type trouble struct {
	pos   uint64    // first position that cannot be read
	err   error     // of the last try
	kind  faultKind // of err
	since time.Time // the first failure of this kind in a row
	pause time.Duration
	again time.Time // when it is tried next
	told  time.Time // the last report of it
}

type faultKind int

const (
	passing faultKind = iota
	damage
	missing
)

// fail notes another failure, and says whether the failures have lasted long enough to be believed.
func (t *trouble) fail(pos uint64, k faultKind, err error, now time.Time) (believed bool) {
	if t.pause == 0 || t.kind != k {
		t.kind, t.since = k, now
	}
	if t.pause == 0 || pos < t.pos { // of two readers the one at the earlier position counts
		t.pos = pos
	}
	t.err = err
	t.pause = min(max(2*t.pause, firstPause), lastPause)
	t.again = now.Add(t.pause)
	switch k {
	case damage:
		return now.Sub(t.since) >= doubtFor
	case missing:
		return now.Sub(t.since) >= missFor
	case passing:
	}
	return false
}

// tellAgain is the time between two reports of the same trouble.
const tellAgain = 10 * time.Minute

package status

import "time"

// Beat is what a loop says of itself. A loop does not beat by a timer: it says when it has begun to
// work, and that it has come to rest. At rest it waits on purpose, for as long as it likes.
type Beat struct {
	Loop string
	// Busy is since when the loop has been at work on one thing; zero: it is at rest.
	Busy time.Time
	// Due is when a loop at rest wants to go on by itself; zero: it waits for something to happen.
	Due time.Time
}

// MaxBeat is the age from which a beat says that its loop stands still.
const MaxBeat = 30 * time.Second

// Age is how long ago the loop last turned, as far as it should have turned since.
func (b Beat) Age(now time.Time) time.Duration {
	since := b.Busy
	if since.IsZero() {
		since = b.Due
	}
	if since.IsZero() || since.After(now) {
		return 0
	}
	return now.Sub(since)
}

// Still returns the beat that is older than MaxBeat and the oldest of all, if there is one.
func Still(beats []Beat, now time.Time) (still Beat, found bool) {
	for _, b := range beats {
		if age := b.Age(now); age > MaxBeat && (!found || age > still.Age(now)) {
			still, found = b, true
		}
	}
	return still, found
}

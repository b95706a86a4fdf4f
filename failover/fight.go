package failover

import "time"

const (
	// strikeWithin is how soon after a link came up the hub must close it to raise the suspicion of
	// another client with the same identity.
	strikeWithin = 10 * time.Second
	// maxStrikes is after how many such links in a row, with no other failure in between, DPS is
	// asked.
	maxStrikes = 3
	// fightEvery is the time between two dials in a fight.
	fightEvery = time.Minute
)

// fight is the evidence that another client uses the same identity. In that case the hub closes
// this client's link in order whenever the other client connects, and lets this client in whenever
// it dials. A hub in trouble does not look like this: it resets links, or refuses some of the
// dials.
type fight struct {
	strikes int  // links to home in a row that the hub closed in order soon after they were up
	named   bool // DPS has confirmed the hub after maxStrikes: the next strike proves the fight
	on      bool // the hub is dialled once a minute only
}

// over forgets the evidence: something has happened that does not happen in a fight.
func (f *fight) over() { *f = fight{} }

// dialFailed takes note of a failed dial. In a fight the hub accepts each dial. It closes one early
// only if the other client connects at that moment. Any other failure means that the hub is in
// trouble.
func (f *fight) dialFailed(s Signal) {
	if s != ClosedEarly {
		f.over()
	}
}

// linkEnded counts links in a row that the hub has closed in order soon after they were up. From
// maxStrikes on it turns the signal into LinkContested: the device was moved, or another client
// uses its identity, and only DPS can tell which. A link that lived longer than strikeWithin ends
// the count and the slow mode; one that ended in another way, and not by plan, ends the count.
func (f *fight) linkEnded(s Signal, lived time.Duration) Signal {
	if lived > strikeWithin {
		f.over()
	}
	if s != LinkClosed && s != TokenRenewal && !f.on { // only a hub that is unwell does that
		f.over()
	}
	if s != LinkClosed || lived > strikeWithin {
		return s
	}
	if f.strikes++; f.strikes < maxStrikes {
		return s
	}
	return LinkContested
}

// confirmed takes note that DPS stands by the hub. With fewer strikes than maxStrikes it proves
// nothing: another failure has ended the count while DPS was asked.
func (f *fight) confirmed() { f.named = f.strikes >= maxStrikes }

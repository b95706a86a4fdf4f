package outbox

import (
	"time"

	"github.com/hubhop-iot/hubhop/telemetry/outbox/format"
)

// retryEvery is the pause before a failed disk is tried again.
const retryEvery = 5 * time.Second

// regainIfDue tries a failed disk again if its pause is over and no other goroutine tries it. b.mu
// is held, and released during the try.
func (b *Box) regainIfDue() bool {
	if b.off == nil || b.leading || b.closed || !b.isDue() {
		return false
	}
	b.leading = true
	b.mu.Unlock()
	b.regain()
	b.mu.Lock()
	b.passLead()
	return true
}

func (b *Box) isDegraded() (degraded, due bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.off != nil, b.isDue()
}

// isDue says that the pause of a failed disk is over. b.mu is held.
func (b *Box) isDue() bool { return !time.Now().Before(b.retryAt) }

// degrade makes new messages go into memory. The caller leads.
func (b *Box) degrade(err error) {
	b.closeSegment()
	b.reopen = nil
	b.mu.Lock()
	defer b.mu.Unlock()
	b.retryAt = time.Now().Add(retryEvery)
	if b.off == nil {
		text := "the disk does not take messages: they are kept in memory, under another outbox id, and lost if this process ends: " +
			"see to the disk of " + b.dir
		if b.blind {
			text = "the outbox in " + b.dir + " cannot be read now: the messages that wait there are kept, and are sent when it can be read; " +
				"new messages are kept in memory, under another outbox id, and lost if this process ends"
		}
		b.problem(Problem{Kind: Degraded, Err: err, Text: text})
	}
	b.off = err
	b.blinded(err)
	b.rouse(0)
}

// blinded notes why the box is still blind. b.mu is held.
func (b *Box) blinded(err error) {
	if !b.blind {
		return
	}
	k := passing
	if isDamage(err) {
		k = damage
	}
	if b.blindness == nil {
		b.blindness = new(trouble)
	}
	b.blindness.fail(0, k, err, time.Now())
}

// regain tries the disk again, and writes what is in the ring to it. The caller leads.
func (b *Box) regain() {
	var err error
	if b.isBlind() {
		err = b.openDirectory()
	}
	if err == nil {
		err = b.syncTail()
	}
	if err == nil {
		err = b.cutOffAll()
	}
	if err == nil {
		err = b.openFiles()
	}
	for err == nil {
		at, items, skipped := b.ringFront()
		if skipped || len(items) == 0 {
			err = b.syncAcks(true) // else a restart would take what has left from memory for lost
		}
		if err != nil || len(items) == 0 {
			break
		}
		if _, err = b.store(at, items); err != nil {
			b.takeLoose() // they are in the ring
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil {
		b.retryAt, b.off = time.Now().Add(retryEvery), err
		b.blinded(err)
		return
	}
	b.ring, b.off = nil, nil
	b.room.fire()
	if b.diskEnd != b.next { // the last ones left while that was synced
		b.diskEnd, b.endID, b.endSeq = b.next, 0, 0
	}
	b.problem(Problem{Kind: Recovered, Text: "the disk takes messages again: " + b.dir})
}

func (b *Box) isBlind() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.blind
}

// ringFront copies the oldest items of the ring, about as many as fit into one segment. skipped
// says that the positions before them have left the line and will never be on the disk.
func (b *Box) ringFront() (at start, items []format.Item, skipped bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ring == nil {
		return start{}, nil, true
	}
	if skipped = b.diskEnd != b.ring.base; skipped {
		b.diskEnd, b.endID, b.endSeq = b.ring.base, 0, 0
	}
	bytes := int64(0)
	for _, it := range b.ring.items {
		if len(items) > 0 && bytes+cost(it) > b.segSize {
			break
		}
		items = append(items, it)
		bytes += cost(it)
	}
	return start{id: b.ring.id, seq: b.ring.seq, pos: b.ring.base}, items, skipped
}

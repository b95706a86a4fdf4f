package mqtt

import "time"

// Completion is told what became of messages: that they were acknowledged (nil), or why they will
// not be. tickets names the messages, and is valid until Done returns. Done may send more messages.
// The session reads nothing until Done returns, so Done should not wait. If it must wait for a
// disk, the session does not take that for silence of the peer.
type Completion interface {
	Done(tickets []uint64, err error)
}

// flight is the PUBLISHes of one session that have no PUBACK yet. It gives each its packet id, and
// sends one again under the id that it had on an earlier session to the same server, as MQTT 3.1.1
// section 4.4 wants it. It does no I/O and has no lock.
//
// MQTT 5: the receive maximum of the server bounds count.
type flight struct {
	// table finds a publish by the low bits of its packet id. Its length is a power of two, and at
	// least twice count. Ids that are given in turn find their places free.
	table  []*publish
	count  int
	oldest *publish  // in order of sending
	newest *publish  // its other end
	free   *publish  // used ones, for the next messages
	turned time.Time // when another message became the oldest

	lastID uint16
	// again has the packet id, by key, of each message that an earlier session left and that was
	// not sent on this one yet.
	again    map[string]uint16
	reserved map[uint16]bool // the packet ids in again
}

// publish is a PUBLISH without its PUBACK.
type publish struct {
	id     uint16
	again  bool   // it was sent before, so the time to its PUBACK is no round trip
	key    string // names the message on later sessions; empty: it is always new there
	sent   time.Time
	ticket uint64
	to     Completion

	before, next *publish
}

// newFlight returns a flight that knows what an earlier session left. It owns left from now on.
func newFlight(left map[string]uint16) flight {
	f := flight{again: left}
	if len(left) > 0 {
		f.reserved = make(map[uint16]bool, len(left))
		for _, id := range left {
			f.reserved[id] = true
		}
	}
	return f
}

// send adds a message and gives it its packet id.
func (f *flight) send(key string, ticket uint64, to Completion, now time.Time) *publish {
	p := f.free
	if p == nil {
		p = new(publish)
	} else {
		f.free = p.next
		*p = publish{}
	}
	p.key, p.sent, p.ticket, p.to = key, now, ticket, to
	if len(f.again) > 0 && key != "" {
		if p.id, p.again = f.again[key]; p.again {
			delete(f.again, key)
			delete(f.reserved, p.id)
		}
	}
	if !p.again {
		p.id = f.nextID()
	}
	f.put(p)
	if p.before = f.newest; p.before == nil {
		f.oldest = p
	} else {
		f.newest.next = p
	}
	f.newest = p
	return p
}

// nextID returns a free packet id: it is not in flight, and not reserved for a message of an
// earlier session. Three windows of ids at most are taken.
func (f *flight) nextID() uint16 {
	for {
		f.lastID++
		if f.lastID == 0 || f.taken(f.lastID) || f.reserved[f.lastID] {
			continue
		}
		return f.lastID
	}
}

// get returns the publish with a packet id, nil if none is in flight.
func (f *flight) get(id uint16) *publish {
	if len(f.table) == 0 {
		return nil
	}
	if p := *f.at(id); p != nil && p.id == id {
		return p
	}
	return nil
}

// acknowledged removes a publish that get has returned. The publish is used for another message
// later.
func (f *flight) acknowledged(p *publish, now time.Time) {
	*f.at(p.id) = nil
	f.count--
	if p.before == nil {
		f.oldest, f.turned = p.next, now
	} else {
		p.before.next = p.next
	}
	if p.next == nil {
		f.newest = p.before
	} else {
		p.next.before = p.before
	}
	p.before, p.next, p.to, p.key = nil, f.free, nil, ""
	f.free = p
}

// owed returns since when the oldest message waits for its PUBACK: since it was sent, or since it
// became the oldest. It returns zero if nothing is in flight.
func (f *flight) owed() time.Time {
	if f.oldest == nil {
		return time.Time{}
	}
	if sent := f.oldest.sent; sent.After(f.turned) {
		return sent
	}
	return f.turned
}

// left returns the packet id, by key, of each message that the server may have without having
// acknowledged it. If more than most messages of earlier sessions were not sent again on this one,
// another server has taken them, and they are forgotten. That costs only their DUP flag. refused
// says that the server refused this session, so it has seen only what it had before.
func (f *flight) left(most int, refused bool) map[string]uint16 {
	left := f.again
	if left == nil || len(left) > most {
		left = map[string]uint16{}
	}
	for p := f.oldest; p != nil; p = p.next {
		if p.key != "" && (p.again || !refused) {
			left[p.key] = p.id
		}
	}
	return left
}

// rest gives back the memory that only a busy session needs. Nothing may be in flight.
func (f *flight) rest() { f.table, f.free = nil, nil }

func (f *flight) at(id uint16) **publish { return &f.table[int(id)&(len(f.table)-1)] }

// taken reports whether an id is in flight, or would only make the table larger.
func (f *flight) taken(id uint16) bool {
	return f.count < len(f.table)/2 && *f.at(id) != nil || f.get(id) != nil
}

func (f *flight) put(p *publish) {
	// A table with all 65,536 places has room, because the id is not in flight.
	for f.count >= len(f.table)/2 || *f.at(p.id) != nil {
		old := f.table
		f.table = make([]*publish, max(16, 2*len(old)))
		for _, x := range old {
			if x != nil {
				*f.at(x.id) = x
			}
		}
	}
	*f.at(p.id) = p
	f.count++
}

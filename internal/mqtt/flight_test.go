package mqtt

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"
	"time"
)

// kept counts what a flight holds memory for: messages in flight, and used ones for the next.
func kept(f *flight) (n int) {
	for _, p := range []*publish{f.oldest, f.free} {
		for ; p != nil; p = p.next {
			n++
		}
	}
	return n
}

// TestPacketIDsInFlightAreUnique sends and acknowledges at random, up to all the ids that there
// are, and compares with a map.
func TestPacketIDsInFlightAreUnique(t *testing.T) {
	for _, most := range []int{1, 64, 5000, 65_000} {
		r := rand.New(rand.NewPCG(1, uint64(most)))
		var f flight
		model, order := map[uint16]uint64{}, []uint16(nil)
		now := time.Now()
		for ticket := range uint64(most + min(most, 5000)*3) {
			if len(order) == most || len(order) > 0 && r.IntN(3) == 0 {
				i := r.IntN(len(order))
				id := order[i]
				p := f.get(id)
				if p == nil || p.ticket != model[id] {
					t.Fatalf("packet id %d: %+v, want ticket %d", id, p, model[id])
				}
				f.acknowledged(p, now)
				delete(model, id)
				order = append(order[:i], order[i+1:]...)
				if f.get(id) != nil {
					t.Fatalf("packet id %d is in flight after its PUBACK", id)
				}
			}
			p := f.send("", ticket, nil, now)
			if _, taken := model[p.id]; taken || p.id == 0 {
				t.Fatalf("packet id %d is given twice", p.id)
			}
			model[p.id], order = ticket, append(order, p.id)
			if f.count != len(model) || f.oldest.id != order[0] || f.newest.id != p.id {
				t.Fatalf("%d in flight, from %d to %d; want %d, from %d to %d", f.count, f.oldest.id, f.newest.id, len(model), order[0], p.id)
			}
		}
	}
}

func TestAcknowledgedMessagesLeaveNoMemoryBehindAnUnacknowledgedOne(t *testing.T) {
	var f flight
	first := f.send("withheld", 0, nil, time.Now())
	for i := range uint64(1000) {
		f.acknowledged(f.send("", i, nil, time.Now()), time.Now())
	}
	if kept(&f) > 2 || f.oldest != first || f.newest != first || first.before != nil || first.next != nil {
		t.Errorf("%d are kept", kept(&f))
	}
}

// TestUnacknowledgedMessagesKeepTheirPacketID: the next session sends them again with DUP and under
// the same id, and gives that id to no other message before.
func TestUnacknowledgedMessagesKeepTheirPacketID(t *testing.T) {
	now := time.Now()
	var f flight
	f.send("a", 1, nil, now)
	f.acknowledged(f.send("b", 2, nil, now), now)
	f.send("", 3, nil, now) // has no name to be known by
	f.send("c", 4, nil, now)
	left := f.left(64, false)
	if want := map[string]uint16{"a": 1, "c": 4}; !maps.Equal(left, want) {
		t.Fatalf("left %v, want %v", left, want)
	}
	next := newFlight(left)
	var ids []uint16
	for _, key := range []string{"new", "newer", "", "c", "last", "a", "a"} {
		p := next.send(key, 0, nil, now)
		ids = append(ids, p.id)
		if p.again != (key == "c" || key == "a" && len(ids) == 6) {
			t.Errorf("%q is sent again: %v", key, p.again)
		}
	}
	if got, want := fmt.Sprint(ids), "[2 3 5 4 6 1 7]"; got != want {
		t.Errorf("packet ids %s, want %s", got, want)
	}
}

// TestRefusedServerHasSeenOnlyWhatItHadBefore: what left with a CONNECT that was refused is new on
// the next session.
func TestRefusedServerHasSeenOnlyWhatItHadBefore(t *testing.T) {
	f := newFlight(map[string]uint16{"old": 9, "older": 8})
	f.send("old", 1, nil, time.Now())
	f.send("young", 2, nil, time.Now())
	if left, want := f.left(64, true), (map[string]uint16{"old": 9, "older": 8}); !maps.Equal(left, want) {
		t.Errorf("left %v, want %v", left, want)
	}
}

// TestWhatAnotherServerTookIsForgotten: what is remembered does not grow with every session.
func TestWhatAnotherServerTookIsForgotten(t *testing.T) {
	left := map[string]uint16{}
	for i := range uint16(65) {
		left[fmt.Sprint(i)] = i + 1
	}
	f := newFlight(left)
	f.send("0", 1, nil, time.Now())
	if got := f.left(64, false); len(got) != 65 { // 64 that were not sent again, and this one
		t.Errorf("%d are left", len(got))
	}
	left["65"] = 66
	f = newFlight(left)
	f.send("new", 1, nil, time.Now())
	if got := f.left(64, false); len(got) != 1 {
		t.Errorf("%d are left", len(got))
	}
}

// TestAnAnswerIsOwedSinceTheOldestMessageIsTheOldest: a server that acknowledges in order, however
// slowly, gets on.
func TestAnAnswerIsOwedSinceTheOldestMessageIsTheOldest(t *testing.T) {
	var f flight
	began := time.Now()
	at := func(seconds int) time.Time { return began.Add(time.Duration(seconds) * time.Second) }
	if !f.owed().IsZero() {
		t.Error("something is owed for nothing")
	}
	first, second := f.send("", 1, nil, at(0)), f.send("", 2, nil, at(1))
	third := f.send("", 3, nil, at(30))
	for _, v := range []struct {
		acked *publish
		now   int
		owed  int
	}{{nil, 0, 0}, {second, 10, 0}, {first, 20, 30}} {
		if v.acked != nil {
			f.acknowledged(v.acked, at(v.now))
		}
		if got := f.owed(); !got.Equal(at(v.owed)) {
			t.Errorf("after %d s: owed since %v, want %v", v.now, got.Sub(began), at(v.owed).Sub(began))
		}
	}
	f.acknowledged(third, at(40))
	if !f.owed().IsZero() {
		t.Error("something is owed after all was acknowledged")
	}
}

package device

import "testing"

func TestQueueIsBounded(t *testing.T) {
	q := newQueue[int]()
	for i := range maxQueued {
		if !q.put(i) {
			t.Fatalf("full with %d", i)
		}
	}
	if q.put(0) {
		t.Error("it takes more than its bound")
	}
	if got := q.take(); len(got) != maxQueued || got[maxQueued-1] != maxQueued-1 {
		t.Errorf("took %d", len(got))
	}
	if !q.put(0) {
		t.Error("no room after everything was taken")
	}
}

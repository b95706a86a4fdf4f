package hub

import "testing"

type sized int

func (s sized) Size() int { return int(s) }

func TestQueueIsBounded(t *testing.T) {
	for name, v := range map[string]struct{ size, most int }{
		"small items": {1, maxQueued},
		"large items": {500 << 10, maxQueuedBytes / (500 << 10)},
	} {
		var q queue[sized]
		for i := range v.most {
			if !q.put(sized(v.size)) {
				t.Fatalf("%s: full with %d", name, i)
			}
		}
		if q.put(sized(v.size)) {
			t.Errorf("%s: it takes more than its bound", name)
		}
		if got := q.take(); len(got) != v.most {
			t.Errorf("%s: took %d", name, len(got))
		}
		if q.put(sized(v.size)) {
			t.Errorf("%s: what was taken and is not done with does not count", name)
		}
		if got := q.take(); len(got) != 0 {
			t.Errorf("%s: took %d", name, len(got))
		}
		for i := range v.most {
			if !q.put(sized(v.size)) {
				t.Fatalf("%s: full with %d, after all were done with", name, i)
			}
		}
		q.replace(1)
		if got := q.take(); len(got) != 1 || got[0] != 1 {
			t.Errorf("%s: took %v", name, got)
		}
	}
	if q := new(queue[sized]); !q.put(maxQueuedBytes + 1) {
		t.Error("no room for one item alone")
	}
}

func TestTakerIsWokenOnceUntilItFindsNothing(t *testing.T) {
	var q queue[sized]
	if q.wake() {
		t.Error("woken for nothing")
	}
	for range 2 {
		q.put(1)
		if !q.wake() {
			t.Error("not woken")
		}
		for range 3 {
			q.put(1)
			if q.wake() {
				t.Error("woken a second time")
			}
			if len(q.take()) == 0 {
				t.Error("nothing was there")
			}
		}
		if q.take() != nil {
			t.Error("something was there")
		}
	}
}

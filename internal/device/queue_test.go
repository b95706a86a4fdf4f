package device

import "testing"

type sized int

func (s sized) Size() int { return int(s) }

func TestQueueIsBounded(t *testing.T) {
	for name, v := range map[string]struct{ size, most int }{
		"small items": {1, maxQueued},
		"large items": {500 << 10, maxQueuedBytes / (500 << 10)},
	} {
		q := newQueue[sized]()
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
	if q := newQueue[sized](); !q.put(maxQueuedBytes + 1) {
		t.Error("no room for one item alone")
	}
}

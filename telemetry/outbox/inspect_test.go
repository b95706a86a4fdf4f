package outbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

func TestInspect(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "box")
	if _, err := Inspect(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
	b := openBox(t, dir, Options{})
	appendBodies(t, b, bodies(1, 10)...)
	r := queued(t, b)
	ackAll(t, b, r[:3])
	ackAll(t, b, r[9:])
	if err := b.Quarantine(r[4].Pos, errors.New("poison")); err != nil {
		t.Fatal(err)
	}
	s := b.Stats()
	for _, when := range []string{"open", "closed"} {
		l, err := Inspect(dir)
		if err != nil {
			t.Fatal(err)
		}
		want := Look{
			ID: s.ID, LastSeq: 10, Queued: 5, QueuedBytes: s.QueuedBytes, FirstPos: 4, LastPos: 9, Oldest: r[3].Created, Newest: r[8].Created,
			Segments: 1, Gaps: []Range{{s.ID, 5, 5}}, Quarantined: 1, Held: when == "open",
		}
		equal(t, when, fmt.Sprintf("%+v", l), fmt.Sprintf("%+v", want))
		if when == "open" {
			closeBox(t, b)
		}
	}
	if _, err := Inspect(t.TempDir()); err == nil {
		t.Error("an empty directory is no outbox")
	}
}

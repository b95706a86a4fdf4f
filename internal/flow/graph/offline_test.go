package graph

import (
	"errors"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// TestOnlyAGraphThatRemembersNothingHasLeftNothing: whoever removes what is empty takes neither a
// last value nor what a checkpoint that cannot be read may hold.
func TestOnlyAGraphThatRemembersNothingHasLeftNothing(t *testing.T) {
	former, err := os.ReadFile("testdata/checkpoint-1")
	if err != nil {
		t.Fatal(err)
	}
	var remembering []byte
	synctest.Test(t, func(t *testing.T) {
		s := newStory(t)
		_, stop := start(t, chain(s.in, s.out, &lastSeen{}), s.options())
		s.in.give(text("1"))
		time.Sleep(5 * time.Second)
		stop()
		remembering = s.disk.File("/g/checkpoint").Data
	})
	core, err := chain(newHand(), newFar(), mapFunc(nil)).compile()
	if err != nil {
		t.Fatal(err)
	}
	m := core.recall()
	e := encoder{b: append([]byte(checkpointMagic), 0, 0, 0, 0)}
	e.uint(0)
	e.bytes([]byte("{}"))
	e.memories(&m)
	for _, c := range []struct {
		name       string
		checkpoint []byte
		want       Leftover
	}{
		{"none", nil, Leftover{Empty: true}},
		{"of operators without a memory", framed(e.b), Leftover{Empty: true}},
		{"with a last value", remembering, Leftover{}},
		{"of the former format", former, Leftover{Opaque: true}},
		{"damaged", remembering[:len(remembering)-1], Leftover{Opaque: true}},
		{"that ends too soon", framed(e.b[:len(e.b)-1]), Leftover{Opaque: true}},
	} {
		dir := t.TempDir()
		if c.checkpoint != nil {
			if err := os.WriteFile(filepath.Join(dir, checkpointName), c.checkpoint, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		got, err := Left(dir)
		if err != nil || got != c.want {
			t.Errorf("a checkpoint %s: %+v, %v; want %+v", c.name, got, err, c.want)
		}
	}
}

// TestAJournalIsFoundWhateverItsDirectoryIsCalled: a bracket in a name is no pattern.
func TestAJournalIsFoundWhateverItsDirectoryIsCalled(t *testing.T) {
	for _, name := range []string{"g", "[g]", "g["} {
		dir := filepath.Join(t.TempDir(), name)
		if l, err := Left(dir); err != nil || l != (Leftover{Empty: true}) {
			t.Errorf("%s has left %+v, %v before it is there", name, l, err)
		}
		for _, err := range ReadJournal(dir) {
			if !errors.Is(err, ErrNoJournal) {
				t.Errorf("%s has a journal before it is there: %v", name, err)
			}
		}
		synctest.Test(t, func(t *testing.T) {
			in, out := newHand(), newFar()
			out.shut = true
			_, stop := start(t, chain(in, out, &lastSeen{}), Options{Dir: dir})
			in.give(text("1"))
			synctest.Wait()
			time.Sleep(time.Second)
			stop()
		})
		if l, err := Left(dir); err != nil || l.Messages != 1 {
			t.Errorf("%s has left %+v, %v; want 1 message", name, l, err)
		}
		var all []string
		for x, err := range ReadJournal(dir) {
			if err != nil {
				t.Error(name, err)
			}
			all = append(all, string(x.Message.Payload))
		}
		equalAll(t, name, all, "1")
	}
}

// framed returns a checkpoint with its checksum.
func framed(b []byte) []byte {
	const head = len(checkpointMagic)
	b = slices.Clone(b)
	putFixed32(b[head:], crc32.Checksum(b[head+4:], castagnoli))
	return b
}

package memdisk

import (
	"errors"
	"math/rand/v2"
	"os"
	"testing"
)

func TestTheDiskForgetsWhatWasNotSynced(t *testing.T) {
	m := New()
	f, err := m.Open("/d/f", os.O_RDWR|os.O_CREATE)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt([]byte("hello"), 0)
	err = errors.Join(err, f.Sync(), m.SyncDir("/d"))
	_, err2 := f.WriteAt([]byte("J"), 0)
	if err = errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for i := range uint64(50) {
		next := m.PowerCut(rand.New(rand.NewPCG(i, 0)))
		seen[string(next.Names["/d/f"].Data)] = true
	}
	if len(seen) != 2 || !seen["hello"] || !seen["Jello"] {
		t.Errorf("after a power cut: %v", seen)
	}
}

package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/quick"

	"github.com/hubhop-iot/hubhop/internal/sim/simtest"
)

// others are the files that the tests let somebody else have in the directory.
var others = []string{"ledger-*.log"}

func mustStore(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(Options{Dir: dir, Others: others})
	simtest.Must(t, err)
	simtest.Must(t, s.Save())
	return s
}

// documents are all that a store holds.
func documents(t *testing.T, dir string) map[string]string {
	t.Helper()
	s := mustStore(t, dir)
	all := map[string]string{}
	simtest.Must(t, s.Take("", func(key string, document []byte) error {
		all[key] = string(document)
		return nil
	}))
	simtest.Must(t, s.Close())
	return all
}

// After any number of deaths the documents are those that were put last, and the file is not much
// larger than they are.
func TestStoreHasTheLastDocumentsAfterAnyNumberOfDeaths(t *testing.T) {
	check := func(seed uint64) bool {
		rnd := rand.New(rand.NewPCG(seed, 3))
		dir, want := t.TempDir(), map[string]string{}
		peak := int64(0) // what has been live at once: what is deleted later is garbage that need not go at once
		for range 1 + rnd.IntN(4) {
			s := mustStore(t, dir)
			for range rnd.IntN(300) {
				key := fmt.Sprintf("device/%d", rnd.IntN(30))
				peak = max(peak, s.live)
				if rnd.IntN(4) == 0 {
					simtest.Must(t, s.Delete(key))
					delete(want, key)
					continue
				}
				text := strings.Repeat("x", rnd.IntN(30_000))
				simtest.Must(t, s.Put(key, text))
				want[key] = strconv.Quote(text)
			}
			var live int
			for key, text := range want {
				live += FrameHead + 2 + len(key) + len(text)
			}
			if s.live != int64(live) || s.file.size > max(compactAbove, 4*max(peak, s.live))+40_000 {
				t.Logf("%d bytes for %d, which it takes for %d, at most %d", s.file.size, live, s.live, peak)
				return false
			}
			after := simtest.Killed(t, dir)
			simtest.Must(t, s.Close())
			if dir = after; !maps.Equal(documents(t, dir), want) {
				t.Logf("seed %d", seed)
				return false
			}
		}
		return true
	}
	if err := quick.Check(check, &quick.Config{MaxCount: 15}); err != nil {
		t.Error(err)
	}
}

func TestStoreIsReadWhereverItWasTorn(t *testing.T) {
	dir := t.TempDir()
	s := mustStore(t, dir)
	var ends []int64
	for i := range 3 {
		simtest.Must(t, s.Put("a", i))
		ends = append(ends, s.file.size)
	}
	simtest.Must(t, s.Close())
	data, err := os.ReadFile(s.path("state.log"))
	simtest.Must(t, err)
	for cut := range len(data) + 1 {
		torn := t.TempDir()
		simtest.Must(t, os.WriteFile(filepath.Join(torn, "state.log"), data[:cut], 0o600))
		simtest.Must(t, os.WriteFile(filepath.Join(torn, "cloud.json"), []byte(`{"format":1}`), 0o600))
		if cut < len(kindState.Line()) { // cloud.json comes later, so no death of the process leaves this behind
			if _, err := Open(Options{Dir: torn, Others: others}); err == nil || !strings.Contains(err.Error(), "state.log is empty") {
				t.Fatalf("cut at %d: %v", cut, err)
			}
			simtest.Must(t, os.Remove(filepath.Join(torn, "cloud.json")))
		}
		want := map[string]string{}
		for i, end := range ends {
			if end <= int64(cut) {
				want["a"] = fmt.Sprint(i)
			}
		}
		if got := documents(t, torn); !maps.Equal(got, want) {
			t.Fatalf("cut at %d: %v, want %v", cut, got, want)
		}
		s := mustStore(t, torn)
		simtest.Must(t, s.Put("b", true))
		simtest.Must(t, s.Close())
		want["b"] = "true"
		if got := documents(t, torn); !maps.Equal(got, want) {
			t.Fatalf("cut at %d and gone on: %v, want %v", cut, got, want)
		}
	}
}

func TestStoreRefusesWhatItCannotTrust(t *testing.T) {
	dir := t.TempDir()
	s := mustStore(t, dir)
	s.SetSecret("key", "AAECAwQFBgcICQoLDA0ODw==")
	simtest.Must(t, s.Save())
	simtest.Must(t, s.Put("a", 1))
	if _, err := Open(Options{Dir: dir, Others: others}); err == nil || !strings.Contains(err.Error(), "another simulator is using the state directory "+dir) {
		t.Errorf("two on one directory: %v", err)
	}
	disk := simtest.NewFullDisk(5)
	s.WrapFile(disk.Over)
	if err := s.Put("a", 2); !errors.Is(err, simtest.ErrFull) {
		t.Errorf("full disk: %v", err)
	}
	simtest.Must(t, s.Close())
	if got := documents(t, dir); !maps.Equal(got, map[string]string{"a": "1"}) {
		t.Error(got)
	}
	for name, c := range map[string]struct{ text, want string }{
		"cloud.json": {`{"format":2}`, "format version 2"},
		"state.log":  {"hubhop sim state 7\n", "format version 7"},
	} {
		path := filepath.Join(dir, name)
		was, err := os.ReadFile(path)
		simtest.Must(t, err)
		simtest.Must(t, os.WriteFile(path, []byte(c.text), 0o600))
		if _, err := Open(Options{Dir: dir, Others: others}); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
		for i := range was {
			bad := append([]byte{}, was...)
			bad[i] ^= 4
			simtest.Must(t, os.WriteFile(path, bad, 0o600))
			if _, err := Open(Options{Dir: dir, Others: others}); err == nil || !strings.Contains(err.Error(), path) {
				t.Errorf("%s, byte %d is wrong: %v", name, i, err)
			}
		}
		simtest.Must(t, os.WriteFile(path, was, 0o600))
	}
	for _, name := range []string{"lock", "cloud.json", "state.log", "ledger-00000007.log"} {
		path := filepath.Join(dir, name)
		aside := filepath.Join(t.TempDir(), name)
		err := os.Rename(path, aside)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		simtest.Must(t, os.Mkdir(path, 0o700)) // as a named pipe, which would be waited for
		if _, err := Open(Options{Dir: dir, Others: others}); err == nil || !strings.Contains(err.Error(), path+" is not a file") {
			t.Errorf("a directory for %s: %v", name, err)
		}
		simtest.Must(t, os.Remove(path))
		if err == nil {
			simtest.Must(t, os.Rename(aside, path))
		}
	}
	simtest.Must(t, os.Remove(filepath.Join(dir, "cloud.json")))
	if _, err := Open(Options{Dir: dir, Others: others}); err == nil || !strings.Contains(err.Error(), "cloud.json is missing") {
		t.Error(err)
	}
}

// If state.log was cut while the simulator runs, compacting it is an error, and not a panic.
func TestCompactRefusesAShorterFile(t *testing.T) {
	dir := t.TempDir()
	s := mustStore(t, dir)
	simtest.Must(t, s.Put("a", strings.Repeat("x", 1000)))
	simtest.Must(t, os.Truncate(filepath.Join(dir, "state.log"), 500))
	if err := s.compact(); err == nil || !strings.Contains(err.Error(), "it has become shorter") {
		t.Error(err)
	}
	simtest.Must(t, s.Close())
}

func FuzzStateLog(f *testing.F) {
	f.Add(append(AppendText([]byte{recordPut}, "a"), `{"x":1}`...))
	f.Add(AppendText([]byte{recordDelete}, "a"))
	f.Fuzz(func(t *testing.T, payload []byte) {
		dir := t.TempDir()
		simtest.Must(t, os.WriteFile(filepath.Join(dir, "state.log"), AppendFrame(kindState.Line(), payload), 0o600))
		simtest.Must(t, os.WriteFile(filepath.Join(dir, "cloud.json"), []byte(`{"format":1}`), 0o600))
		s, err := Open(Options{Dir: dir, Others: others})
		if err != nil {
			return
		}
		simtest.Must(t, s.Put("k", json.RawMessage(`[]`)))
		simtest.Must(t, s.Close())
		if documents(t, dir)["k"] != "[]" {
			t.Error("the new record is lost")
		}
	})
}

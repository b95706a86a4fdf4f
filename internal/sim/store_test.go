package sim

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/quick"

	"github.com/rs/zerolog"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
)

func mustStore(t *testing.T, dir string) *store {
	t.Helper()
	s, err := openStore(dir, zerolog.Nop())
	must(t, err)
	must(t, s.saveCloud())
	return s
}

// crash is a directory as a process that is killed now would leave it.
func crash(t *testing.T, dir string) string {
	t.Helper()
	after := filepath.Join(t.TempDir(), "state")
	must(t, os.CopyFS(after, os.DirFS(dir)))
	return after
}

// documents are all that a store holds.
func documents(t *testing.T, dir string) map[string]string {
	t.Helper()
	s := mustStore(t, dir)
	all := map[string]string{}
	must(t, s.take("", func(key string, document []byte) error {
		all[key] = string(document)
		return nil
	}))
	must(t, s.close())
	return all
}

// Whatever is put and deleted, after any number of deaths the documents are the last ones, and the file is not much larger.
func TestStoreSurvives(t *testing.T) {
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
					must(t, s.delete(key))
					delete(want, key)
					continue
				}
				text := strings.Repeat("x", rnd.IntN(30_000))
				must(t, s.put(key, text))
				want[key] = string(azure.EncodeJSON(text))
			}
			var live int
			for key, text := range want {
				live += frameHead + 2 + len(key) + len(text)
			}
			if s.live != int64(live) || s.file.size > max(compactAbove, 4*max(peak, s.live))+40_000 {
				t.Logf("%d bytes for %d, which it takes for %d, at most %d", s.file.size, live, s.live, peak)
				return false
			}
			after := crash(t, dir)
			must(t, s.close())
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

func TestStoreTornAtEveryByte(t *testing.T) {
	dir := t.TempDir()
	s := mustStore(t, dir)
	var ends []int64
	for i := range 3 {
		must(t, s.put("a", i))
		ends = append(ends, s.file.size)
	}
	must(t, s.close())
	data, err := os.ReadFile(s.path("state.log"))
	must(t, err)
	for cut := range len(data) + 1 {
		torn := t.TempDir()
		must(t, os.WriteFile(filepath.Join(torn, "state.log"), data[:cut], 0o600))
		must(t, os.WriteFile(filepath.Join(torn, "cloud.json"), []byte(`{"format":1}`), 0o600))
		if cut < len(kindState.line()) { // cloud.json comes later, so no death of the process leaves this behind
			if _, err := openStore(torn, zerolog.Nop()); err == nil || !strings.Contains(err.Error(), "state.log is empty") {
				t.Fatalf("cut at %d: %v", cut, err)
			}
			must(t, os.Remove(filepath.Join(torn, "cloud.json")))
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
		must(t, s.put("b", true))
		must(t, s.close())
		want["b"] = "true"
		if got := documents(t, torn); !maps.Equal(got, want) {
			t.Fatalf("cut at %d and gone on: %v, want %v", cut, got, want)
		}
	}
}

func TestStoreRefuses(t *testing.T) {
	dir := t.TempDir()
	s := mustStore(t, dir)
	s.setSecret("key", "AAECAwQFBgcICQoLDA0ODw==")
	must(t, s.saveCloud())
	must(t, s.put("a", 1))
	if _, err := openStore(dir, zerolog.Nop()); err == nil || !strings.Contains(err.Error(), "another simulator is using the state directory "+dir) {
		t.Errorf("two on one directory: %v", err)
	}
	disk := &fullDisk{s.file.file, 5, false}
	s.file.file = disk
	if err := s.put("a", 2); !errors.Is(err, errFull) {
		t.Errorf("full disk: %v", err)
	}
	must(t, s.close())
	if got := documents(t, dir); !maps.Equal(got, map[string]string{"a": "1"}) {
		t.Error(got)
	}
	for name, c := range map[string]struct{ text, want string }{
		"cloud.json": {`{"format":2}`, "format version 2"},
		"state.log":  {"hubhop sim state 7\n", "format version 7"},
	} {
		path := filepath.Join(dir, name)
		was, err := os.ReadFile(path)
		must(t, err)
		must(t, os.WriteFile(path, []byte(c.text), 0o600))
		if _, err := openStore(dir, zerolog.Nop()); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
		for i := range was {
			bad := append([]byte{}, was...)
			bad[i] ^= 4
			must(t, os.WriteFile(path, bad, 0o600))
			if _, err := openStore(dir, zerolog.Nop()); err == nil || !strings.Contains(err.Error(), path) {
				t.Errorf("%s, byte %d is wrong: %v", name, i, err)
			}
		}
		must(t, os.WriteFile(path, was, 0o600))
	}
	for _, name := range []string{"lock", "cloud.json", "state.log", "ledger-00000007.log"} {
		path := filepath.Join(dir, name)
		aside := filepath.Join(t.TempDir(), name)
		err := os.Rename(path, aside)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		must(t, os.Mkdir(path, 0o700)) // as a named pipe, which would be waited for
		if _, err := openStore(dir, zerolog.Nop()); err == nil || !strings.Contains(err.Error(), path+" is not a file") {
			t.Errorf("a directory for %s: %v", name, err)
		}
		must(t, os.Remove(path))
		if err == nil {
			must(t, os.Rename(aside, path))
		}
	}
	must(t, os.Remove(filepath.Join(dir, "cloud.json")))
	if _, err := openStore(dir, zerolog.Nop()); err == nil || !strings.Contains(err.Error(), "cloud.json is missing") {
		t.Error(err)
	}
}

// TestCompactRefusesAShorterFile: a file that was cut while the simulator runs is an error and not
// a panic.
func TestCompactRefusesAShorterFile(t *testing.T) {
	dir := t.TempDir()
	s := mustStore(t, dir)
	must(t, s.put("a", strings.Repeat("x", 1000)))
	must(t, os.Truncate(filepath.Join(dir, "state.log"), 500))
	if err := s.compact(); err == nil || !strings.Contains(err.Error(), "it has become shorter") {
		t.Error(err)
	}
	must(t, s.close())
}

func TestStateFilesAreForTheOwnerOnly(t *testing.T) {
	inWorld(t, func(c *Config) { c.StateDir = filepath.Join(t.TempDir(), "new", "state") }, func(w *world) {
		w.connect(w.provision("dev-1"), "dev-1").telemetry("a=b", "{}", 1)
		files, err := os.ReadDir(w.config.StateDir)
		must(t, err)
		for _, f := range files {
			info, err := f.Info()
			must(t, err)
			if info.Mode().Perm() != 0o600 {
				t.Errorf("%s is %v", f.Name(), info.Mode())
			}
		}
		if len(files) != 4 {
			t.Errorf("%v", files)
		}
	})
}

func FuzzStateLog(f *testing.F) {
	f.Add(append(appendText([]byte{recordPut}, "a"), `{"x":1}`...))
	f.Add(appendText([]byte{recordDelete}, "a"))
	f.Fuzz(func(t *testing.T, payload []byte) {
		dir := t.TempDir()
		must(t, os.WriteFile(filepath.Join(dir, "state.log"), appendFrame(kindState.line(), payload), 0o600))
		must(t, os.WriteFile(filepath.Join(dir, "cloud.json"), []byte(`{"format":1}`), 0o600))
		s, err := openStore(dir, zerolog.Nop())
		if err != nil {
			return
		}
		must(t, s.put("k", json.RawMessage(`[]`)))
		must(t, s.close())
		if documents(t, dir)["k"] != "[]" {
			t.Error("the new record is lost")
		}
	})
}

package flow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/internal/flow/manifest"
	"github.com/hubhop-iot/hubhop/internal/flow/node"
	"github.com/hubhop-iot/hubhop/internal/flow/state"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk/memdisk"
)

// enriching are a flow that adds the name of a tool from the state store.
var enriching = endpointOf("tools", brokerAddress) + graphOf("tools", "tools", "tools/+", "add", "map", "rules",
	`{"datasets": [{"key": "tools", "inputs": ["$source.n", "$context.id"], "expression": "$1 == $2"}], `+
		`"map": [{"inputs": ["n"], "output": "n"}, {"inputs": ["$context(tools).name"], "output": "name"}]}`)

// names returns the names that have come to the ledger, in their order; "" is a message without
// one.
func (w *world) names() (all []string) {
	w.t.Helper()
	for _, m := range w.cloud.Ledger("dev-1", true).Messages {
		var doc struct{ Name string }
		if err := json.Unmarshal(m.Body, &doc); err != nil {
			w.t.Error(err)
		}
		all = append(all, doc.Name)
	}
	return all
}

// TestATableReachesAFlowThatRuns: files of the state store appear, change, are swapped as
// Kubernetes does it, and go away. The next message sees that, and the flow is never started again.
func TestATableReachesAFlowThatRuns(t *testing.T) {
	record := func(name string) string { return fmt.Sprintf("{\"id\": 1, \"name\": %q}\n", name) }
	inWorld(t, enriching, nil, func(t *testing.T, w *world) {
		ctx, cancel := context.WithCancel(t.Context())
		var following sync.WaitGroup
		following.Go(func() { w.flows.follow(ctx, &watcher{dir: w.flows.o.Dir, every: lookEvery}) })
		defer following.Wait()
		defer cancel()
		p, end := w.publisher("generator")
		defer end()
		place := filepath.Join(w.flows.o.Dir, tablesDir)
		file := filepath.Join(place, "tools")
		first := w.flows.running("tools")
		for i, step := range []struct {
			name   string
			change func()
			want   string
			says   string // in the status
		}{
			{"there is no file", func() {}, "", "until " + file + " has records"},
			{"the file appears", func() { do(t, os.Mkdir(place, 0o700)); put(t, file, record("drill")) }, "drill", ""},
			{"the file changes", func() { put(t, file, record("saw")) }, "saw", ""},
			{"the file is emptied", func() { put(t, file, "") }, "saw", file + ":1:1: the file is empty"},
			{"the file is too large", func() { put(t, file, strings.Repeat(" ", state.MaxEntry)) }, "saw", "too large"},
			{"a directory takes its place", func() { do(t, os.Remove(file), os.Mkdir(file, 0o700)) }, "", "no key"},
			{"the directory is one of a mounted config map", func() {
				linksOrSkip(t)
				do(t, os.RemoveAll(place), os.Mkdir(place, 0o700))
				publishVolume(t, place, "1", map[string]string{"tools": record("axe")})
			}, "axe", ""},
			{"the config map changes", func() { publishVolume(t, place, "2", map[string]string{"tools": record("rasp")}) }, "rasp", ""},
			{"the link leads nowhere", func() { do(t, os.RemoveAll(filepath.Join(place, "..data"))) }, "rasp", "link to nowhere"},
			{"the directory is removed", func() { do(t, os.RemoveAll(place)) }, "", "no key"},
			{"a fencing token protects the key", func() {
				_, _, err := w.flows.store.Set(ctx, "tools", []byte(record("module")), state.SetOptions{Fence: &node.Time{Nanos: 1}})
				do(t, err, os.Mkdir(place, 0o700))
				put(t, file, record("plane"))
			}, "module", "fencing token"},
			{"the key is deleted, and no file changes", func() {
				_, _, err := w.flows.store.Del(ctx, "tools", &node.Time{Nanos: 2}, node.Time{})
				do(t, err)
			}, "plane", ""},
		} {
			step.change()
			time.Sleep(3 * lookEvery)
			if err := p.publish(ctx, i, node.Message{Topic: "tools/a", Payload: []byte(`{"n":1}`)}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(3 * lookEvery)
			if all := w.names(); len(all) != i+1 || all[i] != step.want {
				t.Errorf("%s: the names are %q, want %q at the end", step.name, all, step.want)
			}
			if s := w.flows.Status()[0]; s.State != Running || (s.Text == "") != (step.says == "") || !strings.Contains(s.Text, step.says) {
				t.Errorf("%s: the status is %+v, want %q", step.name, s, step.says)
			}
		}
		if w.flows.running("tools") != first {
			t.Error("the flow was started again")
		}
		if n := strings.Count(strings.Join(w.said.texts(), "\n"), "the file is empty"); n != 1 {
			t.Errorf("the log says %d times that the file is empty, want once", n)
		}
	})
}

// shelf is a directory with files of a state store, and a store on a disk that counts its calls.
type shelf struct {
	t          *testing.T
	dir, state string
	disk       *memdisk.FS
	calls      int
	store      *state.Store
	filler     *filler
}

// onShelf runs f with an empty shelf. most bounds the store; 0: as usual.
func onShelf(t *testing.T, most int64, f func(t *testing.T, s *shelf)) {
	t.Helper()
	dir, stateDir := t.TempDir(), t.TempDir()
	do(t, os.Mkdir(filepath.Join(dir, tablesDir), 0o700))
	synctest.Test(t, func(t *testing.T) {
		s := &shelf{t: t, dir: dir, state: stateDir, disk: memdisk.New()}
		s.disk.SetFault(func(int, string, string) error { s.calls++; return nil })
		s.open(most)
		f(t, s)
		s.close()
	})
}

func (s *shelf) open(most int64) {
	s.t.Helper()
	var err error
	if s.store, err = state.Open("/store", state.Options{MaxBytes: most, Outbox: outbox.Options{FS: s.disk}}); err != nil {
		s.t.Fatal(err)
	}
	s.filler = newFiller(s.dir, s.state, s.store, func(text string) { s.t.Error(text) })
}

func (s *shelf) close() {
	s.t.Helper()
	if err := s.store.Close(); err != nil {
		s.t.Error(err)
	}
}

// put writes the file of a key, and empty removes it.
func (s *shelf) put(key, value string) {
	s.t.Helper()
	if value == "" {
		do(s.t, os.Remove(tableFile(s.dir, key)))
		return
	}
	put(s.t, tableFile(s.dir, key), value)
}

// set sets a key as a module does.
func (s *shelf) set(key, value string, o state.SetOptions) {
	s.t.Helper()
	if ok, _, err := s.store.Set(s.t.Context(), key, []byte(value), o); !ok || err != nil {
		s.t.Fatal(key, ok, err)
	}
}

// fill fills the store, and checks that the only fault contains a text, or that there is none.
func (s *shelf) fill(fault string) (again bool) {
	s.t.Helper()
	faults, again := s.filler.fill(s.t.Context())
	if fault == "" && len(faults) > 0 || fault != "" && (len(faults) != 1 || !strings.Contains(faults[0].Text, fault)) {
		s.t.Errorf("the faults are %v, want %q", faults, fault)
	}
	return again
}

// has checks the value of a key; empty: it must not be there.
func (s *shelf) has(key, want string) {
	s.t.Helper()
	if v, ok := s.store.Get(key); string(v.Data) != want || ok != (want != "") {
		s.t.Errorf("%s is %q, %v, want %q", key, v.Data, ok, want)
	}
}

// TestARestartWritesNothing as long as the files are the same.
func TestARestartWritesNothing(t *testing.T) {
	onShelf(t, 0, func(t *testing.T, s *shelf) {
		s.put("a", "1")
		s.put("b/c", "2")
		s.fill("")
		s.close()
		before, err := os.Stat(s.filler.file)
		do(t, err)
		s.open(0)
		opened := s.calls
		s.fill("")
		s.has("a", "1")
		s.has("b/c", "2")
		if s.calls != opened {
			t.Errorf("a restart called the disk %d times", s.calls-opened)
		}
		after, err := os.Stat(s.filler.file)
		do(t, err)
		if !os.SameFile(before, after) {
			t.Error("a restart has written what the files gave")
		}
		s.put("a", "3")
		if s.fill(""); s.calls == opened {
			t.Error("a change did not call the disk, so the test counts nothing")
		}
	})
}

// TestAFileTakesOnlyItsOwnValueAway, and what others have set stands until its file changes or the
// next start.
func TestAFileTakesOnlyItsOwnValueAway(t *testing.T) {
	onShelf(t, 0, func(t *testing.T, s *shelf) {
		for _, key := range []string{"own", "others", "down", "later"} {
			s.put(key, "file")
		}
		s.set("foreign", "module", state.SetOptions{})
		s.fill("")
		s.set("others", "module", state.SetOptions{})
		s.set("later", "module", state.SetOptions{})
		s.fill("")
		s.has("others", "module")
		s.put("own", "")
		s.put("others", "")
		s.fill("")
		s.has("own", "")
		s.has("others", "module")
		s.has("foreign", "module")
		s.has("later", "module")

		s.close()
		s.put("down", "") // while nobody runs
		s.open(0)
		s.fill("")
		s.has("down", "")
		s.has("later", "file")
		s.has("others", "module")
		s.has("foreign", "module")

		s.set("later", "module", state.SetOptions{})
		s.put("later", "changed")
		s.fill("")
		s.has("later", "changed")
		do(t, os.RemoveAll(s.dir)) // a rollout may be about to write it again
		s.fill("")
		s.has("later", "changed")
	})
}

// TestTheRulesOfTheStoreHoldForFiles: a fencing token and the quota refuse a file, which is told
// with what to do, and tried again.
func TestTheRulesOfTheStoreHoldForFiles(t *testing.T) {
	onShelf(t, 2000, func(t *testing.T, s *shelf) {
		s.set("fenced", "module", state.SetOptions{Fence: &node.Time{Nanos: 1}})
		s.put("fenced", "file")
		if !s.fill("a fencing token protects it; whoever set the token must delete the key") {
			t.Error("it is not tried again")
		}
		s.has("fenced", "module")
		if text := s.filler.say("fenced"); !strings.Contains(text, "fencing token") {
			t.Errorf("the status says %q", text)
		}
		if n, _, err := s.store.Del(t.Context(), "fenced", &node.Time{Nanos: 2}, node.Time{}); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		if s.fill("") {
			t.Error("it is tried again")
		}
		s.has("fenced", "file")

		s.put("marked", "\ufeff{\"id\":1}\n")
		s.fill("")
		s.has("marked", "{\"id\":1}\n")

		s.put("big", strings.Repeat("x", 3000))
		s.fill("the state store is full")
		s.has("big", "")
		s.put("big", "")
		s.fill("")

		s.put("slow", "1")
		s.disk.SetFault(func(int, string, string) error { return memdisk.ErrSpace })
		began := time.Now()
		if !s.fill("is not on the disk within 5s; see to the disk") {
			t.Error("it is not tried again")
		}
		if took := time.Since(began); took != patience {
			t.Errorf("the flows would wait %v for a disk that is full", took)
		}
		s.disk.SetFault(nil)
		time.Sleep(time.Minute)
		s.fill("")
		s.has("slow", "1")
	})
}

// TestHostileFilesOfTheStore: names and sizes that make no key are told, each by its file, and the
// others are taken.
func TestHostileFilesOfTheStore(t *testing.T) {
	dir := t.TempDir()
	do(t, os.Mkdir(filepath.Join(dir, tablesDir), 0o700))
	write := func(name, text string) { put(t, filepath.Join(dir, tablesDir, name), text) }
	keys := []string{"plain", "a/b", `a\b`, "../../etc/passwd", ".hidden", "..", "50%", "a b+c", "line\nend", "grüße", "x.", "*"}
	for _, key := range keys {
		put(t, tableFile(dir, key), "value of "+key)
	}
	for name, text := range map[string]string{"bad%zz": "x", "bad%": "x", "bad%ff": "x", "a%2fb": "a second time", "empty": "", ".swp": "x", "large": strings.Repeat("x", state.MaxEntry-4),
		"fits": strings.Repeat("x", state.MaxEntry-4)} {
		write(name, text)
	}
	do(t, os.Mkdir(filepath.Join(dir, tablesDir, "directory"), 0o700))
	if !onWindows {
		do(t, os.Symlink(os.DevNull, filepath.Join(dir, tablesDir, "device")))
	}
	got := readTables(dir)
	for _, key := range append(keys, "fits") {
		if key != "fits" && string(got.values[key]) != "value of "+key || got.values[key] == nil {
			t.Errorf("%q is %.40q", key, got.values[key])
		}
	}
	if len(got.values) != len(keys)+1 {
		t.Errorf("there are %d keys, want %d", len(got.values), len(keys)+1)
	}
	want := map[string]string{"bad%zz": "write %25", "bad%": "write %25", "bad%ff": "no UTF-8", "a%2fb": "remove one of them", "empty": "is empty", "large": "too large"}
	if !onWindows {
		want["device"] = "no plain file"
	}
	for _, f := range got.faults {
		name := filepath.Base(f.File)
		if want[name] == "" || !strings.Contains(f.Text, want[name]) || f.Severity != manifest.Error {
			t.Errorf("unexpected: %v", f)
		}
		delete(want, name)
	}
	if len(want) > 0 {
		t.Errorf("nobody tells %v", want)
	}
	for i := range 17 {
		write(fmt.Sprint("z", i), strings.Repeat("x", state.MaxEntry-3))
	}
	if got = readTables(dir); !strings.Contains(got.held["z16"]+got.held["z9"], "all that the state store takes") {
		t.Errorf("more than the store takes: %v", got.held)
	}
	do(t, os.RemoveAll(filepath.Join(dir, tablesDir)))
	put(t, filepath.Join(dir, tablesDir), "no directory")
	if got = readTables(dir); got.part == "" || len(got.faults) != 1 {
		t.Errorf("a file in the place of the directory: %+v", got)
	}
}

// TestCheckNamesTheFileOfADataSet that nothing fills, and a trial reads the file when it is there.
func TestCheckNamesTheFileOfADataSet(t *testing.T) {
	dir := t.TempDir()
	put(t, filepath.Join(dir, "flows.yaml"), enriching)
	file := tableFile(dir, "tools")
	run := func() (out string, says []string) {
		set, _ := manifest.Load(dir, manifest.Options{})
		trial, faults := NewTrial(set.Graph("tools"), TrialOptions{Dir: dir, Log: func(text string) { says = append(says, text) },
			Out: func(_ string, m node.Message) { out += string(m.Payload) }})
		if trial == nil {
			t.Fatal(faults)
		}
		if err := trial.Feed(Input{Message: node.Message{Topic: "tools/a", Payload: []byte(`{"n":1}`)}}); err != nil {
			t.Error(err)
		}
		trial.Close()
		return out, says
	}
	r := Check(dir, CheckOptions{})
	if !r.OK || len(r.Faults) != 1 || !strings.Contains(r.Faults[0].Text, `nothing fills the key "tools" of the state store; write its records to `+file) || r.Faults[0].Line < 10 {
		t.Errorf("without the file: %v, %v", r.OK, r.Faults)
	}
	if out, says := run(); out != `{"n":1}` || len(says) != 1 || !strings.Contains(says[0], file) {
		t.Errorf("without the file %s comes out, and it says %q", out, says)
	}
	do(t, os.Mkdir(filepath.Dir(file), 0o700))
	put(t, file, `{"id": 1, "name": "saw"}`)
	if r = Check(dir, CheckOptions{}); !r.OK || len(r.Faults) > 0 {
		t.Errorf("with the file: %v", r.Faults)
	}
	if out, says := run(); out != `{"n":1,"name":"saw"}` || says != nil {
		t.Errorf("with the file %s comes out, and it says %q", out, says)
	}
	put(t, file, "")
	if r = Check(dir, CheckOptions{}); r.OK || len(r.Faults) != 1 || r.Faults[0].File != file {
		t.Errorf("with an empty file: %v", r.Faults)
	}
	for text, want := range map[string]string{
		"{\"id\": 1}\n\n{]\n": "line 3 is no JSON object, and is left out",
		"1\n{\"id\": 1}\n2\n": "2 lines are no JSON object, the first is line 1; they are left out",
		"\n\n":                "has no record; write a JSON object in each line",
	} {
		put(t, file, text)
		if r = Check(dir, CheckOptions{}); !r.OK || len(r.Faults) != 1 || !strings.Contains(r.Faults[0].Text, file) || !strings.Contains(r.Faults[0].Text, want) {
			t.Errorf("with %q: %v, not %q", text, r.Faults, want)
		}
	}
	manifests, _ := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if r = Check(manifests[0], CheckOptions{}); len(r.Faults) != 1 || r.Faults[0].File != manifests[0] {
		t.Errorf("a file in the place of the directory: %v", r.Faults)
	}
}

// TestAChangeOfATableIsNoticed by the kernel's notices alone, also in a directory that comes later.
func TestAChangeOfATableIsNoticed(t *testing.T) {
	dir := t.TempDir()
	w := watch(dir, func(text string) { needNotices(t, text) })
	defer w.close()
	w.every = time.Hour
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second) // only a test that fails takes that long
	defer cancel()
	do(t, os.Mkdir(filepath.Join(dir, tablesDir), 0o700))
	next := func() {
		t.Helper()
		for before := w.seen; w.seen == before; {
			if !w.changed(ctx, func(time.Time) {}) {
				t.Fatal("nobody notices")
			}
		}
	}
	if !w.changed(ctx, func(time.Time) {}) {
		t.Fatal("nobody notices the directory")
	}
	put(t, tableFile(dir, "tools"), "1")
	next()
	put(t, tableFile(dir, "tools"), "22")
	next()
	do(t, os.Remove(tableFile(dir, "tools")))
	next()
	if err := ctx.Err(); errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

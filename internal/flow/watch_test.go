package flow

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/internal/flow/node"
)

// steadyManifests are one flow that copies. Its messages have a member rev<n>.
func steadyManifests(rev int) string {
	rules := `{"map": [{"inputs": ["n"], "output": "steady"}, {"inputs": ["n"], "output": "rev%d"}]}`
	return endpointOf("steady", brokerAddress) + graphOf("steady", "steady", "steady/+", "copy", "map", "rules", fmt.Sprintf(rules, rev))
}

// put writes a file, or ends the test.
func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// do ends the test at the first error.
func do(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// publishVolume writes a directory as Kubernetes mounts a config map: each file is a symbolic link
// through ..data, which is swapped in one step.
func publishVolume(t *testing.T, dir, name string, files map[string]string) {
	t.Helper()
	place := filepath.Join(dir, "..v-"+name)
	do(t, os.Mkdir(place, 0o700))
	for file, text := range files {
		put(t, filepath.Join(place, file), text)
	}
	data := filepath.Join(dir, "..data")
	old, _ := os.Readlink(data)
	do(t, os.Symlink("..v-"+name, data+"_tmp"), os.Rename(data+"_tmp", data))
	for file := range files {
		if link := filepath.Join(dir, file); old == "" {
			do(t, os.Symlink(filepath.Join("..data", file), link))
		}
	}
	if old != "" {
		do(t, os.RemoveAll(filepath.Join(dir, old)))
	}
}

// linksOrSkip skips a test on a system where not everybody may make symbolic links.
func linksOrSkip(t *testing.T) {
	t.Helper()
	if err := os.Symlink("x", filepath.Join(t.TempDir(), "link")); err != nil {
		t.Skipf("this system makes no symbolic links for everybody: %v", err)
	}
}

// way is a way in which the manifests of a directory change. change makes them those of a revision.
// between, which may be nil, is called while they are not whole, long after the last write.
type way struct {
	name   string
	change func(t *testing.T, dir string, rev int, between func())
	// stops says that the flow is rightly stopped in between.
	stops bool
	// silent says that the kernel gives no notice of it.
	silent bool
}

// changes are the ways that the field knows.
var changes = []way{
	{name: "an editor writes another file and renames it", change: func(t *testing.T, dir string, rev int, between func()) {
		put(t, filepath.Join(dir, ".flows.yaml.swp"), steadyManifests(rev))
		between()
		do(t, os.Rename(filepath.Join(dir, ".flows.yaml.swp"), filepath.Join(dir, "flows.yaml")))
	}},
	{name: "an editor moves the file away and writes it anew", change: func(t *testing.T, dir string, rev int, _ func()) {
		path := filepath.Join(dir, "flows.yaml")
		do(t, os.Rename(path, path+"~"))
		put(t, path, steadyManifests(rev))
		do(t, os.Remove(path+"~"))
	}},
	{name: "the file is emptied and then written", change: func(t *testing.T, dir string, rev int, between func()) {
		path := filepath.Join(dir, "flows.yaml")
		do(t, os.Truncate(path, 0))
		between()
		put(t, path, steadyManifests(rev))
	}},
	{name: "half of the file is there for long", change: func(t *testing.T, dir string, rev int, between func()) {
		path, text := filepath.Join(dir, "flows.yaml"), steadyManifests(rev)
		put(t, path, text[:len(text)*2/3])
		between()
		put(t, path, text)
	}},
	{name: "the first document of two is there for long", stops: true, change: func(t *testing.T, dir string, rev int, between func()) {
		path, text := filepath.Join(dir, "flows.yaml"), steadyManifests(rev)
		put(t, path, text[:strings.LastIndex(text, "---\n")])
		between()
		put(t, path, text)
	}},
	{name: "the file is removed and written again", stops: true, change: func(t *testing.T, dir string, rev int, between func()) {
		path := filepath.Join(dir, "flows.yaml")
		do(t, os.Remove(path))
		between()
		put(t, path, steadyManifests(rev))
	}},
	{name: "the directory is removed and made again", change: func(t *testing.T, dir string, rev int, between func()) {
		do(t, os.RemoveAll(dir))
		between()
		do(t, os.Mkdir(dir, 0o700))
		put(t, filepath.Join(dir, "flows.yaml"), steadyManifests(rev))
	}},
	{name: "the directory is removed and made again at once", change: func(t *testing.T, dir string, rev int, _ func()) {
		do(t, os.RemoveAll(dir), os.Mkdir(dir, 0o700))
		put(t, filepath.Join(dir, "flows.yaml"), steadyManifests(rev))
	}},
	{name: "another directory takes its place", change: func(t *testing.T, dir string, rev int, between func()) {
		next := filepath.Join(t.TempDir(), "next")
		do(t, os.Mkdir(next, 0o700))
		put(t, filepath.Join(next, "flows.yaml"), steadyManifests(rev))
		do(t, os.Rename(dir, next+"-old"))
		between()
		do(t, os.Rename(next, dir))
	}},
	{name: "a file becomes one of a mounted config map", change: func(t *testing.T, dir string, rev int, _ func()) {
		linksOrSkip(t)
		do(t, os.Remove(filepath.Join(dir, "flows.yaml")))
		publishVolume(t, dir, fmt.Sprint(rev), map[string]string{"flows.yaml": steadyManifests(rev)})
	}},
	{name: "a mounted config map changes", change: func(t *testing.T, dir string, rev int, _ func()) {
		linksOrSkip(t)
		publishVolume(t, dir, fmt.Sprint(rev), map[string]string{"flows.yaml": steadyManifests(rev)})
	}},
	{name: "a symbolic link takes the place of the directory", change: func(t *testing.T, dir string, rev int, _ func()) {
		linksOrSkip(t)
		do(t, os.RemoveAll(dir))
		place := filepath.Join(t.TempDir(), "place")
		do(t, os.Mkdir(place, 0o700))
		put(t, filepath.Join(place, "flows.yaml"), steadyManifests(rev))
		do(t, os.Symlink(place, dir))
	}},
	{name: "the symbolic link leads to another directory", silent: true, change: func(t *testing.T, dir string, rev int, _ func()) {
		linksOrSkip(t)
		place := filepath.Join(t.TempDir(), "place")
		do(t, os.Mkdir(place, 0o700))
		put(t, filepath.Join(place, "flows.yaml"), steadyManifests(rev))
		do(t, os.Symlink(place, dir+"-next"), os.Rename(dir+"-next", dir))
	}},
}

// TestNoChangeOfAFileCostsASample: messages come all the time while the manifests of their flow
// change in each way, on a file system that gives no notices. All of them arrive in order, the flow
// goes on while its manifests are not whole, and each revision is taken over.
func TestNoChangeOfAFileCostsASample(t *testing.T) {
	inWorld(t, steadyManifests(0), nil, func(t *testing.T, w *world) {
		ctx, cancel := context.WithCancel(t.Context())
		var following sync.WaitGroup
		following.Go(func() { w.flows.follow(ctx, &watcher{dir: w.flows.o.Dir, every: lookEvery}) })
		defer following.Wait()
		defer cancel()
		time.Sleep(settle / 2) // no message comes at the moment of a look, so that the broker cannot take one twice
		stop := w.steady()
		for i, way := range changes {
			rev := i + 1
			time.Sleep(5 * lookEvery)
			way.change(t, w.flows.o.Dir, rev, func() {
				time.Sleep(5 * lookEvery)
				all := w.flows.Status()
				if runs := len(all) == 1 && all[0].State == Running; runs == way.stops {
					t.Errorf("%s: meanwhile the flows are %+v", way.name, all)
				}
			})
			time.Sleep(5 * lookEvery)
			if all := w.flows.Status(); len(all) != 1 || all[0].State != Running || all[0].Text != "" {
				t.Errorf("%s: then the flows are %+v", way.name, all)
			}
			if len(w.arrived(fmt.Sprint("rev", rev))) == 0 {
				t.Errorf("%s: the change was not taken over", way.name)
			}
		}
		stop()
	})
}

// TestTheCountsOfAFlowGoOnOverAChange: a window that has changed gives out its result early, and
// that counts too.
func TestTheCountsOfAFlowGoOnOverAChange(t *testing.T) {
	inWorld(t, dayManifests, nil, func(t *testing.T, w *world) {
		ctx, cancel := context.WithCancel(t.Context())
		var following sync.WaitGroup
		following.Go(func() { w.flows.follow(ctx, &watcher{dir: w.flows.o.Dir, every: lookEvery}) })
		defer following.Wait()
		defer cancel()
		p, end := w.publisher("generator")
		defer end()
		publish := func(ticket int) {
			if err := p.publish(ctx, ticket, node.Message{Topic: "sensors/a", Payload: []byte(`{"n":1}`)}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		has := func(when string, in, out uint64) {
			t.Helper()
			if s := w.flows.Status()[0]; s.State != Running || s.In != in || s.Out != out || s.Errors != 0 {
				t.Errorf("%s: %+v, want %d in and %d out", when, s, in, out)
			}
		}
		for i := range 3 {
			publish(i)
		}
		has("before a change", 3, 0)
		for i, output := range []string{"least", "lowest"} {
			before := w.flows.running("minutes")
			put(t, filepath.Join(w.flows.o.Dir, "flows.yaml"), strings.Replace(dayManifests, `"first"`, `"`+output+`"`, 1))
			time.Sleep(2 * lookEvery)
			if w.flows.running("minutes") == before {
				t.Fatal("the change was not taken over")
			}
			has("after the change to "+output, uint64(3+i), uint64(1+i))
			publish(3 + i)
		}
		has("at the end", 5, 2)
	})
}

// needNotices skips a test on a machine that has no notices of changes left to give. CI has some.
func needNotices(t *testing.T, text string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(text)
	}
	t.Skip(text)
}

// TestEachWayOfChangeIsNoticed by the kernel's notices alone, also by those of a directory that
// takes the place of another.
func TestEachWayOfChangeIsNoticed(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "flows")
	do(t, os.Mkdir(dir, 0o700))
	put(t, filepath.Join(dir, "flows.yaml"), steadyManifests(0))
	w := watch(dir, func(text string) { needNotices(t, text) })
	defer w.close()
	w.every = time.Hour
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second) // only a test that fails takes that long
	defer cancel()
	for i, way := range changes {
		if way.silent {
			continue
		}
		before := w.seen
		next := func() {
			if !w.changed(ctx, func(time.Time) {}) {
				t.Fatalf("%s: nobody notices", way.name)
			}
		}
		way.change(t, dir, i+1, func() { next() })
		for w.seen == before || w.is == nil { // a notice may come of what was there before
			next()
		}
		if text, err := os.ReadFile(filepath.Join(dir, "flows.yaml")); err != nil || string(text) != steadyManifests(i+1) {
			t.Fatalf("%s: %v", way.name, err)
		}
	}
}

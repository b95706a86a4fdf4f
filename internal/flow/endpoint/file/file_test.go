package file

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/internal/flow/node"
)

// done notes completions.
type done struct {
	mu   sync.Mutex
	errs map[uint64]error
	sent uint64
}

// completed returns what became of the messages so far.
func (d *done) completed() map[uint64]error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.errs)
}

func (d *done) Done(tickets []uint64, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, t := range tickets {
		if _, twice := d.errs[t]; twice {
			err = errors.New("completed twice")
		}
		d.errs[t] = err
	}
}

// run runs a destination until the function that it returns is called.
func run(t *testing.T, o Options) (d *Destination, to *done, stop func()) {
	t.Helper()
	d, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- d.Run(ctx) }()
	return d, &done{errs: map[uint64]error{}}, func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

func send(t *testing.T, d *Destination, to *done, payloads ...string) {
	t.Helper()
	for _, p := range payloads {
		to.sent++
		if _, err := d.Send(t.Context(), []node.Message{{Payload: []byte(p)}}, to, []uint64{to.sent}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
	}
}

// files returns the files of a folder, in order: "name: text", where the name is only its ending.
func files(t *testing.T, dir string) (all []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, filepath.Ext(e.Name())+": "+string(text))
	}
	return all
}

func check(t *testing.T, dir string, want ...string) {
	t.Helper()
	if got := files(t, dir); !slices.Equal(got, want) {
		t.Errorf("there are %q, want %q", got, want)
	}
}

func TestALineIsSafeWhenItIsSyncedAndAFileIsCompleteWhenItHasItsName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		d, to, stop := run(t, Options{Volume: dir, Folder: "a/b", Name: "g", MaxAge: time.Minute})
		send(t, d, to, "{\n \"x\": 1.0 }", "[2]")
		folder := filepath.Join(dir, "a", "b")
		check(t, folder, ".part: {\"x\":1.0}\n[2]\n")
		if errs := to.completed(); len(errs) != 2 || errs[1] != nil || errs[2] != nil {
			t.Errorf("completed %v", errs)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		check(t, folder, ".jsonl: {\"x\":1.0}\n[2]\n")
		send(t, d, to, "3")
		stop()
		check(t, folder, ".jsonl: {\"x\":1.0}\n[2]\n", ".jsonl: 3\n")
	})
}

func TestALargeFileIsFinished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		d, to, stop := run(t, Options{Volume: dir, Folder: "f", Name: "g", MaxBytes: 4})
		send(t, d, to, "11", "22", "33")
		check(t, filepath.Join(dir, "f"), ".jsonl: 11\n22\n", ".part: 33\n")
		stop()
	})
}

func TestAPayloadThatIsNoJSONIsAFaultOfTheMessageAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		d, to, stop := run(t, Options{Volume: dir, Folder: "f", Name: "g"})
		send(t, d, to, "1", "{", "", "\xff", "2")
		stop()
		check(t, filepath.Join(dir, "f"), ".jsonl: 1\n2\n")
		errs := to.completed()
		for ticket, bad := range map[uint64]bool{1: false, 2: true, 3: true, 4: true, 5: false} {
			if err, ok := errs[ticket]; !ok || errors.Is(err, errNotJSON) != bad {
				t.Errorf("message %d: %v, %v", ticket, ok, err)
			}
		}
	})
}

func TestAStartFinishesWhatACrashHasLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		folder := filepath.Join(dir, "f")
		if err := os.Mkdir(folder, 0o750); err != nil {
			t.Fatal(err)
		}
		long := strings.Repeat("x", 200_000)
		for name, text := range map[string]string{
			"g.1.part": "1\n2\n{\"torn", "g.2.part": "torn" + long, "g.3.part": "1\n" + long, "h.1.part": "9\nother's",
		} {
			if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		_, _, stop := run(t, Options{Volume: dir, Folder: "f", Name: "g"})
		synctest.Wait()
		stop()
		check(t, folder, ".jsonl: 1\n2\n", ".jsonl: 1\n", ".part: 9\nother's")
	})
}

func TestWhileTheDiskFailsMessagesWaitAndItIsSaidOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "not there yet")
		var said []string
		d, to, stop := run(t, Options{Volume: dir, Folder: "f", Name: "g", Report: func(err error) { said = append(said, fmt.Sprint(err != nil)) }})
		send(t, d, to, "1")
		time.Sleep(time.Hour)
		send(t, d, to, "2")
		if errs := to.completed(); len(errs) != 0 {
			t.Errorf("completed %v", errs)
		}
		if err := os.Mkdir(dir, 0o750); err != nil {
			t.Fatal(err)
		}
		time.Sleep(longestOff)
		synctest.Wait()
		stop()
		check(t, filepath.Join(dir, "f"), ".jsonl: 1\n2\n")
		if errs := to.completed(); len(errs) != 2 || errs[1] != nil || errs[2] != nil {
			t.Errorf("completed %v", errs)
		}
		if !slices.Equal(said, []string{"true", "false"}) {
			t.Errorf("said %q", said)
		}
	})
}

// TestAFileThatIsRemovedWhileItIsWrittenIsNoticed: nothing is acknowledged into it, and what was is
// counted.
func TestAFileThatIsRemovedWhileItIsWrittenIsNoticed(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows does not remove a file that is open")
	}
	remove := func(t *testing.T, folder string) {
		t.Helper()
		if err := os.RemoveAll(folder); err != nil {
			t.Fatal(err)
		}
	}
	for name, then := range map[string]func(t *testing.T, d *Destination, to *done){
		"more comes": func(t *testing.T, d *Destination, to *done) {
			send(t, d, to, "3")
			if errs := to.completed(); len(errs) != 2 {
				t.Errorf("completed %v", errs)
			}
			time.Sleep(firstWait)
		},
		"its time comes": func(_ *testing.T, d *Destination, _ *done) { time.Sleep(d.opt.MaxAge + firstWait) },
		"it is replaced": func(t *testing.T, d *Destination, _ *done) {
			path := filepath.Join(d.opt.Volume, d.name+unfinished)
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o750), os.WriteFile(path, nil, 0o600)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(d.opt.MaxAge + firstWait)
		},
		"the flow stops": nil,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir := t.TempDir()
				var said []error
				d, to, stop := run(t, Options{Volume: dir, Folder: "f", Name: "g", Report: func(err error) {
					if err != nil {
						said = append(said, err)
					}
				}})
				send(t, d, to, "1", "2")
				remove(t, filepath.Join(dir, "f"))
				if then != nil {
					then(t, d, to)
					synctest.Wait()
					send(t, d, to, "4")
				}
				stop()
				if d.Lost() != 2 || len(said) != 1 || !strings.Contains(said[0].Error(), "with it 2 messages that were safe; look for a copy") {
					t.Errorf("%d are lost, and it said %q", d.Lost(), said)
				}
				if want := int(to.sent); len(to.completed()) != want {
					t.Errorf("completed %v, want %d", to.completed(), want)
				}
				switch {
				case name == "more comes":
					check(t, filepath.Join(dir, "f"), ".jsonl: 3\n4\n")
				case then != nil:
					check(t, filepath.Join(dir, "f"), ".jsonl: 4\n")
				}
			})
		})
	}
}

func TestAFolderStaysBelowItsVolume(t *testing.T) {
	for _, folder := range []string{"", "..", "../x", "/x", "a/../../x", `a\b`, "a\x00b", "a//b"} {
		if _, err := New(Options{Volume: t.TempDir(), Folder: folder, Name: "g"}); err == nil {
			t.Errorf("%q was accepted", folder)
		}
	}
	synctest.Test(t, func(t *testing.T) { // nor by a link
		dir, outside := t.TempDir(), t.TempDir()
		if err := os.Symlink(outside, filepath.Join(dir, "f")); err != nil {
			t.Fatal(err)
		}
		d, to, stop := run(t, Options{Volume: dir, Folder: "f", Name: "g"})
		send(t, d, to, "1")
		stop()
		check(t, outside)
	})
}

package device

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/failover"
	"github.com/hubhop-iot/hubhop/internal/clock"
	"github.com/hubhop-iot/hubhop/internal/home"
	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/internal/sim"
)

// These are errors of a disk that may work again later.
var diskErrors = []syscall.Errno{syscall.ENOSPC, syscall.EROFS, syscall.EMFILE, syscall.ENFILE, syscall.EIO, syscall.ENOMEM}

// diskCalls are the calls of a disk that may fail.
var diskCalls = []string{"mkdir", "lstat", "open", "read", "write", "sync", "close", "rename", "remove", "lock", "lockdir"}

// fault is a way for a disk to fail.
type fault struct {
	calls []string // empty: any
	err   syscall.Errno
	nth   int           // 0: all of them
	until time.Duration // since the start; 0: for ever
}

func (f fault) String() string {
	s := fmt.Sprintf("%s at %v", f.err.Error(), f.calls)
	if f.nth > 0 {
		return fmt.Sprintf("%s, call %d", s, f.nth)
	}
	return fmt.Sprintf("%s until %v", s, f.until)
}

// on lets the disk have the fault from now on.
func (f fault) on() func(call, name string) error {
	began, n := time.Now(), 0
	var mu sync.Mutex
	return func(call, _ string) error {
		mu.Lock()
		defer mu.Unlock()
		if len(f.calls) > 0 && !slices.Contains(f.calls, call) {
			return nil
		}
		n++
		if f.nth > 0 && n != f.nth || f.until > 0 && time.Since(began) >= f.until {
			return nil
		}
		return f.err
	}
}

// TestFaultyDisk fails the calls on the files of a home: each call once, for 10 s and for ever, and
// all calls together. The device starts and runs, sends telemetry and handles commands. While a
// file does not work, Status says so. The content of no file is lost.
func TestFaultyDisk(t *testing.T) {
	t.Parallel()
	bubble(t, setup{}, func(t *testing.T, w *world) {
		dir := filepath.Join(w.config.StateDir, "dev-1")
		base := map[string][]byte{}
		for name, b := range w.lived() {
			base[filepath.Join(dir, name)] = b
		}
		var kept failover.State // with one hub more, which DPS will not name again
		_, err := home.Unseal(base[filepath.Join(dir, home.StateFile)], &kept)
		w.must(err)
		kept.KnownHubs = append(kept.KnownHubs, failover.KnownHub{Host: "127.0.0.9", DeviceID: "dev-1", AssignedAt: kept.AssignedAt})
		base[filepath.Join(dir, home.StateFile)], err = home.Seal(kept)
		w.must(err)
		read := func(files map[string][]byte) (s failover.State, f clock.File, keys []string, told []string) {
			h := home.New(&memDisk{files: maps.Clone(files)}, w.config.StateDir, "dev-1", func(text string) { told = append(told, text) })
			w.must(h.Open())
			k := clock.New(clock.Machine{})
			s, err := loadState(h, w.config.device(new(journal.Journal)).who(), k.Horizon)
			w.must(err)
			f, err = loadClock(h, k.Horizon)
			w.must(err)
			l := home.OpenHandled(h)
			return s, f, l.Keys(), told
		}
		was, clockWas, handledWas, _ := read(base)
		calls := 0
		live := func(f fault) {
			fail := f.on()
			disk := &memDisk{files: maps.Clone(base)}
			disk.fail = func(call, name string) error {
				disk.mu.Lock()
				calls++
				disk.mu.Unlock()
				return fail(call, name)
			}
			w.disk = disk
			w.forget()
			before := w.cloud.Ledger("dev-1", false).Received
			w.start()
			w.run(5 * time.Second)
			mid, err := w.cloud.SendC2D("dev-1", sim.C2D{Body: json.RawMessage(`"09:00:00"`), Properties: map[string]string{"method-name": "setAlarm"}})
			w.must(err)
			w.run(time.Second)
			trouble := w.dev.Status().Trouble
			w.run(24 * time.Second)
			if n := w.cloud.Ledger("dev-1", false).Received - before; n < 28 {
				t.Errorf("%v: %d samples in 30 s; told %q", f, n, w.texts(journal.Warning))
			}
			if n := len(w.texts(journal.Warning)); n > 20 {
				t.Errorf("%v: told %d times: %q", f, n, w.texts(journal.Warning))
			}
			if n := w.count(journal.Bug); n > 0 {
				t.Errorf("%v: %q", f, w.texts(journal.Bug))
			}
			messages, err := w.cloud.C2DMessages("dev-1")
			w.must(err)
			if m := messages[len(messages)-1]; m.State != sim.C2DCompleted {
				t.Errorf("%v: the command is %s", f, m.State)
			}
			forEver := f.nth == 0 && f.until == 0
			if len(trouble) == 0 && forEver && slices.ContainsFunc(f.calls, func(c string) bool { return strings.Contains("open write sync rename", c) }) {
				t.Errorf("%v: nothing is wrong by Status", f)
			}
			if len(w.dev.Status().Trouble) > 0 && !forEver {
				w.run(clock.KeepAgain) // the clock takes its time
			}
			if after := w.dev.Status().Trouble; len(after) > 0 && !forEver {
				t.Errorf("%v: still wrong: %q", f, after)
			}
			w.halt()

			s, clock, handled, told := read(disk.files)
			if len(told) > 0 {
				t.Errorf("%v: afterwards %q", f, told)
			}
			for _, k := range was.KnownHubs {
				if !slices.ContainsFunc(s.KnownHubs, func(now failover.KnownHub) bool { return now.Host == k.Host }) || s.AssignedHub == "" {
					t.Errorf("%v: known hubs %v, assigned %q", f, s.KnownHubs, s.AssignedHub)
				}
			}
			for _, e := range clockWas.Epochs {
				if !slices.Contains(clock.Epochs, e) {
					t.Errorf("%v: epochs %v", f, clock.Epochs)
				}
			}
			for _, key := range handledWas {
				if !slices.Contains(handled, key) {
					t.Errorf("%v: handled %v", f, handled)
				}
			}
			if !forEver && !slices.ContainsFunc(handled, func(key string) bool { return strings.Contains(key, mid) }) {
				t.Errorf("%v: the new command is not remembered: %v", f, handled)
			}
		}
		live(fault{calls: []string{"none"}})
		each := calls
		if each < 30 {
			t.Fatalf("a life has %d calls", each)
		}
		for n := range each {
			live(fault{err: diskErrors[n%len(diskErrors)], nth: n + 1})
		}
		for i, err := range diskErrors {
			for j, call := range diskCalls {
				live(fault{calls: []string{call}, err: err})
				if (i+j)%2 == 0 {
					live(fault{calls: []string{call}, err: err, until: 10 * time.Second})
				}
			}
			live(fault{err: err})
			live(fault{err: err, until: 10 * time.Second})
		}
		w.config.Telemetry = false // several lives have used one outbox: its books are another test's
	})
}

// TestRefusingDirectory: a directory that this user may not use ends the start, from whichever call
// the error comes. A disk that fails now does not.
func TestRefusingDirectory(t *testing.T) {
	for _, call := range []string{"mkdir", "lock"} {
		for _, err := range []syscall.Errno{syscall.EACCES, syscall.EPERM, syscall.ENOTDIR, syscall.ENOSPC, syscall.EROFS, syscall.EMFILE, syscall.EIO} {
			disk := &memDisk{files: map[string][]byte{}}
			disk.fail = fault{calls: []string{call}, err: err}.on()
			h := home.New(disk, "/state", "dev-1", nil)
			got := h.Open()
			person := err == syscall.EACCES || err == syscall.EPERM || err == syscall.ENOTDIR
			if errors.Is(got, home.ErrStateDir) != person || (got != nil) != person {
				t.Errorf("%s at %s: %v", err, call, got)
			}
			if person && len(disk.locked) > 0 {
				t.Errorf("%s at %s: still locked", err, call)
			}
			h.Close()
		}
	}
}

// TestUnreadableForEver: a file that the disk cannot read for more than a minute is damaged: it is
// kept aside, and the device keeps a new one.
func TestUnreadableForEver(t *testing.T) {
	t.Parallel()
	bubble(t, setup{}, func(t *testing.T, w *world) {
		files := map[string][]byte{}
		for name, b := range w.lived() {
			files[filepath.Join(w.config.StateDir, "dev-1", name)] = b
		}
		disk := &memDisk{files: files}
		disk.fail = func(call, name string) error {
			if call == "read" && name == home.HandledFile {
				return syscall.EIO
			}
			return nil
		}
		w.disk = disk
		w.start()
		w.run(50 * time.Second)
		if got := w.dev.Status().Trouble; len(got) != 1 || !strings.Contains(got[0], "in memory only") {
			t.Errorf("after 50 s: %q", got)
		}
		w.run(40 * time.Second)
		if got := w.dev.Status().Trouble; len(got) != 0 {
			t.Errorf("after 90 s: %q", got)
		}
		w.halt()
		path := filepath.Join(w.config.StateDir, "dev-1", home.HandledFile)
		if len(disk.files[path+home.Doubtful]) == 0 {
			t.Errorf("kept: %v", slices.Collect(maps.Keys(disk.files)))
		}
		w.config.Telemetry = false
	})
}

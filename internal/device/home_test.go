package device

import (
	"bytes"
	"context"
	"encoding/json"
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

	"github.com/hubhop-iot/hubhop/dps"
	"github.com/hubhop-iot/hubhop/failover"
	"github.com/hubhop-iot/hubhop/internal/clock"
	"github.com/hubhop-iot/hubhop/internal/home"
	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/internal/racing"
	"github.com/hubhop-iot/hubhop/internal/sim"
)

// lived runs a device until its directory has every file, and returns a copy of the directory.
func (w *world) lived() (files map[string][]byte) {
	w.t.Helper()
	w.on("hub-a", time.Minute)
	_, err := w.cloud.SendC2D("dev-1", sim.C2D{Body: json.RawMessage(`"08:00:00"`), Properties: map[string]string{"method-name": "setAlarm"}})
	w.must(err)
	w.run(2 * clock.NoteEvery)
	w.halt()
	files = map[string][]byte{}
	for _, name := range []string{home.ContentFile, home.StateFile, home.ClockFile, home.HandledFile, home.LockFile} {
		b, err := os.ReadFile(filepath.Join(w.config.StateDir, "dev-1", name))
		w.must(err)
		if len(b) == 0 || bytes.Count(b, []byte("2000-01-01")) == 0 && name != home.ContentFile && name != home.LockFile {
			w.t.Fatalf("%s: %q", name, b)
		}
		files[name] = b
	}
	return files
}

// What encloses the checksum of a file.
const (
	sumBefore = ",\n  \"sum\": \""
	sumAfter  = "\"\n}\n"
)

// openHome opens the home of a device on the real disk.
func openHome(stateDir, deviceID string) (*home.Home, error) {
	h := home.New(home.RealDisk, stateDir, deviceID, nil)
	return h, h.Open()
}

// unsealed returns a file as an older version wrote it.
func unsealed(b []byte) []byte {
	if content, _, ok := bytes.Cut(b, []byte(sumBefore)); ok {
		return append(slices.Clone(content), "\n}\n"...)
	}
	return b
}

// TestFlippedBits flips each bit of each file of a home. The device starts with the right time and
// the right hub, or without them. It tells which file has changed, and touches no other file of the
// home.
func TestFlippedBits(t *testing.T) {
	t.Parallel()
	bubble(t, setup{}, func(t *testing.T, w *world) {
		files := w.lived()
		dir := filepath.Join(w.config.StateDir, "dev-1")
		var disk *memDisk
		var told []string
		open := func() (*Device, failover.State) {
			j := new(journal.Journal)
			told = nil
			j.Sink(func(e journal.Event) { told = append(told, e.Text) })
			d := w.config.device(j)
			d.disk = disk
			w.must(d.openHome())
			d.handled = home.OpenHandled(d.home)
			cached := d.openClock(nil)
			return d, cached
		}
		restore := func() {
			disk = &memDisk{files: map[string][]byte{}}
			for name, b := range files {
				disk.files[filepath.Join(dir, name)] = b
			}
		}
		restore()
		d, good := open()
		handled, epochs := d.handled.Keys(), slices.Clone(d.time.Kept().Epochs)
		d.handled.Close()
		d.home.Close()
		if len(told) > 0 || good.AssignedHub == "" || len(handled) != 1 || len(epochs) == 0 {
			t.Fatalf("before: %q, %+v, %v, %v", told, good, handled, epochs)
		}
		bits := 0
		for _, name := range slices.Sorted(maps.Keys(files)) {
			for i := range len(files[name]) * 8 {
				bits++
				bent := slices.Clone(files[name])
				bent[i/8] ^= 1 << (i % 8)
				restore()
				disk.files[filepath.Join(dir, name)] = bent
				d, cached := open()
				where := fmt.Sprintf("%s, bit %d of byte %d (%q): told %q", name, i%8, i/8, files[name][i/8], told)
				if off := time.Until(d.time.Now()).Abs(); off > time.Minute {
					t.Errorf("%s: the time is %v off", where, off)
				}
				same := cached.AssignedHub == good.AssignedHub && len(cached.KnownHubs) == len(good.KnownHubs) &&
					cached.AssignedAt.Equal(good.AssignedAt) && cached.KnownHubs[0] == good.KnownHubs[0]
				if !same && (cached.AssignedHub != "" || len(cached.KnownHubs) > 0 || name != home.StateFile) {
					t.Errorf("%s: cached %+v", where, cached)
				}
				complete := same && slices.Equal(d.handled.Keys(), handled) && slices.Equal(d.time.Kept().Epochs, epochs)
				if !complete && len(told) == 0 {
					t.Errorf("%s: nothing was told, cached %+v, handled %v", where, cached, d.handled.Keys())
				}
				if kept := disk.files[filepath.Join(dir, name+home.Doubtful)]; len(told) > 0 && !bytes.Equal(kept, bent) {
					t.Errorf("%s: it is not kept aside", where)
				}
				d.handled.Close()
				d.home.Close()
			}
		}
		if bits < 5000 {
			t.Errorf("%d bits were flipped: is this test still looking?", bits)
		}
	})
}

// TestDatesOfTheFuture flips each bit of the dates in the files of a home, with their checksums
// and, as older versions wrote them, without, and starts the device: it connects, and telemetry
// flows.
func TestDatesOfTheFuture(t *testing.T) {
	t.Parallel()
	for _, old := range []bool{false, true} {
		t.Run(fmt.Sprintf("without checksum %v", old), func(t *testing.T) {
			built := func(c *plan) { c.Clock.Built = time.Now().Add(-time.Hour) }
			bubble(t, setup{device: built}, func(t *testing.T, w *world) {
				files := w.lived()
				dir := filepath.Join(w.config.StateDir, "dev-1")
				for _, name := range []string{home.StateFile, home.ClockFile} {
					for _, key := range []string{`"assignedAt": "`, `"newest": "`, `"begin": "`} {
						at := bytes.Index(files[name], []byte(key))
						for bit := range 10 * 8 { // year, month and day
							if at < 0 || bit%3 != 0 && bit >= 4*8 || racing.On && bit%5 != 0 {
								continue
							}
							for other, b := range files {
								if old {
									b = unsealed(b)
								}
								w.must(os.WriteFile(filepath.Join(dir, other), b, 0o600))
							}
							bent := slices.Clone(files[name])
							if old {
								bent = unsealed(bent)
							}
							bent[at+len(key)+bit/8] ^= 1 << (bit % 8)
							w.must(os.WriteFile(filepath.Join(dir, name), bent, 0o600))
							w.forget()
							before := w.cloud.Ledger("dev-1", false).Received
							w.start()
							w.run(10 * time.Second)
							if n := w.cloud.Ledger("dev-1", false).Received - before; n < 5 {
								t.Errorf("%s, bit %d of %q: %d samples in 10 s; told %q, decided %v", name, bit, bent[at:at+len(key)+20], n, w.texts(journal.Warning), w.decisions())
							}
							w.halt()
						}
					}
				}
			})
		})
	}
}

// TestDoubtfulFiles: a file that makes no sense, a name that is not a plain file, and a file above
// its bound are kept aside and told, and the device goes on without them. It waits for none of
// them.
func TestDoubtfulFiles(t *testing.T) {
	who := failover.State{IDScope: "s", RegistrationID: "dev-1", KeyFingerprint: "f"}
	fresh := failover.State{IDScope: "s", RegistrationID: "dev-1", KeyFingerprint: "f"}
	with := func(change func(*failover.State)) func(t *testing.T, path string) {
		return func(t *testing.T, path string) {
			s := fresh.WithAssignment(dps.Assignment{Hub: "hub-a", DeviceID: "dev-1"}, time.Now())
			s.Version = stateVersion
			change(&s)
			b, err := home.Seal(s)
			if err == nil {
				err = os.WriteFile(path, b, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	text := func(content string) func(t *testing.T, path string) {
		return func(t *testing.T, path string) {
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, test := range map[string]struct {
		put  func(t *testing.T, path string)
		want string // is told
	}{
		"nothing in it":         {text(""), "makes no sense"},
		"half of one":           {text("{"), "makes no sense"},
		"no JSON":               {text("null garbage"), "makes no sense"},
		"an array":              {text("[]"), "makes no sense"},
		"another format":        {text(`{"version":99,"assignedHub":"x"}`), "it has format 99"},
		"a wrong sum":           {text("{\n  \"version\": 1" + sumBefore + "00000000" + sumAfter), "checksum"},
		"a sum that is moved":   {text(`{"sum":"00000000","version":1}`), "checksum"},
		"a directory":           {func(t *testing.T, path string) { must(t, os.Mkdir(path, 0o700)) }, "it is no file"},
		"too large":             {text(strings.Repeat(" ", 1<<20+1)), "more than"},
		"an endless one":        {func(t *testing.T, path string) { must(t, os.Symlink("/dev/zero", path)) }, "it is no file"},
		"a pipe":                {pipe, "it is no file"},
		"a hub that is none":    {with(func(s *failover.State) { s.AssignedHub = "https://hub-a/x" }), "scheme"},
		"a hub of 60,000 bytes": {with(func(s *failover.State) { s.KnownHubs[0].Host = strings.Repeat("h", 60_000) }), "is not a host name"},
		"an id for no topic":    {with(func(s *failover.State) { s.DeviceID = "dev/#" }), "topic"},
		"an id of 66,000":       {with(func(s *failover.State) { s.KnownHubs[0].DeviceID = strings.Repeat("d", 66_000) }), "128 are the most"},
		"hubs without end":      {with(func(s *failover.State) { s.KnownHubs = slices.Repeat(s.KnownHubs, 1000) }), "it knows 1000 hubs"},
		"refused tomorrow":      {with(func(s *failover.State) { s.RefusedSince = time.Now().AddDate(40, 0, 0) }), "can hardly be later"},
		"a hub of tomorrow":     {with(func(s *failover.State) { s.AssignedAt = time.Now().AddDate(40, 0, 0) }), "can hardly be later"},
	} {
		t.Run(name, func(t *testing.T) {
			var told []string
			h := home.New(home.RealDisk, t.TempDir(), "dev-1", func(text string) { told = append(told, text) })
			must(t, h.Open())
			defer h.Close()
			test.put(t, h.Path(home.StateFile))
			limit := clock.New(clock.Machine{Built: time.Now()}).Horizon
			got, err := loadState(h, who, limit)
			if err != nil || got.AssignedHub != "" || !got.Same(who) {
				t.Errorf("%+v %v", got, err)
			}
			all := strings.Join(told, "\n")
			if !strings.Contains(all, test.want) || !strings.Contains(all, h.Path(home.StateFile)) || len(all) > 1000 {
				t.Errorf("told %q", all)
			}
			if _, err := os.Lstat(h.Path(home.StateFile + home.Doubtful)); err != nil {
				t.Error(err)
			}
			good := fresh.WithAssignment(dps.Assignment{Hub: "hub-b", DeviceID: "D"}, time.Now())
			good.RefusedSince = time.Now().Add(-time.Minute)
			must(t, saveState(h, good))
			got, err = loadState(h, who, limit)
			if err != nil || got.AssignedHub != "hub-b" || got.DeviceID != "D" || len(got.KnownHubs) != 1 || !got.RefusedSince.Equal(good.RefusedSince) {
				t.Errorf("%+v %v", got, err)
			}
			if left, _ := filepath.Glob(h.Path(".*")); len(left) != 0 {
				t.Errorf("left behind: %v", left)
			}
			if info, err := os.Stat(h.Path(home.StateFile)); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("%v %v", info, err)
			}
			for what, other := range map[string]failover.State{
				"scope": {IDScope: "x", RegistrationID: "dev-1", KeyFingerprint: "f"},
				"id":    {IDScope: "s", RegistrationID: "x", KeyFingerprint: "f"},
				"key":   {IDScope: "s", RegistrationID: "dev-1", KeyFingerprint: "x"},
			} {
				if got, err := loadState(h, other, limit); err != nil || got.AssignedHub != "" {
					t.Errorf("a state of another %s was taken: %+v %v", what, got, err)
				}
			}
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestOlderFiles: files of an older version are read, and then written with a checksum.
func TestOlderFiles(t *testing.T) {
	h, err := openHome(t.TempDir(), "dev-1")
	must(t, err)
	defer h.Close()
	k := clock.New(clock.Machine{Built: time.Now()})
	at := time.Now().Add(-time.Hour).UTC().Format(time.RFC3339Nano)
	must(t, os.WriteFile(h.Path(home.StateFile), []byte(`{"version":1,"idScope":"s","registrationId":"dev-1","keyFingerprint":"f","assignedHub":"hub-a","deviceId":"",`+
		`"assignedAt":"`+at+`","knownHubs":[{"host":"hub-a","deviceId":"dev-1","assignedAt":"`+at+`"}]}`), 0o600))
	must(t, os.WriteFile(h.Path(home.ClockFile), []byte(`{"newest":"`+at+`","outbox":"0011","epochs":[{"from":1,"boot":"b","begin":"`+at+`","proved":true,"fixNs":5}]}`), 0o600))
	must(t, os.WriteFile(h.Path(home.HandledFile), []byte(`{"key":"hub-a m 00","at":"`+at+"\"}\n"+`{"key":"hub-a t`), 0o600))
	s, err := loadState(h, failover.State{IDScope: "s", RegistrationID: "dev-1", KeyFingerprint: "f"}, k.Horizon)
	if err != nil || s.AssignedHub != "hub-a" || len(s.KnownHubs) != 1 {
		t.Errorf("%+v %v", s, err)
	}
	f, err := loadClock(h, k.Horizon)
	if err != nil || len(f.Epochs) != 1 || f.Epochs[0].Fix != 5 || f.Newest.IsZero() {
		t.Errorf("%+v %v", f, err)
	}
	l := home.OpenHandled(h)
	defer l.Close()
	if !l.Has("hub-a m 00") || len(l.Keys()) != 1 {
		t.Errorf("%v", l.Keys())
	}
	must(t, saveState(h, s))
	must(t, h.Save(home.ClockFile, f))
	for _, name := range []string{home.StateFile, home.ClockFile} {
		b, err := os.ReadFile(h.Path(name))
		must(t, err)
		var content map[string]json.RawMessage
		if sealed, err := home.Unseal(b, &content); !sealed || err != nil {
			t.Errorf("%s: %v %v", name, sealed, err)
		}
	}
}

// TestMissingFiles: the start tells which files of the last run are missing, and what that means.
func TestMissingFiles(t *testing.T) {
	t.Parallel()
	bubble(t, setup{}, func(t *testing.T, w *world) {
		w.lived()
		missing := func() (all []string) {
			for _, text := range w.texts(journal.Warning) {
				if strings.Contains(text, "gone from") || strings.Contains(text, "is missing") {
					all = append(all, text)
				}
			}
			return all
		}
		for name, want := range map[string]string{
			home.StateFile: "the device asks DPS", home.ClockFile: "samples that wait", home.HandledFile: "is handled again", home.ContentFile: "is missing, although it was here",
		} {
			w.forget()
			w.must(os.Remove(filepath.Join(w.config.StateDir, "dev-1", name)))
			w.start()
			w.run(5 * time.Second)
			if got := missing(); len(got) != 1 || !strings.Contains(got[0], want) || !strings.Contains(got[0], name) {
				t.Errorf("%s: %q", name, got)
			}
			w.halt()
			w.forget()
			w.start()
			w.run(5 * time.Second)
			if got := missing(); len(got) != 0 {
				t.Errorf("%s, at the next start: %q", name, got)
			}
			w.halt()
		}
	})
}

// TestUnsafeHomes: a directory that everybody may write to, and links in it, are named.
func TestUnsafeHomes(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the modes of this system say nothing of who may write")
	}
	open := func(stateDir string) string {
		var told []string
		h := home.New(home.RealDisk, stateDir, "dev-1", func(text string) { told = append(told, text) })
		must(t, h.Open())
		_, err := loadState(h, failover.State{}, clock.New(clock.Machine{}).Horizon)
		must(t, err)
		h.Close()
		return strings.Join(told, "\n")
	}
	dir := t.TempDir()
	if got := open(dir); got != "" {
		t.Errorf("%q", got)
	}
	for _, bad := range []string{dir, filepath.Join(dir, "dev-1")} {
		must(t, os.Chmod(bad, 0o777))
		if got := open(dir); strings.Count(got, "chmod 700") != 1 || !strings.Contains(got, bad) {
			t.Errorf("%q", got)
		}
		must(t, os.Chmod(bad, 0o700))
	}
	elsewhere := filepath.Join(t.TempDir(), "x")
	must(t, os.WriteFile(elsewhere, []byte(`{"version":1}`), 0o600))
	must(t, os.Symlink(elsewhere, filepath.Join(dir, "dev-1", home.StateFile)))
	if got := open(dir); !strings.Contains(got, "symbolic link") {
		t.Errorf("%q", got)
	}
	link := filepath.Join(t.TempDir(), "link")
	must(t, os.Mkdir(link, 0o700))
	must(t, os.Symlink(filepath.Join(dir, "dev-1"), filepath.Join(link, "dev-1")))
	if got := open(link); !strings.Contains(got, "symbolic link") {
		t.Errorf("%q", got)
	}
}

// TestLockIsNoFile: the error names a lock file that is not a plain file. The device neither waits
// for it nor writes to it.
func TestLockIsNoFile(t *testing.T) {
	dir := t.TempDir()
	theirs := filepath.Join(dir, "theirs")
	must(t, os.WriteFile(theirs, []byte("a file of somebody"), 0o600))
	for name, put := range map[string]func(path string){
		"a pipe": func(path string) {
			pipe(t, path)
			f, err := os.OpenFile(path, os.O_RDWR, 0) // so that this test ends if somebody does open it
			must(t, err)
			t.Cleanup(func() { _ = f.Close() })
		},
		"a link": func(path string) {
			if err := os.Symlink(theirs, path); err != nil {
				t.Skipf("this user may not make links here: %v", err)
			}
		},
		"a directory": func(path string) { must(t, os.Mkdir(path, 0o700)) },
	} {
		t.Run(name, func(t *testing.T) {
			place := filepath.Join(t.TempDir(), "dev-1")
			must(t, os.Mkdir(place, 0o700))
			put(filepath.Join(place, home.LockFile))
			_, err := openHome(filepath.Dir(place), "dev-1")
			if !errors.Is(err, home.ErrStateDir) || !strings.Contains(fmt.Sprint(err), filepath.Join(place, home.LockFile)) {
				t.Errorf("%v", err)
			}
			if b, err := os.ReadFile(theirs); string(b) != "a file of somebody" {
				t.Errorf("somebody's file now has %q (%v)", b, err)
			}
		})
	}
}

// TestStatusAtAnyTime calls Status before the start, while the device opens its files, and after
// its end.
func TestStatusAtAnyTime(t *testing.T) {
	bubble(t, setup{}, func(t *testing.T, w *world) {
		w.on("hub-a", time.Minute)
		w.halt()
		d := w.config.device(new(journal.Journal))
		if s := d.Status(); s.Device != "dev-1" || s.Hub != "" {
			t.Errorf("%+v", s)
		}
		ctx, stop := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() { _ = d.Run(ctx) })
		for range 2000 {
			if s := d.Status(); len(s.Trouble) > 0 {
				t.Fatalf("%+v", s)
			}
			runtime.Gosched()
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if s := d.Status(); s.Hub == "" || s.Outbox.ID == "" {
			t.Errorf("%+v", s)
		}
		stop()
		all.Wait()
		_ = d.Status()
	})
}

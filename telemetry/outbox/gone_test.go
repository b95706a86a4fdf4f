package outbox

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk/memdisk"
)

// Files and directories that vanish, shrink, or are replaced while the outbox is open and between
// runs, on the real disk: what was durable and is gone is told, no seq is used twice, and the line
// goes on.

// Verify counts what an audit says of an outbox id of which so many seqs have arrived. Package
// audit imports this one, so a test outside sets it.
var Verify func(t *testing.T, dir, id string, arrived int) (lost, announced uint64)

// goneBox returns a box on the real disk with 40 messages in several segments, 4 of them
// acknowledged.
func goneBox(t *testing.T, got *reports) (dir string, b *Box) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "state", "box")
	b = openBox(t, dir, Options{MaxBytes: 64 << 10, Report: got.add})
	for n := 1; n <= 40; n++ {
		appendBodies(t, b, strings.Repeat(".", 300)+body(n))
	}
	ackAll(t, b, tryNext(t, b, 0, 4))
	time.Sleep(2 * time.Second)
	synctest.Wait()
	if n := len(b.segs); n < 10 {
		t.Fatalf("%d segments", n)
	}
	return dir, b
}

// whole checks that every seq up to top has arrived at the consumer or was told, or was
// acknowledged before: those up to 4.
func whole(t *testing.T, name string, far *consumer, id string, top uint64) {
	t.Helper()
	for seq := uint64(5); seq <= top; seq++ {
		if _, ok := far.received[fmt.Sprintf("%s-%d", id, seq)]; !ok && !far.gaps[id][seq] {
			t.Errorf("%s: %d is not accounted for", name, seq)
		}
	}
	for box := range far.top {
		if box != id {
			t.Errorf("%s: another outbox id, %s", name, box)
		}
	}
}

func TestFilesVanishWhileItRuns(t *testing.T) {
	remove := func(t *testing.T, names ...string) {
		t.Helper()
		for _, name := range names {
			if err := os.RemoveAll(name); err != nil {
				t.Fatal(err)
			}
		}
	}
	edit := func(t *testing.T, name string, change func([]byte) []byte) {
		t.Helper()
		data, err := os.ReadFile(name)
		if err == nil {
			err = os.WriteFile(name, change(data), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, v := range map[string]struct {
		lost  uint64 // messages that cannot come, of those before
		kind  Kind   // of what is reported
		harm  func(t *testing.T, dir string, b *Box)
		aside int // files that are kept under another name
	}{
		"the directory":                   {36, Missing, func(t *testing.T, dir string, _ *Box) { remove(t, dir) }, 0},
		"the directory and the one above": {36, Missing, func(t *testing.T, dir string, _ *Box) { remove(t, filepath.Dir(dir)) }, 0},
		"the directory is moved away": {36, Missing, func(t *testing.T, dir string, _ *Box) {
			if err := os.Rename(dir, dir+".elsewhere"); err != nil {
				t.Fatal(err)
			}
		}, 0},
		"everything in it": {36, Missing, func(t *testing.T, dir string, _ *Box) {
			all, err := filepath.Glob(filepath.Join(dir, "*"))
			if err != nil || len(all) < 10 {
				t.Fatal(all, err)
			}
			remove(t, all...)
		}, 0},
		"a segment":                   {2, Missing, func(t *testing.T, _ string, b *Box) { remove(t, b.path(b.segs[4].num)) }, 0},
		"the segment that is written": {0, Missing, func(t *testing.T, _ string, b *Box) { remove(t, b.path(b.writer.seg.num)) }, 0},
		"the cursor":                  {0, Missing, func(t *testing.T, dir string, _ *Box) { remove(t, filepath.Join(dir, cursorName)) }, 0},
		"the lock":                    {0, -1, func(t *testing.T, dir string, _ *Box) { remove(t, filepath.Join(dir, disk.LockName)) }, 0},
		"a segment shrinks": {2, Corrupt, func(t *testing.T, _ string, b *Box) {
			edit(t, b.path(b.segs[4].num), func(data []byte) []byte { return data[:len(data)/2] })
		}, 1},
		"a segment is empty": {2, Corrupt, func(t *testing.T, _ string, b *Box) {
			edit(t, b.path(b.segs[4].num), func([]byte) []byte { return nil })
		}, 1},
		"a segment is another": {2, Corrupt, func(t *testing.T, _ string, b *Box) {
			edit(t, b.path(b.segs[4].num), func([]byte) []byte { return bytes.Repeat([]byte("other "), 1000) })
		}, 1},
		"a segment is a pipe": {2, Corrupt, func(t *testing.T, _ string, b *Box) {
			remove(t, b.path(b.segs[4].num))
			if err := mkfifo(b.path(b.segs[4].num)); err != nil {
				t.Skipf("this system makes no pipes in directories: %v", err)
			}
		}, 1},
		"a segment is a link": {2, Corrupt, func(t *testing.T, _ string, b *Box) {
			remove(t, b.path(b.segs[4].num))
			if err := os.Symlink("/dev/zero", b.path(b.segs[4].num)); err != nil {
				t.Skipf("this user may not make links here: %v", err)
			}
		}, 1},
		"the cursor is another": {0, Missing, func(t *testing.T, dir string, _ *Box) {
			remove(t, filepath.Join(dir, cursorName))
			if err := os.WriteFile(filepath.Join(dir, cursorName), []byte("mine"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var got reports
				dir, b := goneBox(t, &got)
				id := b.ID()
				v.harm(t, dir, b)
				far := newConsumer()
				appendBodies(t, b, "after")
				for n := 42; n <= 44; n++ {
					appendBodies(t, b, body(n))
				}
				if s := b.Stats(); s.Degraded || s.LastSeq != 44 {
					t.Errorf("%+v", s)
				}
				if _, err := Open(dir, Options{}); !errors.Is(err, ErrLocked) {
					t.Errorf("another one gets in: %v", err)
				}
				for _, r := range queued(t, b) {
					far.take(t, r)
					if err := b.Ack(r.Pos); err != nil {
						t.Fatal(err)
					}
				}
				time.Sleep(10 * time.Second)
				appendBodies(t, b, "last")
				for _, r := range queued(t, b) {
					far.take(t, r)
				}
				if v.kind >= 0 && got.count(v.kind) == 0 {
					t.Errorf("nobody was told: %v", got.all)
				}
				if s := b.Stats(); s.Damaged != v.lost && (name != "the segment that is written" || s.Damaged > 2) {
					t.Errorf("%d are lost, and not %d", s.Damaged, v.lost)
				}
				whole(t, "while it runs", far, id, 45)
				closeBox(t, b)
				aside, _ := filepath.Glob(filepath.Join(dir, "*"+badSuffix))
				equal(t, "files set aside", len(aside), v.aside)

				b = openBox(t, dir, Options{MaxBytes: 64 << 10, Report: func(p Problem) { t.Errorf("opened again: %v %s", p.Kind, p.Text) }})
				appendBodies(t, b, "and after that")
				r := queued(t, b)
				if len(r) != 2 || r[1].ID != id+"-46" {
					t.Errorf("opened again: %v", idsOf(r))
				}
				closeBox(t, b)
			})
		})
	}
}

// TestVanishedIsFoundWhenReadOnly: without appends a reader finds that a file is gone, and a
// restart knows it too. A segment is moved away while it is written, and is put back when what was
// written to it has been sent from memory. Its last frames must not count as messages of the next
// run: no seq is left out.
func TestSegmentComesBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		disk := memdisk.New()
		b := openBox(t, "/box", Options{FS: disk})
		appendBodies(t, b, "one", "two")
		ackAll(t, b, tryNext(t, b, 0, 2))
		name := b.path(b.writer.seg.num)
		disk.SetDeny(func(op, _ string) error {
			if op == "create" {
				return syscall.ENOSPC // so what was written goes into memory
			}
			return nil
		})
		if err := disk.Rename(name, "/elsewhere"); err != nil {
			t.Fatal(err)
		}
		appendBodies(t, b, "three", "four")
		if !b.Stats().Degraded {
			t.Fatal("the segment was not missed")
		}
		ackAll(t, b, tryNext(t, b, 0, 2))
		if err := disk.Rename("/elsewhere", name); err != nil {
			t.Fatal(err)
		}
		disk.SetDeny(nil)
		time.Sleep(2 * retryEvery)
		closeBox(t, b)
		b = openBox(t, "/box", Options{FS: disk})
		appendBodies(t, b, "five")
		r := tryNext(t, b, 0, 5)
		if len(r) != 1 || string(r[0].Body) != "five" {
			t.Fatalf("handed out: %v", r)
		}
		if _, seq := splitID(t, r[0].ID); seq != 3 {
			t.Errorf("%s has seq %d, behind 2", r[0].Body, seq)
		}
		closeBox(t, b)
	})
}

func TestVanishedIsFoundWhenReadOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got reports
		dir, b := goneBox(t, &got)
		id := b.ID()
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		equal(t, "left", len(queued(t, b)), 0)
		equal(t, "lost", b.Stats().Damaged, 36)
		time.Sleep(3 * time.Second)
		if l, err := Inspect(dir); err != nil || l.ID != id || l.LastSeq != 40 || len(l.Gaps) != 1 || l.Gaps[0].Count() != 36 {
			t.Errorf("%+v, %v", l, err)
		}
		if lost, announced := Verify(t, dir, id, 4); lost != 0 || announced != 36 {
			t.Errorf("verify: %d are lost, %d announced", lost, announced)
		}
		closeBox(t, b)
	})
}

// TestVanishedBetweenRuns: files that are gone at the start are told, and verify counts them as
// lost before.
func TestVanishedBetweenRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got reports
		dir, b := goneBox(t, &got)
		id := b.ID()
		nums := []uint64{b.segs[1].num, b.segs[5].num, b.segs[len(b.segs)-1].num}
		closeBox(t, b)
		for _, num := range nums {
			if err := os.Remove(b.path(num)); err != nil {
				t.Fatal(err)
			}
		}
		lost, _ := Verify(t, dir, id, 4)
		if lost < 5 {
			t.Errorf("verify says that %d are lost", lost)
		}
		b = openBox(t, dir, Options{MaxBytes: 64 << 10, Report: got.add})
		appendBodies(t, b, "after")
		far := newConsumer()
		for _, r := range queued(t, b) {
			far.take(t, r)
		}
		whole(t, "opened again", far, id, 41)
		equal(t, "lost", b.Stats().Damaged, lost)
		closeBox(t, b)
	})
}

// TestSpecialFilesAreNamed: Open names anything that is not a plain file in the place of a file,
// and does not wait for it.
func TestSpecialFilesAreNamed(t *testing.T) {
	for _, file := range []string{cursorName, identityName, segName(1), disk.LockName} {
		for kind, put := range map[string]func(name string) error{
			"a directory":     func(name string) error { return os.Mkdir(name, 0o700) },
			"a symbolic link": func(name string) error { return os.Symlink("/dev/zero", name) },
			"a named pipe":    mkfifo,
		} {
			dir := t.TempDir()
			b := openBox(t, dir, Options{For: Identity{IDScope: "0ne", Device: "d"}})
			appendBodies(t, b, "1")
			closeBox(t, b)
			name := filepath.Join(dir, file)
			if err := errors.Join(os.Remove(name), put(name)); err != nil {
				t.Skipf("this system makes no such file: %v", err)
			}
			_, err := Open(dir, Options{})
			if !errors.Is(err, ErrSpecial) || !strings.Contains(err.Error(), name+" is "+kind) {
				t.Errorf("%s as %s: %v", file, kind, err)
			}
			if file == disk.LockName { // which nobody looks into
				continue
			}
			if l, err := Inspect(dir); file != identityName && !errors.Is(err, ErrSpecial) || file == identityName && (err != nil || l.Queued != 1) {
				t.Errorf("looking at %s as %s: %v", file, kind, err)
			}
		}
	}
	dir := t.TempDir()
	if err := mkfifo(filepath.Join(dir, quarantineName)); err != nil {
		t.Skipf("this system makes no pipes in directories: %v", err)
	}
	for _, err := range ReadQuarantine(dir) {
		if !errors.Is(err, ErrSpecial) {
			t.Errorf("the quarantine as a pipe: %v", err)
		}
	}
}

// TestDirectoryReplacedByAFile while it runs: what is appended is in memory from the first message
// on, which Stats tells, and all of it comes when the directory is back.
func TestDirectoryReplacedByAFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got reports
		dir, b := goneBox(t, &got)
		if err := os.Rename(dir, dir+".away"); err != nil {
			t.Skipf("this system moves no directory that is in use: %v", err)
		}
		if err := os.WriteFile(dir, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		appendBodies(t, b, "41")
		if !b.Stats().Degraded {
			t.Error("the message counts as durable, and no disk has it where it can be found")
		}
		if err := errors.Join(os.Remove(dir), os.Rename(dir+".away", dir)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * retryEvery)
		if r := queued(t, b); len(r) != 37 || string(r[36].Body) != "41" {
			t.Errorf("%d messages, the last is %+v", len(r), r[len(r)-1])
		}
		if s := b.Stats(); s.Degraded || s.Damaged != 0 {
			t.Errorf("%+v", s)
		}
		closeBox(t, b)
	})
}

// TestDirectoryIsALinkToNowhere: Open refuses it. It would otherwise take messages into memory that
// no disk will ever take from there.
func TestDirectoryIsALinkToNowhere(t *testing.T) {
	for kind, target := range map[string]string{"dangling": filepath.Join(t.TempDir(), "gone"), "a loop": "box"} {
		dir := filepath.Join(t.TempDir(), "box")
		if err := os.Symlink(target, dir); err != nil {
			t.Skipf("this user may not make links here: %v", err)
		}
		b, err := Open(dir, Options{})
		if err == nil {
			t.Errorf("%s: it opens: %+v", kind, b.Stats())
			_ = b.Close()
		} else if !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

// TestHugeFileIsNamed: a file that is larger than any segment is not read to its end.
func TestHugeFileIsNamed(t *testing.T) {
	dir := t.TempDir()
	b := openBox(t, dir, Options{})
	appendBodies(t, b, "1")
	closeBox(t, b)
	if err := os.Truncate(b.path(1), 1<<40); err != nil {
		t.Skipf("this file system has no files of a terabyte: %v", err)
	}
	if _, err := Open(dir, Options{}); !errors.Is(err, ErrSpecial) || !strings.Contains(err.Error(), "1099511627776 bytes") {
		t.Errorf("got %v", err)
	}
}

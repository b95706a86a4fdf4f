package outbox

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/telemetry/message"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk/memdisk"
)

// notices counts the calls of a reader that waits.
type notices struct{ n atomic.Int32 }

func (c *notices) wake() { c.n.Add(1) }

func (c *notices) equal(t *testing.T, want int) {
	t.Helper()
	if got := int(c.n.Load()); got != want {
		t.Errorf("called %d times, not %d", got, want)
	}
}

// A reader is called once when its part has a record: at once, with the append that brings it, or
// when the box is closed; and not if it has taken the call back.
func TestNotify(t *testing.T) {
	b := openBox(t, "/box", Options{FS: memdisk.New()})
	var now, later, other, never, end notices
	appendBodies(t, b, "1")
	b.Notify(now.wake, Part{After: 1}, Part{})
	now.equal(t, 1)
	b.Notify(later.wake, Part{After: 1})
	b.Notify(other.wake, Part{After: 2})
	stop := b.Notify(never.wake, Part{After: 1})
	if !stop() || stop() {
		t.Error("taken back not once")
	}
	b.Notify(end.wake, Part{Until: 1}, Part{After: 1, Until: 2})
	later.equal(t, 0)
	appendBodies(t, b, "2")
	later.equal(t, 1)
	other.equal(t, 0)
	appendBodies(t, b, "3")
	other.equal(t, 1)
	end.equal(t, 0)
	closeBox(t, b)
	end.equal(t, 1)
	b.Notify(end.wake)
	end.equal(t, 2)
	now.equal(t, 1)
	later.equal(t, 1)
	never.equal(t, 0)
}

// A reader that waits has a failed disk tried again, without an append, and no timer runs on a good
// one.
func TestNotifyTriesTheDiskAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := memdisk.New()
		b := openBox(t, "/box", Options{FS: disk})
		disk.SetFault(func(_ int, op, _ string) error {
			if op == "write" {
				return syscall.ENOSPC
			}
			return nil
		})
		appendBodies(t, b, "1")
		ackAll(t, b, queued(t, b))
		var c notices
		b.Notify(c.wake, Part{})
		time.Sleep(3 * retryEvery)
		if !b.Stats().Degraded {
			t.Error("not degraded")
		}
		disk.SetFault(nil)
		time.Sleep(2 * retryEvery)
		if b.Stats().Degraded {
			t.Error("the disk was not tried again")
		}
		calls := disk.Count("open")
		time.Sleep(time.Hour)
		equal(t, "opens of an idle box", disk.Count("open"), calls)
		c.equal(t, 0)
		appendBodies(t, b, "2")
		c.equal(t, 1)
		closeBox(t, b)
	})
}

// Whoever finds that the disk can be read again wakes the readers that wait, and does so before it
// waits itself: a producer without room waits for these readers.
func TestWhoeverFindsTheDiskWakesReaders(t *testing.T) {
	for name, find := range map[string]func(ctx context.Context, b *Box) error{
		"producer without room": func(ctx context.Context, b *Box) error {
			if err := b.Append(ctx, message.Message{Body: make([]byte, 6<<10)}); !errors.Is(err, ErrFull) {
				return fmt.Errorf("it had room: %w", err)
			}
			return nil
		},
		"reader": func(ctx context.Context, b *Box) error { return b.Wait(ctx, Part{}) },
	} {
		synctest.Test(t, func(t *testing.T) {
			disk := memdisk.New()
			o := Options{FS: disk, MaxBytes: 8 << 10, Full: Block}
			b := openBox(t, "/box", o)
			appendBodies(t, b, strings.Repeat("x", 6<<10))
			closeBox(t, b)
			disk.SetDeny(func(op, _ string) error {
				if op == "list" {
					return syscall.EIO
				}
				return nil
			})
			b = openBox(t, "/box", o)
			appendBodies(t, b, strings.Repeat("y", 6<<10))
			var c notices
			b.Notify(c.wake, Part{})
			c.equal(t, 0)
			disk.SetDeny(nil)
			b.mu.Lock()
			b.retryAt = time.Now() // before the timer of the reader that waits
			b.mu.Unlock()
			ctx, stop := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- find(ctx, b) }()
			time.Sleep(time.Hour)
			if b.Stats().Degraded || c.n.Load() != 1 {
				t.Errorf("%s: degraded: %v; the reader was called %d times", name, b.Stats().Degraded, c.n.Load())
			}
			stop()
			if err := <-ended; err != nil {
				t.Errorf("%s: %v", name, err)
			}
			closeBox(t, b)
		})
	}
}

// A disk that is slow to fail is not asked again and again meanwhile.
func TestNotifyWaitsForWhoeverTries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk, fails := memdisk.New(), new(atomic.Bool)
		slow := &hangingFS{FS: disk}
		b := openBox(t, "/box", Options{FS: slow})
		disk.SetFault(func(_ int, op, _ string) error {
			if fails.Load() && op != "lock" {
				return errors.New("no")
			}
			return nil
		})
		fails.Store(true)
		appendBodies(t, b, "1")
		slow.pause.Store(int64(time.Minute))
		var a, c notices
		b.Notify(a.wake, Part{After: 1})
		b.Notify(c.wake, Part{After: 1})
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if n := slow.opens.Load(); n > 40 {
			t.Errorf("%d tries", n)
		}
		slow.pause.Store(0)
		fails.Store(false)
		time.Sleep(10 * time.Minute)
		a.equal(t, 0)
		closeBox(t, b)
		a.equal(t, 1)
		c.equal(t, 1)
	})
}

// hangingFS takes its time to open a file.
type hangingFS struct {
	disk.FS
	pause atomic.Int64
	opens atomic.Int32
}

func (h *hangingFS) Open(name string, flag int) (disk.File, error) {
	h.opens.Add(1)
	time.Sleep(time.Duration(h.pause.Load()))
	return h.FS.Open(name, flag)
}

// Close waits for a report of a reader that waits, so that none comes afterwards.
func TestNoReportAfterClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := memdisk.New()
		var reporting, closed atomic.Bool
		b := openBox(t, "/box", Options{FS: disk, Report: func(p Problem) {
			if p.Kind == Recovered {
				reporting.Store(true)
				time.Sleep(time.Minute)
				if closed.Load() {
					t.Error("it is closed already")
				}
			}
		}})
		disk.SetFault(func(_ int, op, _ string) error {
			if op == "write" {
				return syscall.ENOSPC
			}
			return nil
		})
		appendBodies(t, b, "1")
		disk.SetFault(nil)
		b.Notify(func() {}, Part{After: 1})
		time.Sleep(2 * retryEvery)
		if !reporting.Load() {
			t.Error("nothing was reported")
		}
		closeBox(t, b)
		closed.Store(true)
	})
}

// TestWatchIsUsedAgain: a watch waits again after its call, a watch that waits already waits for
// the new parts only, and none of that costs memory.
func TestWatchIsUsedAgain(t *testing.T) {
	b, err := NewMemory(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = b.Close() }()
	calls := 0
	w := Watch{Wake: func() { calls++ }}
	add := func(want int) {
		t.Helper()
		if err := b.TryAppend(message.Message{Body: []byte("x")}); err != nil {
			t.Fatal(err)
		}
		if calls != want {
			t.Errorf("%d calls, not %d", calls, want)
		}
	}
	b.Watch(&w, Part{After: 0})
	add(1)
	add(1)
	b.Watch(&w, Part{After: 3})
	b.Watch(&w, Part{After: 2})
	b.Watch(&w, Part{After: 4})
	add(1)
	add(1)
	add(2)
	b.Watch(&w, Part{After: 5})
	if !b.Unwatch(&w) || b.Unwatch(&w) {
		t.Error("the wait was taken back never, or twice")
	}
	add(2)
	if n := testing.AllocsPerRun(100, func() {
		b.Watch(&w, Part{After: 100})
		b.Watch(&w, Part{After: 101}, Part{After: 100, Until: 101})
		b.Unwatch(&w)
	}); n != 0 {
		t.Errorf("a wait costs %v allocations", n)
	}
}

// Notify is Watch for a single wait. stop takes the call of wake back, as Unwatch does.
func (b *Box) Notify(wake func(), parts ...Part) (stop func() bool) {
	w := &Watch{Wake: wake}
	b.Watch(w, parts...)
	return func() bool { return b.Unwatch(w) }
}

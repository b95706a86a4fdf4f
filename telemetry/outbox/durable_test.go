package outbox

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/telemetry/message"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk/memdisk"
)

func messagesOf(bodies ...string) (ms []message.Message) {
	for _, s := range bodies {
		ms = append(ms, message.Message{Body: []byte(s)})
	}
	return ms
}

func TestAppendDurableWaitsForADiskThatFailsAndUsesNoMemory(t *testing.T) {
	for _, o := range []Options{{}, {Full: Block}, {SyncEvery: time.Minute}} {
		t.Run(fmt.Sprintf("%v %v", o.Full, o.SyncEvery), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				disk := memdisk.New()
				o.FS = disk
				b := openBox(t, "/box", o)
				appendBodies(t, b, "1")
				id := b.Stats().ID
				disk.SetFault(allFail)

				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				if err := b.AppendDurable(ctx, messagesOf("refused")...); !errors.Is(err, syscall.ENOSPC) {
					t.Errorf("AppendDurable on a full disk: %v", err)
				}
				done := make(chan error)
				go func() { done <- b.AppendDurable(t.Context(), messagesOf("2", "3")...) }()
				time.Sleep(time.Minute)
				appendBodies(t, b, "memory") // who does not mind goes into memory meanwhile
				select {
				case err := <-done:
					t.Errorf("AppendDurable returned %v while the disk failed", err)
				default:
				}
				disk.SetFault(nil)
				if err := <-done; err != nil {
					t.Error(err)
				}
				if s := b.Stats(); s.Degraded || s.ID != id || s.Unsynced != 0 {
					t.Errorf("afterwards: %+v", s)
				}
				killed := openBox(t, "/box", Options{FS: disk.Killed()})
				equalAll(t, "bodies", bodiesOf(queued(t, killed)), []string{"1", "memory", "2", "3"})
				closeBox(t, killed)
				closeBox(t, b)
			})
		})
	}
}

func TestAppendDurableBlocksWhateverAFullBoxDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := openBox(t, "/box", Options{FS: memdisk.New(), MaxBytes: 64 << 10, Full: DropOldest})
		big := message.Message{Body: make([]byte, 4<<10)}
		done := make(chan error)
		go func() {
			for range 40 {
				if err := b.AppendDurable(t.Context(), big); err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
		arrived := 0
		for arrived < 40 {
			synctest.Wait()
			for _, r := range queued(t, b) {
				arrived++
				if err := b.Ack(r.Pos); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		equal(t, "dropped", b.Stats().Dropped, 0)
		closeBox(t, b)
	})
}

// A commit that needs several segments may succeed with the first ones: only the rest is written
// again.
func TestAppendDurableWritesNothingTwice(t *testing.T) {
	for fails := 1; fails < 60; fails++ {
		synctest.Test(t, func(t *testing.T) {
			disk := memdisk.New()
			b := openBox(t, "/box", Options{FS: disk, MaxBytes: 1 << 20, Full: Block})
			var ms []message.Message
			var want []string
			for i := range 60 {
				text := fmt.Sprintf("%04d%08000d", i, 0)
				ms, want = append(ms, message.Message{Body: []byte(text)}), append(want, text)
			}
			calls, from := 0, time.Now()
			disk.SetFault(func(int, string, string) error {
				if calls++; calls >= fails && time.Since(from) < time.Minute {
					return memdisk.ErrSpace
				}
				return nil
			})
			if err := b.AppendDurable(t.Context(), ms...); err != nil {
				t.Fatal(err)
			}
			equalAll(t, "bodies", bodiesOf(queued(t, b)), want)
			equal(t, "last", b.Last(), 60)
			closeBox(t, b)
		})
	}
}

func TestAppendDurableInMemoryIsAppend(t *testing.T) {
	b, err := NewMemory(Options{Full: Block})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.AppendDurable(t.Context(), messagesOf("1")...); err != nil {
		t.Error(err)
	}
	equal(t, "queued", b.Stats().Queued, 1)
	closeBox(t, b)
}

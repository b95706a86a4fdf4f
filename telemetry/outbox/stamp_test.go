package outbox

import (
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/telemetry/message"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk/memdisk"
)

// stampPositions is a Stamp that writes the position of each message into the nanoseconds of its
// time.
func stampPositions(first uint64, made []time.Time) {
	for i, t := range made {
		made[i] = t.Truncate(time.Second).Add(time.Duration(first + uint64(i)))
	}
}

// isStamped says whether stampPositions was told the position that the record has.
func isStamped(r Record) bool { return uint64(r.Created.Nanosecond()) == r.Pos }

// Producers that append at the same time, into a box that drops, syncs late, or fails, have their
// messages stamped with the positions that these get, one commit after the other.
func TestStampKnowsThePosition(t *testing.T) {
	for name, o := range map[string]Options{"synced": {}, "relaxed": {SyncEvery: 5 * time.Millisecond}, "full": {MaxBytes: 64 << 10}} {
		t.Run(name, func(t *testing.T) {
			next := uint64(1)
			o.Stamp = func(first uint64, made []time.Time) { // not locked: the race detector looks
				if first != next {
					t.Errorf("position %d comes after %d", first, next-1)
				}
				next = first + uint64(len(made))
				stampPositions(first, made)
			}
			const producers, each = 8, 60
			disk := memdisk.New()
			disk.SetFault(func(call int, op, _ string) error {
				if op == "sync" && call%7 == 0 {
					return syscall.ENOSPC
				}
				return nil
			})
			o.FS = disk
			b := openBox(t, "/box", o)
			var all sync.WaitGroup
			for range producers {
				all.Go(func() {
					for n := range each {
						if err := b.Append(t.Context(), make([]message.Message, 1+n%3)...); err != nil {
							t.Error(err)
						}
					}
				})
			}
			all.Wait()
			equal(t, "last", b.Last(), next-1)
			for _, r := range queued(t, b) {
				if !isStamped(r) {
					t.Fatalf("%s at %d was stamped %v", r.ID, r.Pos, r.Created)
				}
			}
			disk.SetFault(nil)
			closeBox(t, b)
			b = openBox(t, "/box", o)
			for _, r := range queued(t, b) {
				if !isStamped(r) {
					t.Fatalf("%s at %d was stamped %v before the box was opened again", r.ID, r.Pos, r.Created)
				}
			}
			closeBox(t, b)
		})
	}
}

// A message that is as large as can be may be stamped with any time.
func TestStampOfTheLargest(t *testing.T) {
	far := time.Date(290_000_000_000, 1, 1, 0, 0, 0, 999_999_999, time.UTC)
	b := openBox(t, "/box", Options{FS: memdisk.New(), Stamp: func(_ uint64, made []time.Time) { made[0] = far }})
	body := make([]byte, MaxRecord)
	for b.Append(t.Context(), message.Message{Body: body}) != nil {
		body = body[1:]
	}
	r := queued(t, b)
	if len(r) != 1 || len(r[0].Body) != len(body) || len(body) < MaxRecord-100 || !r[0].Created.Equal(far) {
		t.Errorf("%d records, a body of %d bytes", len(r), len(body))
	}
	if err := b.Append(t.Context(), message.Message{Body: []byte(strings.Repeat("x", len(body)+1))}); err == nil {
		t.Error("a larger one is taken")
	}
	closeBox(t, b)
}

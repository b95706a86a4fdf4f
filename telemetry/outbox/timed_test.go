package outbox

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk/memdisk"
)

// slowSyncs is a disk whose segments take a while to sync.
type slowSyncs struct {
	*memdisk.FS
	takes time.Duration
}

func (s *slowSyncs) Create(name string) (disk.File, error) { return s.Open(name, readWrite|exclusive) }

func (s *slowSyncs) Open(name string, flag int) (disk.File, error) {
	f, err := s.FS.Open(name, flag)
	return slowSync{f, s}, err
}

type slowSync struct {
	disk.File
	of *slowSyncs
}

func (f slowSync) Sync() error {
	time.Sleep(f.of.takes)
	return f.File.Sync()
}

// times keeps what a box tells in several goroutines.
type times struct {
	mu   sync.Mutex
	told []time.Duration
}

func (l *times) add(took time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.told = append(l.told, took)
}

// take returns what was told since the last call.
func (l *times) take() []time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	told := l.told
	l.told = nil
	return told
}

// TestAppendsAndSyncsAreTimed appends to a slow disk in virtual time, durably, relaxed, and where
// there is no room.
func TestAppendsAndSyncsAreTimed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var appended, synced times
		disk := &slowSyncs{FS: memdisk.New(), takes: 20 * time.Millisecond}
		o := Options{FS: disk, Full: Block, MaxBytes: 4 << 10,
			Appended: appended.add, Synced: synced.add}
		b := openBox(t, "/box", o)
		appendBodies(t, b, body(1))
		synctest.Wait()
		appends, syncs := appended.take(), synced.take()
		if len(appends) != 1 || len(syncs) != 1 || syncs[0] != disk.takes || appends[0] != disk.takes {
			t.Errorf("appends took %v, syncs %v", appends, syncs)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		for err := error(nil); err == nil; { // the last one waits for room
			appended.take()
			if err = b.Append(ctx, sample200()); err != nil && !errors.Is(err, ErrFull) {
				t.Fatal(err)
			}
		}
		if appends = appended.take(); len(appends) != 1 || appends[0] < 2*time.Second {
			t.Errorf("an append that waits for room took %v", appends)
		}
		closeBox(t, b)

		synced.take()
		o.SyncEvery, o.MaxBytes = time.Second, 1<<20
		b = openBox(t, "/relaxed", o)
		appendBodies(t, b, body(1))
		if appends, syncs = appended.take(), synced.take(); len(appends) != 1 || appends[0] != 0 || len(syncs) != 0 {
			t.Errorf("a relaxed append took %v, with syncs %v", appends, syncs)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if syncs = synced.take(); len(syncs) != 1 || syncs[0] != disk.takes {
			t.Errorf("the sync of a relaxed append took %v", syncs)
		}
		closeBox(t, b)
	})
}

// BenchmarkTimedAppend appends to memory, where an append takes least, with nobody to tell and with
// somebody.
func BenchmarkTimedAppend(b *testing.B) {
	var told atomic.Int64
	for name, tell := range map[string]func(time.Duration){"off": nil, "on": func(time.Duration) { told.Add(1) }} {
		b.Run(name, func(b *testing.B) {
			box, err := NewMemory(Options{Appended: tell, MaxBytes: 1 << 20})
			if err != nil {
				b.Fatal(err)
			}
			m := sample200()
			b.ReportAllocs()
			for b.Loop() {
				if err := box.Append(context.Background(), m); err != nil {
					b.Fatal(err)
				}
			}
			closeBox(b, box)
		})
	}
}

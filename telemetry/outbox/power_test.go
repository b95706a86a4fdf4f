package outbox

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/internal/racing"
	"github.com/hubhop-iot/hubhop/telemetry/message"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk/memdisk"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/format"
)

// A run of a world is recorded call by call. The disk before each call (what was synced, and every
// write, truncation, creation, rename and removal that was not) is a prefix of the run that a power
// cut may have ended. From each of them many disks are made: without what was not synced, with all
// of it, and with parts of it, so that writes are dropped, overtake each other within their sync
// window, and are torn at sectors. Each of those must open legally.

// prefix is a moment of a run.
type prefix struct {
	disk     *memdisk.FS
	promised map[string]string // what Append has promised to keep over a power cut, with ids where they are known
	received map[string]string // what has arrived
	acked    map[string]bool   // bodies whose Ack was called
	gaps     map[string]map[uint64]bool
}

// record runs a world and returns its prefixes.
func record(t *testing.T, seed uint64, o Options, steps int, drops bool) (all []prefix) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, seed, o)
		var watched *memdisk.FS
		watch := func() {
			if watched == w.disk {
				return
			}
			disk := w.disk
			watched = disk
			disk.SetFault(func(int, string, string) error {
				w.mu.Lock()
				defer w.mu.Unlock()
				p := prefix{disk: disk.Copied(), promised: maps.Clone(w.safe), received: maps.Clone(w.far.received), acked: maps.Clone(w.acked), gaps: map[string]map[uint64]bool{}}
				for _, text := range w.loose {
					delete(p.promised, text)
				}
				for box, seqs := range w.far.gaps {
					p.gaps[box] = maps.Clone(seqs)
				}
				all = append(all, p)
				return nil
			})
		}
		watch()
		w.open()
		for range steps {
			w.step(drops)
			watch()
		}
		watched.SetFault(nil)
		w.settle(!drops)
	})
	return all
}

// check opens what a power cut has left.
func (p *prefix) check(t *testing.T, disk *memdisk.FS, o Options, drops bool, name string) {
	t.Helper()
	o.FS = disk
	o.Report = func(x Problem) {
		if x.Kind != TornTail && (!drops || x.Kind != Dropped) && !errors.Is(x.Err, format.ErrHeader) && !errors.Is(x.Err, format.ErrHalved) { // as if a file's first write did not get through
			t.Errorf("%s: %v: %s", name, x.Kind, x.Text)
		}
	}
	b := openBox(t, "/box", o)
	missing := newConsumer()
	for box, seqs := range p.gaps {
		missing.gaps[box] = maps.Clone(seqs)
	}
	for _, g := range b.gaps {
		box := g.ID.String()
		if missing.gaps[box] == nil {
			missing.gaps[box] = map[uint64]bool{}
		}
		for seq := g.First; seq <= g.Last; seq++ {
			missing.gaps[box][seq] = true
		}
	}
	here, before := map[string]bool{}, map[string]int{}
	for _, r := range queued(t, b) {
		here[string(r.Body)] = true
		if old, ok := p.received[r.ID]; ok && old != string(r.Body) {
			t.Fatalf("%s: %s was %q and is %q", name, r.ID, old, r.Body)
		}
		if r.Gap != "" && !drops {
			t.Fatalf("%s: gap %s", name, r.Gap)
		}
		var n int
		if _, err := fmt.Sscan(string(r.Body), &n); err != nil {
			t.Fatalf("%s: %s is %q", name, r.ID, r.Body)
		}
		box, _ := splitID(t, r.ID)
		if n <= before[box] {
			t.Fatalf("%s: %d comes behind %d", name, n, before[box])
		}
		before[box] = n
	}
	top := map[string]uint64{}
	for id := range p.received {
		box, seq := splitID(t, id)
		top[box] = max(top[box], seq)
	}
	for text, id := range p.promised {
		if here[text] || p.acked[text] {
			continue
		}
		if id != "" && drops {
			if box, seq := splitID(t, id); missing.gaps[box][seq] {
				continue
			}
		}
		t.Fatalf("%s: %q (%s) was promised: %s", name, text, id, b.dump())
	}
	if err := b.TryAppend(message.Message{Body: []byte("new")}); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if s := b.Stats(); s.LastSeq <= top[s.ID] || s.Degraded {
		t.Fatalf("%s: seq %d is used again; %+v", name, s.LastSeq, s)
	}
	closeBox(t, b)
}

// Every prefix of short runs, with every set of what was not synced where they are at most 2^7.
func TestPowerLossExhaustive(t *testing.T) {
	t.Parallel()
	powerLoss(t, 1, 25, 7)
}

// Many prefixes of longer runs, at random.
func TestPowerLoss(t *testing.T) {
	t.Parallel()
	powerLoss(t, 1, 50, 2)
}

func powerLoss(t *testing.T, runs uint64, steps, few int) {
	if testing.Short() {
		runs = max(runs/4, 1)
	}
	if racing.On {
		steps /= 3
	}
	for name, v := range map[string]struct {
		o     Options
		drops bool
	}{
		"always":  {Options{MaxBytes: 64 << 10}, false},
		"relaxed": {Options{MaxBytes: 64 << 10, SyncEvery: time.Second}, false},
		"dropped": {Options{MaxBytes: 8 << 10}, true},
	} {
		t.Run(name, func(t *testing.T) {
			prefixes, disks, most := 0, 0, 0
			for seed := range runs * uint64(*moreSeeds) {
				rnd := rand.New(rand.NewPCG(seed, 3))
				for i, p := range record(t, seed, v.o, steps, v.drops) {
					prefixes++
					most = max(most, p.disk.Units())
					p.disk.Disks(rnd, few, func(disk *memdisk.FS, cut string) {
						disks++
						p.check(t, disk, v.o, v.drops, fmt.Sprintf("seed %d, prefix %d, %s", seed, i, cut))
					})
				}
			}
			t.Logf("%d prefixes, %d disks, up to %d units not synced", prefixes, disks, most)
		})
	}
}

// The test must be able to fail: an outbox that forgot to sync loses what it promised.
func TestPowerLossIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := memdisk.New()
		b := openBox(t, "/box", Options{FS: forgetful{disk}})
		appendBodies(t, b, bodies(1, 3)...)
		p := prefix{disk: disk.Copied()}
		lost := 0
		p.disk.Disks(rand.New(rand.NewPCG(1, 1)), 10, func(disk *memdisk.FS, _ string) {
			again := openBox(t, "/box", Options{FS: disk})
			if n := len(queued(t, again)); n != 3 {
				lost++
			}
			closeBox(t, again)
		})
		if lost == 0 {
			t.Error("nobody notices that segments are not synced")
		}
		closeBox(t, b)
	})
}

// forgetful does not sync segments.
type forgetful struct{ *memdisk.FS }

type unsyncedFile struct{ disk.File }

func (f forgetful) Open(name string, flag int) (disk.File, error) {
	file, err := f.FS.Open(name, flag)
	if err == nil && strings.HasSuffix(name, segSuffix) {
		file = unsyncedFile{file}
	}
	return file, err
}

func (unsyncedFile) Sync() error { return nil }

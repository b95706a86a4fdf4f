//go:build linux

package bench

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"
)

// contender is one that keeps messages, in turns with the others.
type contender struct {
	name, rule string
	start      func(t *testing.T, dir, broker, filter, rule string) *exec.Cmd
	inMemory   bool // its files are in memory, where a sync costs nothing
}

// memoryDisk is a file system in memory.
const memoryDisk = "/dev/shm"

// inTurn compares how long a message takes at 1,000 a second: each program for half a second, then
// the next one, in rounds, so that whatever else the machine and its disk do hits all of them
// alike. The disk alone takes part, and programs whose files are in memory, to tell what is the
// disk's.
func (x *flowBench) inTurn(t *testing.T) []number {
	const perSecond, rounds, turn = 1000, 10, 500 // messages
	c := newCloudAt(t, near(75), 0)
	withHub := func(t *testing.T, dir, broker, filter, rule string) *exec.Cmd {
		t.Helper()
		return edge(t, dir, broker, c, oneFlow(filter, rule))
	}
	all := []contender{
		{"bare program", passthrough, startBare, false},
		{"hubhop", passthrough, startOurs, false},
		{"hubhop", fiveFields, startOurs, false},
		{"hubhop, sending to a hub meanwhile", passthrough, withHub, false},
		{"hubhop, sending to a hub meanwhile", fiveFields, withHub, false},
		{"bare program, its file in memory", passthrough, startBare, true},
		{"hubhop, its files in memory", passthrough, startOurs, true},
		{"hubhop, its files in memory", fiveFields, startOurs, true},
		{"Telegraf", fiveFields, startTelegraf, false},
		{"Node-RED", fiveFields, startNodeRED, false},
	}
	turns := []func() figure{diskAlone(t, turn, perSecond)}
	for i := range all {
		turns = append(turns, x.turn(t, &all[i], turn, perSecond))
	}
	took, best := make([]figure, len(turns)), make([]figure, len(turns))
	for range rounds {
		for i, measure := range turns {
			if measure == nil {
				continue
			}
			f := measure()
			took[i] = append(took[i], f...)
			if best[i] == nil || f.p99() < best[i].p99() {
				best[i] = f
			}
		}
	}
	x.out.head(fmt.Sprintf("ms from PUBLISH to PUBACK at %d messages/s; %d turns of %d messages", perSecond, rounds, turn), "rule", "median", "p99", "max", "p99 of the calmest turn")
	row := func(i int, name, rule string) {
		if len(took[i]) == 0 {
			x.out.add(name, rule, "not installed", "–", "–", "–")
			return
		}
		x.out.add(name, rule, short(took[i].median()), short(took[i].p99()), short(slices.Max(took[i])), short(best[i].p99()))
	}
	row(0, "the disk alone: a write of 200 bytes and its fdatasync", "–")
	for i, c := range all {
		row(i+1, c.name, c.rule)
	}
	const what = "ms from PUBLISH to PUBACK, through mosquitto, at 1,000/s, durable in the outbox; floor: bare program; "
	return []number{
		{what + passthrough, len(took[2]), took[1], took[2], p99AtMost(2)},
		{what + fiveFields, len(took[3]), took[1], took[3], p99AtMost(2)},
	}
}

// turn starts a program, and returns a function that measures n messages; nil if it is not
// installed.
func (x *flowBench) turn(t *testing.T, c *contender, n, perSecond int) func() figure {
	t.Helper()
	w, dir := newWatch(t, x.broker), t.TempDir()
	if c.inMemory {
		dir = filepath.Join(memoryDisk, fmt.Sprintf("hubhop-bench-%d-%d", os.Getpid(), used))
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
	}
	filter, topic := sensors()
	if c.start(t, dir, w.address, filter, c.rule) == nil || !w.subscribes(c.name, 1) {
		return nil
	}
	x.warm(w, 2000, topic)
	return func() figure { return x.g.paced(w, perSecond, n, topic) }
}

// diskAlone returns a function that appends n records to a file and syncs each.
func diskAlone(t *testing.T, n, perSecond int) func() figure {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "kept"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	record := []byte(reading + "1234}")
	return func() (took figure) {
		began := time.Now()
		for i := range n {
			time.Sleep(time.Until(began.Add(time.Duration(i) * time.Second / time.Duration(perSecond))))
			at := time.Now()
			_, err := f.Write(record)
			if err == nil {
				err = syscall.Fdatasync(int(f.Fd()))
			}
			if err != nil {
				t.Fatal(err)
			}
			took = append(took, time.Since(at).Seconds()*1000)
		}
		return took
	}
}

//go:build linux

package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/virtual"
	"github.com/hubhop-iot/hubhop/telemetry/message"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk"
)

// boxes are the figures of the outbox. Each stands beside a floor from the same run, on the same
// disk and over the same network.
type boxes struct {
	t       *testing.T
	dir     string
	out     *rows
	numbers []number
}

func (x *boxes) add(what, floor, ours, ratio, goal string) { x.out.add(what, floor, ours, goal, ratio) }

// reach adds a row that is a number to reach, too.
func (x *boxes) reach(what string, n int, floor, ours float64, g goal) {
	x.numbers = append(x.numbers, number{what, n, figure{floor}, figure{ours}, g})
	x.add(what, short(floor), short(ours), ratio(ours, floor), g.String())
}

func whole[T int | int64 | uint64 | float64](v T) string { return fmt.Sprintf("%.0f", float64(v)) }

func outboxFigures(t *testing.T) []number {
	x := &boxes{t: t, dir: t.TempDir(), out: measured("make bench-outbox")}
	x.out.head("what", "floor", "outbox", "goal, or remark", "outbox to floor")
	x.oneProducer()
	x.manyProducers()
	x.flash()
	x.backlogs()
	x.memory()
	x.orders()
	write(t, "outbox", x.out)
	return x.numbers
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// figureSample takes about 200 bytes on the disk with its frame.
func figureSample() message.Message {
	return message.Message{
		Body:        []byte(`{"temperature":21.5,"humidity":45.25,"pressure":1013.25,"battery":87,"location":{"lat":52.52,"lon":13.405}}` + strings.Repeat(" ", 40)),
		ContentType: "application/json", ContentEncoding: "utf-8", Created: time.Now(),
	}
}

func (x *boxes) open(o outbox.Options) (*outbox.Box, string) {
	x.t.Helper()
	dir, err := os.MkdirTemp(x.dir, "box")
	must(x.t, err)
	b, err := outbox.Open(dir, o)
	must(x.t, err)
	return b, dir
}

func (x *boxes) fill(b *outbox.Box, n int) {
	x.t.Helper()
	ms := slices.Repeat([]message.Message{figureSample()}, 1000)
	for ; n > 0; n -= len(ms) {
		must(x.t, b.Append(context.Background(), ms[:min(n, len(ms))]...))
	}
}

// bareFile is what any durable write costs: bytes into an existing file of a megabyte, and a sync.
type bareFile struct {
	t   testing.TB
	dir string
	n   int
	f   disk.File
	at  int64
}

func (b *bareFile) write(buf []byte) {
	b.t.Helper()
	var err error
	if b.f == nil || b.at+int64(len(buf)) > 1<<20 {
		if b.f != nil {
			must(b.t, b.f.Close())
		}
		b.n++
		b.at = 0
		b.f, err = disk.Real().Open(filepath.Join(b.dir, fmt.Sprint("bare", b.n)), os.O_RDWR|os.O_CREATE)
		must(b.t, err)
		must(b.t, b.f.Truncate(1<<20))
	}
	_, err = b.f.WriteAt(buf, b.at)
	must(b.t, err)
	must(b.t, b.f.Sync())
	b.at += int64(len(buf))
}

func noise(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + 1)
	}
	return b
}

func (x *boxes) oneProducer() {
	b, _ := x.open(outbox.Options{})
	floor, buf, m := &bareFile{t: x.t, dir: x.dir}, noise(200), figureSample()
	var bare, rate float64
	for range 10 { // the one counts in which the disk had least to do for others
		var ours, theirs time.Duration
		n := 0
		for ; ours+theirs < time.Second; n++ { // in turns, so that both see the same disk
			start := time.Now()
			must(x.t, b.Append(context.Background(), m))
			middle := time.Now()
			floor.write(buf)
			ours, theirs = ours+middle.Sub(start), theirs+time.Since(middle)
		}
		if all := float64(2*n) / (ours + theirs).Seconds(); 2/(1/max(bare, 1)+1/max(rate, 1)) < all {
			bare, rate = float64(n)/theirs.Seconds(), float64(n)/ours.Seconds()
		}
	}
	must(x.t, b.Close())
	x.add("durable appends/s of 200 B, one producer; floor: bare write and fdatasync", whole(bare), whole(rate), ratio(rate, bare), "≥ 0.90 of the floor")
}

// produce lets producers append n records one by one, side by side.
func (x *boxes) produce(b *outbox.Box, producers, n int) {
	x.t.Helper()
	m := figureSample()
	var left atomic.Int64
	left.Store(int64(n))
	var wg sync.WaitGroup
	for range producers {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				if err := b.Append(context.Background(), m); err != nil {
					x.t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func (x *boxes) manyProducers() {
	const producers, n = 64, 300_000
	most, bare := 0.0, 0.0
	for range 3 {
		floor, buf := &bareFile{t: x.t, dir: x.dir}, noise(200*producers)
		start := time.Now()
		turns := 0
		for ; time.Since(start) < time.Second; turns++ {
			floor.write(buf)
		}
		bare = max(bare, float64(turns*producers)/time.Since(start).Seconds())

		b, _ := x.open(outbox.Options{})
		start = time.Now()
		x.produce(b, producers, n)
		most = max(most, n/time.Since(start).Seconds())
		must(x.t, b.Close())
	}
	x.reach("durable appends/s of 200 B, 64 producers; floor: bare, 64 × 200 B and one fdatasync", 3, bare, most, atLeast(100_000))
}

// countingFS counts what goes to the disk.
type countingFS struct {
	disk.FS
	syncs, written atomic.Int64
}

type countingFile struct {
	disk.File
	c *countingFS
}

func (c *countingFS) Open(name string, flag int) (disk.File, error) {
	f, err := c.FS.Open(name, flag)
	return countingFile{f, c}, err
}

func (f countingFile) Sync() error {
	f.c.syncs.Add(1)
	return f.File.Sync()
}

func (f countingFile) WriteAt(p []byte, at int64) (int, error) {
	f.c.written.Add(int64(len(p)))
	return f.File.WriteAt(p, at)
}

// flash counts how many bytes are written to a flash for one record of 200 bytes, from its append
// to its acknowledgement.
func (x *boxes) flash() {
	for _, v := range []struct {
		name         string
		producers, n int
		every        time.Duration
	}{
		{"one at a time", 1, 20_000, 0},
		{"8 producers", 8, 60_000, 0},
		{"64 producers", 64, 200_000, 0},
		{"one at a time, --outbox-sync 1s", 1, 200_000, time.Second},
	} {
		disk := &countingFS{FS: disk.Real()}
		b, _ := x.open(outbox.Options{FS: disk, SyncEvery: v.every})
		before := blocks()
		x.produce(b, v.producers, v.n)
		must(x.t, b.Sync())
		appended, syncs, sent := disk.written.Load(), disk.syncs.Load(), blocks()-before
		x.add("bytes written per record of 200 B, "+v.name, "200", whole(float64(appended)/float64(v.n)), ratio(float64(appended), float64(200*v.n)), "")
		x.add("the same in pages of the system, to the disk", "200", whole(float64(sent)/float64(v.n)), ratio(float64(sent), float64(200*v.n)), "")
		x.add("syncs per record", "1", fmt.Sprintf("%.4f", float64(syncs)/float64(v.n)), ratio(float64(syncs), float64(v.n)), "")
		if v.producers == 64 {
			disk.written.Store(0)
			disk.syncs.Store(0)
			before = blocks()
			x.drain(b, v.n)
			x.add("bytes written per acknowledgement; floor: a cursor of 8 B", "8", whole(float64(disk.written.Load())/float64(v.n)), ratio(float64(disk.written.Load()), float64(8*v.n)), "")
			x.add("the same in pages of the system, to the disk", "8", fmt.Sprintf("%.2f", float64(blocks()-before)/float64(v.n)), ratio(float64(blocks()-before), float64(8*v.n)), "")
			x.add("syncs per acknowledgement", "1", fmt.Sprintf("%.6f", float64(disk.syncs.Load())/float64(v.n)), ratio(float64(disk.syncs.Load()), float64(v.n)), "at most one a second, and one per segment")
		}
		must(x.t, b.Close())
	}
}

// blocks are the bytes that this process has sent towards the disk, whole pages.
func blocks() int64 {
	text, err := os.ReadFile("/proc/self/io")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, "write_bytes: "); ok {
			n, _ := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
			return n
		}
	}
	return 0
}

// drain reads and acknowledges n records.
func (x *boxes) drain(b *outbox.Box, n int) {
	var batch outbox.Batch
	defer batch.Release()
	after := uint64(0)
	for n > 0 {
		r, err := virtual.Next(context.Background(), b, &batch, after, min(n, 64))
		must(x.t, err)
		for _, y := range r {
			must(x.t, b.Ack(y.Pos))
		}
		n, after = n-len(r), r[len(r)-1].Pos
	}
}

// backlogs shows that the cost of reading, acknowledging and truncating does not depend on how much
// is queued, and that a restart does not read all of it.
func (x *boxes) backlogs() {
	cursor, err := disk.Real().Open(filepath.Join(x.dir, "cursor"), os.O_RDWR|os.O_CREATE)
	must(x.t, err)
	buf := noise(104)
	const turn = 20_000
	var first float64
	for _, backlog := range []int{1_000, 10_000, 100_000, 1_000_000} {
		best, floor := time.Hour, time.Hour
		b, dir := x.open(large)
		x.fill(b, backlog)
		for range 5 {
			x.fill(b, turn)
			start := time.Now()
			x.drain(b, turn) // whole segments leave, and are deleted
			best = min(best, time.Since(start))
			start = time.Now()
			for range turn {
				_, err := cursor.WriteAt(buf, 0)
				must(x.t, err)
			}
			floor = min(floor, time.Since(start))
		}
		per := float64(best.Nanoseconds()) / turn
		if first == 0 {
			first = per
		}
		x.add(fmt.Sprintf("ns to read, acknowledge and truncate a record, %d queued behind; floor: bare write of 104 B", backlog), whole(float64(floor.Nanoseconds())/turn), whole(per),
			ratio(per, float64(floor.Nanoseconds())/turn), fmt.Sprintf("%.2f of that with 1000", per/first))
		must(x.t, b.Close())
		if backlog != 1_000_000 {
			continue
		}
		least, took, b, err := reopen(dir, backlog)
		must(x.t, err)
		x.reach("ms to reopen with 1,000,000 queued, to the first record; floor: a page of each file", 1, least.Seconds()*1000, took.Seconds()*1000, atMost(2000))
		must(x.t, b.Close())
	}
}

// large is an outbox with room for every backlog.
var large = outbox.Options{MaxBytes: 1 << 30}

// reopen measures the time from the opening of an outbox with a backlog to its first record. The
// floor is the time to read a page of each file.
func reopen(dir string, backlog int) (floor, took time.Duration, b *outbox.Box, err error) {
	start := time.Now()
	names, err := os.ReadDir(dir)
	if err != nil {
		return 0, 0, nil, err
	}
	for _, e := range names {
		f, err := os.Open(filepath.Join(dir, e.Name()))
		if err != nil {
			return 0, 0, nil, err
		}
		_, _ = f.ReadAt(make([]byte, 4096), 0)
		_ = f.Close()
	}
	floor = time.Since(start)
	start = time.Now()
	if b, err = outbox.Open(dir, large); err != nil {
		return 0, 0, nil, err
	}
	var first outbox.Batch
	_, err = virtual.Next(context.Background(), b, &first, 0, 1)
	took = time.Since(start)
	first.Release()
	if queued := b.Stats().Queued; err == nil && queued != uint64(backlog) {
		err = fmt.Errorf("%d are queued, not %d", queued, backlog)
	}
	return floor, took, b, err
}

// memory compares the resident memory of a process before and after it opens a backlog, drains some
// of it and appends.
func (x *boxes) memory() {
	for _, backlog := range []int{1_000, 1_000_000} {
		b, dir := x.open(large)
		x.fill(b, backlog)
		must(x.t, b.Close())
		f, err := inProcess(job{Role: "memory", Dir: dir})
		must(x.t, err)
		before, peak := f.Before, f.Peak
		x.add(fmt.Sprintf("MiB of RSS at most: open, append, drain 200000, %d queued at first; floor: before", backlog), mib(before), mib(peak), ratio(float64(peak), float64(before)),
			"≤ 8 more: "+mib(peak-before))
	}
}

func mib(bytes int64) string { return fmt.Sprintf("%.1f", float64(bytes)/(1<<20)) }

// atWork lives on an outbox like a device does, and returns the resident set before and at most.
func atWork(dir string) (f figures, err error) {
	runtime.GC()
	debug.FreeOSMemory()
	f.Before = resident()
	if err := forgetPeak(); err != nil {
		return f, err
	}
	b, err := outbox.Open(dir, large)
	if err != nil {
		return f, err
	}
	var batch outbox.Batch
	defer batch.Release()
	after := uint64(0)
	for drained := 0; drained < 200_000; {
		if err := b.Append(context.Background(), figureSample()); err != nil {
			return f, err
		}
		r, err := virtual.Next(context.Background(), b, &batch, after, 64)
		if err != nil {
			return f, err
		}
		for _, y := range r {
			if err := b.Ack(y.Pos); err != nil {
				return f, err
			}
		}
		drained, after = drained+max(len(r), 20), r[len(r)-1].Pos
	}
	f.Peak = peak()
	return f, b.Close()
}

// forgetPeak lets the peak of the resident set start anew.
func forgetPeak() error { return os.WriteFile("/proc/self/clear_refs", []byte("5"), 0) }

// peak is the most that the resident set of this process was, in bytes.
func peak() int64 {
	text, _ := os.ReadFile("/proc/self/status")
	return statusOf(string(text), "VmHWM")
}

// statusOf is a size in /proc/*/status, in bytes.
func statusOf(text, key string) int64 {
	for line := range strings.Lines(text) {
		if v, ok := strings.CutPrefix(line, key+":"); ok {
			kib, _ := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(v), "kB")), 10, 64)
			return kib << 10
		}
	}
	return 0
}

// orders compares the two orders in which a drain may send.
func (x *boxes) orders() {
	c := newCloud(x.t, 0)
	defer func() { _ = c.Close() }()
	f := best(x.t, 3, func(role string) job { return c.job(role, 1, 64, 500*time.Millisecond) }, "bare", "outbox", "fresh")
	bare, fifo, fresh := f["bare"].PerSecond, f["outbox"].PerSecond, f["fresh"].PerSecond
	x.add("messages/s from outbox to cloud, 64 in flight; floor: bare program", whole(bare), whole(fifo), ratio(fifo, bare), "")
	x.add("the same, --drain-order fresh-first", whole(bare), whole(fresh), ratio(fresh, bare), "")
}

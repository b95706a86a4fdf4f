package outbox

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// sample200 is a message that takes about 200 bytes on the disk with its frame.
func sample200() Message {
	return Message{
		Body:        []byte(`{"temperature":21.5,"humidity":45.25,"pressure":1013.25,"battery":87,"location":{"lat":52.52,"lon":13.405}}` + strings.Repeat(" ", 40)),
		ContentType: "application/json", ContentEncoding: "utf-8", Created: time.Now(),
	}
}

// bare is the floor for one producer: a write of as many bytes and a sync, in files of the size of our segments.
type bare struct {
	dir  string
	f    File
	n    int
	at   int64
	size int64
}

func (x *bare) write(b *testing.B, buf []byte) {
	if x.f == nil || x.at+int64(len(buf)) > x.size {
		if x.f != nil {
			_ = x.f.Close()
		}
		x.n, x.at, x.size = x.n+1, 0, segmentBytes(DefaultMaxBytes)
		var err error
		if x.f, err = Disk().Open(filepath.Join(x.dir, fmt.Sprint(x.n)), os.O_RDWR|os.O_CREATE); err != nil {
			b.Fatal(err)
		}
		if err := x.f.Truncate(x.size); err != nil {
			b.Fatal(err)
		}
	}
	if _, err := x.f.WriteAt(buf, x.at); err != nil {
		b.Fatal(err)
	}
	if err := x.f.Sync(); err != nil {
		b.Fatal(err)
	}
	x.at += int64(len(buf))
}

// BenchmarkOneProducer appends and does the bare thing in turns, so that both see the same disk.
func BenchmarkOneProducer(b *testing.B) {
	box := openBox(b, b.TempDir(), Options{})
	floor, m, buf := &bare{dir: b.TempDir()}, sample200(), make([]byte, 200)
	for i := range buf {
		buf[i] = byte(i) + 1
	}
	var ours, theirs time.Duration
	for b.Loop() {
		start := time.Now()
		if err := box.Append(context.Background(), m); err != nil {
			b.Fatal(err)
		}
		middle := time.Now()
		floor.write(b, buf)
		ours, theirs = ours+middle.Sub(start), theirs+time.Since(middle)
	}
	b.ReportMetric(float64(b.N)/ours.Seconds(), "records/s")
	b.ReportMetric(float64(b.N)/theirs.Seconds(), "bare/s")
	b.ReportMetric(100*float64(theirs)/float64(ours), "%-of-bare")
	_ = floor.f.Close()
	closeBox(b, box)
}

// BenchmarkAppend is the durable append of 200 bytes by a number of producers.
func BenchmarkAppend(b *testing.B) {
	for _, producers := range []int{1, 8, 64} {
		b.Run(fmt.Sprint(producers), func(b *testing.B) {
			disk := &countingFS{FS: Disk()}
			box := openBox(b, b.TempDir(), Options{FS: disk})
			m := sample200()
			var left atomic.Int64
			left.Store(int64(b.N))
			b.ReportAllocs()
			b.ResetTimer()
			var wg sync.WaitGroup
			for range producers {
				wg.Go(func() {
					for left.Add(-1) >= 0 {
						if err := box.Append(context.Background(), m); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
			b.ReportMetric(float64(disk.syncs.Load())/float64(b.N), "syncs/record")
			b.ReportMetric(float64(disk.written.Load())/float64(b.N), "B-written/record")
			closeBox(b, box)
		})
	}
}

// countingFS counts what goes to the disk.
type countingFS struct {
	FS
	syncs, written atomic.Int64
}

type countingFile struct {
	File
	c *countingFS
}

func (c *countingFS) Open(name string, flag int) (File, error) {
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

// fill queues n records of 200 bytes.
func fill(b *testing.B, box *Box, n int) {
	m := sample200()
	ms := make([]Message, 1000)
	for i := range ms {
		ms[i] = m
	}
	for ; n > 0; n -= len(ms) {
		if err := box.Append(context.Background(), ms[:min(n, len(ms))]...); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkAck reads and acknowledges, with a short queue and with a long one.
func BenchmarkAck(b *testing.B) {
	for _, backlog := range []int{10_000, 200_000} {
		b.Run(fmt.Sprint(backlog), func(b *testing.B) {
			box := openBox(b, b.TempDir(), Options{})
			const turn = 50_000
			fill(b, box, backlog)
			b.ReportAllocs()
			b.ResetTimer()
			after := uint64(0)
			for n := 0; n < b.N; {
				if n%turn == 0 {
					b.StopTimer()
					fill(b, box, turn)
					b.StartTimer()
				}
				r, err := box.Next(context.Background(), after, 50)
				if err != nil {
					b.Fatal(err)
				}
				for _, x := range r {
					if err := box.Ack(x.Pos); err != nil {
						b.Fatal(err)
					}
				}
				n, after = n+50, r[len(r)-1].Pos
			}
			b.StopTimer()
			closeBox(b, box)
		})
	}
}

// BenchmarkChurn is the life of a device that is connected: 64 in, read, acknowledged.
func BenchmarkChurn(b *testing.B) {
	box := openBox(b, b.TempDir(), Options{})
	ms := make([]Message, 64)
	for i := range ms {
		ms[i] = sample200()
	}
	after := uint64(0)
	for b.Loop() {
		if err := box.Append(context.Background(), ms...); err != nil {
			b.Fatal(err)
		}
		for n := 0; n < len(ms); {
			r, err := box.Next(context.Background(), after, 64)
			if err != nil {
				b.Fatal(err)
			}
			for _, x := range r {
				if err := box.Ack(x.Pos); err != nil {
					b.Fatal(err)
				}
			}
			n, after = n+len(r), r[len(r)-1].Pos
		}
	}
	b.ReportMetric(float64(64*b.N)/b.Elapsed().Seconds(), "records/s")
	closeBox(b, box)
}

// BenchmarkReopen opens a box with a million records in the line, after a clean end and after a kill, and reads the first one.
func BenchmarkReopen(b *testing.B) {
	for _, how := range []string{"closed", "killed"} {
		b.Run(how, func(b *testing.B) {
			dir := b.TempDir()
			o := Options{MaxBytes: 1 << 30}
			box := openBox(b, dir, o)
			fill(b, box, 1_000_000)
			if how == "closed" {
				closeBox(b, box)
			} else {
				_ = box.lock.Close() // as the system does
			}
			runtime.GC()
			for b.Loop() {
				again := openBox(b, dir, o)
				if r, err := again.Next(context.Background(), 0, 1); err != nil || again.Stats().Queued != 1_000_000 || len(r) != 1 {
					b.Fatal(err)
				}
				_ = again.lock.Close()
			}
			var m runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&m)
			b.ReportMetric(float64(m.HeapAlloc)/1e6, "heap-MB")
		})
	}
}

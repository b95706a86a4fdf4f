package outbox

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/telemetry/message"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk/memdisk"
)

// sample200 is a message that takes about 200 bytes on the disk with its frame.
func sample200() message.Message {
	return message.Message{
		Body:        []byte(`{"temperature":21.5,"humidity":45.25,"pressure":1013.25,"battery":87,"location":{"lat":52.52,"lon":13.405}}` + strings.Repeat(" ", 40)),
		ContentType: "application/json", ContentEncoding: "utf-8", Created: time.Now(),
	}
}

// BenchmarkAppend is the durable append of 200 bytes by a number of producers.
func BenchmarkAppend(b *testing.B) {
	for _, producers := range []int{1, 8, 64} {
		b.Run(fmt.Sprint(producers), func(b *testing.B) {
			box := openBox(b, b.TempDir(), Options{})
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
			closeBox(b, box)
		})
	}
}

// fill queues n records of 200 bytes.
func fill(b *testing.B, box *Box, n int) {
	m := sample200()
	ms := make([]message.Message, 1000)
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
				r, err := next(context.Background(), box, after, 50)
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
	ms := make([]message.Message, 64)
	for i := range ms {
		ms[i] = sample200()
	}
	after := uint64(0)
	for b.Loop() {
		if err := box.Append(context.Background(), ms...); err != nil {
			b.Fatal(err)
		}
		for n := 0; n < len(ms); {
			r, err := next(context.Background(), box, after, 64)
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

// BenchmarkSlowDevice is one message in, read and acknowledged by a device whose box rests between
// two of them, while most of a segment has left.
func BenchmarkSlowDevice(b *testing.B) {
	disk, m := memdisk.New(), sample200()
	box := openBox(b, "/box", Options{FS: disk})
	take := func(n int) {
		for n > 0 {
			r, err := next(context.Background(), box, 0, 64)
			if err != nil {
				b.Fatal(err)
			}
			for _, x := range r {
				if err := box.Ack(x.Pos); err != nil {
					b.Fatal(err)
				}
			}
			n -= len(r)
		}
	}
	fill(b, box, 4000)
	take(4000)
	read := disk.Count("bytes read")
	for b.Loop() {
		box.rest()
		if err := box.Append(context.Background(), m); err != nil {
			b.Fatal(err)
		}
		take(1)
	}
	b.ReportMetric(float64(disk.Count("bytes read")-read)/float64(b.N), "read-B/op")
	closeBox(b, box)
}

//go:build linux

package bench

import (
	"cmp"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/telemetry"
	"github.com/hubhop-iot/hubhop/telemetry/message"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

// growth shows that cost grows with the work: one message, or one link, costs the same however many
// there are.
func growth(t *testing.T) []number {
	out := measured("make bench")
	c := newCloud(t, 0)
	defer func() { _ = c.Close() }()
	do := func(j job) figures {
		f, err := inProcess(j)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	grown := func(f, first float64) string { return fmt.Sprintf("%s (× %s)", short(f), ratio(f, first)) }

	out.head("backlog, from the disk to a hub, window 100", "µs of processor time per message, bare program", "outbox to wire (× that of the first line)",
		"ms to look at the files", "ms to reopen, to the first record", "MiB of RSS more at most, bare program", "outbox to wire", "µs, ours to floor")
	var first figures
	for _, n := range []int{1_000, 10_000, 100_000, 1_000_000} {
		var bare, ours figures
		for range 3 { // the best counts
			for role, best := range map[string]*figures{"bare": &bare, "outbox": &ours} {
				j := c.job("growth", 1, 100, 0)
				j.Kind, j.Messages = role, n
				if f := do(j); best.CPU == 0 || f.CPU < best.CPU {
					*best = f
				}
			}
		}
		if first.CPU == 0 {
			first = ours
		}
		more := func(f figures) string { return short(float64(f.Peak-f.Before) / (1 << 20)) }
		out.add(fmt.Sprint(n), short(bare.CPU), grown(ours.CPU, first.CPU), short(ours.Page.Seconds()*1000), short(ours.Reopen.Seconds()*1000),
			more(bare), more(ours), ratio(ours.CPU, bare.CPU))
	}

	const rate = 20
	out.head(fmt.Sprintf("links in one process, TLS, each sends %d messages/s", rate), "ms of processor time per second for all of them, bare program", "ours",
		"for each link more than in the line before, bare program", "ours", "KiB of RSS for each link but the first, bare program", "ours", "goroutines for each, bare program", "ours",
		"ms for all, ours to floor")
	all := c.job("", 1000, 64, 0)
	last := map[string]figures{}
	lastN := 0
	for _, n := range []int{1, 10, 100, 1000} {
		j := all
		j.Messages, j.Devices, j.Duration = rate, map[string]string{}, 4*time.Second // the smaller, the longer
		if n > 10 {
			j.Duration = 2 * time.Second
		}
		for _, id := range slices.Sorted(maps.Keys(all.Devices))[:n] {
			j.Devices[id] = all.Devices[id]
		}
		line := map[string]figures{}
		for _, role := range []string{"bare", "link"} {
			j.Role = role
			some := []figures{do(j), do(j), do(j)}
			slices.SortFunc(some, func(a, b figures) int { return cmp.Compare(a.CPU, b.CPU) })
			line[role] = some[1]
		}
		each := func(role string) string {
			if lastN == 0 {
				return "–"
			}
			return short((line[role].CPU - last[role].CPU) / float64(n-lastN))
		}
		others := func(v float64) string {
			if n == 1 {
				return "–"
			}
			return short(v)
		}
		bare, ours := line["bare"], line["link"]
		out.add(fmt.Sprint(n), short(bare.CPU), short(ours.CPU), each("bare"), each("link"), others(bare.KiB), others(ours.KiB), others(bare.Goroutines), others(ours.Goroutines),
			ratio(ours.CPU, bare.CPU))
		last, lastN = line, n
	}
	write(t, "growth", out)
	return nil
}

// growth sends a number of messages, like the bare program or from an outbox that has them already.
func (c *client) growth() (f figures, err error) {
	var id string
	for id = range c.Devices {
	}
	var box *outbox.Box
	if c.Kind == "outbox" {
		dir, err := os.MkdirTemp("", "bench-*")
		if err != nil {
			return f, err
		}
		defer func() { _ = os.RemoveAll(dir) }()
		dir = filepath.Join(dir, "outbox")
		if box, err = outbox.Open(dir, large); err == nil {
			err = errors.Join(fill(box, c.Messages), box.Close())
		}
		if err == nil {
			f.Page, f.Reopen, box, err = reopen(dir, c.Messages)
		}
		if err != nil {
			return f, err
		}
		defer func() { _ = box.Close() }()
	}
	debug.FreeOSMemory()
	f.Before = resident()
	if err := forgetPeak(); err != nil {
		return f, err
	}
	var cpu, took time.Duration
	count := c.Messages
	if box == nil {
		count, cpu, took, err = c.sendBare(id)
	} else {
		cpu, took, err = c.drain(id, box, telemetry.FIFO)
	}
	f.PerSecond, f.CPU, f.Peak = float64(count)/took.Seconds(), float64(cpu.Nanoseconds())/1000/float64(count), peak()
	return f, err
}

// counting is a completion that counts what was acknowledged.
type counting struct{ acked *atomic.Int64 }

func (c counting) Done(tickets []uint64, err error) {
	if err == nil {
		c.acked.Add(int64(len(tickets)))
	}
}

// busy lets many connections send messages at a rate. It returns how many milliseconds of processor
// time all of them cost in a second, and what each costs in memory and goroutines. The first
// connection does not count for the latter, because a process needs more for the first one than for
// the others.
func (c *client) busy() (f figures, err error) {
	var acked atomic.Int64
	var send []func(n int) error
	open := func(id string) error {
		if c.Role == "link" {
			l, err := c.link(id, c.Window)
			if err != nil {
				return err
			}
			send = append(send, func(n int) error {
				_, err := l.Send([]message.Outgoing{{ID: "0123456789abcdef-" + strconv.Itoa(n), Message: message.Message{Body: []byte(sampleBody),
					ContentType: "application/json", ContentEncoding: "utf-8", Created: time.Date(2026, 3, 1, 8, 30, 0, 123e6, time.UTC)}}}, counting{&acked})
				return err
			})
			return nil
		}
		conn, err := c.bare(id)
		if err != nil {
			return err
		}
		go countAcks(conn, &acked)
		send = append(send, func(n int) error {
			m := publishPacket(eventTopic(id, "0123456789abcdef-"+strconv.Itoa(n)), sampleBody)
			binary.BigEndian.PutUint16(m[len(m)-len(sampleBody)-2:], uint16(1+n%60_000))
			_, err := conn.Write(m)
			return err
		})
		return nil
	}
	ids := slices.Sorted(maps.Keys(c.Devices))
	if err := open(ids[0]); err != nil {
		return f, err
	}
	run := func(d time.Duration) (cpu, took time.Duration, err error) {
		tick := time.NewTicker(time.Second / time.Duration(c.Messages))
		defer tick.Stop()
		want := acked.Load()
		began, used := time.Now(), processorTime()
		for n := 0; time.Since(began) < d; n++ {
			<-tick.C
			for _, one := range send {
				if err := one(n); err != nil {
					return 0, 0, err
				}
			}
			want += int64(len(send))
		}
		for acked.Load() < want {
			time.Sleep(time.Millisecond)
		}
		return processorTime() - used, time.Since(began), nil
	}
	warm := func() error {
		_, _, err := run(time.Second)
		runtime.GC()
		return err
	}
	if err := warm(); err != nil {
		return f, err
	}
	rss, routines := resident(), runtime.NumGoroutine()
	for _, id := range ids[1:] {
		if err := open(id); err != nil {
			return f, err
		}
	}
	if err := warm(); err != nil {
		return f, err
	}
	used, took, err := run(c.Duration)
	if err != nil {
		return f, err
	}
	f.CPU, f.PerSecond = used.Seconds()*1000/took.Seconds(), float64(c.Messages*len(ids))
	runtime.GC()
	if links := float64(len(ids) - 1); links > 0 {
		f.Goroutines = float64(runtime.NumGoroutine()-routines) / links
		f.KiB = float64(resident()-rss) / 1024 / links
	}
	return f, nil
}

func countAcks(conn *tls.Conn, acked *atomic.Int64) {
	b := make([]byte, 512)
	for held := 0; ; {
		n, err := conn.Read(b[held:])
		if err != nil {
			return
		}
		n += held
		acked.Add(int64(n / 4))
		held = copy(b, b[n&^3:n])
	}
}

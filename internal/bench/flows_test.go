//go:build linux

package bench

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// paths is how many topics the generator uses.
const paths = 100

// sensors returns a topic filter that nobody has had, and the topics that fit it.
func sensors() (filter string, topic func(i int) string) {
	used++
	prefix := fmt.Sprintf("s%06d", used)
	return prefix + "/+/t", func(i int) string { return fmt.Sprintf("%s/%d/t", prefix, i%paths) }
}

var used int // of the prefixes

// flows measures data flows from a broker to the outbox, beside other programs at the same broker.
// Each part can be run alone, and is only shown then: the table is written when all were measured.
func flows(t *testing.T) []number {
	broker := near(70) + ":1883"
	if !startBroker(t, broker) {
		fmt.Fprintln(os.Stderr, "mosquitto is not installed: no flow is measured")
		return nil
	}
	out := measured("make bench-flows")
	x := &flowBench{out: out, g: newGenerator(t, broker), broker: broker}
	parts := []section{
		{"beside", x.beside}, {"inturn", x.inTurn}, {"operators", x.operators}, {"state", stateStore},
		{"process", x.process}, {"backlogs", x.backlogs}, {"many", x.many}, {"throttles", x.throttles},
	}
	var all []number
	measured := 0
	for _, part := range parts {
		t.Run(part.name, func(t *testing.T) {
			began := time.Now()
			all = append(all, part.measure(t)...)
			fmt.Fprintf(os.Stderr, "flows/%s took %.0f s\n", part.name, time.Since(began).Seconds())
			measured++
		})
	}
	numbers := new(rows)
	numbers.numbers(all)
	if measured < len(parts) {
		fmt.Fprintf(os.Stderr, "%d of %d parts were measured: the table of flows is left as it was\n", measured, len(parts))
		return nil
	}
	out.WriteString(numbers.String())
	write(t, "flows", out)
	return all
}

// flowBench is what the parts of the measurement share.
type flowBench struct {
	out    *rows
	g      *generator
	broker string
}

// beside compares what programs need that take messages from a broker.
func (x *flowBench) beside(t *testing.T) []number {
	c := newCloudAt(t, near(75), 0)
	withHub := func(t *testing.T, dir, broker, filter, rule string) *exec.Cmd {
		t.Helper()
		return edge(t, dir, broker, c, oneFlow(filter, rule))
	}
	subjects := []subject{
		{"bare program", []string{passthrough}, startBare},
		{"hubhop", []string{passthrough, fiveFields}, startOurs},
		{"hubhop, sending to a hub meanwhile", []string{passthrough, fiveFields}, withHub},
		{"Telegraf", []string{passthrough, fiveFields}, startTelegraf},
		{"Node-RED", []string{passthrough, fiveFields}, startNodeRED},
	}
	const backlog, perSecond, span = 50_000, 1000, 4
	x.out.head("from mosquitto, QoS 1, no TLS, at most 100 in flight", "rule", fmt.Sprintf("µs of processor time per message, backlog of %d", backlog), "messages/s",
		fmt.Sprintf("µs at %d/s", perSecond), "MiB of RSS at most")
	found := map[string]figure{}
	for _, s := range subjects {
		for _, rule := range s.rules {
			t.Run(s.name+" "+rule, func(t *testing.T) {
				w := newWatch(t, x.broker)
				filter, topic := sensors()
				p := s.start(t, t.TempDir(), w.address, filter, rule)
				if p == nil {
					x.out.add(s.name, rule, "not installed", "–", "–", "–")
					return
				}
				if !w.subscribes(s.name, 1) {
					x.out.add(s.name, rule, "did not subscribe", "–", "–", "–")
					return
				}
				x.warm(w, 2000, topic)
				var cpu, rate float64
				for range 2 {
					a, b := drained(t, p, w, x.g, backlog, topic)
					if cpu == 0 || a < cpu {
						cpu = a
					}
					rate = max(rate, b)
				}
				before := onProcessor(p)
				x.g.paced(w, perSecond, perSecond*span, topic)
				pace := (onProcessor(p) - before) * 1000 / (perSecond * span)
				found[s.name+rule] = figure{cpu}
				x.out.add(s.name, rule, short(cpu), short(rate), short(pace), short(highest(p)))
			})
		}
	}
	bare := found["bare program"+passthrough]
	return []number{
		{"µs of processor time per message, mosquitto → passthrough → outbox, a backlog; floor: bare program", backlog, bare, found["hubhop"+passthrough], atMost(8)},
		{"the same with a map of five fields", backlog, bare, found["hubhop"+fiveFields], atMost(12)},
	}
}

// warm lets messages through until all is warm.
func (x *flowBench) warm(w *watch, n int, topic func(i int) string) {
	acked := w.acked.Load()
	x.g.burst(n, topic)
	w.until("the first acknowledgements", 30*time.Second, func() bool { return w.acked.Load() >= acked+int64(n) })
}

// drained lets a backlog gather while the program is stopped, and returns what the program took for
// each message, and how many it took a second.
func drained(t *testing.T, p *exec.Cmd, w *watch, g *generator, n int, topic func(i int) string) (cpu, rate float64) {
	t.Helper()
	_ = p.Process.Signal(syscall.SIGSTOP)
	defer func() { _ = p.Process.Signal(syscall.SIGCONT) }()
	time.Sleep(20 * time.Millisecond)
	acked, before := w.acked.Load(), onProcessor(p)
	g.burst(n, topic)
	began := time.Now()
	_ = p.Process.Signal(syscall.SIGCONT)
	w.until("the last acknowledgement", 2*time.Minute, func() bool { return w.acked.Load() >= acked+int64(n) })
	done := float64(w.acked.Load() - acked)
	return (onProcessor(p) - before) * 1000 / max(done, 1), done / time.Since(began).Seconds()
}

// highest is the most that a process has had in memory, in MiB.
func highest(c *exec.Cmd) float64 {
	return statusField(c, "VmHWM")
}

// statusField is a field of what the kernel says of a process, in MiB.
func statusField(c *exec.Cmd, key string) float64 {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.Process.Pid))
	return float64(statusOf(string(text), key)) / (1 << 20)
}

// process measures a process with ten flows, at rest and under load.
func (x *flowBench) process(t *testing.T) []number {
	const flows, span, messages = 10, 10 * time.Second, 200_000
	w := newWatch(t, x.broker)
	p := edge(t, t.TempDir(), w.address, nil, partFlows("part", flows))
	w.subscribes("hubhop", flows)
	time.Sleep(5 * time.Second)
	before, began := onProcessor(p), time.Now()
	time.Sleep(span)
	share := (onProcessor(p) - before) / float64(time.Since(began).Milliseconds()) * 100
	idle, program := rss(p), statusField(p, "RssFile")
	x.warm(w, messages, func(i int) string { return fmt.Sprintf("part/%d/t", i%flows) })
	size := 0.0
	if info, err := os.Stat(*hubhop); err == nil {
		size = float64(info.Size()) / 1e6
	}
	return []number{
		{fmt.Sprintf("MB of RSS of a process with 10 flows, at rest; %.1f of them are pages of the program's file", megabytes(program)), 1, nil, figure{megabytes(idle)}, atMost(30)},
		{fmt.Sprintf("at most, while %d messages come as fast as mosquitto has them", messages), 1, nil, figure{megabytes(highest(p))}, atMost(60)},
		{"% of a core that it takes at rest", 1, nil, figure{share}, atMost(0.5)},
		{"MB of the program", 1, nil, figure{size}, atMost(30)},
	}
}

// megabytes are so many MiB in MB, which is what the goals are in.
func megabytes(mib float64) float64 { return mib * (1 << 20) / 1e6 }

// partFlows are so many flows, each with a topic of its own below a prefix.
func partFlows(prefix string, n int) map[string]string {
	all := map[string]string{}
	for i := range n {
		name := fmt.Sprintf("%s-%d", prefix, i)
		all[name] = ruleFile(name, fmt.Sprintf("%s/%d/t", prefix, i), fiveFields)
	}
	return all
}

// backlogs shows that a message costs the same, however many wait.
func (x *flowBench) backlogs(t *testing.T) []number {
	x.out.head("backlog in mosquitto, map of five fields", "µs of processor time per message", "messages/s", "MiB of RSS at most")
	for _, n := range []int{100, 1000, 10_000, 100_000, 1_000_000} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			w := newWatch(t, x.broker)
			filter, topic := sensors()
			p := startOurs(t, t.TempDir(), w.address, filter, fiveFields)
			w.subscribes("hubhop", 1)
			x.warm(w, 2000, topic)
			var cpu, rate float64
			for range max(1, 5-n/20_000) {
				a, b := drained(t, p, w, x.g, n, topic)
				if cpu == 0 || a < cpu {
					cpu, rate = a, b
				}
			}
			x.out.add(fmt.Sprint(n), short(cpu), short(rate), short(highest(p)))
		})
	}
	return nil
}

// many shows that a message costs the same, however many flows there are.
func (x *flowBench) many(t *testing.T) []number {
	const messages = 100_000
	x.out.head(fmt.Sprintf("flows in one process, map of five fields, %d messages among them", messages), "µs of processor time per message", "messages/s", "MiB of RSS at most")
	for _, n := range []int{1, 10, 100} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			w, prefix := newWatch(t, x.broker), fmt.Sprintf("many-%d", n)
			p := edge(t, t.TempDir(), w.address, nil, partFlows(prefix, n))
			w.subscribes("hubhop", n)
			topic := func(i int) string { return fmt.Sprintf("%s/%d/t", prefix, i%n) }
			x.warm(w, 20*n, topic)
			cpu, rate := drained(t, p, w, x.g, messages, topic)
			x.out.add(fmt.Sprint(n), short(cpu), short(rate), short(highest(p)))
		})
	}
	return nil
}

// each measures f alone: µs of processor time and allocations for each call. The best of five
// rounds counts.
func each(n int, f func(i int)) (cpu, allocations float64) {
	for range 5 {
		runtime.GC()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		used := processorTime()
		for i := range n {
			f(i)
		}
		took := (processorTime() - used).Seconds() * 1e6 / float64(n)
		runtime.ReadMemStats(&after)
		if cpu == 0 || took < cpu {
			cpu = took
		}
		allocations = float64(after.Mallocs-before.Mallocs) / float64(n)
	}
	return cpu, allocations
}

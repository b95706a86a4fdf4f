//go:build linux

package bench

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
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

// cost is what a program took.
type cost struct {
	cpu  float64 // µs of processor time for each message of a backlog
	rate float64 // messages a second of the backlog
	pace float64 // µs for each message at 1,000 a second
	took figure  // ms from PUBLISH to PUBACK then
}

// flows measures data flows from a broker to the outbox, beside other programs at the same broker.
func flows(t *testing.T) []number {
	broker := near(70) + ":1883"
	if !startBroker(t, broker) {
		fmt.Fprintln(os.Stderr, "mosquitto is not installed: no flow is measured")
		return nil
	}
	out := measured("make bench-flows")
	g := newGenerator(t, broker)
	all := flowsBeside(t, out, g, broker)
	all = append(all, operators(t, out)...)
	all = append(all, stateStore(t)...)
	all = append(all, edgeProcess(t, broker, g)...)
	flowGrowth(t, out, g, broker)
	numbers := measured("make bench-flows")
	numbers.numbers(all)
	text := numbers.String()
	_, text, _ = strings.Cut(text, "make bench-flows\n")
	out.WriteString(text)
	write(t, "flows", out)
	return all
}

// flowsBeside compares programs that take messages from a broker.
func flowsBeside(t *testing.T, out *rows, g *generator, broker string) []number {
	t.Helper()
	c := newCloudAt(t, near(75), 0)
	withHub := func(t *testing.T, dir, broker, filter, rule string) *exec.Cmd {
		t.Helper()
		return edge(t, dir, broker, c, map[string]string{"flow": ruleFile("flow", filter, rule)})
	}
	subjects := []subject{
		{"bare program", []string{passthrough}, startBare},
		{"hubhop", []string{passthrough, fiveFields}, startOurs},
		{"hubhop, sending to a hub meanwhile", []string{passthrough, fiveFields}, withHub},
		{"Telegraf 1.37", []string{passthrough, fiveFields}, startTelegraf},
		{"Node-RED 5", []string{passthrough, fiveFields}, startNodeRED},
	}
	const backlog, perSecond, span = 50_000, 1000, 4
	out.head("from mosquitto, QoS 1, no TLS, at most 100 in flight", "rule", fmt.Sprintf("µs of processor time per message, backlog of %d", backlog), "messages/s", fmt.Sprintf("µs at %d/s", perSecond),
		"ms from PUBLISH to PUBACK then, median", "p99", "MiB of RSS at most")
	found := map[string]cost{}
	for _, s := range subjects {
		for _, rule := range s.rules {
			t.Run(s.name+" "+rule, func(t *testing.T) {
				w := newWatch(t, near(71)+":1883", broker)
				filter, topic := sensors()
				p := s.start(t, t.TempDir(), w.address, filter, rule)
				if p == nil {
					out.add(s.name, rule, "not installed", "–", "–", "–", "–", "–")
					return
				}
				if !w.until(s.name+" subscribes", 30*time.Second, func() bool { return w.subscribed.Load() > 0 }) {
					out.add(s.name, rule, "did not subscribe", "–", "–", "–", "–", "–")
					return
				}
				g.burst(2000, topic) // until all is warm
				w.until("the first messages", 20*time.Second, func() bool { return w.acked.Load() >= 2000 })
				var x cost
				for range 2 {
					cpu, rate := drained(t, p, w, g, backlog, topic)
					if x.cpu == 0 || cpu < x.cpu {
						x.cpu = cpu
					}
					x.rate = max(x.rate, rate)
				}
				before, acked := onProcessor(p), w.acked.Load()
				g.paced(w, perSecond, perSecond*span, topic)
				w.until("the last acknowledgement", 10*time.Second, func() bool { return w.acked.Load() >= acked+perSecond*span })
				x.pace = (onProcessor(p) - before) * 1000 / (perSecond * span)
				w.mu.Lock()
				x.took = w.took
				w.mu.Unlock()
				found[s.name+rule] = x
				out.add(s.name, rule, short(x.cpu), short(x.rate), short(x.pace), short(x.took.median()), short(x.took.p99()), short(highest(p)))
			})
		}
	}
	bare, pass, five := found["bare program"+passthrough], found["hubhop"+passthrough], found["hubhop"+fiveFields]
	return []number{
		{"µs of processor time per message, mosquitto → passthrough → outbox, a backlog; floor: bare program", backlog, figure{bare.cpu}, figure{pass.cpu}, atMost(8)},
		{"the same with a map of five fields", backlog, figure{bare.cpu}, figure{five.cpu}, atMost(12)},
		{"ms from PUBLISH to PUBACK at 1,000/s, passthrough", len(pass.took), bare.took, pass.took, p99AtMost(2)},
		{"the same with a map of five fields", len(five.took), bare.took, five.took, p99AtMost(2)},
	}
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
	w.until("the last acknowledgement", 20*time.Second, func() bool { return w.acked.Load() >= acked+int64(n) })
	done := float64(w.acked.Load() - acked)
	return (onProcessor(p) - before) * 1000 / max(done, 1), done / time.Since(began).Seconds()
}

// highest is the most that a process has had in memory, in MiB.
func highest(c *exec.Cmd) float64 {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.Process.Pid))
	return float64(statusOf(string(text), "VmHWM")) / (1 << 20)
}

// edgeProcess measures a process with ten flows, at rest and under load.
func edgeProcess(t *testing.T, broker string, g *generator) []number {
	t.Helper()
	const flows, span, messages = 10, 10 * time.Second, 200_000
	w := newWatch(t, near(72)+":1883", broker)
	p := edge(t, t.TempDir(), w.address, nil, partFlows("part", flows))
	w.until("the subscriptions", 30*time.Second, func() bool { return w.subscribed.Load() >= flows })
	time.Sleep(5 * time.Second)
	before, began := onProcessor(p), time.Now()
	time.Sleep(span)
	share := (onProcessor(p) - before) / float64(time.Since(began).Milliseconds()) * 100
	idle := rss(p)
	g.burst(messages, func(i int) string { return fmt.Sprintf("part/%d/t", i%flows) })
	w.until("the last acknowledgement", 20*time.Second, func() bool { return w.acked.Load() >= messages })
	size := 0.0
	if info, err := os.Stat(*hubhop); err == nil {
		size = float64(info.Size()) / 1e6
	}
	return []number{
		{"MiB of RSS of a process with 10 flows, at rest", 1, nil, figure{idle}, atMost(30)},
		{fmt.Sprintf("at most, while %d messages come as fast as mosquitto has them", messages), 1, nil, figure{highest(p)}, atMost(60)},
		{"% of a core that it takes at rest", 1, nil, figure{share}, atMost(0.5)},
		{"MB of the program", 1, nil, figure{size}, atMost(30)},
	}
}

// partFlows are so many flows, each with a topic of its own below a prefix.
func partFlows(prefix string, n int) map[string]string {
	all := map[string]string{}
	for i := range n {
		name := fmt.Sprintf("flow-%d", i)
		all[name] = ruleFile(name, fmt.Sprintf("%s/%d/t", prefix, i), fiveFields)
	}
	return all
}

// flowGrowth shows that a message costs the same, however many wait, and whatever else there is.
func flowGrowth(t *testing.T, out *rows, g *generator, broker string) {
	t.Helper()
	out.head("backlog in mosquitto, map of five fields", "µs of processor time per message", "messages/s", "MiB of RSS at most")
	for _, n := range []int{100, 1000, 10_000, 100_000, 1_000_000} {
		t.Run("backlog", func(t *testing.T) {
			w := newWatch(t, near(73)+":1883", broker)
			filter, topic := sensors()
			p := startOurs(t, t.TempDir(), w.address, filter, fiveFields)
			w.until("the subscription", 30*time.Second, func() bool { return w.subscribed.Load() > 0 })
			g.burst(2000, topic)
			w.until("the first messages", 20*time.Second, func() bool { return w.acked.Load() >= 2000 })
			var cpu, rate float64
			for range max(1, 5-n/20_000) {
				a, b := drained(t, p, w, g, n, topic)
				if cpu == 0 || a < cpu {
					cpu, rate = a, b
				}
			}
			out.add(fmt.Sprint(n), short(cpu), short(rate), short(highest(p)))
		})
	}
	out.head("flows in one process, map of five fields, 100000 messages among them", "µs of processor time per message", "messages/s", "MiB of RSS at most")
	for _, n := range []int{1, 10, 100} {
		t.Run("flows", func(t *testing.T) {
			w, prefix := newWatch(t, near(74)+":1883", broker), fmt.Sprintf("part-%d", n)
			p := edge(t, t.TempDir(), w.address, nil, partFlows(prefix, n))
			w.until("the subscriptions", 30*time.Second, func() bool { return w.subscribed.Load() >= int64(n) })
			topic := func(i int) string { return fmt.Sprintf("%s/%d/t", prefix, i%n) }
			const messages = 100_000
			g.burst(10*n, topic)
			w.until("the first messages", 20*time.Second, func() bool { return w.acked.Load() >= int64(10*n) })
			_ = p.Process.Signal(syscall.SIGSTOP)
			before, acked := onProcessor(p), w.acked.Load()
			g.burst(messages, topic)
			began := time.Now()
			_ = p.Process.Signal(syscall.SIGCONT)
			w.until("the last acknowledgement", 20*time.Second, func() bool { return w.acked.Load() >= acked+messages })
			out.add(fmt.Sprint(n), short((onProcessor(p)-before)*1000/messages), short(messages/time.Since(began).Seconds()), short(highest(p)))
		})
	}
	throttles(t, out)
}

// each measures f alone: µs of processor time and allocations for each call. The best of five rounds
// counts.
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

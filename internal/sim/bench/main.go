// Bench measures the simulator from outside, beside two other servers in the same run:
// mochi-mqtt/server, a broker that is known to be fast, and a floor, which is TLS and the least
// that answers MQTT. Each server is a process of its own; this process talks to it over real TCP
// and TLS. Bench is a module of its own, so that the product does not depend on the other servers.
//
//	go run . -hubhop ../../../hubhop
//
// With -json it prints for the bench of the whole project, which puts the table into the
// documentation.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

type options struct {
	hubhop   string
	json     bool
	devices  int
	rounds   int
	duration time.Duration
	settle   time.Duration
}

func main() {
	var o options
	role := flag.String("serve", "", "be a server: mochi or floor")
	flag.StringVar(&o.hubhop, "hubhop", "../../../hubhop", "the program to measure")
	flag.BoolVar(&o.json, "json", false, "print the table and the figures behind its goals as JSON")
	flag.IntVar(&o.devices, "devices", 10_000, "idle devices")
	flag.IntVar(&o.rounds, "rounds", 3, "how often each throughput is measured; the best one counts")
	flag.DurationVar(&o.duration, "duration", 3*time.Second, "how long one throughput is measured")
	flag.DurationVar(&o.settle, "settle", 10*time.Second, "how long devices are idle before memory is read")
	flag.Parse()
	err := serve(*role)
	if *role == "" {
		err = run(o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// The goals of the simulator.
const (
	goalBytesPerIdle = 40 << 10
	goalMessages     = 200_000
)

// Where they stand among the contestants.
const (
	mochi = 1
	ours  = 2
)

// contestant is a server that can be measured.
type contestant struct {
	name  string
	start func(dir string) (*target, error)
}

func run(o options) error {
	limit, err := raiseFileLimit()
	if err != nil {
		return err
	}
	if o.devices > int(limit)-200 {
		return fmt.Errorf("%d devices need more than the %d open files this process may have: raise the hard limit (ulimit -Hn)", o.devices, limit)
	}
	all := []contestant{
		{"floor", func(dir string) (*target, error) { return startSelf("floor", dir) }},
		{"mochi-mqtt/server", func(dir string) (*target, error) { return startSelf("mochi", dir) }},
		{"hubhop sim", func(dir string) (*target, error) { return startSim(o.hubhop, dir) }},
		{"the same with --state-dir", func(dir string) (*target, error) {
			state, err := os.MkdirTemp(dir, "state-*")
			if err != nil {
				return nil, err
			}
			return startSim(o.hubhop, dir, "--state-dir", state)
		}},
	}
	dir, err := os.MkdirTemp("", "bench-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()

	idle := make([]idleFigures, len(all))
	for i, c := range all {
		if idle[i], err = c.measureIdle(dir, o); err != nil {
			return fmt.Errorf("%s, idle: %w", c.name, err)
		}
		fmt.Fprintf(os.Stderr, "%-26s %6.1f KiB per idle connection, %d connects/s\n", c.name, idle[i].perConnection()/1024, idle[i].connectRate())
	}
	speed := make([]map[int]speedFigures, len(all))
	for i := range all {
		speed[i] = map[int]speedFigures{}
	}
	for range o.rounds { // in turns, so that what else the machine does hits all alike
		for i, c := range all {
			for _, n := range senders {
				f, err := c.measureSpeed(dir, n, o)
				if err != nil {
					return fmt.Errorf("%s, %d senders: %w", c.name, n, err)
				}
				fmt.Fprintf(os.Stderr, "%-26s %7d msg/s from %d connections, peak RSS %d MiB\n", c.name, f.perSecond, n, f.peak>>20)
				best := speed[i][n]
				speed[i][n] = speedFigures{max(best.perSecond, f.perSecond), max(best.peak, f.peak)}
			}
		}
	}
	text := report(o, all, idle, speed)
	if o.json {
		figures := func(i int) map[string]float64 {
			return map[string]float64{"kib": idle[i].perConnection() / 1024, "perSecond": float64(speed[i][senders[0]].perSecond)}
		}
		return json.NewEncoder(os.Stdout).Encode(map[string]any{"table": text, "openFiles": limit, "devices": o.devices, "rounds": o.rounds, "floor": figures(0), "ours": figures(ours)})
	}
	fmt.Print(text)
	var missed []error
	if got := idle[ours].perConnection(); got > goalBytesPerIdle {
		missed = append(missed, fmt.Errorf("an idle connection costs %.1f KiB, more than %d", got/1024, goalBytesPerIdle>>10))
	}
	best := 0
	for _, f := range speed[ours] {
		best = max(best, f.perSecond)
	}
	if best < goalMessages {
		missed = append(missed, fmt.Errorf("%d messages/s, fewer than %d", best, goalMessages))
	}
	return errors.Join(missed...)
}

// raiseFileLimit takes all open files it may have. Children inherit it.
func raiseFileLimit() (uint64, error) {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return 0, err
	}
	l.Cur = l.Max
	return l.Max, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l)
}

// process is a server in a process of its own.
type process struct {
	cmd   *exec.Cmd
	stdin io.Closer // it ends when this is closed, or by a signal
}

func startProcess(cmd *exec.Cmd) (*process, string, error) {
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, "", err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, "", err
	}
	if err := cmd.Start(); err != nil {
		return nil, "", err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return nil, "", errors.Join(err, cmd.Wait())
	}
	return &process{cmd, in}, strings.TrimSpace(line), nil
}

func (p *process) stop() {
	_ = p.stdin.Close()
	_ = p.cmd.Process.Signal(os.Interrupt)
	_ = p.cmd.Wait()
}

// memory reads a line such as VmRSS of the process's status, in bytes.
func (p *process) memory(field string) (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, field+":"); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 10, 64)
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("no %s in the status of process %d", field, p.cmd.Process.Pid)
}

func startSelf(role, dir string) (*target, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, "-serve", role)
	cmd.Dir = dir
	p, line, err := startProcess(cmd)
	if err != nil {
		return nil, err
	}
	return newTarget(p, line, filepath.Join(dir, role+".pem"))
}

// simInfo is the part of sim.json that is needed here.
type simInfo struct {
	IDScope, GroupKey string
	DPS               struct{ HTTPS string }
	Hubs              []struct{ Host, MQTT string }
}

func startSim(program, dir string, more ...string) (*target, error) {
	out := filepath.Join(dir, "sim")
	flags := []string{"sim", "--layout", "ports", "--hubs", "1", "--retry-after", "0s", "--control", "127.0.0.1:0", "--out", out}
	p, _, err := startProcess(exec.Command(program, append(flags, more...)...))
	if err != nil {
		return nil, fmt.Errorf("%w (build it first: make build)", err)
	}
	text, err := os.ReadFile(filepath.Join(out, "sim.json"))
	if err != nil {
		p.stop()
		return nil, err
	}
	var info simInfo
	if err := json.Unmarshal(text, &info); err != nil {
		p.stop()
		return nil, err
	}
	t, err := newTarget(p, info.Hubs[0].MQTT, filepath.Join(out, "ca.pem"))
	if err == nil {
		t.sim = &info
	}
	return t, err
}

// report writes the figures as a Markdown table.
func report(o options, all []contestant, idle []idleFigures, speed []map[int]speedFigures) string {
	var b strings.Builder
	heads := make([]string, len(all))
	for i, c := range all {
		heads[i] = c.name
	}
	fmt.Fprintf(&b, "| what | %s | ours to mochi | goal |\n|---|%s---|---|\n", strings.Join(heads, " | "), strings.Repeat("---:|", len(all)))
	row := func(what, goal string, ratio float64, values ...string) {
		fmt.Fprintf(&b, "| %s | %s | %.2f | %s |\n", what, strings.Join(values, " | "), ratio, goal)
	}
	var perIdle, rss, rate []string
	for _, f := range idle {
		perIdle = append(perIdle, fmt.Sprintf("%.1f", f.perConnection()/1024))
		rss = append(rss, fmt.Sprintf("%d", f.after>>20))
		rate = append(rate, strconv.Itoa(f.connectRate()))
	}
	row(fmt.Sprintf("KiB of RSS per idle device, %d of them (TLS, CONNECT, SUBSCRIBE to 4 filters)", o.devices), "≤ 40",
		idle[ours].perConnection()/idle[mochi].perConnection(), perIdle...)
	row("MiB of RSS with all of them", "", float64(idle[ours].after)/float64(idle[mochi].after), rss...)
	row("devices connected per second, TLS handshakes included", "", float64(idle[ours].connectRate())/float64(idle[mochi].connectRate()), rate...)
	for _, n := range senders {
		var values, peaks []string
		for i := range all {
			values = append(values, strconv.Itoa(speed[i][n].perSecond))
			peaks = append(peaks, fmt.Sprintf("%d", speed[i][n].peak>>20))
		}
		goal := ""
		if n == senders[0] {
			goal = "≥ 200000"
		}
		row(fmt.Sprintf("QoS 1 messages/s over TLS, %d sending, %d in flight each", n, window), goal, float64(speed[ours][n].perSecond)/float64(speed[mochi][n].perSecond), values...)
		row("MiB of RSS at most meanwhile", "", float64(speed[ours][n].peak)/float64(speed[mochi][n].peak), peaks...)
	}
	return b.String()
}

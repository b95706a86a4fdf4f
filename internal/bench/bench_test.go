//go:build linux

// Package bench measures the device's side of the wire beside floors taken in the same run: `make bench`.
package bench

import (
	"bytes"
	"encoding/base64"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"hubhop/dps"
	"hubhop/internal/sim"
)

var table = flag.String("table", "", "measure, and put the tables into this Markdown file")

func TestMain(m *testing.M) {
	if text := os.Getenv(jobVariable); text != "" {
		if err := work(text); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	flag.Parse()
	os.Exit(m.Run())
}

// cloud is a simulator in this process, on addresses of its own.
type cloud struct {
	t testing.TB
	*sim.Sim
	info sim.Info
	dir  string
	next int
}

func newCloud(t testing.TB, retryAfter time.Duration) *cloud {
	t.Helper()
	c := sim.DefaultConfig()
	c.BaseAddress, c.HTTPSPort, c.ControlAddr, c.RetryAfter = "127.72.0.1", 8443, "127.72.0.1:0", retryAfter
	s, err := sim.New(c)
	if err == nil {
		err = s.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	w := &cloud{t: t, Sim: s, info: s.Info(), dir: t.TempDir()}
	if err := s.WriteFiles(w.dir); err != nil {
		t.Fatal(err)
	}
	return w
}

// device registers a new one and returns its name, key and hub.
func (c *cloud) device() (id, key, host string) {
	c.t.Helper()
	c.next++
	id = fmt.Sprintf("device-%04d", c.next)
	key = base64.StdEncoding.EncodeToString(c.DeviceKey(id))
	r := &dps.Client{Host: c.info.ProvisioningHost, Transport: dps.MQTT, IDScope: c.info.IDScope, RegistrationID: id, Key: key, Agent: "bench", TLS: c.tls()}
	a, err := r.Register(c.t.Context(), dps.Request{})
	if err != nil {
		c.t.Fatal(err)
	}
	return id, key, a.Hub
}

func (c *cloud) job(role string, devices, window int, d time.Duration) job {
	j := job{Role: role, CA: filepath.Join(c.dir, "ca.pem"), Devices: map[string]string{}, Window: window, Duration: d}
	for range devices {
		var id, key string
		id, key, j.Host = c.device()
		j.Devices[id] = key
	}
	return j
}

// rows is a table: what, floor, ours, ratio, and more where there is more.
type rows struct{ strings.Builder }

func (r *rows) add(cells ...string) {
	fmt.Fprintf(r, "| %s |\n", strings.Join(cells, " | "))
	fmt.Fprintln(os.Stderr, strings.Join(cells, "  "))
}

func (r *rows) head(cells ...string) {
	fmt.Fprintf(r, "\n| %s |\n|---|%s\n", strings.Join(cells, " | "), strings.Repeat("---:|", len(cells)-1))
}

// TestTables measures everything and writes it down.
func TestTables(t *testing.T) {
	if *table == "" {
		t.Skip("make bench")
	}
	var out rows
	fmt.Fprintf(&out, "Measured %s on %s, %d of %d cores for client and server together, %s, %s.\n\n    make bench\n", time.Now().Format(time.DateOnly),
		cpuName(), runtime.GOMAXPROCS(0), runtime.NumCPU(), kernel(), runtime.Version())
	recovery(t, &out)
	throughput(t, &out)
	if err := insert(*table, out.String()); err != nil {
		t.Fatal(err)
	}
}

// throughput compares four clients at one simulator.
func throughput(t *testing.T, out *rows) {
	c := newCloud(t, 0)
	defer func() { _ = c.Close() }()
	roles := []string{"bare", "paho", "link", "outbox"}
	do := func(j job) figures {
		f, err := inProcess(j)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	out.head("one sender, QoS 1, over TLS", "floor: bare program", "paho's client", "drain and link", "outbox to wire", "ours to floor")
	for _, window := range []int{1, 16, 64, 100, 256, 1024} {
		speed, cost := []string{fmt.Sprintf("messages/s, window %d", window)}, []string{fmt.Sprintf("µs of processor time per message, window %d", window)}
		best := make([]figures, len(roles))
		for range 3 { // in turns, so that what else the machine does hits all alike; the best counts
			for i, role := range roles {
				f := do(c.job(role, 1, window, 500*time.Millisecond))
				if best[i].CPU == 0 || f.CPU < best[i].CPU {
					best[i].CPU = f.CPU
				}
				best[i].PerSecond = max(best[i].PerSecond, f.PerSecond)
			}
		}
		for _, f := range best {
			speed, cost = append(speed, fmt.Sprintf("%.0f", f.PerSecond)), append(cost, fmt.Sprintf("%.2f", f.CPU))
		}
		out.add(append(speed, fmt.Sprintf("%.2f", best[3].PerSecond/best[0].PerSecond))...)
		out.add(append(cost, fmt.Sprintf("%.2f", best[3].CPU/best[0].CPU))...)
	}
	const devices = 200
	out.head(fmt.Sprintf("%d idle connections, TLS, subscribed", devices), "floor: bare program", "paho's client", "link", "goal", "ours to floor")
	var idle []figures
	for _, role := range roles[:3] {
		idle = append(idle, do(c.job(role, devices, 0, time.Second)))
	}
	memory, routines := []string{"KiB of RSS each"}, []string{"goroutines each"}
	for _, f := range idle {
		memory, routines = append(memory, fmt.Sprintf("%.1f", f.KiB)), append(routines, fmt.Sprintf("%.2f", f.Goroutines))
	}
	out.add(append(memory, "≤ 30", fmt.Sprintf("%.2f", idle[2].KiB/idle[0].KiB))...)
	out.add(append(routines, "≤ 2", fmt.Sprintf("%.2f", idle[2].Goroutines/idle[0].Goroutines))...)
}

func cpuName() string {
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if name, ok := strings.CutPrefix(line, "model name"); ok {
			return strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(name), ":"))
		}
	}
	return runtime.GOARCH
}

func kernel() string {
	text, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return "Linux " + strings.TrimSpace(string(text))
}

// insert replaces what stands between the two comments in a file.
func insert(path, text string) error {
	const begin, end = "<!-- link: begin -->\n", "<!-- link: end -->"
	old, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	from, to := bytes.Index(old, []byte(begin)), bytes.Index(old, []byte(end))
	if from < 0 || to < from {
		return fmt.Errorf("%s lacks the comments %q and %q", path, strings.TrimSpace(begin), end)
	}
	return os.WriteFile(path, slices.Concat(old[:from+len(begin)], []byte(text), old[to:]), 0o644)
}

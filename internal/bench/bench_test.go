//go:build linux

// Package bench measures the device, its outbox and the simulator (`make bench`). Each figure
// stands beside a floor that is measured in the same run: the least that anything could need for
// the same result.
package bench

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/pem"
	"flag"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/dps"
	"github.com/hubhop-iot/hubhop/internal/sim"
)

var (
	table  = flag.String("table", "", "measure, and put the tables into this Markdown file")
	hubhop = flag.String("hubhop", "../../hubhop", "the built program")
	block  = flag.String("block", "127.72.0", "the loopback addresses to use, without the last number")
)

// near is an address of the block.
func near(n int) string { return fmt.Sprintf("%s.%d", *block, n) }

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
	return newCloudAt(t, near(1), retryAfter)
}

func newCloudAt(t testing.TB, address string, retryAfter time.Duration) *cloud {
	t.Helper()
	c := sim.DefaultConfig()
	c.BaseAddress, c.HTTPSPort, c.ControlAddr, c.RetryAfter = address, 8443, address+":0", retryAfter
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

// sections are measured one after the other, those in one line side by side, for they mostly wait.
var sections = [][]section{
	{{"outbox", outboxFigures}},
	{{"recovery", recovery}},
	{{"troubles", troubles}},
	{{"renewal", renewal}},
	{{"kills", kills}, {"failovers", failovers}, {"idle", idleProcess}},
	{{"link", linkFigures}},
	{{"devices", deviceFigures}},
	{{"growth", growth}},
	{{"status", statusServer}},
	{{"flows", flows}},
	{{"simulator", simulator}},
}

// section measures something. It puts its own table into the file, if it has one, and returns its
// figures with their goals.
type section struct {
	name    string
	measure func(t *testing.T) []number
}

// order is that of the numbers to reach.
var order = []string{"recovery", "troubles", "renewal", "failovers", "kills", "outbox", "link", "devices", "idle", "status", "flows", "simulator"}

// TestTables measures everything and writes the tables. Each section can be run alone; only the
// table of all numbers needs them all.
func TestTables(t *testing.T) {
	if *table == "" {
		t.Skip("it measures for about ten minutes and rewrites the tables of docs/benchmarks.md, which is what make bench is for")
	}
	var mu sync.Mutex
	found := map[string][]number{}
	for _, together := range sections {
		t.Run("in", func(t *testing.T) {
			for _, s := range together {
				t.Run(s.name, func(t *testing.T) {
					t.Parallel()
					fmt.Fprintf(os.Stderr, "%s\n", s.name)
					began := time.Now()
					all := s.measure(t)
					fmt.Fprintf(os.Stderr, "%s took %.0f s\n", s.name, time.Since(began).Seconds())
					mu.Lock()
					defer mu.Unlock()
					found[s.name] = all
				})
			}
		})
	}
	out := measured("make bench")
	var all []number
	for _, name := range order {
		all = append(all, found[name]...)
	}
	out.numbers(all)
	for _, name := range order {
		if len(found[name]) == 0 {
			fmt.Fprintf(os.Stderr, "%s was not measured: the table of all numbers is left as it was\n", name)
			return
		}
	}
	write(t, "numbers", out)
}

// write puts a section's table into the file.
func write(t *testing.T, name string, out *rows) {
	t.Helper()
	if err := insert(*table, name, out.String()); err != nil {
		t.Fatal(err)
	}
}

// best lets clients take turns, so that other work of the machine hits all of them alike. The best
// result of each client counts.
func best(t *testing.T, rounds int, job func(role string) job, roles ...string) map[string]figures {
	t.Helper()
	best := map[string]figures{}
	for range rounds {
		for _, role := range roles {
			f, err := inProcess(job(role))
			if err != nil {
				t.Fatal(err)
			}
			b := best[role]
			if b.CPU == 0 || f.CPU < b.CPU {
				b.CPU = f.CPU
			}
			b.PerSecond = max(b.PerSecond, f.PerSecond)
			best[role] = b
		}
	}
	return best
}

// linkFigures compares four clients at one simulator, and three of them at the least that answers.
func linkFigures(t *testing.T) []number {
	out := measured("make bench")
	c := newCloud(t, 0)
	defer func() { _ = c.Close() }()
	roles := []string{"bare", "paho", "link", "outbox"}
	out.head("one sender, QoS 1, over TLS", "floor: bare program", "paho's client", "drain and link", "outbox to wire", "ours to floor")
	for _, window := range []int{1, 16, 64, 100, 256, 1024} {
		f := best(t, 3, func(role string) job { return c.job(role, 1, window, 500*time.Millisecond) }, roles...)
		speed, cost := []string{fmt.Sprintf("messages/s, window %d", window)}, []string{fmt.Sprintf("µs of processor time per message, window %d", window)}
		for _, role := range roles {
			speed, cost = append(speed, fmt.Sprintf("%.0f", f[role].PerSecond)), append(cost, fmt.Sprintf("%.2f", f[role].CPU))
		}
		out.add(append(speed, ratio(f["outbox"].PerSecond, f["bare"].PerSecond))...)
		out.add(append(cost, ratio(f["outbox"].CPU, f["bare"].CPU))...)
	}
	const links = 200
	out.head(fmt.Sprintf("%d idle links, TLS, subscribed (what a device needs is measured on devices, below)", links), "floor: bare program", "paho's client", "link", "goal", "ours to floor")
	var idle []figures
	for _, role := range roles[:3] {
		f, err := inProcess(c.job(role, links, 0, time.Second))
		if err != nil {
			t.Fatal(err)
		}
		idle = append(idle, f)
	}
	memory, routines := []string{"KiB of RSS each"}, []string{"goroutines each"}
	for _, f := range idle {
		memory, routines = append(memory, fmt.Sprintf("%.1f", f.KiB)), append(routines, fmt.Sprintf("%.2f", f.Goroutines))
	}
	out.add(append(memory, "≤ 30", ratio(idle[2].KiB, idle[0].KiB))...)
	out.add(append(routines, "≤ 2", ratio(idle[2].Goroutines, idle[0].Goroutines))...)
	write(t, "link", out)
	return drains(t, c)
}

// drains measures how fast a backlog leaves over TLS, to the least that answers MQTT.
func drains(t *testing.T, c *cloud) []number {
	host, ca := respond(t)
	at := func(window int) func(string) job {
		return func(role string) job {
			j := c.job(role, 1, window, 500*time.Millisecond)
			j.Host, j.CA = host, ca
			return j
		}
	}
	const rounds = 7 // each of half a second or less: a neighbour of the machine spoils some
	f, g := best(t, rounds, at(64), "bare", "paho", "outbox"), best(t, rounds, at(100), "bare", "outbox")
	return []number{
		{"drain of 500,000 from the outbox over TLS, window 64, messages/s; floor: bare program; goal: five times paho's client, which sends " + short(f["paho"].PerSecond),
			rounds, figure{f["bare"].PerSecond}, figure{f["outbox"].PerSecond}, atLeast(5 * f["paho"].PerSecond)},
		{"the same with window 100, µs of processor time per message; goal: twice the floor", rounds, figure{g["bare"].CPU}, figure{g["outbox"].CPU}, atMost(2 * g["bare"].CPU)},
	}
}

// respond is the least that answers MQTT over TLS. Clients are measured against it, so that only
// the cost of the client counts.
func respond(t *testing.T) (host, ca string) {
	t.Helper()
	host = near(20)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.ParseIP(host)}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	ca = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", net.JoinHostPort(host, "8883"), &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go answer(conn)
		}
	}()
	return host, ca
}

// answer looks only at the packet identifiers that it must return. It answers everything from one
// read in one write.
func answer(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	r, w := bufio.NewReaderSize(conn, 64<<10), bufio.NewWriterSize(conn, 64<<10)
	for {
		head, err := r.ReadByte()
		if err != nil {
			return
		}
		size, err := binary.ReadUvarint(r) // the same code as MQTT's length
		if err != nil || size > 32<<10 {
			return
		}
		body, err := r.Peek(int(size))
		if err != nil {
			return
		}
		switch head &^ 8 { // DUP
		case 0x10:
			_, _ = w.Write([]byte{0x20, 2, 0, 0})
		case 0x82:
			_, _ = w.Write([]byte{0x90, 6, body[0], body[1], 1, 0, 0, 0})
		case 0x32:
			id := body[2+binary.BigEndian.Uint16(body):]
			_, _ = w.Write([]byte{0x40, 2, id[0], id[1]})
		case 0xc0:
			_, _ = w.Write([]byte{0xd0, 0})
		}
		_, _ = r.Discard(int(size))
		if r.Buffered() == 0 && w.Flush() != nil {
			return
		}
	}
}

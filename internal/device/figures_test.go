package device

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
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

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"

	"hubhop/dps"
	"hubhop/hub"
	"hubhop/internal/journal"
	"hubhop/internal/sim"
	"hubhop/telemetry"
	"hubhop/telemetry/outbox"
)

// The figures of the outbox, each beside a floor that is taken in the same run, on the same disk and over the same network. They are in
// this room because only here the outbox, the link and a cloud are at hand. make bench-outbox runs them and writes them down.

var figures = flag.String("figures", "", "take the figures of the outbox, and write them into this Markdown file")

// figureChild says what the test binary does instead of testing: be the cloud, or a process whose memory is measured.
const figureChild = "HUBHOP_FIGURE"

// row is a line of the table.
type row struct{ what, floor, ours, ratio, goal string }

type table struct {
	t    *testing.T
	dir  string
	rows []row
}

func (x *table) add(what, floor, ours, ratio, goal string) {
	x.rows = append(x.rows, row{what, floor, ours, ratio, goal})
	x.t.Logf("%-70s %12s %12s %8s   %s", what, floor, ours, ratio, goal)
}

func whole[T int | int64 | uint64 | float64](v T) string { return fmt.Sprintf("%.0f", float64(v)) }

func ratio(a, b float64) string { return fmt.Sprintf("%.2f", a/b) }

func TestFigures(t *testing.T) {
	if *figures == "" {
		t.Skip("make bench-outbox takes them")
	}
	x := &table{t: t, dir: t.TempDir()}
	x.oneProducer()
	x.manyProducers()
	x.flash()
	x.backlogs()
	x.memory()
	x.drains()
	x.write(*figures)
}

// TestFigureChild is another process of TestFigures.
func TestFigureChild(t *testing.T) {
	role, arg, _ := strings.Cut(os.Getenv(figureChild), "=")
	switch role {
	case "":
		t.Skip("only TestFigures needs it")
	case "cloud":
		beCloud(t)
	case "memory":
		beMeasured(t, arg)
	}
}

func (x *table) child(what string) (in io.WriteCloser, out *bufio.Reader, end func()) {
	x.t.Helper()
	c := exec.Command(os.Args[0], "-test.run=^TestFigureChild$")
	c.Env = append(os.Environ(), figureChild+"="+what)
	c.Stderr = os.Stderr
	in, err := c.StdinPipe()
	must(x.t, err)
	stdout, err := c.StdoutPipe()
	must(x.t, err)
	must(x.t, c.Start())
	return in, bufio.NewReader(stdout), func() {
		_ = in.Close()
		_, _ = io.Copy(io.Discard, stdout)
		_ = c.Wait()
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// sample takes about 200 bytes on the disk with its frame.
func figureSample() outbox.Message {
	return outbox.Message{
		Body:        []byte(`{"temperature":21.5,"humidity":45.25,"pressure":1013.25,"battery":87,"location":{"lat":52.52,"lon":13.405}}` + strings.Repeat(" ", 40)),
		ContentType: "application/json", ContentEncoding: "utf-8", Created: time.Now(),
	}
}

func (x *table) open(o outbox.Options) (*outbox.Box, string) {
	x.t.Helper()
	dir, err := os.MkdirTemp(x.dir, "box")
	must(x.t, err)
	b, err := outbox.Open(dir, o)
	must(x.t, err)
	return b, dir
}

func (x *table) fill(b *outbox.Box, n int) {
	x.t.Helper()
	ms := slices.Repeat([]outbox.Message{figureSample()}, 1000)
	for ; n > 0; n -= len(ms) {
		must(x.t, b.Append(context.Background(), ms[:min(n, len(ms))]...))
	}
}

// bareFile is what a durable write costs whoever does it: bytes into a file of a megabyte that is there already, and a sync.
type bareFile struct {
	t   testing.TB
	dir string
	n   int
	f   outbox.File
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
		b.f, err = outbox.Disk().Open(filepath.Join(b.dir, fmt.Sprint("bare", b.n)), os.O_RDWR|os.O_CREATE)
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

func (x *table) oneProducer() {
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

func (x *table) manyProducers() {
	const producers, n = 64, 300_000
	best, bare := 0.0, 0.0
	for range 3 {
		floor, buf := &bareFile{t: x.t, dir: x.dir}, noise(200*producers)
		start := time.Now()
		turns := 0
		for ; time.Since(start) < time.Second; turns++ {
			floor.write(buf)
		}
		bare = max(bare, float64(turns*producers)/time.Since(start).Seconds())

		b, _ := x.open(outbox.Options{})
		var left atomic.Int64
		left.Store(n)
		m := figureSample()
		start = time.Now()
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
		best = max(best, n/time.Since(start).Seconds())
		must(x.t, b.Close())
	}
	x.add("durable appends/s of 200 B, 64 producers; floor: bare, 64 × 200 B and one fdatasync", whole(bare), whole(best), ratio(best, bare), "≥ 100000/s")
}

// countingFS counts what goes to the disk.
type countingFS struct {
	outbox.FS
	syncs, written atomic.Int64
}

type countingFile struct {
	outbox.File
	c *countingFS
}

func (c *countingFS) Open(name string, flag int) (outbox.File, error) {
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

// flash counts what one record costs a flash, from its append to its acknowledgement, beside the 200 bytes that it is.
func (x *table) flash() {
	for _, v := range []struct {
		name             string
		producers, batch int
		n                int
		every            time.Duration
	}{
		{"one at a time", 1, 1, 20_000, 0},
		{"8 producers", 8, 1, 60_000, 0},
		{"64 producers", 64, 1, 200_000, 0},
		{"one at a time, --outbox-sync 1s", 1, 1, 200_000, time.Second},
	} {
		disk := &countingFS{FS: outbox.Disk()}
		b, _ := x.open(outbox.Options{FS: disk, SyncEvery: v.every})
		m := figureSample()
		before := blocks()
		var left atomic.Int64
		left.Store(int64(v.n))
		var wg sync.WaitGroup
		for range v.producers {
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
func (x *table) drain(b *outbox.Box, n int) {
	after := uint64(0)
	for n > 0 {
		r, err := b.Next(context.Background(), after, min(n, 64))
		must(x.t, err)
		for _, y := range r {
			must(x.t, b.Ack(y.Pos))
		}
		n, after = n-len(r), r[len(r)-1].Pos
	}
}

// backlogs: what it costs to read, acknowledge and truncate does not depend on how much is queued, and a restart does not read it.
func (x *table) backlogs() {
	cursor, err := outbox.Disk().Open(filepath.Join(x.dir, "cursor"), os.O_RDWR|os.O_CREATE)
	must(x.t, err)
	buf := noise(104)
	const turn = 20_000
	var first float64
	for _, backlog := range []int{1_000, 10_000, 100_000, 1_000_000} {
		best, floor := time.Hour, time.Hour
		b, dir := x.open(outbox.Options{MaxBytes: 1 << 30})
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
		start := time.Now()
		names, err := os.ReadDir(dir)
		must(x.t, err)
		for _, e := range names {
			f, err := os.Open(filepath.Join(dir, e.Name()))
			must(x.t, err)
			_, _ = f.ReadAt(make([]byte, 4096), 0)
			_ = f.Close()
		}
		floorTime := time.Since(start)
		start = time.Now()
		b, err = outbox.Open(dir, outbox.Options{MaxBytes: 1 << 30})
		must(x.t, err)
		if _, err := b.Next(context.Background(), 0, 1); err != nil || b.Stats().Queued != uint64(backlog) {
			x.t.Fatal(err, b.Stats())
		}
		took := time.Since(start)
		x.add("ms to reopen with 1000000 queued, to the first record; floor: a page of each file", fmt.Sprintf("%.1f", floorTime.Seconds()*1000),
			fmt.Sprintf("%.1f", took.Seconds()*1000), ratio(took.Seconds(), floorTime.Seconds()), "≤ 2000 ms")
		must(x.t, b.Close())
	}
}

// memory is the resident set of a process that opens a backlog, drains some of it and appends, beside the same process before.
func (x *table) memory() {
	for _, backlog := range []int{1_000, 1_000_000} {
		b, dir := x.open(outbox.Options{MaxBytes: 1 << 30})
		x.fill(b, backlog)
		must(x.t, b.Close())
		_, out, end := x.child("memory=" + dir)
		var before, peak int64
		line, err := out.ReadString('\n')
		must(x.t, err)
		_, err = fmt.Sscan(line, &before, &peak)
		must(x.t, err)
		end()
		x.add(fmt.Sprintf("MiB of RSS at most: open, append, drain 200000, %d queued at first; floor: before", backlog), mib(before), mib(peak), ratio(float64(peak), float64(before)),
			"≤ 8 more: "+mib(peak-before))
	}
}

func mib(bytes int64) string { return fmt.Sprintf("%.1f", float64(bytes)/(1<<20)) }

// beMeasured works on an outbox like a device does and prints its resident set before and at most.
func beMeasured(t *testing.T, dir string) {
	runtime.GC()
	debug.FreeOSMemory()
	before := status(t, "VmRSS:")
	must(t, os.WriteFile("/proc/self/clear_refs", []byte("5"), 0)) // the peak starts here
	b, err := outbox.Open(dir, outbox.Options{MaxBytes: 1 << 30})
	must(t, err)
	after := uint64(0)
	for drained := 0; drained < 200_000; {
		must(t, b.Append(context.Background(), figureSample()))
		r, err := b.Next(context.Background(), after, 64)
		must(t, err)
		for _, y := range r {
			must(t, b.Ack(y.Pos))
		}
		drained, after = drained+max(len(r), 20), r[len(r)-1].Pos
	}
	peak := status(t, "VmHWM:")
	must(t, b.Close())
	fmt.Println(before, peak)
}

func status(t *testing.T, key string) int64 {
	text, err := os.ReadFile("/proc/self/status")
	must(t, err)
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, key); ok {
			kb, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(v), "kB")), 10, 64)
			must(t, err)
			return kb << 10
		}
	}
	t.Fatal("no " + key)
	return 0
}

// cloudInfo is what a client of the cloud process needs.
type cloudInfo struct {
	Scope, Key, DPS string
	Dir             string
}

const figureDevice = "figures"

// beCloud is a simulator until its input ends.
func beCloud(t *testing.T) {
	c := sim.DefaultConfig()
	c.Layout, c.ControlAddr, c.RetryAfter = sim.LayoutPorts, "127.0.0.1:0", 0
	cloud, err := sim.New(c)
	must(t, err)
	must(t, cloud.Start())
	dir := t.TempDir()
	must(t, cloud.WriteFiles(dir))
	info := cloud.Info()
	must(t, json.NewEncoder(os.Stdout).Encode(cloudInfo{
		Scope: info.IDScope, DPS: info.ProvisioningHost, Dir: dir, Key: base64.StdEncoding.EncodeToString(cloud.DeviceKey(figureDevice)),
	}))
	_, _ = io.Copy(io.Discard, os.Stdin)
	must(t, cloud.Close())
}

// drains: outbox to cloud beside a plain paho publisher and beside the least that speaks MQTT, all with 64 in flight.
func (x *table) drains() {
	const n, rounds, window = 60_000, 3, 64
	_, out, end := x.child("cloud")
	defer end()
	line, err := out.ReadBytes('\n')
	must(x.t, err)
	var info cloudInfo
	must(x.t, json.Unmarshal(line, &info))
	pem, err := os.ReadFile(filepath.Join(info.Dir, "ca.pem"))
	must(x.t, err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	a, err := Register(context.Background(), Config{
		DeviceID: figureDevice, IDScope: info.Scope, Key: info.Key, ProvisioningHost: info.DPS, ProvisioningTransport: dps.MQTT, Roots: roots, StateDir: x.t.TempDir(),
	}, new(journal.Journal))
	must(x.t, err)
	f := &flow{x: x, host: a.Hub, key: info.Key, tls: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, n: n, window: window}

	var bare, paho, ours, fresh float64
	for range rounds { // in turns
		bare = max(bare, f.rate(f.bare))
		paho = max(paho, f.rate(f.paho))
		ours = max(ours, f.rate(func() func() { return f.outbox(telemetry.FIFO) }))
		fresh = max(fresh, f.rate(func() func() { return f.outbox(telemetry.FreshFirst) }))
	}
	x.add("messages/s from outbox to cloud, 64 in flight; floor: a loop that writes MQTT", whole(bare), whole(ours), ratio(ours, bare), "")
	x.add("the same, --drain-order fresh-first", whole(bare), whole(fresh), ratio(fresh, bare), "")
	x.add("the same; floor: a plain paho publisher, without an outbox", whole(paho), whole(ours), ratio(ours, paho), "")
}

type flow struct {
	x         *table
	host, key string
	tls       *tls.Config
	n, window int
}

// rate prepares and then times a flow of n messages.
func (f *flow) rate(prepare func() func()) float64 {
	run := prepare()
	start := time.Now()
	run()
	return float64(f.n) / time.Since(start).Seconds()
}

func (f *flow) topic(id int) string {
	return "devices/" + figureDevice + "/messages/events/%24.ct=application%2Fjson&%24.ce=utf-8&%24.mid=0123456789abcdef-" + strconv.Itoa(id) +
		"&iothub-creation-time-utc=2026-11-21T09%3A00%3A00.000Z"
}

func (f *flow) password() string {
	p, _, err := hub.KeyToken(f.key, time.Hour)(f.host, figureDevice)
	must(f.x.t, err)
	return p
}

func (f *flow) username() string { return f.host + "/" + figureDevice + "/?api-version=2021-04-12" }

// bare writes packets as the window lets it, and reads four bytes for each.
func (f *flow) bare() func() {
	c, err := tls.Dial("tcp", f.host, f.tls)
	must(f.x.t, err)
	p := packets.NewControlPacket(packets.Connect).(*packets.ConnectPacket)
	p.ProtocolName, p.ProtocolVersion, p.ClientIdentifier, p.Keepalive, p.CleanSession = "MQTT", 4, figureDevice, 60, true
	p.UsernameFlag, p.Username, p.PasswordFlag, p.Password = true, f.username(), true, []byte(f.password())
	must(f.x.t, p.Write(c))
	in := bufio.NewReader(c)
	ack, err := packets.ReadPacket(in)
	must(f.x.t, err)
	if r, ok := ack.(*packets.ConnackPacket); !ok || r.ReturnCode != 0 {
		f.x.t.Fatal("not connected:", ack)
	}
	body := figureSample().Body
	return func() {
		free := make(chan struct{}, f.window)
		for range f.window {
			free <- struct{}{}
		}
		acked := make(chan error, 1)
		go func() {
			var puback [4]byte
			for range f.n {
				if _, err := io.ReadFull(in, puback[:]); err != nil || puback[0] != packets.Puback<<4 {
					acked <- errors.Join(err, errors.New("no PUBACK"))
					return
				}
				free <- struct{}{}
			}
			acked <- nil
		}()
		buf := bytes.NewBuffer(nil)
		m := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
		m.Qos, m.Payload = 1, body
		for i := range f.n {
			select {
			case <-free:
			default: // all that may go goes in one write
				_, err := c.Write(buf.Bytes())
				must(f.x.t, err)
				buf.Reset()
				<-free
			}
			m.TopicName, m.MessageID = f.topic(i), uint16(i%60_000+1)
			must(f.x.t, m.Write(buf))
		}
		_, err := c.Write(buf.Bytes())
		must(f.x.t, err)
		must(f.x.t, <-acked)
		_ = c.Close()
	}
}

// paho is the publisher that anybody would write first: messages made in memory, 64 tokens under way.
func (f *flow) paho() func() {
	o := mqtt.NewClientOptions().AddBroker("tls://" + f.host).SetProtocolVersion(4).SetClientID(figureDevice).SetTLSConfig(f.tls).
		SetUsername(f.username()).SetPassword(f.password()).SetAutoReconnect(false).SetOrderMatters(false)
	c := mqtt.NewClient(o)
	t := c.Connect()
	t.Wait()
	must(f.x.t, t.Error())
	body := figureSample().Body
	return func() {
		tokens := make(chan mqtt.Token, f.window-1)
		acked := make(chan error, 1)
		go func() {
			var errs error
			for t := range tokens {
				t.Wait()
				errs = errors.Join(errs, t.Error())
			}
			acked <- errs
		}()
		for i := range f.n {
			tokens <- c.Publish(f.topic(i), 1, false, body)
		}
		close(tokens)
		must(f.x.t, <-acked)
		c.Disconnect(100)
	}
}

// outbox drains what is on the disk.
func (f *flow) outbox(order telemetry.Order) func() {
	b, _ := f.x.open(outbox.Options{})
	f.x.fill(b, f.n)
	d := &hub.Dialer{TLS: f.tls, Token: hub.KeyToken(f.key, time.Hour), KeepAlive: time.Minute, Window: f.window}
	l, err := d.Dial(context.Background(), hub.Attempt{Host: f.host, DeviceID: figureDevice})
	must(f.x.t, err)
	return func() {
		ctx, stop := context.WithCancel(context.Background())
		drained := make(chan error, 1)
		go func() {
			drained <- telemetry.NewDrain(b, l, telemetry.DrainOptions{Window: f.window, Order: order}).Run(ctx)
		}()
		must(f.x.t, b.WaitEmpty(ctx))
		stop()
		<-drained
		short, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		l.Close(short)
		must(f.x.t, b.Close())
	}
}

// write puts the table between the two comments of a file.
func (x *table) write(path string) {
	var b strings.Builder
	fmt.Fprintf(&b, "Measured %s on %s, %d cores, %s/%s, %s; the disk is %s.\n\n    make bench-outbox\n\n", time.Now().Format(time.DateOnly), processor(), runtime.NumCPU(),
		runtime.GOOS, runtime.GOARCH, runtime.Version(), fileSystem(x.dir))
	b.WriteString("| what | floor | outbox | ratio | goal, or remark |\n|---|---:|---:|---:|---|\n")
	for _, r := range x.rows {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", r.what, r.floor, r.ours, r.ratio, r.goal)
	}
	const begin, end = "<!-- outbox: begin -->\n", "<!-- outbox: end -->"
	old, err := os.ReadFile(path)
	must(x.t, err)
	from, to := bytes.Index(old, []byte(begin)), bytes.Index(old, []byte(end))
	if from < 0 || to < from {
		x.t.Fatalf("%s lacks the comments", path)
	}
	must(x.t, os.WriteFile(path, slices.Concat(old[:from+len(begin)], []byte(b.String()), old[to:]), 0o644))
}

func processor() string {
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if k, v, _ := strings.Cut(line, ":"); strings.TrimSpace(k) == "model name" {
			return strings.TrimSpace(v)
		}
	}
	return "an unknown processor"
}

// fileSystem is what a directory is on.
func fileSystem(dir string) string {
	text, _ := os.ReadFile("/proc/self/mounts")
	best, kind := "", "unknown"
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 2 && strings.HasPrefix(dir, f[1]) && len(f[1]) >= len(best) {
			best, kind = f[1], f[2]
		}
	}
	return kind
}

//go:build linux

package bench

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"

	"github.com/hubhop-iot/hubhop/hub"
	"github.com/hubhop-iot/hubhop/internal/virtual"
	"github.com/hubhop-iot/hubhop/telemetry"
	"github.com/hubhop-iot/hubhop/telemetry/message"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

// job says what a client process is to do. The client is a process of its own, so that its memory
// and its processor time can be measured.
type job struct {
	Role     string // bare, paho, link, device, deviceInMemory, outbox, fresh; growth, memory, answering and bareflow are measurements of their own
	Kind     string // of the role growth: bare or outbox; of bareflow the topic filter
	Dir      string // of the outbox of the role memory, of the file of bareflow
	Messages int    // to send: of the role growth all, of answering the bytes of an answer, otherwise a second over each connection
	Host, CA string
	Scope    string            // ID scope, of the role device
	DPS      string            // its host, of the role device
	Devices  map[string]string // id → key
	Window   int               // 0: connect and be idle
	Duration time.Duration
}

// figures are what it answers.
type figures struct {
	PerSecond, CPU float64       // messages; microseconds of processor time for each
	KiB            float64       // RSS for each connection
	Goroutines     float64       // for each connection
	Files          float64       // open ones, for each connection
	Before, Peak   int64         // RSS in bytes: at first, and at most
	Reopen, Page   time.Duration // of a backlog, and the least that it takes to have looked at its files
}

const jobVariable = "HUBHOP_BENCH_JOB"

const sampleBody = `{"temperature":21.5,"humidity":40.25,"pressure":1013.2,"location":{"lat":52.5,"lon":13.4},"status":"ok","uptime":123456}`

// inProcess lets another process do a job.
func inProcess(j job) (f figures, err error) {
	text, err := json.Marshal(j)
	if err != nil {
		return f, err
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env, cmd.Stderr = append(os.Environ(), jobVariable+"="+string(text)), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return f, fmt.Errorf("%s, window %d: %w", j.Role, j.Window, err)
	}
	return f, json.Unmarshal(out, &f)
}

func work(text string) error {
	var j job
	if err := json.Unmarshal([]byte(text), &j); err != nil {
		return err
	}
	switch j.Role {
	case "memory":
		return tell(atWork(j.Dir))
	case answering:
		return answerAll(j)
	case bareFlow:
		return keepAll(j)
	}
	pem, err := os.ReadFile(j.CA)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	c := &client{job: j, tls: &tls.Config{RootCAs: roots, ServerName: j.Host}}
	switch {
	case j.Role == "device", j.Role == deviceInMemory:
		return tell(c.devices())
	case j.Role == "growth":
		return tell(c.growth())
	case j.Messages > 0:
		return tell(c.busy())
	case j.Window == 0:
		return tell(c.idle())
	}
	for id := range j.Devices {
		return tell(c.send(id))
	}
	return errors.New("no device")
}

// tell writes down what was measured, for the process that asked.
func tell(f figures, err error) error {
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(f)
}

type client struct {
	job
	tls *tls.Config
}

// idle measures what a silent connection costs. The first connection does not count, because it
// brings code and tables into memory that all connections share. Before each look the garbage of
// the handshakes is returned to the system, for every kind of client, because its amount depends on
// when the collector last ran.
func (c *client) idle() (f figures, err error) {
	var keep []any
	var rss int64
	var routines, files int
	for id := range c.Devices {
		conn, err := c.connect(id, 0)
		if err != nil {
			return f, err
		}
		if keep = append(keep, conn); len(keep) == 1 {
			rss, routines, files = c.settled(), runtime.NumGoroutine(), openFiles()
		}
	}
	more := float64(len(keep) - 1)
	used, began := processorTime(), time.Now()
	time.Sleep(c.Duration)
	f.CPU = (processorTime() - used).Seconds() * 1000 / more * (time.Minute.Seconds() / time.Since(began).Seconds())
	f.KiB, f.Goroutines = float64(c.settled()-rss)/1024/more, float64(runtime.NumGoroutine()-routines)/more
	f.Files = float64(openFiles()-files) / more
	runtime.KeepAlive(keep)
	return f, nil
}

// settled is the resident memory after the connections have been silent for a while and what they
// needed before is freed.
func (c *client) settled() int64 {
	time.Sleep(3 * time.Second) // a link gives back what it does not need when its watchdog looks next
	debug.FreeOSMemory()
	debug.FreeOSMemory() // what a finalizer held at the first
	return resident()
}

// connect makes one connection of the client's kind, subscribed to everything.
func (c *client) connect(id string, window int) (any, error) {
	switch c.Role {
	case "bare":
		conn, err := c.bare(id)
		if err == nil && window == 0 {
			go func() { _, _ = conn.Read(make([]byte, 512)) }()
		}
		return conn, err
	case "paho":
		return c.paho(id)
	default:
		return c.link(id, window)
	}
}

func (c *client) link(id string, window int) (*hub.Link, error) {
	d := &hub.Dialer{Token: hub.KeyToken(time.Now, c.Devices[id], time.Hour), TLS: c.tls, Agent: "bench", KeepAlive: time.Minute, Window: window,
		Desired: true, Methods: true, C2D: true, Twin: true}
	return d.Dial(context.Background(), hub.Attempt{Host: c.Host, DeviceID: id})
}

func (c *client) paho(id string) (mqtt.Client, error) {
	password, _, err := hub.KeyToken(time.Now, c.Devices[id], time.Hour)(c.Host, id)
	if err != nil {
		return nil, err
	}
	o := mqtt.NewClientOptions().AddBroker("ssl://" + net.JoinHostPort(c.Host, "8883")).SetClientID(id).SetTLSConfig(c.tls).
		SetUsername(c.Host + "/" + id + "/?api-version=2021-04-12").SetPassword(password).SetCleanSession(false).SetProtocolVersion(4).
		SetAutoReconnect(false).SetOrderMatters(false)
	p := mqtt.NewClient(o)
	if t := p.Connect(); t.Wait() && t.Error() != nil {
		return nil, t.Error()
	}
	filters := map[string]byte{"devices/" + id + "/messages/devicebound/#": 1, "$iothub/methods/POST/#": 0, "$iothub/twin/res/#": 0,
		"$iothub/twin/PATCH/properties/desired/#": 0}
	t := p.SubscribeMultiple(filters, func(mqtt.Client, mqtt.Message) {})
	t.Wait()
	return p, t.Error()
}

// opening is CONNECT and SUBSCRIBE.
func opening(host, id, password string) []byte {
	p := packets.NewControlPacket(packets.Connect).(*packets.ConnectPacket)
	p.ProtocolName, p.ProtocolVersion, p.ClientIdentifier, p.Keepalive = "MQTT", 4, id, 60
	p.UsernameFlag, p.Username, p.PasswordFlag, p.Password = true, host+"/"+id+"/?api-version=2021-04-12", true, []byte(password)
	s := packets.NewControlPacket(packets.Subscribe).(*packets.SubscribePacket)
	s.MessageID, s.Topics, s.Qoss = 65535, []string{"devices/" + id + "/messages/devicebound/#", "$iothub/methods/POST/#",
		"$iothub/twin/res/#", "$iothub/twin/PATCH/properties/desired/#"}, []byte{1, 0, 0, 0}
	var out bytes.Buffer
	_, _ = p.Write(&out), s.Write(&out)
	return out.Bytes()
}

const openingAnswer = 4 + 8 // CONNACK and SUBACK

func (c *client) bare(id string) (*tls.Conn, error) {
	password, _, err := hub.KeyToken(time.Now, c.Devices[id], time.Hour)(c.Host, id)
	if err != nil {
		return nil, err
	}
	conn, err := tls.Dial("tcp", net.JoinHostPort(c.Host, "8883"), c.tls)
	if err != nil {
		return nil, err
	}
	if _, err = conn.Write(opening(c.Host, id, password)); err == nil {
		err = read(conn, make([]byte, openingAnswer))
	}
	return conn, err
}

func read(conn net.Conn, b []byte) error {
	for n := 0; n < len(b); {
		k, err := conn.Read(b[n:])
		if err != nil {
			return err
		}
		n += k
	}
	return nil
}

// send keeps a window of messages in flight for a while.
func (c *client) send(id string) (f figures, err error) {
	var count int
	var cpu, took time.Duration
	switch c.Role {
	case "bare":
		count, cpu, took, err = c.sendBare(id)
	case "paho":
		count, cpu, took, err = c.sendPaho(id)
	case "link":
		count, cpu, took, err = c.sendLink(id)
	case "outbox":
		count, cpu, took, err = c.sendOutbox(id, telemetry.FIFO)
	case "fresh":
		count, cpu, took, err = c.sendOutbox(id, telemetry.FreshFirst)
	}
	if err == nil && count == 0 {
		err = errors.New("nothing was acknowledged")
	}
	n := float64(count)
	return figures{PerSecond: n / took.Seconds(), CPU: float64(cpu.Nanoseconds()) / 1000 / n}, err
}

func eventTopic(id, mid string) string {
	return "devices/" + id + "/messages/events/%24.mid=" + mid + "&%24.ct=application%2Fjson&%24.ce=utf-8&iothub-creation-time-utc=2026-03-01T08%3A30%3A00.123Z"
}

func publishPacket(topic string, body string) []byte {
	p := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	p.Qos, p.MessageID, p.TopicName, p.Payload = 1, 1, topic, []byte(body)
	var out bytes.Buffer
	_ = p.Write(&out)
	return out.Bytes()
}

// sendBare is the floor: one goroutine writes packets that were made once and are numbered in
// place, one for each acknowledgement that has come.
func (c *client) sendBare(id string) (count int, cpu, took time.Duration, err error) {
	conn, err := c.bare(id)
	if err != nil {
		return 0, 0, 0, err
	}
	const mid = "0123456789abcdef-1000000000"
	one := publishPacket(eventTopic(id, mid), sampleBody)
	at, size := bytes.Index(one, []byte(mid))+len(mid), len(one)
	pid := bytes.Index(one, []byte(sampleBody)) - 2
	batch, acks, held := bytes.Repeat(one, c.Window), make([]byte, 16<<10), 0
	began, used := time.Now(), processorTime()
	for number, room := 0, c.Window; c.Messages == 0 && time.Since(began) < c.Duration || count < c.Messages; {
		for i := range room {
			number++
			m := batch[i*size:]
			for n, k := number, at-1; k >= at-9; k-- {
				m[k] = byte('0' + n%10)
				n /= 10
			}
			binary.BigEndian.PutUint16(m[pid:], uint16(1+number%60_000))
		}
		if _, err := conn.Write(batch[:room*size]); err != nil {
			return 0, 0, 0, err
		}
		n, err := conn.Read(acks[held:])
		if err != nil {
			return 0, 0, 0, err
		}
		n += held
		room = n / 4
		count += room
		held = copy(acks, acks[n&^3:n])
	}
	return count, processorTime() - used, time.Since(began), nil
}

func (c *client) sendPaho(id string) (count int, cpu, took time.Duration, err error) {
	p, err := c.paho(id)
	if err != nil {
		return 0, 0, 0, err
	}
	flying, failed := make(chan mqtt.Token, c.Window), make(chan error, 1)
	began, used := time.Now(), processorTime()
	go func() {
		defer close(flying)
		for i := 0; time.Since(began) < c.Duration; i++ {
			flying <- p.Publish(eventTopic(id, "0123456789abcdef-"+strconv.Itoa(i)), 1, false, sampleBody)
		}
	}()
	for t := range flying {
		if t.Wait(); t.Error() != nil {
			select {
			case failed <- t.Error():
			default:
			}
			continue
		}
		count++
	}
	select {
	case err = <-failed:
	default:
	}
	return count, processorTime() - used, time.Since(began), err
}

// endless is an outbox that costs nothing: the drain and the link alone. Like the real one, it
// hands out as many messages as it is asked for.
type endless struct {
	records []outbox.Record
	pos     uint64
	acked   int
}

func (e *endless) Watch(*outbox.Watch, ...outbox.Part) {}
func (e *endless) Unwatch(*outbox.Watch) bool          { return true }
func (e *endless) Read(_ *outbox.Batch, limit, _ int, _ ...outbox.Part) ([]outbox.Record, error) {
	limit = min(limit, len(e.records))
	for i := range e.records[:limit] {
		e.pos++
		e.records[i].Pos = e.pos
	}
	return e.records[:limit], nil
}
func (e *endless) Newest(int) uint64              { return 0 }
func (e *endless) Ack(places ...uint64) error     { e.acked += len(places); return nil } // from the link's reader alone
func (e *endless) Quarantine(uint64, error) error { return nil }

func (c *client) sendLink(id string) (count int, cpu, took time.Duration, err error) {
	l, err := c.link(id, c.Window)
	if err != nil {
		return 0, 0, 0, err
	}
	box := &endless{records: make([]outbox.Record, telemetry.MaxWindow)}
	for i := range box.records {
		box.records[i] = outbox.Record{ID: "0123456789abcdef-" + strconv.Itoa(1000+i), Message: message.Message{Body: []byte(sampleBody),
			ContentType: "application/json", ContentEncoding: "utf-8", Created: time.Now()}}
	}
	ctx, stop := context.WithTimeout(context.Background(), c.Duration)
	defer stop()
	began, used := time.Now(), processorTime()
	if err := virtual.RunDrain(ctx, telemetry.NewDrain(box, l, telemetry.DrainOptions{Window: c.Window})); !errors.Is(err, context.DeadlineExceeded) {
		return 0, 0, 0, err
	}
	cpu, took = processorTime()-used, time.Since(began)
	l.Abort(nil)
	return box.acked, cpu, took, nil
}

func (c *client) sendOutbox(id string, order telemetry.Order) (count int, cpu, took time.Duration, err error) {
	dir, err := os.MkdirTemp("", "bench-*")
	if err != nil {
		return 0, 0, 0, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	box, err := outbox.Open(filepath.Join(dir, "outbox"), large)
	if err != nil {
		return 0, 0, 0, err
	}
	defer func() { _ = box.Close() }()
	total := 500_000 // some tenths of a second, as long as the others take
	if c.Window == 1 {
		total = 10_000
	}
	if err := fill(box, total); err != nil {
		return 0, 0, 0, err
	}
	cpu, took, err = c.drain(id, box, order)
	return total, cpu, took, err
}

// fill puts messages into an outbox.
func fill(box *outbox.Box, total int) error {
	messages := make([]message.Message, 1000)
	for i := range messages {
		messages[i] = message.Message{Body: []byte(sampleBody), ContentType: "application/json", ContentEncoding: "utf-8", Created: time.Now()}
	}
	for range total / len(messages) {
		if err := box.TryAppend(messages...); err != nil {
			return err
		}
	}
	return nil
}

// drain sends all that is in an outbox.
func (c *client) drain(id string, box *outbox.Box, order telemetry.Order) (cpu, took time.Duration, err error) {
	l, err := c.link(id, c.Window)
	if err != nil {
		return 0, 0, err
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	began, used := time.Now(), processorTime()
	go func() {
		ended <- virtual.RunDrain(ctx, telemetry.NewDrain(box, l, telemetry.DrainOptions{Window: c.Window, Order: order}))
	}()
	err = box.WaitEmpty(ctx)
	cpu, took = processorTime()-used, time.Since(began)
	stop()
	<-ended
	l.Abort(nil)
	return cpu, took, err
}

func processorTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// resident is the RSS of this process in bytes.
func resident() int64 {
	text, _ := os.ReadFile("/proc/self/statm")
	if f := strings.Fields(string(text)); len(f) > 1 {
		pages, _ := strconv.ParseInt(f[1], 10, 64)
		return pages * int64(os.Getpagesize())
	}
	return 0
}

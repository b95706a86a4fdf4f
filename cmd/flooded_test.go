//go:build linux && !race

package cmd

import (
	"bytes"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"github.com/hubhop-iot/hubhop/internal/memnet"
)

const (
	// A process stays below mostMemory, whatever a hub sends.
	mostMemory = 64 << 20
	// A flood ends after so many bytes, or when nothing of it was read for so long.
	floodBytes = 128 << 20
	floodBatch = 64 << 10 // in one write
	floodStall = time.Second
	floodLimit = 2 * time.Second
)

// flood is a hub that sends without end: packet is the next one. It answers the requests of the
// twin, unless it reads nothing.
type flood struct {
	packet func(n int) packets.ControlPacket
	twin   string
	unread bool
}

func inbound(topic string, qos byte, n int, body []byte) packets.ControlPacket {
	p := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	p.TopicName, p.Qos, p.MessageID, p.Payload = topic, qos, uint16(n%65535+1), body
	return p
}

// manyKeys returns a JSON object of size bytes with as many properties as possible.
func manyKeys(size, version int) []byte {
	out := fmt.Appendf(make([]byte, 0, size), `{"$version":%d`, version)
	for n := 0; len(out) < size-16; n++ {
		out = fmt.Appendf(out, `,"%x":1`, n)
	}
	return append(out, '}')
}

func manyProperties(size int) string {
	var b strings.Builder
	for n := 0; b.Len() < size-8; n++ {
		fmt.Fprintf(&b, "%x&", n)
	}
	return b.String()
}

// TestFloodedProcessKeepsItsMemoryBounded: a real process and a hub that sends as fast as it can,
// on each path. The process lives, and its memory stays bounded.
func TestFloodedProcessKeepsItsMemoryBounded(t *testing.T) {
	const c2d, empty = "devices/dev-1/messages/devicebound/", `{"desired":{"$version":1},"reported":{"$version":1}}`
	big, half := bytes.Repeat([]byte("x"), 500_000), bytes.Repeat([]byte("1"), 250_000)
	keys := manyProperties(60_000)
	for name, f := range map[string]flood{
		"messages":                     {twin: empty, packet: func(n int) packets.ControlPacket { return inbound(c2d+"%24.mid=m"+strconv.Itoa(n), 1, n, big) }},
		"messages that want no PUBACK": {twin: empty, packet: func(n int) packets.ControlPacket { return inbound(c2d, 0, n, big) }},
		"messages of many properties":  {twin: empty, packet: func(n int) packets.ControlPacket { return inbound(c2d+keys, 1, n, nil) }},
		"messages for nobody, PUBACKs are not read": {twin: empty, unread: true,
			packet: func(n int) packets.ControlPacket { return inbound("x", 1, n, nil) }},
		"methods": {twin: empty, packet: func(n int) packets.ControlPacket {
			return inbound("$iothub/methods/POST/echo/?$rid="+strconv.Itoa(n), 0, n, half)
		}},
		"methods, answers are not read": {twin: empty, unread: true, packet: func(n int) packets.ControlPacket {
			return inbound("$iothub/methods/POST/echo/?$rid="+strconv.Itoa(n), 0, n, half)
		}},
		"methods of endless names": {twin: empty, packet: func(n int) packets.ControlPacket {
			return inbound("$iothub/methods/POST/"+strings.Repeat("x", 60_000)+"/?$rid="+strconv.Itoa(n), 0, n, nil)
		}},
		"large changes": {twin: empty, packet: func(n int) packets.ControlPacket {
			return inbound("$iothub/twin/PATCH/properties/desired/?$version="+strconv.Itoa(n+2), 0, n, big)
		}},
		"changes of many properties": {twin: empty, packet: func(n int) packets.ControlPacket {
			return inbound("$iothub/twin/PATCH/properties/desired/?$version="+strconv.Itoa(n+2), 0, n, manyKeys(64_000, n+2))
		}},
		"a twin of many properties, read again and again": {twin: `{"desired":` + string(manyKeys(125_000, 1)) + `,"reported":` + string(manyKeys(125_000, 1)) + `}`,
			packet: func(n int) packets.ControlPacket {
				return inbound("$iothub/twin/PATCH/properties/desired/?$version="+strconv.Itoa(2*n+3), 0, n, []byte(`{}`))
			}},
		"answers that nobody waits for": {twin: empty, packet: func(n int) packets.ControlPacket {
			return inbound("$iothub/twin/res/200/?$rid=f"+strconv.Itoa(n), 0, n, big)
		}},
		"a twin without end": {twin: string(big)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sent, peak := f.run(t)
			t.Logf("%d MB sent, the process had %d MB at most", sent>>20, peak>>20)
			if peak > mostMemory {
				t.Errorf("the process had %d MB", peak>>20)
			}
		})
	}
}

// run lets a process connect to the hub and floods it. It returns how much was sent, and the most
// memory that the process used.
func (f flood) run(t *testing.T) (sent, peak int64) {
	cert, _ := memnet.Certificate(t, "127.0.0.1")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	dir := t.TempDir()
	ca := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}), 0o600); err != nil {
		t.Fatal(err)
	}
	device := exec.CommandContext(t.Context(), "hubhop", "run", "--ca-file", ca, "--state-dir", filepath.Join(dir, "state"), "--drain-timeout", "0s",
		"--connection-string", "HostName="+l.Addr().String()+";DeviceId=dev-1;SharedAccessKey=c2VjcmV0LXNlY3JldC1zZWNyZXQ=")
	device.Env = append(os.Environ(), "BUILTIN_MODEL="+filepath.Join("..", "failover.json"))
	var log tail
	device.Stderr = &log
	if err := device.Start(); err != nil {
		t.Fatal(err)
	}
	over := make(chan struct{})
	var count atomic.Int64
	go func() {
		defer close(over)
		conn, err := l.Accept() // the process may take its time to start
		for end := time.Now().Add(floodLimit); err == nil; conn, err = l.Accept() {
			_ = l.(*net.TCPListener).SetDeadline(end)
			f.serve(tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{cert}}), &count, end)
			_ = conn.Close()
			if count.Load() >= floodBytes {
				return
			}
		}
	}()
	select {
	case <-over:
	case <-time.After(time.Minute):
	}
	peak, err = peakMemory(device.Process.Pid)
	_ = device.Process.Kill()
	if ended := device.Wait(); err != nil || ended == nil || device.ProcessState.Exited() {
		t.Errorf("the process has ended by itself: %v, %v\n%s", ended, err, log.last())
	}
	if sent = count.Load(); sent < 1<<20 && f.packet != nil || sent == 0 {
		t.Errorf("no flood: %d bytes were sent\n%s", sent, log.last())
	}
	return sent, peak
}

// serve lets a device in and floods it until it takes no more.
func (f flood) serve(conn *tls.Conn, count *atomic.Int64, until time.Time) {
	_ = conn.SetReadDeadline(until)
	in := make(chan packets.ControlPacket)
	done := make(chan struct{})
	go func() {
		defer close(in)
		for n := 0; ; n++ {
			p, err := packets.ReadPacket(conn)
			if err != nil {
				return
			}
			select {
			case in <- p:
			case <-done:
				return
			}
			if _, subscribed := p.(*packets.SubscribePacket); subscribed && f.unread {
				return
			}
		}
	}()
	defer close(done)
	send := func(all ...packets.ControlPacket) error {
		var b bytes.Buffer
		for _, p := range all {
			_ = p.Write(&b)
		}
		_ = conn.SetWriteDeadline(time.Now().Add(floodStall))
		n, err := conn.Write(b.Bytes())
		count.Add(int64(n))
		return err
	}
	answer := func(p packets.ControlPacket) (err error) {
		switch p := p.(type) {
		case nil:
			return io.EOF
		case *packets.ConnectPacket:
			err = send(packets.NewControlPacket(packets.Connack))
		case *packets.SubscribePacket:
			ack := packets.NewControlPacket(packets.Suback).(*packets.SubackPacket)
			ack.MessageID, ack.ReturnCodes = p.MessageID, make([]byte, len(p.Topics))
			err = send(ack)
		case *packets.PublishPacket:
			_, rid, _ := strings.Cut(p.TopicName, "?$rid=")
			switch {
			case strings.HasPrefix(p.TopicName, "$iothub/twin/GET/"):
				err = send(inbound("$iothub/twin/res/200/?$rid="+rid, 0, 0, []byte(f.twin)))
			case strings.HasPrefix(p.TopicName, "$iothub/twin/PATCH/"):
				err = send(inbound("$iothub/twin/res/204/?$version=2&$rid="+rid, 0, 0, nil))
			case p.Qos == 1:
				ack := packets.NewControlPacket(packets.Puback).(*packets.PubackPacket)
				ack.MessageID = p.MessageID
				err = send(ack)
			}
		case *packets.PingreqPacket:
			err = send(packets.NewControlPacket(packets.Pingresp))
		}
		return err
	}
	subscribed := false
	for n := 0; time.Now().Before(until) && count.Load() < floodBytes; {
		var err error
		if f.packet == nil || !subscribed {
			p, ok := <-in
			if !ok {
				return
			}
			err = answer(p)
			_, now := p.(*packets.SubscribePacket)
			subscribed = subscribed || now
		} else {
			select {
			case p, ok := <-in:
				if ok {
					err = answer(p)
				} else if in = nil; !f.unread {
					return
				}
			default:
				var batch []packets.ControlPacket
				for size := 0; size < floodBatch; n++ {
					p := f.packet(n)
					batch = append(batch, p)
					size += len(p.(*packets.PublishPacket).Payload) + len(p.(*packets.PublishPacket).TopicName) + 8
				}
				err = send(batch...)
			}
		}
		if err != nil {
			return
		}
	}
}

// peakMemory returns the most memory that a process has used.
func peakMemory(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(b)
	if m == nil { // it has ended
		return 0, errors.New("it has no memory")
	}
	kb, err := strconv.ParseInt(string(m[1]), 10, 64)
	return kb << 10, err
}

// tail keeps the end of a log.
type tail struct{ b []byte }

func (l *tail) Write(b []byte) (int, error) {
	l.b = append(l.b, b...)
	l.b = l.b[max(0, len(l.b)-4000):]
	return len(b), nil
}

func (l *tail) last() string { return string(l.b) }

package sim

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/iothub"
	"github.com/hubhop-iot/hubhop/internal/sim/ledger"
	"github.com/hubhop-iot/hubhop/internal/sim/wire"
)

// steady is a well-behaved device that publishes all the time, one message after the other, and
// wants each acknowledged.
type steady struct {
	c     *client
	count int
	stop  chan struct{}
	ended chan error
}

func (w *world) steady(c *client) *steady {
	s := &steady{c: c, stop: make(chan struct{}), ended: make(chan error, 1)}
	go func() {
		for id := uint16(1); ; id = max(1, id+1) {
			select {
			case <-s.stop:
				s.ended <- nil
				return
			default:
			}
			_ = c.raw.SetDeadline(time.Now().Add(time.Minute)) // only against waiting for ever
			if _, err := c.tls.Write(publishBytes("devices/"+c.id+"/messages/events/", "x", 1, id)); err != nil {
				s.ended <- err
				return
			}
			if p, err := c.read(); err != nil || p.first != 0x40 || binary.BigEndian.Uint16(p.body) != id {
				s.ended <- fmt.Errorf("after %d messages: %v %w", s.count, p, err)
				return
			}
			s.count++
			time.Sleep(time.Millisecond)
		}
	}()
	return s
}

// check ends the device's work and compares what it was promised with what the ledger has.
func (s *steady) check(w *world) {
	w.t.Helper()
	close(s.stop)
	if err := <-s.ended; err != nil {
		w.t.Errorf("the other device: %v", err)
	}
	if l := w.Ledger(s.c.id, false); s.count == 0 || l.Received != int64(s.count) {
		w.t.Errorf("%d messages acknowledged, %d in the ledger", s.count, l.Received)
	}
}

// nuisance is a client that does harm: it is given a connection below TLS, and a way to make TLS of
// it.
type nuisance func(raw net.Conn, secure func() (net.Conn, error), connect []byte)

// nuisances are all kinds of clients that no hub should have.
func nuisances(rnd *rand.Rand) map[string]nuisance {
	noise := make([]byte, 4096)
	for i := range noise {
		noise[i] = byte(rnd.Uint32())
	}
	inTLS := func(parts ...[]byte) nuisance {
		return func(_ net.Conn, secure func() (net.Conn, error), _ []byte) {
			if c, err := secure(); err == nil {
				_, _ = c.Write(bytes.Join(parts, nil))
				_, _ = io.Copy(io.Discard, c) // until the hub has had enough
			}
		}
	}
	afterConnect := func(parts ...[]byte) nuisance {
		return func(_ net.Conn, secure func() (net.Conn, error), connect []byte) {
			if c, err := secure(); err == nil {
				_, _ = c.Write(append(bytes.Clone(connect), bytes.Join(parts, nil)...))
				_, _ = io.Copy(io.Discard, c)
			}
		}
	}
	long := strings.Repeat("t", 65_535)
	manyFilters := [][]byte{{0, 1}}
	for range 50_000 {
		manyFilters = append(manyFilters, mqttString("#"), []byte{1})
	}
	return map[string]nuisance{
		"hangs up": func(net.Conn, func() (net.Conn, error), []byte) {},
		"noise":    func(raw net.Conn, _ func() (net.Conn, error), _ []byte) { _, _ = raw.Write(noise) },
		"half a hello": func(raw net.Conn, _ func() (net.Conn, error), _ []byte) {
			_, _ = raw.Write([]byte{22, 3, 1, 2, 0, 1, 0})
		},
		"HTTP": func(raw net.Conn, _ func() (net.Conn, error), _ []byte) {
			_, _ = raw.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
		},
		"only TLS":     func(_ net.Conn, secure func() (net.Conn, error), _ []byte) { _, _ = secure() },
		"noise in TLS": inTLS(noise),
		"half a CONNECT": func(_ net.Conn, secure func() (net.Conn, error), connect []byte) {
			c, err := secure()
			halfOf(c, err, connect)
		},
		"endless length": inTLS([]byte{0x10, 0xff, 0xff, 0xff, 0xff, 0xff}),
		"oversize":       inTLS([]byte{0x10, 0xff, 0xff, 0xff, 0x7f}, noise),
		"long topic":     afterConnect(publishBytes("devices/nobody/"+long[:65_000], "", 1, 1)),
		"long own topic": afterConnect(publishBytes("devices/bad/messages/events/"+long[:65_000], "", 1, 1), []byte{0xe0, 0}),
		"long filter":    afterConnect(subscribeBytes(1, 1, long, strings.Repeat("/", 65_535), strings.Repeat("+/", 32_767)), []byte{0xe0, 0}),
		"many filters":   afterConnect(packet(0x82, manyFilters...), []byte{0xe0, 0}),
		"long client id": inTLS(connectBytes(connectOptions{id: long, user: long, password: long, clean: true})),
		"long rid":       afterConnect(publishBytes("$iothub/twin/GET/?$rid="+long[:65_000], "", 1, 1), []byte{0xe0, 0}),
		"two CONNECTs": func(_ net.Conn, secure func() (net.Conn, error), connect []byte) {
			c, err := secure()
			twice(c, err, connect)
		},
		"server's packet": afterConnect([]byte{0x20, 2, 0, 0}),
		"QoS 2":           afterConnect(publishBytes("devices/bad/messages/events/", "", 2, 1)),
		"oversize later":  afterConnect([]byte{0x32, 0xff, 0xff, 0xff, 0x7f}, noise),
		"half a PUBLISH": func(_ net.Conn, secure func() (net.Conn, error), connect []byte) {
			c, err := secure()
			halfPublish(c, err, connect)
		},
	}
}

func halfOf(c net.Conn, err error, connect []byte) {
	if err == nil {
		_, _ = c.Write(connect[:len(connect)/2])
	}
}

func twice(c net.Conn, err error, connect []byte) {
	if err == nil {
		_, _ = c.Write(append(bytes.Clone(connect), connect...))
		_, _ = io.Copy(io.Discard, c)
	}
}

func halfPublish(c net.Conn, err error, connect []byte) {
	if err == nil {
		whole := publishBytes("devices/bad/messages/events/", strings.Repeat("x", 200_000), 1, 1)
		_, _ = c.Write(append(bytes.Clone(connect), whole[:100_000]...))
	}
}

// plague sends every nuisance to each address, rounds times, and ends each with a reset or, every
// second time, orderly.
func (w *world) plague(dial func(addr string) (net.Conn, error), addrs []string, rounds int) {
	rnd := rand.New(rand.NewPCG(1, 2)) // the same every time
	connect := connectBytes(w.hubOptions(w.hubHost("hub-a"), "bad"))
	var jobs sync.WaitGroup
	for name, act := range nuisances(rnd) {
		jobs.Go(func() {
			for round := range rounds {
				for _, addr := range addrs {
					raw, err := dial(addr)
					if err != nil {
						w.t.Errorf("%s: %v", name, err)
						return
					}
					_ = raw.SetDeadline(time.Now().Add(20 * time.Second))
					act(raw, func() (net.Conn, error) {
						c := tls.Client(raw, w.clientTLS(addr))
						return c, c.Handshake()
					}, connect)
					if l, ok := raw.(interface{ SetLinger(sec int) error }); ok && round%2 == 1 {
						_ = l.SetLinger(0)
					}
					_ = raw.Close()
				}
			}
		})
	}
	jobs.Wait()
}

// everyAddress is all that a device can talk to.
func (w *world) everyAddress() []string {
	return []string{w.info.DPS.MQTT, w.info.DPS.HTTPS, w.info.Hubs[0].MQTT, w.info.Hubs[0].HTTPS, strings.TrimPrefix(w.info.Control, "http://"),
		strings.TrimPrefix(w.info.ConnectProxy, "http://")}
}

// A device's messages are acknowledged whatever other clients do, and nothing remains of what they
// did.
func TestNobodyDisturbsADeviceThatBehaves(t *testing.T) {
	inWorld(t, withProxy, func(w *world) {
		host := w.provision("good")
		w.provision("bad")
		good := w.connect(host, "good")
		good.telemetry("", "first", 1)
		w.ResetLedger()
		synctest.Wait()
		goroutines, heap := runtime.NumGoroutine(), heapNow()
		s := w.steady(good)
		w.plague(func(addr string) (net.Conn, error) { return w.net.DialContext(w.t.Context(), "tcp", addr) }, w.everyAddress(), 4)
		s.check(w)
		good.close()
		time.Sleep(3 * time.Minute) // all that waits for something has given up
		synctest.Wait()
		open := 0
		for _, e := range w.allEndpoints() {
			connected, strangers := e.Clients()
			open += len(connected)
			if strangers > 0 {
				t.Errorf("%s: %d strangers", e.Address(), strangers)
			}
		}
		if open != 0 {
			t.Errorf("%d connections are left", open)
		}
		if n := runtime.NumGoroutine(); n > goroutines {
			t.Errorf("%d goroutines, had %d", n, goroutines)
		}
		w.ResetLedger() // what is written there is meant to stay
		if now := heapNow(); now > heap+8<<20 {
			t.Errorf("%d KiB in use, had %d", now>>10, heap>>10)
		}
	})
}

func (w *world) allEndpoints() []*wire.Endpoint {
	all := []*wire.Endpoint{w.dps.MQTT, w.dps.Front.Endpoint, w.control, w.proxy}
	for _, h := range w.hubs {
		all = append(all, h.MQTT, h.HTTPS)
		if h.AMQP != nil {
			all = append(all, h.AMQP)
		}
	}
	return all
}

func heapNow() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // the second one empties the pools
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// The same on real sockets, and with a burst of connections that are given up at once.
func TestNobodyDisturbsADeviceOnRealSockets(t *testing.T) {
	w := realWorld(t, func(c *Config) { c.ConnectProxy = "127.0.0.1:0" })
	good, bad := w.realConnect("good"), w.realConnect("bad")
	bad.close()
	s := w.steady(good)
	dial := func(addr string) (net.Conn, error) { return net.DialTimeout("tcp", addr, 10*time.Second) }
	burst := 2000
	if testing.Short() {
		burst = 200
	}
	var jobs sync.WaitGroup
	for range 16 {
		jobs.Go(func() {
			for i := range burst / 16 {
				raw, err := dial(w.hubAddr("hub-a"))
				if err != nil {
					t.Errorf("connect: %v", err)
					return
				}
				if i%2 == 0 {
					_ = raw.(*net.TCPConn).SetLinger(0)
				}
				_ = raw.Close()
			}
		})
	}
	jobs.Wait()
	quick := func(addr string) (net.Conn, error) {
		raw, err := dial(addr)
		if err == nil {
			raw = briefConn{raw}
		}
		return raw, err
	}
	w.plague(quick, w.everyAddress(), 1)
	s.check(w)
	w.realConnect("good").telemetry("", "and again", 1)
}

// briefConn has less patience than who uses it.
type briefConn struct{ net.Conn }

func (c briefConn) SetDeadline(time.Time) error {
	return c.Conn.SetDeadline(time.Now().Add(300 * time.Millisecond))
}

// A client that asks for much and never reads costs a bounded amount of memory, is cut off, and
// delays nobody else.
func TestThoseThatNeverReadHoldUpNobody(t *testing.T) {
	inWorld(t, func(c *Config) { c.RetryAfter = 0 }, func(w *world) {
		host := w.provision("good")
		s := w.steady(w.connect(host, "good"))
		const lazy = 20
		events, cancel := w.Watch()
		defer cancel()
		var conns []*client
		for i := range lazy {
			id := fmt.Sprintf("lazy-%d", i)
			w.provision(id)
			must(t, w.PatchDesired(id, []byte(`{"a":["`+strings.Repeat("x", 4000)+strings.Repeat(`","`+strings.Repeat("y", 4000), 5)+`"]}`)))
			var c *client
			if i%2 == 0 {
				c = w.connect(host, id)
			} else {
				c, _ = w.webConnect(host, id)
			}
			c.send(subscribeBytes(9, 1, "$iothub/twin/res/#"))
			conns = append(conns, c)
			go func() {
				_ = c.raw.SetWriteDeadline(time.Now().Add(10 * time.Minute))
				for err := error(nil); err == nil; {
					_, err = c.tls.Write(bytes.Repeat(publishBytes("$iothub/twin/GET/?$rid=1", "", 1, 1), 100))
				}
			}()
		}
		time.Sleep(wire.WriteTimeout / 2)
		held := 0
		for i := range lazy {
			o := w.hubs[0].Identity(conns[i].id)
			if !o.Standing().Online {
				t.Errorf("%s is gone already", conns[i].id)
				continue
			}
			held += o.Held()
		}
		if held > lazy*4<<20 {
			t.Errorf("%d bytes are held for %d clients", held, lazy)
		}
		time.Sleep(2 * wire.WriteTimeout)
		cut := 0
		for cancel(); ; {
			e, open := <-events
			if !open {
				break
			}
			if e.Kind == iothub.EventDisconnect && e.Reason == "cannot write: timeout" {
				cut++
			}
		}
		if cut != lazy {
			t.Errorf("%d of %d are cut off", cut, lazy)
		}
		s.check(w)
	})
}

// An HTTP client that never finishes its request is cut off, in the middle of the headers or of the
// body. A client that never reads its answer is cut off, too.
func TestUnfinishedRequestsAreCutOff(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		host := w.provision("d")
		token := sasFor(w.key("d"), host+"/devices/d", time.Now().Add(time.Hour), "")
		head := "POST /devices/d/messages/events?api-version=2020-03-13 HTTP/1.1\r\nHost: h\r\nAuthorization: " + token + "\r\nContent-Length: 10\r\n"
		for name, v := range map[string]struct {
			send  string
			after time.Duration
		}{
			"half the headers": {head, 30 * time.Second},
			"half the body":    {head + "\r\nhalf", time.Minute},
		} {
			c := w.mustDial(w.info.Hubs[0].HTTPS)
			began := time.Now()
			c.send([]byte(v.send))
			_ = c.raw.SetReadDeadline(time.Now().Add(10 * time.Minute))
			_, err := io.Copy(io.Discard, c.r)
			if d := time.Since(began); errors.Is(err, context.DeadlineExceeded) || d < v.after || d > v.after+time.Second {
				t.Errorf("%s: ended after %v, want %v (%v)", name, d, v.after, err)
			}
		}
		if l := w.Ledger("d", false); l.Received != 0 {
			t.Errorf("%+v", l)
		}
		// a whole request is not hurried: neither what follows it on the connection nor one that
		// waits for a device
		c := w.mustDial(w.info.Hubs[0].HTTPS)
		for range 2 {
			c.send([]byte(head + "\r\n0123456789"))
			res, err := http.ReadResponse(c.r, nil)
			must(t, err)
			must(t, res.Body.Close())
			if res.StatusCode != 204 {
				t.Error(res.Status)
			}
			time.Sleep(time.Minute + 10*time.Second)
		}
		dev := w.connect(host, "d")
		dev.subscribeAll()
		began := time.Now()
		a := w.mustDo(w.httpClient(), "POST", w.info.Control+"/api/devices/d/methods/slow?timeoutSeconds=85", `1`)
		if a.status != 504 || time.Since(began) != 85*time.Second {
			t.Errorf("%+v after %v", a, time.Since(began))
		}
		// one that asks for a great deal and reads none of it
		for i := range 400 {
			must(t, w.enterMessage("hub-a", "d", strings.Repeat("x", 10_000), i))
		}
		raw, err := w.net.DialContext(w.t.Context(), "tcp", strings.TrimPrefix(w.info.Control, "http://"))
		must(t, err)
		defer func() { _ = raw.Close() }()
		_, err = raw.Write([]byte("GET /api/ledger?messages=1 HTTP/1.1\r\nHost: localhost\r\n\r\n"))
		must(t, err)
		time.Sleep(2 * wire.WriteTimeout)
		synctest.Wait()
		connected, _ := w.control.Clients()
		for _, remote := range connected {
			if remote.String() == raw.LocalAddr().String() {
				t.Error("a client that never reads is still served")
			}
		}
	})
}

// enterMessage enters a message into the ledger as if it had come.
func (w *world) enterMessage(hub, id, body string, n int) error {
	return w.ledger.Enter(&ledger.Origin{Hub: hub, Device: id}, ledger.Arrival{Bag: fmt.Appendf(nil, "n=%d", n), Body: []byte(body)})
}

// fewDescriptors is a listener of a process that may have few files open.
type fewDescriptors struct {
	net.Listener
	mu    sync.Mutex
	open  int
	limit int
}

func (l *fewDescriptors) Accept() (net.Conn, error) {
	l.mu.Lock()
	full := l.open >= l.limit
	l.mu.Unlock()
	if full {
		return nil, &net.OpError{Op: "accept", Err: syscall.EMFILE}
	}
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	l.open++
	l.mu.Unlock()
	return &oneDescriptor{Conn: c, free: sync.OnceFunc(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.open--
	})}, nil
}

type oneDescriptor struct {
	net.Conn
	free func()
}

func (c *oneDescriptor) SetLinger(sec int) error {
	if l, ok := c.Conn.(interface{ SetLinger(sec int) error }); ok {
		return l.SetLinger(sec)
	}
	return nil
}

func (c *oneDescriptor) Close() error {
	c.free()
	return c.Conn.Close()
}

// Thousands of connections that say nothing take every file descriptor. Devices that are connected
// stay connected, and other devices still get in.
func TestFloodOfConnectionsLetsDevicesIn(t *testing.T) {
	inWorld(t, func(c *Config) {
		listen := c.Listen
		c.Listen = func(network, addr string) (net.Listener, error) {
			l, err := listen(network, addr)
			if err != nil {
				return nil, err
			}
			return &fewDescriptors{Listener: l, limit: 200}, nil
		}
	}, func(w *world) {
		host := w.provision("good")
		s := w.steady(w.connect(host, "good"))
		addr := w.hubAddr(host)
		flood := make(chan struct{})
		flooded := make(chan int)
		go func() {
			n := 0
			var held []net.Conn
			for ; ; n++ {
				select {
				case <-flood:
					for _, c := range held {
						_ = c.Close()
					}
					flooded <- n
					return
				default:
				}
				if c, err := w.net.DialContext(w.t.Context(), "tcp", addr); err == nil {
					held = append(held, c)
				}
				time.Sleep(time.Millisecond)
			}
		}()
		time.Sleep(2 * time.Second)
		w.provision("late")
		c := w.connect(host, "late")
		c.telemetry("", "got in", 1)
		close(flood)
		if n := <-flooded; n < 1000 {
			t.Errorf("%d connections are no flood", n)
		}
		s.check(w)
		if d := w.device("late"); d.ConnectedHub != "hub-a" {
			t.Errorf("%+v", d)
		}
	})
}

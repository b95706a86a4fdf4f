package sim

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"github.com/hubhop-iot/hubhop/internal/sim/iothub"
)

// webSocket is a WebSocket as a client sees it, written from RFC 6455: it masks, and shows nothing
// but what binary frames carry.
type webSocket struct {
	io.WriteCloser
	r       *bufio.Reader
	left    int
	control func(opcode byte, payload []byte) // what else comes
}

const (
	frameText   = 0x1
	frameBinary = 0x2
	frameClose  = 0x8
	framePing   = 0x9
	framePong   = 0xa
	frameFinal  = 0x80
)

func frame(first byte, payload []byte) []byte {
	mask := []byte{1, 2, 3, 4}
	b := []byte{first}
	switch n := len(payload); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	b = append(b, mask...)
	for i, c := range payload {
		b = append(b, c^mask[i%4])
	}
	return b
}

func (s *webSocket) Write(p []byte) (int, error) {
	_, err := s.WriteCloser.Write(frame(frameFinal|frameBinary, p))
	return len(p), err
}

// send sends bytes below the frames.
func (s *webSocket) send(b []byte) { _, _ = s.WriteCloser.Write(b) } // what comes of it is what tests look at

func (s *webSocket) Read(p []byte) (int, error) {
	for s.left == 0 {
		var head [2]byte
		if _, err := io.ReadFull(s.r, head[:]); err != nil {
			return 0, err
		}
		n := uint64(head[1])
		switch n {
		case 126, 127:
			wide := make([]byte, 8)
			if _, err := io.ReadFull(s.r, wide[8-2<<(2*(n-126)):]); err != nil {
				return 0, err
			}
			n = binary.BigEndian.Uint64(wide)
		}
		if head[0]&0x0f <= frameBinary {
			s.left = int(n)
			continue
		}
		payload := make([]byte, n)
		if _, err := io.ReadFull(s.r, payload); err != nil {
			return 0, err
		}
		s.control(head[0]&0x0f, payload)
	}
	n, err := s.r.Read(p[:min(len(p), s.left)])
	s.left -= n
	return n, err
}

const webSocketUpgrade = "GET /$iothub/websocket?iothub-no-client-cert=true HTTP/1.1\r\nHost: hub\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
	"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"

// webClient speaks MQTT over WebSocket with the HTTPS port at addr.
func (w *world) webClient(addr string, certs ...tls.Certificate) (*client, *webSocket) {
	w.t.Helper()
	c := w.mustDial(addr, certs...)
	c.send([]byte(webSocketUpgrade + "sec-websocket-protocol: MQTT\r\n\r\n")) // as the C SDK writes it
	res, err := http.ReadResponse(c.r, nil)
	must(w.t, err)
	must(w.t, res.Body.Close())
	if res.StatusCode != 101 || res.Header.Get("Sec-WebSocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" || res.Header.Get("Sec-WebSocket-Protocol") != "MQTT" {
		w.t.Fatalf("%s %v", res.Status, res.Header)
	}
	s := &webSocket{WriteCloser: c.tls, r: c.r, control: func(opcode byte, payload []byte) {}}
	c.tls, c.r = s, bufio.NewReader(s)
	return c, s
}

func (w *world) webConnect(host, id string, certs ...tls.Certificate) (*client, *webSocket) {
	w.t.Helper()
	var at string
	for _, h := range w.info.Hubs {
		if h.Host == host || h.Name == host {
			at, host = h.HTTPS, h.Host
		}
	}
	c, s := w.webClient(at, certs...)
	c.id, c.host = id, host
	o := w.hubOptions(host, id)
	o.noPassword = len(certs) > 0
	c.send(connectBytes(o))
	if p := c.next(); p.first != 0x20 || p.body[1] != 0 {
		w.t.Fatalf("%s", p)
	}
	return c, s
}

// An MQTT packet may span several WebSocket frames, and a frame may have several packets.
func TestMQTTPacketsMaySpanWebSocketFrames(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		c, _ := w.webClient(w.info.DPS.HTTPS)
		token := sasFor(w.key("d"), w.info.IDScope+"/registrations/d", time.Now().Add(time.Hour), "registration")
		c.send(connectBytes(connectOptions{id: "d", user: w.info.IDScope + "/registrations/d/api-version=2019-03-31", password: token, clean: true}))
		c.want("20020000")
		c.send(subscribeBytes(1, 1, "$dps/registrations/res/#"))
		c.want("9003000101")
		_, body := w.registerAt(c, "d", "")
		state, _ := body["registrationState"].(map[string]any)
		host, _ := state["assignedHub"].(string)
		c.close()

		c, s := w.webConnect(host, "d")
		c.subscribeAll()
		c.send(publishBytes("devices/d/messages/events/", "a", 1, 1), publishBytes("devices/d/messages/events/", "b", 1, 2)) // two packets in one frame
		c.want("40020001")
		c.want("40020002")
		long := publishBytes("devices/d/messages/events/", strings.Repeat("x", 100_000), 1, 3)
		s.send(frame(frameBinary, long[:1])) // one packet in many frames of one message, and an empty one
		s.send(frame(0, long[1:70_000]))
		s.send(frame(0, nil))
		s.send(frame(frameFinal, long[70_000:99_999]))
		c.send(long[99_999:]) // and of another
		c.want("40020003")
		if l := w.Ledger("d", true); l.Received != 3 || len(l.Messages[2].Body) != 100_002 {
			t.Errorf("%+v", l)
		}
		c.send(publishBytes("$iothub/twin/GET/?$rid=1", "", 0, 0))
		if topic, _ := c.wantPublish(); topic != "$iothub/twin/res/200/?$rid=1" {
			t.Error(topic)
		}
		must(t, w.PatchDesired("d", []byte(`{"long":["`+strings.Repeat("x", 4000)+strings.Repeat(`","`+strings.Repeat("y", 4000), 5)+`"]}`)))
		if _, body := c.wantPublish(); len(body) < 24_000 { // more than a buffer
			t.Error(len(body))
		}
		pongs := 0
		s.control = func(opcode byte, payload []byte) {
			if opcode == framePong && string(payload) == "hello" {
				pongs++
			}
		}
		s.send(frame(frameFinal|framePing, []byte("hello")))
		c.send([]byte{0xc0, 0})
		c.want("d000")
		if pongs != 1 {
			t.Errorf("%d pongs", pongs)
		}
		// a ping of the layer below is not a sign of life of the device
		began := time.Now()
		go func() {
			for range 30 {
				time.Sleep(10 * time.Second)
				s.send(frame(frameFinal|framePing, nil))
			}
		}()
		c.wantEnd()
		if d := time.Since(began); d != 90*time.Second {
			t.Errorf("silent for %v", d)
		}
		time.Sleep(5 * time.Minute)
	})
}

// A connection over WebSocket ends in the ways of one over TCP.
func TestWebSocketConnectionsEndLikeTCPOnes(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		host := w.provision("d")
		events, cancel := w.Watch()
		defer cancel()
		ended := func(want string) {
			t.Helper()
			for e := range events {
				if e.Kind != iothub.EventDisconnect {
					continue
				}
				if e.Reason != want {
					t.Errorf("ended with %q, want %q", e.Reason, want)
				}
				return
			}
		}
		c, s := w.webConnect(host, "d")
		s.send(frame(frameFinal|frameText, []byte{0xc0, 0}))
		c.wantEnd()
		ended("malformed packet: MQTT in a text frame")

		c, s = w.webConnect(host, "d")
		s.send(frame(frameFinal|frameClose, []byte{0x03, 0xe8}))
		c.wantEnd()
		ended("closed by the client")

		c, s = w.webConnect(host, "d")
		s.send([]byte{0x82, 1, 0}) // not masked
		c.wantEnd()
		ended("websocket: bad MASK")

		c, _ = w.webConnect(host, "d")
		c.send([]byte{0xe0, 0})
		c.wantEnd()
		ended("disconnected")

		c, s = w.webConnect(host, "d")
		code := 0
		s.control = func(opcode byte, payload []byte) {
			if opcode == frameClose && len(payload) >= 2 {
				code = int(binary.BigEndian.Uint16(payload))
			}
		}
		must(t, w.Disconnect("d"))
		c.wantEnd()
		ended("disconnected by the operator")
		if code != 1000 {
			t.Errorf("closed with code %d", code)
		}

		c, _ = w.webConnect(host, "d")
		other := w.connect(host, "d") // over TCP
		c.wantEnd()
		ended("replaced by a new connection of the same device")
		other.close()
		ended("closed by the client")
	})
}

// The faults of a hub hit connections over WebSocket, too.
func TestFaultsOfAHubHitWebSockets(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		host := w.provision("d")
		at := w.info.Hubs[0].HTTPS
		for _, f := range []struct {
			close string
			ended func(error) bool
		}{{"rst", isReset}, {"fin", isEOF}} {
			c, _ := w.webConnect(host, "d")
			must(t, w.FaultHub("hub-a", iothub.Fault{Kind: iothub.FaultKill, Close: f.close}))
			if err := c.howItEnds(); !f.ended(err) {
				t.Errorf("%s: ended with %v", f.close, err)
			}
			if _, err := w.dial(at); !isRefused(err) {
				t.Errorf("%s: dial says %v", f.close, err)
			}
			must(t, w.HealHub("hub-a"))
		}
		c, s := w.webConnect(host, "d")
		must(t, w.FaultHub("hub-a", iothub.Fault{Kind: iothub.FaultBlackhole}))
		c.send(publishBytes("devices/d/messages/events/", "late", 1, 7))
		s.send(frame(frameFinal|framePing, nil))
		c.wantSilence(20 * time.Second)
		if _, err := w.dialBriefly(at); err == nil {
			t.Error("a black hole answers")
		}
		must(t, w.HealHub("hub-a"))
		c.want("40020007")
		must(t, w.FaultHub("hub-a", iothub.Fault{Kind: iothub.FaultSlow, DelayMs: 3000}))
		began := time.Now()
		c.send([]byte{0xc0, 0})
		c.want("d000")
		if d := time.Since(began); d != 3*time.Second {
			t.Errorf("answered after %v", d)
		}
		must(t, w.FaultHub("hub-a", iothub.Fault{Kind: iothub.FaultConnack5}))
		c.wantEnd()
		c, _ = w.webClient(at)
		c.send(connectBytes(w.hubOptions(host, "d")))
		c.want("20020005")
		must(t, w.FaultHub("hub-a", iothub.Fault{Kind: iothub.FaultKill}))
		must(t, w.HealHub("hub-a"))
		w.webConnect(host, "d") // and stays, for Close to end
		must(t, w.FaultHub("hub-a", iothub.Fault{Kind: iothub.FaultBlackhole}))
	})
}

func TestCertificatesWorkOverWebSocket(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		cert := w.deviceCert("x", nil)
		c, _ := w.webClient(w.info.DPS.HTTPS, cert)
		c.send(connectBytes(connectOptions{id: "x", user: w.info.IDScope + "/registrations/x/api-version=2019-03-31", noPassword: true, clean: true}))
		c.want("20020000")
		c.send(subscribeBytes(1, 1, "$dps/registrations/res/#"))
		c.want("9003000101")
		if status, body := w.registerAt(c, "x", ""); status != "200" {
			t.Fatalf("%s %v", status, body)
		}
		c, _ = w.webConnect("hub-a", "x", cert)
		c.telemetry("", "proved by a certificate", 1)
		if m := w.Ledger("x", true).Messages[0]; !strings.Contains(*m.Properties["iothub-connection-auth-method"], "x509") {
			t.Errorf("%+v", m)
		}
	})
}

func TestWebSocketHandshakeIsChecked(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		for name, v := range map[string]struct {
			request string
			status  int
			text    string
		}{
			"mqtt":            {webSocketUpgrade + "Sec-WebSocket-Protocol: mqtt\r\n\r\n", 101, ""},
			"one of many":     {webSocketUpgrade + "Sec-WebSocket-Protocol: AMQPWSB11, mqtt\r\n\r\n", 101, ""},
			"origin":          {webSocketUpgrade + "Origin: https://hub:443\r\nSec-Websocket-Protocol: mqtt\r\n\r\n", 101, ""},
			"deflate offered": {webSocketUpgrade + "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n", 101, ""},
			"bare path":       {strings.Replace(webSocketUpgrade, "?iothub-no-client-cert=true", "", 1) + "Sec-WebSocket-Protocol: mqtt\r\n\r\n", 101, ""},
			"no protocol":     {webSocketUpgrade + "\r\n", 400, "must offer mqtt"},
			"other protocol":  {webSocketUpgrade + "Sec-WebSocket-Protocol: AMQPWSB11\r\n\r\n", 400, "must offer mqtt"},
			"no key":          {strings.Replace(webSocketUpgrade, "Sec-WebSocket-Key", "X-Key", 1) + "Sec-WebSocket-Protocol: mqtt\r\n\r\n", 400, "Key"},
			"old version":     {strings.Replace(webSocketUpgrade, "Version: 13", "Version: 8", 1) + "Sec-WebSocket-Protocol: mqtt\r\n\r\n", 400, "version"},
			"no upgrade":      {"GET /$iothub/websocket HTTP/1.1\r\nHost: hub\r\n\r\n", 400, "upgrade"},
			"other path":      {strings.Replace(webSocketUpgrade, "/$iothub/websocket", "/mqtt", 1) + "Sec-WebSocket-Protocol: mqtt\r\n\r\n", 404, ""},
			"post":            {strings.Replace(webSocketUpgrade, "GET", "POST", 1) + "Sec-WebSocket-Protocol: mqtt\r\n\r\n", 404, ""},
		} {
			for _, at := range []string{w.info.DPS.HTTPS, w.info.Hubs[1].HTTPS} {
				c := w.mustDial(at)
				c.send([]byte(v.request))
				res, err := http.ReadResponse(c.r, nil)
				must(t, err)
				if v.status == 101 {
					if e := res.Header.Get("Sec-WebSocket-Extensions"); e != "" || res.Header.Get("Sec-WebSocket-Protocol") != "mqtt" {
						t.Errorf("%s: %v", name, res.Header)
					}
					c.close()
				} else {
					_ = c.raw.SetReadDeadline(time.Now().Add(time.Second))
				}
				body, _ := io.ReadAll(io.LimitReader(res.Body, 200))
				if same := res.StatusCode == v.status || name == "post" && res.StatusCode == 405; !same || !bytes.Contains(body, []byte(v.text)) {
					t.Errorf("%s: %s %s", name, res.Status, body)
				}
			}
		}
		// whoever sends CONNECT before the answer, and nothing at all after it, is cut off in time
		c := w.mustDial(w.info.Hubs[0].HTTPS)
		c.send([]byte(webSocketUpgrade + "Sec-WebSocket-Protocol: mqtt\r\n\r\n"))
		began := time.Now()
		_, err := io.Copy(io.Discard, c.r)
		if d := time.Since(began); d != time.Minute {
			t.Errorf("%v after %v", err, d)
		}
	})
}

// Paho, a foreign client, connects with the WebSocket library that it brings along, over a real
// listener.
func TestPahoWorksOverWebSocket(t *testing.T) {
	w := realWorld(t, nil)
	dial := func(addr, id, user, password string, got func(mqtt.Client, mqtt.Message)) mqtt.Client {
		t.Helper()
		c := mqtt.NewClient(mqtt.NewClientOptions().AddBroker("wss://" + addr + "/$iothub/websocket?iothub-no-client-cert=true").SetClientID(id).
			SetUsername(user).SetPassword(password).SetTLSConfig(w.clientTLS(addr)).SetAutoReconnect(false).SetProtocolVersion(4).
			SetDefaultPublishHandler(got))
		wait(t, c.Connect())
		return c
	}
	topics := make(chan mqtt.Message, 100)
	keep := func(_ mqtt.Client, m mqtt.Message) { topics <- m }
	token := sasFor(w.key("d"), w.info.IDScope+"/registrations/d", time.Now().Add(time.Hour), "registration")
	c := dial(w.info.DPS.HTTPS, "d", w.info.IDScope+"/registrations/d/api-version=2019-03-31", token, keep)
	wait(t, c.Subscribe("$dps/registrations/res/#", 1, nil))
	wait(t, c.Publish("$dps/registrations/PUT/iotdps-register/?$rid=1", 1, false, `{"registrationId":"d"}`))
	m := <-topics
	_, operation, _ := strings.Cut(string(m.Payload()), `"operationId":"`)
	operation, _, _ = strings.Cut(operation, `"`)
	wait(t, c.Publish("$dps/registrations/GET/iotdps-get-operationstatus/?$rid=2&operationId="+operation, 1, false, " "))
	if m := <-topics; !strings.Contains(string(m.Payload()), `"assignedHub":"`+w.hubHost("hub-a")+`"`) {
		t.Fatalf("%s %s", m.Topic(), m.Payload())
	}
	c.Disconnect(0)

	o := w.hubOptions(w.hubHost("hub-a"), "d")
	c = dial(w.info.Hubs[0].HTTPS, "d", o.user, o.password, keep)
	defer c.Disconnect(0)
	for i := range 50 {
		wait(t, c.Publish(fmt.Sprintf("devices/d/messages/events/%%24.mid=0123456789abcdef-%d", i+1), 1, false, strings.Repeat("x", 2000)))
	}
	if l := w.Ledger("d", false); l.Received != 50 || l.Distinct != 50 {
		t.Errorf("%+v", l)
	}
	wait(t, c.Subscribe("$iothub/twin/res/#", 0, nil))
	wait(t, c.Publish("$iothub/twin/PATCH/properties/reported/?$rid=3", 1, false, `{"over":"websocket"}`))
	if m := <-topics; m.Topic() != "$iothub/twin/res/204/?$rid=3&$version=2" {
		t.Error(m.Topic())
	}
	wait(t, c.Publish("$iothub/twin/GET/?$rid=4", 1, false, ""))
	if m := <-topics; !strings.Contains(string(m.Payload()), `"over":"websocket"`) {
		t.Errorf("%s", m.Payload())
	}
}

func wait(t *testing.T, token mqtt.Token) {
	t.Helper()
	if !token.WaitTimeout(10*time.Second) || token.Error() != nil {
		t.Fatal(errors.Join(token.Error(), errors.New("no answer")))
	}
}

package sim

import (
	"bytes"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/hubhop-iot/hubhop/internal/sim/iothub"
)

// The last frames, byte for byte as the standard has them: open with a container id, close with an
// error.
const amqpLast = "414d515000010000" + // the AMQP layer
	"0000002002000000" + "005310" + "d00000001000000001" + "a10a687562686f702073696d"

// amqpReason is what the SDKs of AMQP print.
const amqpReason = "This is a simulator of IoT Hub and DPS; it speaks MQTT and HTTPS, and no AMQP. Choose MQTT (port 8883), " +
	"or MQTT over WebSocket, as the transport of the SDK."

// amqpStream is the client's stream of bytes in the binary messages of a WebSocket.
type amqpStream struct {
	ws      *websocket.Conn
	message io.Reader
}

func (s *amqpStream) Read(p []byte) (n int, err error) {
	for {
		if s.message == nil {
			if _, s.message, err = s.ws.NextReader(); err != nil {
				return 0, err
			}
		}
		if n, err = s.message.Read(p); errors.Is(err, io.EOF) {
			s.message, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

func (s *amqpStream) Write(p []byte) (int, error) {
	return len(p), s.ws.WriteMessage(websocket.BinaryMessage, p)
}

func amqpClose() string {
	sorry := append([]byte{0xa1, byte(len(amqpReason))}, amqpReason...)
	condition := append([]byte{0xa3, 20}, "amqp:not-implemented"...)
	fields := hex.EncodeToString(append(condition, sorry...))
	n := len(fields) / 2
	be := func(n int) string { return hex.EncodeToString([]byte{0, 0, byte(n >> 8), byte(n)}) }
	err := "00531d" + "d0" + be(n+4) + "00000002" + fields
	list := "005318" + "d0" + be(len(err)/2+4) + "00000001" + err
	return be(8+len(list)/2) + "02000000" + list
}

// An AMQP client gets through SASL and then receives an error that it prints. This is so on the
// port of AMQP and over WebSocket.
func TestAMQPClientIsToldWhyItIsRefused(t *testing.T) {
	inToldWorld(t, func(c *Config) { c.HTTPSPort = 443 }, func(w *world, log *diary) {
		dialTLS := func(addr string) (io.ReadWriter, func()) {
			c := w.mustDial(addr)
			return struct {
				io.Reader
				io.Writer
			}{c.r, c.tls}, c.wantEnd
		}
		dialWeb := func(addr string) (io.ReadWriter, func()) {
			d := websocket.Dialer{NetDialContext: w.net.DialContext, TLSClientConfig: w.clientTLS(addr), Subprotocols: []string{"AMQPWSB10"}}
			ws, res, err := d.DialContext(w.t.Context(), "wss://"+addr+"/$iothub/websocket", nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := res.Header.Get("Sec-Websocket-Protocol"); got != "AMQPWSB10" {
				t.Errorf("subprotocol %q", got)
			}
			return &amqpStream{ws: ws}, func() {
				if _, _, err := ws.ReadMessage(); err == nil {
					t.Error("something follows")
				}
				_ = ws.Close()
			}
		}
		for _, c := range []struct {
			dial func(addr string) (io.ReadWriter, func())
			addr string
			sasl bool
		}{
			{dialTLS, "127.0.0.1:5671", true}, {dialTLS, "127.0.0.2:5671", true}, {dialTLS, "127.0.0.3:5671", false},
			{dialWeb, w.info.DPS.HTTPS, true}, {dialWeb, w.info.Hubs[0].HTTPS, true}, {dialWeb, w.info.Hubs[1].HTTPS, false},
		} {
			client, wantEnd := c.dial(c.addr)
			say := func(hexed string) {
				t.Helper()
				b, err := hex.DecodeString(hexed)
				must(t, err)
				_, err = client.Write(b)
				must(t, err)
			}
			want := func(hexed string) {
				t.Helper()
				got := make([]byte, len(hexed)/2)
				if _, err := io.ReadFull(client, got); err != nil || hex.EncodeToString(got) != hexed {
					t.Errorf("%s: got %x, %v; want %s", c.addr, got, err, hexed)
				}
			}
			if c.sasl {
				say("414d515003010000")
				want("414d515003010000")
				mechanisms := make([]byte, 4)
				_, err := io.ReadFull(client, mechanisms)
				must(t, err)
				rest := make([]byte, int(mechanisms[3])-4)
				_, err = io.ReadFull(client, rest)
				must(t, err)
				if !bytes.HasPrefix(rest, []byte{2, 1, 0, 0, 0, 0x53, 0x40}) || !bytes.Contains(rest, []byte("\x09ANONYMOUS")) {
					t.Errorf("%q", rest)
				}
				say("00000019" + "02010000" + "005341" + "c00c01" + "a309" + hex.EncodeToString([]byte("ANONYMOUS")))
				want("0000001602010000" + "005344" + "d00000000600000001" + "5000")
			}
			say("414d515000010000")
			want(amqpLast)
			want(amqpClose())
			say("000000170200000000531045") // whatever it is
			if s, ok := client.(struct {
				io.Reader
				io.Writer
			}); ok {
				_ = s.Writer.(*tls.Conn).CloseWrite()
			} else {
				_ = client.(*amqpStream).ws.WriteControl(websocket.CloseMessage, nil, time.Now().Add(time.Second))
			}
			wantEnd()
		}
		for _, hub := range []string{"dps", "hub-a", "hub-b"} {
			if log.holds(map[string]string{"hub": hub, "kind": "refuse"}, "AMQP") != 1 {
				t.Errorf("the log does not say so of %s:\n%s", hub, log)
			}
		}
		// garbage, silence and frames without end are hung up on
		for _, words := range []string{"GET / HTTP/1.1\r\n\r\n", "AMQP\x03\x01\x00\x00\xff\xff\xff\xff", "AMQP\x02\x01\x00\x00", ""} {
			c, start := w.mustDial("127.0.0.2:5671"), time.Now()
			c.send([]byte(words))
			_, _ = io.Copy(io.Discard, c.r)
			if time.Since(start) > 32*time.Second {
				t.Errorf("%q is listened to for %v", words, time.Since(start))
			}
		}
		// another subprotocol is told what there is
		h := w.httpClient()
		defer h.CloseIdleConnections()
		a := w.mustDo(h, "GET", "https://"+w.info.Hubs[0].HTTPS+"/$iothub/websocket", "", "Connection", "Upgrade", "Upgrade", "websocket",
			"Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Protocol", "soap")
		if a.status != http.StatusBadRequest || !strings.Contains(a.text, "must offer mqtt") {
			t.Errorf("%d %s", a.status, a.text)
		}
		// a fault of the hub hits this port too
		must(t, w.FaultHub("hub-a", iothub.Fault{Kind: iothub.FaultKill}))
		if _, err := w.dial("127.0.0.2:5671"); !isRefused(err) {
			t.Errorf("%v", err)
		}
	})
}

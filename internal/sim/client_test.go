package sim

import (
	"bufio"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		childMain(dir)
	}
	goleak.VerifyTestMain(m)
}

// client is a bare MQTT 3.1.1 client.
type client struct {
	t    *testing.T
	raw  net.Conn
	tls  io.WriteCloser // or a WebSocket over it
	r    *bufio.Reader
	id   string
	host string
}

func newClient(t *testing.T, raw net.Conn, config *tls.Config) (*client, error) {
	secure := tls.Client(raw, config)
	c := &client{t: t, raw: raw, tls: secure, r: bufio.NewReader(secure)}
	_ = raw.SetDeadline(time.Now().Add(90 * time.Second))
	if err := secure.Handshake(); err != nil {
		_ = raw.Close()
		return nil, err
	}
	_ = raw.SetDeadline(time.Time{})
	t.Cleanup(func() { _ = raw.Close() })
	return c, nil
}

func mqttString(s string) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(s))), s...)
}

func packet(first byte, parts ...[]byte) []byte {
	var body []byte
	for _, p := range parts {
		body = append(body, p...)
	}
	head := []byte{first}
	for n := len(body); ; n >>= 7 {
		if n < 128 {
			head = append(head, byte(n))
			break
		}
		head = append(head, byte(n)|0x80)
	}
	return append(head, body...)
}

type connectOptions struct {
	id, user, password string
	clean              bool
	keepAlive          uint16
	willTopic, will    string
	noPassword         bool
}

func connectBytes(o connectOptions) []byte {
	flags := byte(0x80)
	payload := mqttString(o.id)
	if o.clean {
		flags |= 0x02
	}
	if o.willTopic != "" {
		flags |= 0x04 | 0x08
		payload = append(append(payload, mqttString(o.willTopic)...), mqttString(o.will)...)
	}
	payload = append(payload, mqttString(o.user)...)
	if !o.noPassword {
		flags |= 0x40
		payload = append(payload, mqttString(o.password)...)
	}
	return packet(0x10, mqttString("MQTT"), []byte{4, flags}, binary.BigEndian.AppendUint16(nil, o.keepAlive), payload)
}

func publishBytes(topic string, body string, qos byte, id uint16) []byte {
	if qos == 0 {
		return packet(0x30, mqttString(topic), []byte(body))
	}
	return packet(0x30|qos<<1, mqttString(topic), binary.BigEndian.AppendUint16(nil, id), []byte(body))
}

func subscribeBytes(id uint16, qos byte, filters ...string) []byte {
	parts := [][]byte{binary.BigEndian.AppendUint16(nil, id)}
	for _, f := range filters {
		parts = append(parts, mqttString(f), []byte{qos})
	}
	return packet(0x82, parts...)
}

func (c *client) send(b ...[]byte) {
	c.t.Helper()
	var all []byte
	for _, one := range b {
		all = append(all, one...)
	}
	if _, err := c.tls.Write(all); err != nil {
		c.t.Fatalf("write: %v", err)
	}
}

type received struct {
	first byte
	body  []byte
}

func (p received) String() string { return fmt.Sprintf("%02x %q", p.first, p.body) }

// topic, id and payload take a PUBLISH apart.
func (p received) publish() (topic string, id uint16, payload string) {
	n := int(binary.BigEndian.Uint16(p.body))
	topic, rest := string(p.body[2:2+n]), p.body[2+n:]
	if p.first&6 != 0 {
		id, rest = binary.BigEndian.Uint16(rest), rest[2:]
	}
	return topic, id, string(rest)
}

func (c *client) read() (received, error) {
	first, err := c.r.ReadByte()
	if err != nil {
		return received{}, err
	}
	n, err := binary.ReadUvarint(c.r) // MQTT's remaining length is the same code
	if err != nil {
		return received{}, err
	}
	body := make([]byte, n)
	_, err = io.ReadFull(c.r, body)
	return received{first, body}, err
}

func (c *client) next() received {
	c.t.Helper()
	_ = c.raw.SetReadDeadline(time.Now().Add(2 * time.Minute))
	p, err := c.read()
	if err != nil {
		c.t.Fatalf("read: %v", err)
	}
	return p
}

func (c *client) want(hexed string) {
	c.t.Helper()
	p := c.next()
	if got := fmt.Sprintf("%x", packet(p.first, p.body)); got != hexed {
		c.t.Fatalf("got packet %s (%s), want %s", got, p, hexed)
	}
}

func (c *client) wantEnd() {
	c.t.Helper()
	_ = c.howItEnds()
}

// howItEnds wants the end of the connection and returns its error.
func (c *client) howItEnds() error {
	c.t.Helper()
	_ = c.raw.SetReadDeadline(time.Now().Add(5 * time.Minute))
	p, err := c.read()
	if err == nil {
		c.t.Fatalf("got %s, want the end of the connection", p)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Fatal("the connection did not end")
	}
	return err
}

// wantSilence checks that nothing comes for a while.
func (c *client) wantSilence(d time.Duration) {
	c.t.Helper()
	_ = c.raw.SetReadDeadline(time.Now().Add(d))
	if p, err := c.read(); !errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Fatalf("got %s, %v; want silence", p, err)
	}
}

func (c *client) wantPublish() (topic, payload string) {
	c.t.Helper()
	p := c.next()
	if p.first>>4 != 3 {
		c.t.Fatalf("got %s, want a PUBLISH", p)
	}
	topic, id, payload := p.publish()
	if id != 0 {
		_, _ = c.tls.Write(packet(0x40, binary.BigEndian.AppendUint16(nil, id))) // the other side may have closed
	}
	return topic, payload
}

func (c *client) close() { _ = c.tls.Close() }

func hmacSHA256(key []byte, text string) []byte {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(text))
	return m.Sum(nil)
}

func sasFor(key []byte, resource string, expires time.Time, skn string) string {
	sr := url.QueryEscape(resource)
	sig := hmacSHA256(key, fmt.Sprintf("%s\n%d", sr, expires.Unix()))
	token := fmt.Sprintf("SharedAccessSignature sr=%s&sig=%s&se=%d", sr, url.QueryEscape(base64.StdEncoding.EncodeToString(sig)), expires.Unix())
	if skn != "" {
		token += "&skn=" + skn
	}
	return token
}

func (w *world) key(id string) []byte {
	group, _ := base64.StdEncoding.DecodeString(w.info.GroupKey)
	return hmacSHA256(group, id)
}

// dpsConnect opens a DPS connection, subscribed, with the key of the group.
func (w *world) dpsConnect(id string) *client {
	w.t.Helper()
	c := w.mustDial(w.info.DPS.MQTT)
	token := sasFor(w.key(id), w.info.IDScope+"/registrations/"+id, time.Now().Add(w.config.ClockOffset).Add(time.Hour), "registration")
	c.send(connectBytes(connectOptions{id: id, user: w.info.IDScope + "/registrations/" + id + "/api-version=2019-03-31", password: token, clean: true, keepAlive: 120}))
	c.want("20020000")
	c.send(subscribeBytes(1, 1, "$dps/registrations/res/#"))
	c.want("9003000101")
	return c
}

// registerAt registers over an open DPS connection and polls until there is a final answer.
func (w *world) registerAt(c *client, id, payload string) (status string, body map[string]any) {
	w.t.Helper()
	c.send(publishBytes("$dps/registrations/PUT/iotdps-register/?$rid=r1", `{"registrationId":"`+id+`"`+payload+`}`, 1, 2))
	c.want("40020002")
	for poll := uint16(3); ; poll++ {
		topic, text := c.wantPublish()
		status = strings.Split(topic, "/")[3]
		body = map[string]any{}
		if err := json.Unmarshal([]byte(text), &body); err != nil {
			w.t.Fatalf("%s: %v", text, err)
		}
		if status != "202" {
			return status, body
		}
		if _, after, ok := strings.Cut(topic, "retry-after="); ok {
			d, _ := time.ParseDuration(after + "s")
			time.Sleep(d)
		}
		c.send(publishBytes(fmt.Sprintf("$dps/registrations/GET/iotdps-get-operationstatus/?$rid=r%d&operationId=%s", poll, body["operationId"]), " ", 1, poll))
		c.want(fmt.Sprintf("4002%04x", poll))
	}
}

// provision registers a device and returns the hub DPS assigned.
func (w *world) provision(id string) (hub string) {
	w.t.Helper()
	c := w.dpsConnect(id)
	defer c.close()
	status, body := w.registerAt(c, id, "")
	state, _ := body["registrationState"].(map[string]any)
	if status != "200" || body["status"] != "assigned" {
		w.t.Fatalf("registration of %s: %s %v", id, status, body)
	}
	return state["assignedHub"].(string)
}

func (w *world) hubAddr(host string) string {
	for _, h := range w.info.Hubs {
		if h.Host == host || h.Name == host {
			return h.MQTT
		}
	}
	w.t.Fatalf("no hub %q", host)
	return ""
}

func (w *world) hubHost(name string) string {
	for _, h := range w.info.Hubs {
		if h.Name == name {
			return h.Host
		}
	}
	w.t.Fatalf("no hub %q", name)
	return ""
}

// hubOptions is a CONNECT for a hub with good credentials.
func (w *world) hubOptions(host, id string) connectOptions {
	return connectOptions{
		id: id, user: host + "/" + id + "/?api-version=2021-04-12", keepAlive: 60,
		password: sasFor(w.key(id), host+"/devices/"+id, time.Now().Add(w.config.ClockOffset).Add(time.Hour), ""),
	}
}

// tryHub connects to a hub and returns the CONNACK.
func (w *world) tryHub(o connectOptions, host string) (c *client, present bool, code byte) {
	w.t.Helper()
	c = w.mustDial(w.hubAddr(host))
	c.id, c.host = o.id, host
	c.send(connectBytes(o))
	p := c.next()
	if p.first != 0x20 || len(p.body) != 2 {
		w.t.Fatalf("got %s, want a CONNACK", p)
	}
	return c, p.body[0] == 1, p.body[1]
}

// connect connects a provisioned device to a hub, host or name.
func (w *world) connect(host, id string) *client {
	w.t.Helper()
	if strings.HasPrefix(host, "hub-") {
		host = w.hubHost(host)
	}
	c, _, code := w.tryHub(w.hubOptions(host, id), host)
	if code != 0 {
		w.t.Fatalf("CONNACK %d", code)
	}
	return c
}

func (c *client) subscribeAll() {
	c.t.Helper()
	c.send(subscribeBytes(9, 1, "devices/"+c.id+"/messages/devicebound/#", "$iothub/methods/POST/#", "$iothub/twin/res/#", "$iothub/twin/PATCH/properties/desired/#"))
	c.want("9006000901010101")
}

func (c *client) telemetry(bag, body string, pid uint16) {
	c.t.Helper()
	c.send(publishBytes("devices/"+c.id+"/messages/events/"+bag, body, 1, pid))
	c.want(fmt.Sprintf("4002%04x", pid))
}

func (w *world) device(id string) DeviceState {
	w.t.Helper()
	for _, d := range w.State().Devices {
		if d.ID == id {
			return d
		}
	}
	w.t.Fatalf("no device %q in %+v", id, w.State())
	return DeviceState{}
}

// refusal is a control error in short: its status and code.
func refusal(err error) string {
	if e, ok := errors.AsType[*azure.Error](err); ok {
		return fmt.Sprint(e.Status, " ", e.Code)
	}
	return fmt.Sprint(err)
}

func isEOF(err error) bool { return errors.Is(err, io.EOF) }

func isReset(err error) bool { return errors.Is(err, syscall.ECONNRESET) }

func isRefused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }

// dialBriefly gives up after five seconds.
func (w *world) dialBriefly(addr string) (*client, error) {
	ctx, cancel := context.WithTimeout(w.t.Context(), 5*time.Second)
	defer cancel()
	raw, err := w.net.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	w.t.Cleanup(func() { _ = raw.Close() })
	_ = raw.SetDeadline(time.Now().Add(5 * time.Second))
	return nil, tls.Client(raw, &tls.Config{RootCAs: w.CAPool(), ServerName: hostOf(addr)}).Handshake()
}

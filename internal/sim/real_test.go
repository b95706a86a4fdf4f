package sim

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/iothub"
	"github.com/hubhop-iot/hubhop/internal/sim/provisioning"
)

// realWorld is a cloud on real sockets of the loopback interface, on addresses of its own in
// LayoutLoopback.
func realWorld(t testing.TB, change func(*Config)) *world {
	t.Helper()
	c := DefaultConfig()
	c.RetryAfter = 0
	c.Layout = LayoutPorts
	c.ControlAddr = "127.0.0.1:0"
	if change != nil {
		change(&c)
	}
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	w := &world{Sim: s, info: s.Info()}
	w.t, _ = t.(*testing.T)
	return w
}

func (w *world) realDial(addr string) (*client, error) {
	raw, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return nil, err
	}
	return newClient(w.t, raw, w.clientTLS(addr))
}

// enter registers a device by the default group, asking the registry directly, and returns the host
// of its hub.
func (w *world) enter(id string) (host string) {
	host, err := w.registry.Provision(id, azure.Credentials{Keys: [][]byte{w.key(id)}})
	if err != nil {
		w.t.Fatal(err) // a benchmark has no t, and so ends here
	}
	return host
}

// realConnect connects a device that was never provisioned over the wire: the registry is asked
// directly.
func (w *world) realConnect(id string) *client {
	w.t.Helper()
	host := w.enter(id)
	c, err := w.realDial(w.hubAddr(host))
	must(w.t, err)
	c.id = id
	c.send(connectBytes(w.hubOptions(host, id)))
	if p := c.next(); p.first != 0x20 || p.body[1] != 0 {
		w.t.Fatalf("%s", p)
	}
	return c
}

func TestFaultsOnRealSockets(t *testing.T) {
	w := realWorld(t, nil)
	hub := w.hubAddr("hub-a")
	for _, f := range []struct {
		close string
		ended func(error) bool
	}{{"rst", isReset}, {"fin", isEOF}} {
		c := w.realConnect("d")
		c.telemetry("", "x", 1)
		must(t, w.FaultHub("hub-a", iothub.Fault{Kind: iothub.FaultKill, Close: f.close}))
		if err := c.howItEnds(); !f.ended(err) {
			t.Errorf("%s: connection ends with %v", f.close, err)
		}
		if _, err := w.realDial(hub); !isRefused(err) {
			t.Errorf("%s: dial says %v", f.close, err)
		}
		must(t, w.HealHub("hub-a"))
	}
	c := w.realConnect("d")
	must(t, w.FaultHub("hub-a", iothub.Fault{Kind: iothub.FaultBlackhole}))
	c.send(publishBytes("devices/d/messages/events/", "late", 1, 7))
	c.wantSilence(50 * time.Millisecond)
	raw, err := net.Dial("tcp", hub)
	must(t, err)
	_ = raw.SetDeadline(time.Now().Add(50 * time.Millisecond))
	if err := tls.Client(raw, w.clientTLS(hub)).Handshake(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("blackhole: %v", err)
	}
	_ = raw.Close()
	must(t, w.HealHub("hub-a"))
	c.want("40020007")
	// a connection that a client gave up by a reset during the fault leaves nothing behind
	w.ResetLedger()
	must(t, w.FaultHub("hub-a", iothub.Fault{Kind: iothub.FaultBlackhole}))
	c.send(publishBytes("devices/d/messages/events/", "never", 1, 8))
	_ = c.raw.(*net.TCPConn).SetLinger(0)
	_ = c.raw.Close()
	time.Sleep(50 * time.Millisecond) // the kernel's: a reset is on its way
	must(t, w.HealHub("hub-a"))
	c = w.realConnect("d")
	c.telemetry("", "next", 1)
	if l := w.Ledger("d", true); l.Received != 1 {
		t.Errorf("%+v", l)
	}
	must(t, w.FaultHub("hub-a", iothub.Fault{Kind: iothub.FaultClose}))
	if _, err := w.realDial(hub); err == nil {
		t.Error("close: TLS went through")
	}
}

func TestSYNDropOnRealSockets(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("it drops a SYN by a socket filter of the kernel, which only Linux has")
	}
	w := realWorld(t, nil)
	hub := w.hubAddr("hub-a")
	c := w.realConnect("d")
	must(t, w.FaultHub("hub-a", iothub.Fault{Kind: iothub.FaultSYNDrop}))
	c.send([]byte{0xc0, 0})
	for range 2 {
		_, err := net.DialTimeout("tcp", hub, 100*time.Millisecond)
		if ne, ok := errors.AsType[net.Error](err); !ok || !ne.Timeout() {
			t.Errorf("dial says %v", err)
		}
	}
	c.wantSilence(time.Millisecond)
	must(t, w.HealHub("hub-a"))
	c.want("d000")
	w.realConnect("d").telemetry("", "healed", 1)
	must(t, w.FaultHub("hub-a", iothub.Fault{Kind: iothub.FaultSYNDrop}))
	must(t, w.FaultHub("hub-a", iothub.Fault{Kind: iothub.FaultKill}))
	if _, err := net.DialTimeout("tcp", hub, 100*time.Millisecond); !isRefused(err) {
		t.Errorf("dial says %v", err)
	}
	must(t, w.FaultHub("hub-a", iothub.Fault{Kind: iothub.FaultSYNDrop})) // and Close must cope with it
}

func TestLayoutsSpreadTheListeners(t *testing.T) {
	if runtime.GOOS == "linux" {
		base := fmt.Sprintf("127.%d.%d.1", 64+rand.IntN(128), rand.IntN(255))
		w := realWorld(t, func(c *Config) { c.Layout, c.BaseAddress, c.HTTPSPort, c.Hubs = LayoutLoopback, base, 8443, 3 })
		if w.info.ProvisioningHost != base || w.info.DPS.MQTT != base+":8883" || w.info.DPS.HTTPS != base+":8443" || w.info.Hubs[2].Host != strings.TrimSuffix(base, "1")+"4" || w.info.Hubs[2].MQTT != w.info.Hubs[2].Host+":8883" {
			t.Errorf("%+v", w.info)
		}
		w.realConnect("d").telemetry("", "x", 1)
	}
	w := realWorld(t, nil)
	if w.info.ProvisioningHost != w.info.DPS.MQTT || w.info.Hubs[0].Host != w.info.Hubs[0].MQTT {
		t.Errorf("%+v", w.info)
	}
	taken := strings.TrimPrefix(w.info.Control, "http://")
	if other := realWorld(t, func(c *Config) { c.ControlAddr = taken }); other.info.Control == w.info.Control {
		t.Errorf("%+v", other.info)
	}
	if w.Start() == nil {
		t.Error("started twice")
	}
	occupied := w.hubAddr("hub-a")
	s, err := New(Config{Layout: LayoutPorts, Listen: func(network, addr string) (net.Listener, error) { return net.Listen(network, occupied) }})
	must(t, err)
	if s.Start() == nil {
		t.Error("started on an occupied port")
	}
	must(t, s.Close())
	if s.Start() == nil {
		t.Error("started after Close")
	}
}

func TestWrongConfigsAreRefused(t *testing.T) {
	for name, c := range map[string]Config{
		"hubs": {Hubs: 27}, "layout": {Layout: "star"}, "base": {BaseAddress: "localhost"}, "foreign base": {BaseAddress: "10.0.0.1"}, "any base": {BaseAddress: "0.0.0.0", ListenAny: true},
		"foreign hub": {Hubs: 2, Layout: LayoutLoopback, BaseAddress: "127.255.255.254"}, "control": {ControlAddr: "8090"}, "foreign control": {ControlAddr: "0.0.0.0:8090"}, "named control": {ControlAddr: "myhost:8090"},
		"retry-after": {RetryAfter: time.Millisecond}, "negative": {RetryAfter: -time.Second}, "polls": {Polls: -1}, "move": {Move: "leave"}, "refusal": {DisabledRefusal: 4}, "key": {GroupKey: "?"},
		"allocation": {Allocation: "random"}, "scope": {IDScope: "a/b"}, "enrollment": {Enrollments: []provisioning.Enrollment{{RegistrationID: "d"}}}, "ipv6": {BaseAddress: "::1"}, "https": {HTTPSPort: 70000},
	} {
		if _, err := New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := New(Config{Hubs: -1, Move: "x", Polls: -1}); err == nil || strings.Count(err.Error(), "\n") != 2 {
		t.Errorf("not all at once: %v", err)
	}
	if _, err := New(Config{BaseAddress: "10.0.0.1", ControlAddr: "0.0.0.0:1", ListenAny: true}); err != nil {
		t.Error(err)
	}
}

func TestFilesForClientsAreWritten(t *testing.T) {
	w := realWorld(t, nil)
	dir := filepath.Join(t.TempDir(), "new", "dir")
	must(t, w.WriteFiles(dir))
	must(t, w.WriteFiles(dir)) // again, over the first
	entries, err := os.ReadDir(dir)
	must(t, err)
	var names []string
	for _, e := range entries {
		info, err := e.Info()
		must(t, err)
		names = append(names, fmt.Sprintf("%s %o", e.Name(), info.Mode().Perm()))
	}
	if got := strings.Join(names, ", "); got != "ca.pem 644, device-ca-key.pem 600, device-ca.pem 644, group.key 600, sim.json 600" {
		t.Error(got)
	}
	if info := must2(os.Stat(dir)); info.Mode().Perm() != 0o755 { // the CA in it is for everybody
		t.Errorf("the directory has mode %o", info.Mode().Perm())
	}
	if key := string(must2(os.ReadFile(filepath.Join(dir, "group.key")))); key != w.info.GroupKey+"\n" {
		t.Errorf("group.key holds %q", key)
	}
	text, err := os.ReadFile(filepath.Join(dir, "sim.json"))
	must(t, err)
	var info Info
	must(t, json.Unmarshal(text, &info))
	if fmt.Sprint(info) != fmt.Sprint(w.info) {
		t.Errorf("%+v\n%+v", info, w.info)
	}
	for _, key := range []string{"idScope", "groupKey", "secondaryGroupKey", "provisioningHost", "caFile", "dps", "hubs", "central", "control", "mqtt", "https", "name", "host", "url", "appId", "apiToken"} {
		if !strings.Contains(string(text), `"`+key+`"`) {
			t.Errorf("sim.json lacks %s", key)
		}
	}
	if _, err := tls.X509KeyPair(must2(os.ReadFile(filepath.Join(dir, "device-ca.pem"))), must2(os.ReadFile(filepath.Join(dir, "device-ca-key.pem")))); err != nil {
		t.Error(err)
	}
	if err := w.WriteFiles(filepath.Join(dir, "sim.json")); err == nil {
		t.Error("wrote into a file")
	}
}

func must2[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// Paho, a foreign client that knows nothing of IoT Hub, works against a hub.
func TestPahoWorksAgainstAHub(t *testing.T) {
	w := realWorld(t, nil)
	w.realConnect("d").close()
	host := w.hubHost("hub-a")
	o := w.hubOptions(host, "d")
	got := make(chan mqtt.Message, 100)
	c := mqtt.NewClient(mqtt.NewClientOptions().AddBroker("ssl://" + w.hubAddr("hub-a")).SetClientID("d").SetUsername(o.user).SetPassword(o.password).
		SetCleanSession(false).SetTLSConfig(w.clientTLS(host)).SetAutoReconnect(false).
		SetDefaultPublishHandler(func(_ mqtt.Client, m mqtt.Message) { got <- m }))
	wait := func(token mqtt.Token) {
		t.Helper()
		if !token.WaitTimeout(5*time.Second) || token.Error() != nil {
			t.Fatalf("%v", token.Error())
		}
	}
	wait(c.Connect())
	defer c.Disconnect(0)
	wait(c.SubscribeMultiple(map[string]byte{"devices/d/messages/devicebound/#": 1, "$iothub/twin/res/#": 0, "$iothub/twin/PATCH/properties/desired/#": 0, "$iothub/methods/POST/#": 0}, nil))
	for i := range 50 {
		wait(c.Publish(fmt.Sprintf("devices/d/messages/events/%%24.mid=0123456789abcdef-%d", i+1), 1, false, "x"))
	}
	if l := w.Ledger("d", false); l.Received != 50 || l.Distinct != 50 || l.Reordered != 0 {
		t.Errorf("%+v", l)
	}
	wait(c.Publish("$iothub/twin/GET/?$rid=1", 1, false, ""))
	if m := <-got; m.Topic() != "$iothub/twin/res/200/?$rid=1" {
		t.Errorf("%s", m.Topic())
	}
	_, err := w.SendC2D("d", iothub.C2D{Body: json.RawMessage(`{"a":1}`)})
	must(t, err)
	if m := <-got; string(m.Payload()) != `{"a":1}` || m.Qos() != 1 {
		t.Errorf("%s", m.Payload())
	}
	go func() {
		m := <-got
		c.Publish(strings.Replace(m.Topic(), "POST/echo", "res/200", 1), 0, false, m.Payload())
	}()
	if r, err := w.Method(t.Context(), "d", "echo", json.RawMessage(`"hi"`)); err != nil || string(r.Payload) != `"hi"` {
		t.Errorf("%+v %v", r, err)
	}
}

// The official Node SDK works unmodified. HUBHOP_NODE_DIR names a directory where npm has installed
// azure-iot-device, azure-iot-device-mqtt, azure-iot-provisioning-device, -mqtt and -http,
// azure-iot-security-symmetric-key and -x509.
func TestOfficialNodeSDKWorks(t *testing.T) {
	dir := os.Getenv("HUBHOP_NODE_DIR")
	if dir == "" {
		t.Skip("HUBHOP_NODE_DIR is not set; it names a directory with the official Node.js SDK; make conformance installs and drives that SDK without it")
	}
	base := fmt.Sprintf("127.%d.%d.1", 64+rand.IntN(128), rand.IntN(255))
	w := realWorld(t, func(c *Config) {
		c.Layout, c.BaseAddress = LayoutLoopback, base
		c.RetryAfter = time.Second
	})
	files := t.TempDir()
	must(t, w.WriteFiles(files))
	script, err := filepath.Abs("testdata/node_sdk.js")
	must(t, err)
	cert := w.deviceCert("node-x509", nil)
	der, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(files, "device.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}), 0o600))
	must(t, os.WriteFile(filepath.Join(files, "device-key.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600))
	for _, transport := range []string{"mqtt", "http", "x509"} {
		ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
		defer cancel()
		cmd := exec.CommandContext(ctx, "node", script, filepath.Join(files, "sim.json"), transport)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "NODE_PATH="+filepath.Join(dir, "node_modules"), "NODE_EXTRA_CA_CERTS="+filepath.Join(files, "ca.pem"))
		cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
		if err := cmd.Run(); err != nil {
			t.Fatalf("%s: %v", transport, err)
		}
	}
	l := w.Ledger("node-mqtt", true)
	if l.Received != 3 || *l.Messages[0].Properties["plain"] != "a b&c=d/ü" || *l.Messages[0].Properties["$.ct"] != "application/json" {
		t.Errorf("%+v", l)
	}
}

// A connection, or 16 of them, send telemetry as fast as they can.
func BenchmarkTelemetry(b *testing.B) {
	for name, dir := range map[string]string{"memory": "", "state-dir": b.TempDir()} {
		w := realWorld(b, func(c *Config) { c.StateDir = dir })
		for _, clients := range []int{1, 16} {
			b.Run(fmt.Sprintf("%s/clients=%d", name, clients), func(b *testing.B) { benchTelemetry(b, w, clients) })
		}
	}
}

func benchTelemetry(b *testing.B, w *world, clients int) {
	const window = 100
	type sender struct {
		conn *tls.Conn
		msg  []byte
	}
	var senders []sender
	for i := range clients {
		id := fmt.Sprintf("bench-%d", i)
		w.enter(id)
		host := w.info.Hubs[0].Host
		conn, err := tls.Dial("tcp", w.info.Hubs[0].MQTT, w.clientTLS(host))
		if err != nil {
			b.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		_, _ = conn.Write(connectBytes(w.hubOptions(host, id)))
		if _, err := io.ReadFull(conn, make([]byte, 4)); err != nil {
			b.Fatal(err)
		}
		msg := publishBytes("devices/"+id+"/messages/events/%24.mid=0123456789abcdef-1&%24.ct=application%2Fjson", strings.Repeat("x", 120), 1, 1)
		senders = append(senders, sender{conn, []byte(strings.Repeat(string(msg), window))})
	}
	b.ResetTimer()
	done := make(chan error, clients)
	rounds := max(1, b.N/clients/window)
	for _, s := range senders {
		go func() {
			acks := make([]byte, 4*window)
			for range rounds {
				if _, err := s.conn.Write(s.msg); err != nil {
					done <- err
					return
				}
				if _, err := io.ReadFull(s.conn, acks); err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for range clients {
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(rounds*window*clients)/b.Elapsed().Seconds(), "msg/s")
	b.ReportMetric(0, "ns/op")
}

// The default client of net/http can use the control API.
func TestControlAPIWithADefaultClient(t *testing.T) {
	w := realWorld(t, nil)
	res, err := http.Get(w.info.Control + "/api/state")
	must(t, err)
	b, err := io.ReadAll(res.Body)
	must(t, errors.Join(err, res.Body.Close()))
	if res.StatusCode != 200 || !strings.Contains(string(b), `"hubs"`) {
		t.Errorf("%d %s", res.StatusCode, b)
	}
	http.DefaultClient.CloseIdleConnections()
}

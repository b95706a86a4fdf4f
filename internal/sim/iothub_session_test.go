package sim

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/iothub"
)

// deviceCert mints a client certificate of the device CA.
func (w *world) deviceCert(cn string, change func(*x509.Certificate)) tls.Certificate {
	w.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(w.t, err)
	ca := w.deviceCA
	template := ca.Template(cn)
	if change != nil {
		change(template)
	}
	der, err := ca.Sign(template, key.Public())
	must(w.t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestConnackSaysWhyADeviceIsRefused(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		host := w.provision("d")
		w.provision("gone")
		w.provision("off")
		must(t, w.Delete("gone"))
		must(t, w.Disable("off"))
		now := time.Now()
		good := func(id string) connectOptions { return w.hubOptions(host, id) }
		withToken := func(resource string, se time.Time, skn string, key []byte) connectOptions {
			o := good("d")
			o.password = sasFor(key, resource, se, skn)
			return o
		}
		with := func(f func(o *connectOptions)) connectOptions {
			o := good("d")
			f(&o)
			return o
		}
		secondary := azure.DeriveKey(w.registry.GroupKeys()[1], "d")
		d := host + "/devices/d"
		for name, c := range map[string]struct {
			o    connectOptions
			want byte
		}{
			"good":                    {good("d"), 0},
			"secondary key":           {withToken(d, now.Add(time.Hour), "", secondary), 0},
			"sr is the host":          {withToken(host, now.Add(time.Hour), "", w.key("d")), 0},
			"expired a little":        {withToken(d, now.Add(-4*time.Minute), "", w.key("d")), 0},
			"empty skn":               {with(func(o *connectOptions) { o.password += "&skn=" }), 0},
			"alias":                   {with(func(o *connectOptions) { o.user = "HUB-A.sim.local/d/?api-version=1" }), 0},
			"legacy user name":        {with(func(o *connectOptions) { o.user = host + "/d/api-version=2016-11-14" }), 0},
			"expired long ago":        {withToken(d, now.Add(-6*time.Minute), "", w.key("d")), 5},
			"wrong key":               {withToken(d, now.Add(time.Hour), "", w.key("other")), 5},
			"sr of another device":    {withToken(host+"/devices/dd", now.Add(time.Hour), "", w.key("d")), 5},
			"sr of another host":      {withToken("127.0.0.3/devices/d", now.Add(time.Hour), "", w.key("d")), 5},
			"policy":                  {withToken(d, now.Add(time.Hour), "iothubowner", w.key("d")), 5},
			"no password":             {with(func(o *connectOptions) { o.noPassword = true }), 5},
			"garbage password":        {with(func(o *connectOptions) { o.password = "secret" }), 5},
			"client id":               {with(func(o *connectOptions) { o.id = "D" }), 5},
			"other host in user name": {with(func(o *connectOptions) { o.user = "127.0.0.3/d/?api-version=1" }), 5},
			"unknown device":          {good("nobody"), 5},
			"other case":              {good("D"), 5},
			"deleted":                 {good("gone"), 5},
			"disabled":                {good("off"), 3},
			"no api-version":          {with(func(o *connectOptions) { o.user = host + "/d" }), 0},
			"no api-version, slash":   {with(func(o *connectOptions) { o.user = host + "/d/" }), 0},
			"empty api-version":       {with(func(o *connectOptions) { o.user = host + "/d/?api-version=" }), 3},
			"module":                  {with(func(o *connectOptions) { o.user = host + "/d/m/?api-version=1"; o.id = "d/m" }), 5},
		} {
			cl, _, code := w.tryHub(c.o, host)
			if code != c.want {
				t.Errorf("%s: CONNACK %d, want %d", name, code, c.want)
			}
			if code != 0 {
				if err := cl.howItEnds(); !isEOF(err) {
					t.Errorf("%s: ends with %v", name, err)
				}
			}
			cl.close()
		}
		// not assigned there
		if _, _, code := w.tryHub(w.hubOptions("127.0.0.3", "d"), "127.0.0.3"); code != 5 {
			t.Errorf("hub without the device: CONNACK %d", code)
		}
		c := w.mustDial(w.hubAddr("hub-a"))
		c.send(packet(0x10, mqttString("MQTT"), []byte{5, 2, 0, 60, 0, 0, 1, 'd'}))
		c.want("20020001")
	})
}

func TestDisabledDeviceGetsTheConfiguredConnack(t *testing.T) {
	inWorld(t, func(c *Config) { c.DisabledRefusal = 5 }, func(w *world) {
		host := w.provision("d")
		c := w.connect(host, "d")
		must(t, w.DisableIdentity("d"))
		c.wantEnd()
		if _, _, code := w.tryHub(w.hubOptions(host, "d"), host); code != 5 {
			t.Errorf("CONNACK %d", code)
		}
		if again := w.provision("d"); again != host {
			t.Errorf("DPS, which knows nothing, says %s", again)
		}
		if _, _, code := w.tryHub(w.hubOptions(host, "d"), host); code != 5 {
			t.Errorf("CONNACK %d after registering", code)
		}
		must(t, w.Enable("d"))
		w.connect(host, "d")
	})
}

func TestNewConnectionReplacesTheOldOne(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		host := w.provision("d")
		o := w.hubOptions(host, "d")
		o.willTopic, o.will = "devices/d/messages/events/a=b", "bye"
		old, _, _ := w.tryHub(o, host)
		young := w.connect(host, "d")
		if err := old.howItEnds(); !isEOF(err) { // and no DISCONNECT packet
			t.Errorf("the old connection ends with %v", err)
		}
		young.telemetry("", "x", 1)
		if l := w.Ledger("d", true); l.Received != 2 || *l.Messages[0].Properties["iothub-MessageType"] != "Will" || string(l.Messages[0].Body) != `"bye"` || *l.Messages[0].Properties["a"] != "b" {
			t.Errorf("%+v", l)
		}
		if h := w.State().Hubs[0]; h.Connections != 1 {
			t.Errorf("%+v", h)
		}
	})
}

// Clients of one identity that connect at the same moment are all let in. Each one replaces the one
// before it.
func TestConnectionsAtTheSameMomentReplaceEachOther(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		host := w.provision("d")
		for range 20 {
			clients := make([]*client, 8)
			for i := range clients {
				clients[i] = w.mustDial(w.hubAddr(host))
			}
			for _, c := range clients {
				c.send(connectBytes(w.hubOptions(host, "d")))
			}
			for _, c := range clients {
				if p := c.next(); p.first != 0x20 || len(p.body) != 2 || p.body[1] != 0 {
					t.Fatalf("got %s, want a CONNACK that lets it in", p)
				}
			}
			synctest.Wait()
			if h := w.State().Hubs[0]; h.Connections != 1 {
				t.Fatalf("%d of them stay", h.Connections)
			}
		}
	})
}

func TestSilentConnectionEndsAfterItsKeepAlive(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		host := w.provision("d")
		for keepAlive, want := range map[uint16]time.Duration{2: 3 * time.Second, 60: 90 * time.Second, 1177: 1765500 * time.Millisecond, 1200: 1767 * time.Second, 0: 1767 * time.Second} {
			o := w.hubOptions(host, "d")
			o.keepAlive = keepAlive
			c, _, _ := w.tryHub(o, host)
			time.Sleep(want - time.Millisecond)
			c.send([]byte{0xc0, 0})
			c.want("d000")
			start := time.Now()
			_ = c.raw.SetReadDeadline(time.Now().Add(time.Hour))
			if _, err := c.read(); !isEOF(err) || time.Since(start) != want {
				t.Errorf("keep-alive %d: %v after %v, want %v", keepAlive, err, time.Since(start), want)
			}
		}
	})
}

func TestConnectionEndsWhenItsTokenExpires(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		host := w.provision("d")
		o := w.hubOptions(host, "d")
		o.password = sasFor(w.key("d"), host+"/devices/d", time.Now().Add(30*time.Second), "")
		o.keepAlive = 0
		c, _, _ := w.tryHub(o, host)
		start := time.Now()
		_ = c.raw.SetReadDeadline(time.Now().Add(time.Hour))
		if _, err := c.read(); !isEOF(err) || time.Since(start) != 5*time.Minute+30*time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

func TestPersistentSessionKeepsItsSubscriptions(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		host := w.provision("d")
		c, present, _ := w.tryHub(w.hubOptions(host, "d"), host)
		if present {
			t.Error("a session before the first")
		}
		c.subscribeAll()
		c.send([]byte{0xe0, 0})
		c.wantEnd()
		_, err := w.SendC2D("d", iothub.C2D{Body: json.RawMessage("1")})
		must(t, err)
		c, present, _ = w.tryHub(w.hubOptions(host, "d"), host)
		if !present {
			t.Error("no session present")
		}
		if _, body := c.wantPublish(); body != "1" { // without subscribing again
			t.Errorf("C2D %s", body)
		}
		c.send([]byte{0xc0, 0})
		c.want("d000") // so the PUBACK has been read, before the next connection takes over
		clean := w.hubOptions(host, "d")
		clean.clean = true
		if c, present, _ = w.tryHub(clean, host); present {
			t.Error("clean session, and one present")
		}
		_, err = w.SendC2D("d", iothub.C2D{Body: json.RawMessage("2")})
		must(t, err)
		c.send([]byte{0xc0, 0})
		c.want("d000") // and no C2D: not subscribed
		c.close()
		c, present, _ = w.tryHub(w.hubOptions(host, "d"), host)
		if present {
			t.Error("the clean session has left something behind")
		}
		c.send(subscribeBytes(1, 2, "devices/d/messages/devicebound/#"))
		c.want("9003000101") // QoS 2 is granted 1
		if _, body := c.wantPublish(); body != "2" {
			t.Errorf("C2D %s", body)
		}
		c.send(packet(0xa2, []byte{0, 7}, mqttString("devices/d/messages/devicebound/#")))
		c.want("b0020007")
		_, err = w.SendC2D("d", iothub.C2D{Body: json.RawMessage("3")})
		must(t, err)
		c.wantSilence(time.Second)
	})
}

func TestForbiddenPacketsCloseTheConnection(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		host := w.provision("d")
		big := strings.Repeat("x", 256<<10)
		for name, c := range map[string]struct {
			send    []byte
			entered int64
		}{
			"QoS 2":               {publishBytes("devices/d/messages/events/", "x", 2, 1), 1},
			"unknown topic":       {publishBytes("devices/d/state", "x", 1, 1), 0},
			"other device":        {publishBytes("devices/dd/messages/events/", "x", 1, 1), 0},
			"events prefix only":  {publishBytes("devices/d/messages/eventsx", "x", 1, 1), 0},
			"as its module":       {publishBytes("devices/d/modules/m/messages/events/", "x", 1, 1), 0},
			"module without id":   {publishBytes("devices/d/modules//messages/events/", "x", 1, 1), 0},
			"six subscriptions":   {subscribeBytes(1, 0, "a", "b", "c", "devices/d/messages/devicebound/#", "$iothub/methods/POST/#", "$iothub/twin/res/#"), 0},
			"too large":           {publishBytes("devices/d/messages/events/", big, 1, 1), 0},
			"twin without rid":    {publishBytes("$iothub/twin/GET/", "", 0, 0), 0},
			"method without rid":  {publishBytes("$iothub/methods/res/200/", "", 0, 0), 0},
			"method, odd status":  {publishBytes("$iothub/methods/res/ok/?$rid=1", "", 0, 0), 0},
			"second CONNECT":      {connectBytes(w.hubOptions(host, "d")), 0},
			"CONNACK":             {[]byte{0x20, 2, 0, 0}, 0},
			"PUBREL":              {[]byte{0x62, 2, 0, 1}, 0},
			"PINGREQ with a body": {[]byte{0xc0, 1, 0}, 0},
			"wildcard publish":    {publishBytes("#", "", 0, 0), 0},
			"wildcard in a bag":   {publishBytes("devices/d/messages/events/a=b+c", "", 1, 1), 0},
			"# in a bag":          {publishBytes("devices/d/messages/events/a=#", "", 1, 1), 0},
			"+ in a twin request": {publishBytes("$iothub/twin/GET/?$rid=+", "", 0, 0), 0},
			"unknown filter":      {subscribeBytes(3, 1, "some/thing"), 0},
			"filter of another":   {subscribeBytes(3, 1, "devices/other/messages/devicebound/#"), 0},
			"unknown and known":   {subscribeBytes(3, 1, "$iothub/twin/res/#", "$iothub/nothing/#"), 0},
			"reserved type":       {[]byte{0xf0, 0}, 0},
			"SUBSCRIBE flags":     {[]byte{0x80, 6, 0, 1, 0, 1, 'a', 0}, 0},
		} {
			w.ResetLedger()
			cl := w.connect(host, "d")
			cl.telemetry("", "before", 9)
			_, _ = cl.tls.Write(c.send) // may be cut off
			if err := cl.howItEnds(); !isEOF(err) {
				t.Errorf("%s: ends with %v", name, err)
			}
			if l := w.Ledger("d", false); l.Received != 1+c.entered {
				t.Errorf("%s: %d messages received", name, l.Received)
			}
		}
	})
}

func TestUnusualButAllowedPacketsAreAccepted(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		host := w.provision("d")
		c := w.connect(host, "d")
		c.telemetry("", strings.Repeat("x", 256<<10-2-30-4), 1) // as large as it may be
		c.send(publishBytes("devices/d/messages/events", "", 0, 0))
		c.send(publishBytes("devices/d/messages/events/%24.ct=a%2Fb/", "", 0, 0))
		c.send(publishBytes("devices/d/messages/events//a=1", "", 0, 0))
		dup := publishBytes("devices/d/messages/events/%24.sub=thermostat1", "{}", 1, 2)
		dup[0] |= 0x08 | 0x01
		c.send(dup)
		c.want("40020002")
		l := w.Ledger("d", true)
		if l.Received != 5 {
			t.Fatalf("%+v", l)
		}
		if p := l.Messages[2].Properties; *p["$.ct"] != "a/b" {
			t.Errorf("%v", p)
		}
		if p := l.Messages[4].Properties; *p["mqtt-dup"] != "true" || *p["mqtt-retain"] != "true" || *p["dt-subject"] != "thermostat1" {
			t.Errorf("%v", p)
		}
		// documented filters work with wildcards too, as in samples; topics that nothing is ever
		// sent to are granted
		c.send(subscribeBytes(3, 1, "devices/+/messages/devicebound/#", "#", "$iothub/credentials/res/#"))
		c.want("90050003010101")
	})
}

func TestBrokenConnectionsDisturbNobody(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		host := w.provision("d")
		good := w.connect(host, "d")
		// silence before TLS, and between TLS and CONNECT: 60 s
		start := time.Now()
		raw, err := w.net.DialContext(w.t.Context(), "tcp", w.hubAddr(host))
		must(t, err)
		silent := w.mustDial(w.hubAddr(host))
		if _, err := raw.Read(make([]byte, 1)); !isEOF(err) || time.Since(start) != time.Minute {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		silent.wantEnd()
		if time.Since(start) != time.Minute {
			t.Errorf("after %v", time.Since(start))
		}
		for _, garbage := range []string{"GET / HTTP/1.1\r\n\r\n", "\x10\x03abc", "\xc0\x00", "\x10\xff\xff\xff\x7f"} {
			c := w.mustDial(w.hubAddr(host))
			c.send([]byte(garbage))
			c.wantEnd()
		}
		raw, err = w.net.DialContext(w.t.Context(), "tcp", w.hubAddr(host))
		must(t, err)
		_, _ = raw.Write([]byte("this is not TLS at all, and long enough to look like something"))
		_, _ = io.Copy(io.Discard, raw)
		_ = raw.Close()
		half := w.connect(host, "d") // takes over
		good.wantEnd()
		half.send(publishBytes("devices/d/messages/events/", "half", 1, 1)[:10])
		half.close()
		w.connect(host, "d").telemetry("", "fine", 1)
	})
}

// A client that reads nothing is dropped, and nobody else notices.
func TestClientThatReadsNothingIsDropped(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		host := w.provision("lazy")
		w.provision("quick")
		lazy, quick := w.connect(host, "lazy"), w.connect(host, "quick")
		lazy.subscribeAll()
		quick.subscribeAll()
		patch := json.RawMessage(fmt.Sprintf(`{"s":"%s"}`, strings.Repeat("x", 4000)))
		for range 1000 {
			must(t, w.PatchDesired("lazy", patch))
		}
		must(t, w.PatchDesired("quick", patch))
		quick.wantPublish()
		time.Sleep(time.Minute)
		if d := w.device("lazy"); d.ConnectedHub != "" {
			t.Errorf("%+v", d)
		}
		if d := w.device("quick"); d.ConnectedHub != "hub-a" {
			t.Errorf("%+v", d)
		}
		// one that sends and never reads its PUBACKs
		lazy = w.connect(host, "lazy")
		_ = lazy.raw.SetWriteDeadline(time.Now().Add(10 * time.Minute))
		msg := publishBytes("devices/lazy/messages/events/", "", 1, 1)
		var err error
		for n := 0; n < 500_000 && err == nil; n += 1000 {
			_, err = lazy.tls.Write([]byte(strings.Repeat(string(msg), 1000)))
		}
		if err == nil {
			t.Error("a client that never reads was served for ever")
		}
	})
}

// A client that asks for much and reads late gets all of it. The hub never holds more than a little
// of it at a time.
func TestClientThatReadsLateGetsAllAnswers(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		c := w.connect(w.provision("d"), "d")
		c.subscribeAll()
		must(t, w.PatchDesired("d", json.RawMessage(`{"a":["`+strings.Repeat("x", 4000)+strings.Repeat(`","`+strings.Repeat("y", 4000), 6)+`"]}`)))
		c.wantPublish()
		go func() {
			for range 10 {
				_, _ = c.tls.Write([]byte(strings.Repeat(string(publishBytes("$iothub/twin/GET/?$rid=1", "", 1, 1)), 100)))
			}
		}()
		time.Sleep(5 * time.Second)
		held := 0
		for _, h := range w.hubs {
			if s := h.Identity("d"); s != nil {
				held = max(held, s.Held())
			}
		}
		if held > 256<<10 {
			t.Errorf("%d bytes wait", held)
		}
		answers, acks := 0, 0
		for answers < 1000 || acks < 1000 {
			switch p := c.next(); p.first {
			case 0x30:
				answers++
			case 0x40:
				acks++
			}
		}
		// PUBACKs of a slow hub pile up to a bound, then the hub reads no further
		must(t, w.FaultHub("hub-a", iothub.Fault{Kind: iothub.FaultSlow, DelayMs: 60_000}))
		go func() {
			for range 500 {
				_, _ = c.tls.Write([]byte(strings.Repeat(string(publishBytes("devices/d/messages/events/", "", 1, 1)), 1000)))
			}
		}()
		time.Sleep(30 * time.Second)
		if n := w.Ledger("d", false).Received; n < 200_000 || n > 300_000 {
			t.Errorf("%d messages taken", n)
		}
		for range 500_000 {
			if p := c.next(); p.first != 0x40 {
				t.Fatalf("%s", p)
			}
		}
	})
}

func TestDeviceConnectsWithACertificateOfTheDeviceCA(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		register := func(id string, cert ...tls.Certificate) (string, map[string]any) {
			c := w.mustDial(w.info.DPS.MQTT, cert...)
			defer c.close()
			c.send(connectBytes(connectOptions{id: id, user: w.info.IDScope + "/registrations/" + id + "/api-version=2019-03-31", noPassword: true, clean: true}))
			c.want("20020000")
			c.send(subscribeBytes(1, 1, "$dps/registrations/res/#"))
			c.want("9003000101")
			return w.registerAt(c, id, "")
		}
		good := w.deviceCert("x", nil)
		for name, certs := range map[string][]tls.Certificate{
			"wrong name": {w.deviceCert("y", nil)},
			"expired":    {w.deviceCert("x", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })},
			"other CA": {func() tls.Certificate {
				other, err := azure.NewAuthority("other", time.Now())
				must(t, err)
				w := &world{t: w.t, Sim: &Sim{deviceCA: other}}
				return w.deviceCert("x", nil)
			}()},
		} {
			if status, body := register("x", certs...); status != "401" || body["errorCode"] != 401002.0 {
				t.Errorf("%s: %s %v", name, status, body)
			}
		}
		if status, body := register("x"); status != "401" || body["errorCode"] != 401000.0 {
			t.Errorf("no certificate: %s %v", status, body)
		}
		if status, body := register("x", good); status != "200" || body["status"] != "assigned" {
			t.Fatalf("%s %v", status, body)
		}
		connect := func(o connectOptions, cert ...tls.Certificate) byte {
			c := w.mustDial(w.hubAddr("hub-a"), cert...)
			defer c.close()
			c.send(connectBytes(o))
			return c.next().body[1]
		}
		o := w.hubOptions("127.0.0.2", "x")
		o.noPassword = true
		if code := connect(o, good); code != 0 {
			t.Errorf("certificate: CONNACK %d", code)
		}
		if code := connect(o, w.deviceCert("y", nil)); code != 5 {
			t.Errorf("other certificate: CONNACK %d", code)
		}
		if code := connect(o); code != 5 {
			t.Errorf("no certificate: CONNACK %d", code)
		}
		if code := connect(w.hubOptions("127.0.0.2", "x")); code != 5 {
			t.Errorf("group key: CONNACK %d", code)
		}
	})
}

// If the cloud's clock is hours ahead, a device that believes its own clock is refused for its
// token. If it is days ahead, TLS refuses the device.
func TestDeviceThatBelievesItsSlowClockIsRefused(t *testing.T) {
	for offset, valid := range map[time.Duration]bool{2 * time.Hour: true, 48 * time.Hour: false} {
		inWorld(t, func(c *Config) { c.ClockOffset = offset }, func(w *world) {
			host := w.provision("d")
			o := w.hubOptions(host, "d")
			o.password = sasFor(w.key("d"), host+"/devices/d", time.Now().Add(time.Hour), "")
			if _, _, code := w.tryHub(o, host); code != 5 {
				t.Errorf("%v: CONNACK %d", offset, code)
			}
			w.connect(host, "d")
			raw, err := w.net.DialContext(w.t.Context(), "tcp", w.hubAddr(host))
			must(t, err)
			if _, err := newClient(w.t, raw, &tls.Config{RootCAs: w.CAPool(), ServerName: host}); (err == nil) != valid {
				t.Errorf("%v: TLS says %v", offset, err)
			}
		})
	}
}

// A self-signed certificate is known by its thumbprint: by either of two, with SHA-1 or SHA-256.
// Its names and its signature do not matter.
func TestSelfSignedCertificateIsKnownByItsThumbprint(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		h, host := w.hubs[0], w.hubHost("hub-a")
		old, young, other := w.deviceCert("whoever", nil), w.deviceCert("whoever", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Hour) }), w.deviceCert("d", nil)
		sha1sum, sha256sum := sha1.Sum(old.Certificate[0]), sha256.Sum256(young.Certificate[0])
		_ = h.Admit("d", azure.Credentials{X509: true, Thumbprints: []string{fmt.Sprintf("%X", sha1sum), fmt.Sprintf("%x", sha256sum)}}, nil, true)
		o := w.hubOptions(host, "d")
		o.noPassword = true
		for name, c := range map[string]struct {
			certs []tls.Certificate
			o     connectOptions
			want  byte
		}{
			"SHA-1": {[]tls.Certificate{old}, o, 0}, "SHA-256": {[]tls.Certificate{young}, o, 0}, "another": {[]tls.Certificate{other}, o, 5},
			"none": {nil, o, 5}, "a token": {nil, w.hubOptions(host, "d"), 5},
		} {
			cl := w.mustDial(w.hubAddr("hub-a"), c.certs...)
			cl.send(connectBytes(c.o))
			if p := cl.next(); p.first != 0x20 || p.body[1] != c.want {
				t.Errorf("%s: %s", name, p)
			}
			cl.close()
		}
	})
}

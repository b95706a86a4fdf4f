package sim

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/hubhop-iot/hubhop/internal/memnet"
	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/iothub"
	"github.com/hubhop-iot/hubhop/internal/sim/provisioning"
)

// diary keeps a log's lines.
type diary struct {
	mu    sync.Mutex
	lines []string
}

func (d *diary) Write(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = append(d.lines, string(bytes.TrimSpace(p)))
	return len(p), nil
}

// holds counts the lines that have all the fields and hold all the words.
func (d *diary) holds(fields map[string]string, words ...string) (n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, line := range d.lines {
		var got map[string]any
		if json.Unmarshal([]byte(line), &got) != nil {
			continue
		}
		same := true
		for name, want := range fields {
			same = same && got[name] == want
		}
		for _, w := range words {
			same = same && strings.Contains(line, w)
		}
		if same {
			n++
		}
	}
	return n
}

func (d *diary) String() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return strings.Join(d.lines, "\n")
}

// inToldWorld is inWorld with what it logs at info level.
func inToldWorld(t *testing.T, change func(*Config), f func(w *world, log *diary)) {
	log := &diary{}
	inWorld(t, func(c *Config) {
		c.Logger = zerolog.New(log).Level(zerolog.InfoLevel)
		if change != nil {
			change(c)
		}
	}, func(w *world) { f(w, log) })
}

// The log at info level names the hub, the device and the kind of event, and says why a device was
// refused.
func TestLogNamesHubDeviceKindAndReason(t *testing.T) {
	inToldWorld(t, func(c *Config) { c.DPSLimits.PollsPer10s = 1 }, func(w *world, log *diary) {
		want := func(fields map[string]string, words ...string) {
			t.Helper()
			synctest.Wait()
			if n := log.holds(fields, words...); n != 1 {
				t.Errorf("%d lines with %v %v in\n%s", n, fields, words, log)
			}
		}
		host := w.provision("d")
		c := w.dpsConnect("d")
		ask := func() {
			c.send(publishBytes("$dps/registrations/PUT/iotdps-register/?$rid=1", "{}", 0, 0))
			c.wantPublish()
		}
		for range 2 {
			c.send(publishBytes("$dps/registrations/GET/iotdps-get-operationstatus/?$rid=1&operationId=x", "", 0, 0))
			c.wantPublish()
		}
		want(map[string]string{"hub": "dps", "device": "d", "kind": "register", "level": "info"}, "throttled: more requests than DPS allows", `"status":429`)
		must(t, w.FaultDPS(provisioning.DPSFault{Kind: provisioning.DPSThrottle, Seconds: 10}))
		ask()
		ask() // the same again is not told again
		want(map[string]string{"hub": "dps", "device": "d", "kind": "register"}, "throttled: fault throttle", `"status":429`)
		time.Sleep(10 * time.Second)
		want(map[string]string{"hub": "dps", "kind": "throttle", "message": "fault"})
		want(map[string]string{"hub": "dps", "kind": "throttle", "message": "fault is over"})
		time.Sleep(time.Minute)
		must(t, w.Block("d"))
		w.registerAt(c, "d", "")
		want(map[string]string{"hub": "dps", "device": "d", "kind": "register", "status": "failed"}, "status code: 401")
		must(t, w.Unblock("d"))
		stranger := w.mustDial(w.info.DPS.MQTT)
		stranger.send(connectBytes(connectOptions{id: "d", user: "nonsense"}))
		stranger.next()
		want(map[string]string{"hub": "dps", "device": "d"}, "CONNACK 5: malformed user name")

		o := w.hubOptions(host, "d")
		o.password = sasFor(w.key("other"), host+"/devices/d", time.Now().Add(time.Hour), "")
		for range 3 {
			w.tryHub(o, host)
		}
		want(map[string]string{"hub": "hub-a", "device": "d", "kind": "refuse", "reason": "CONNACK 5: wrong signature"})
		w.connect(host, "d").send(publishBytes("devices/d/messages/events/", "", 2, 1))
		want(map[string]string{"hub": "hub-a", "device": "d", "kind": "disconnect", "reason": "QoS 2 is not supported"})
		h := w.httpClient()
		defer h.CloseIdleConnections()
		w.mustDo(h, "POST", "https://"+w.info.Hubs[0].HTTPS+"/devices/d/messages/events?api-version=1", "{}")
		want(map[string]string{"hub": "hub-a", "device": "d", "kind": "refuse"}, "malformed shared access signature")
		must(t, w.FaultHub("hub-a", iothub.Fault{Kind: iothub.FaultThrottle, DelayMs: 1}))
		online := w.connect(host, "d")
		online.subscribeAll()
		online.ask("$iothub/twin/GET/?$rid=1", "")
		want(map[string]string{"hub": "hub-a", "device": "d", "kind": "refuse"}, "429: throttled")
		must(t, w.HealHub("hub-a"))
		stranger = w.dpsConnect("d")
		stranger.send(publishBytes("what/ever", "", 0, 0))
		want(map[string]string{"hub": "dps", "device": "d"}, "publish to unknown topic")
		must(t, w.Failover("d", 0))
		want(map[string]string{"hub": "hub-b", "device": "d", "kind": "move", "from": "hub-a"})
		for _, end := range []func() error{func() error { return w.HealHub("hub-b") }, func() error { time.Sleep(time.Minute); return nil }} {
			must(t, w.FaultHub("hub-b", iothub.Fault{Kind: iothub.FaultSlow, Seconds: 30}))
			must(t, end())
		}
		synctest.Wait()
		if n := log.holds(map[string]string{"hub": "hub-b", "kind": "slow", "message": "fault is over"}); n != 2 {
			t.Errorf("%d ends of two faults in\n%s", n, log)
		}
	})
}

// A client cannot fill the log: neither with a long text, nor by being refused again and again.
func TestNobodyFillsTheLog(t *testing.T) {
	inToldWorld(t, nil, func(w *world, log *diary) {
		for range 50 {
			c := w.mustDial(w.hubAddr("hub-a"))
			c.send(connectBytes(connectOptions{id: strings.Repeat("x", 60_000), user: "u"}))
			c.next()
			c.wantEnd()
		}
		synctest.Wait()
		if n := log.holds(map[string]string{"kind": "refuse"}); n != 1 || len(log.String()) > 2000 {
			t.Errorf("%d lines, %d bytes", n, len(log.String()))
		}
	})
}

// If port 443 cannot be bound HTTPS is on 8443, and the log says so.
func TestHTTPSFallsBackTo8443(t *testing.T) {
	log := &diary{}
	network := memnet.New()
	c := DefaultConfig()
	c.Layout, c.Logger = LayoutLoopback, zerolog.New(log).Level(zerolog.InfoLevel)
	c.Listen = func(kind, addr string) (net.Listener, error) {
		if strings.HasSuffix(addr, ":443") {
			return nil, syscall.EACCES
		}
		return network.Listen(kind, addr)
	}
	s, err := New(c)
	must(t, err)
	must(t, s.Start())
	defer func() { must(t, s.Close()) }()
	if got := s.Info().DPS.HTTPS; got != "127.0.0.1:8443" || log.holds(nil, "8443", "permission denied") != 1 {
		t.Errorf("%s\n%s", got, log)
	}
}

// TestControlPortThatIsTakenIsTold: if the port of the control API is taken, the API is on another
// one, and the log says so, whatever the layout.
func TestControlPortThatIsTakenIsTold(t *testing.T) {
	for _, layout := range []string{LayoutPorts, LayoutLoopback} {
		log := &diary{}
		network := memnet.New()
		c := DefaultConfig()
		c.Layout, c.Listen, c.Logger = layout, network.Listen, zerolog.New(log).Level(zerolog.InfoLevel)
		other, err := network.Listen("tcp", "127.0.0.1:8090")
		must(t, err)
		s, err := New(c)
		must(t, err)
		must(t, s.Start())
		control := strings.TrimPrefix(s.Info().Control, "http://")
		if control == "127.0.0.1:8090" || log.holds(map[string]string{"level": "warn", "address": control}, "control API", "address already in use") != 1 {
			t.Errorf("%s: the API is at %s\n%s", layout, control, log)
		}
		must(t, s.Close())
		must(t, other.Close())
	}
}

// A certificate that is not the device's, without a name, expired, or not
// yet valid is refused by DPS and by hubs in their own forms, and the log says what is wrong with
// it. Case does not count.
func TestRefusedCertificateIsNamedInTheLog(t *testing.T) {
	inToldWorld(t, func(c *Config) { c.RetryAfter = 0 }, func(w *world, log *diary) {
		self := func(cn string, change func(*x509.Certificate)) tls.Certificate {
			cert := w.deviceCert(cn, change) // who signed it does not matter for an individual enrollment
			must(t, w.EnrollDocument([]byte(`{"registrationId":"Solo","attestation":{"type":"x509","x509":{"clientCertificates":{"primary":{"certificate":"`+
				base64Of(cert.Certificate[0])+`"}}}}}`)))
			return cert
		}
		expired := func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Hour) }
		early := func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) }
		register := func(id string, cert tls.Certificate) (status, code float64) {
			h := w.httpClient(cert)
			defer h.CloseIdleConnections()
			a := w.mustDo(h, "PUT", "https://"+w.info.DPS.HTTPS+"/"+w.info.IDScope+"/registrations/"+id+"/register?api-version=2021-06-01", `{"registrationId":"`+id+`"}`)
			code, _ = a.body["errorCode"].(float64)
			if a.status == 401 && a.body["message"] != "Invalid certificate." {
				t.Errorf("%s", a.text)
			}
			return float64(a.status), code
		}
		for _, c := range []struct {
			cn     string
			change func(*x509.Certificate)
			says   string // "" is let in
		}{
			{"Group", nil, ""}, {"gROUP", nil, ""},
			{"another", nil, `is for CN \"another\", and not for \"Group\"`},
			{"", nil, `has no common name (CN); it must be \"Group\"`},
			{"Group", expired, "the certificate expired at "}, {"Group", early, "the certificate is not valid before "},
		} {
			solo := strings.ReplaceAll(strings.ReplaceAll(c.cn, "Group", "Solo"), "gROUP", "sOLO")
			for id, cert := range map[string]tls.Certificate{"Group": w.deviceCert(c.cn, c.change), "Solo": self(solo, c.change)} {
				status, code := register(id, cert)
				says := strings.ReplaceAll(c.says, "Group", id)
				if c.says == "" {
					if status != 202 {
						t.Errorf("%s, CN %q: %v %v", id, c.cn, status, code)
					}
					continue
				}
				if status != 401 || code != 401002 {
					t.Errorf("%s, CN %q: %v %v", id, c.cn, status, code)
				}
				if log.holds(map[string]string{"hub": "dps", "device": id, "kind": "register"}, says) != 1 {
					t.Errorf("nothing says %s of %s:\n%s", says, id, log)
				}
			}
		}
		_ = w.hubs[0].Admit("Group", azure.Credentials{X509: true}, nil, true)
		for _, c := range []struct {
			cn     string
			change func(*x509.Certificate)
			says   string
		}{
			{"Group", nil, ""}, {"group", nil, ""}, {"another", nil, `is for CN \"another\", and not for \"Group\"`}, {"", nil, "no common name"},
			{"Group", expired, "expired at"}, {"Group", early, "not valid before"},
		} {
			code := w.hubX509("127.0.0.2", "Group", w.deviceCert(c.cn, c.change))
			if want := map[bool]byte{true: 0, false: 5}[c.says == ""]; code != want {
				t.Errorf("CN %q: CONNACK %d, want %d", c.cn, code, want)
			}
			if c.says != "" && log.holds(map[string]string{"hub": "hub-a", "device": "Group", "kind": "refuse"}, c.says) != 1 {
				t.Errorf("nothing says %s:\n%s", c.says, log)
			}
		}
	})
}

// While a hub or DPS holds its CONNACK back the client waits for it. Its silence does not count
// against the keep-alive.
func TestKeepAliveWaitsForTheAnswer(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		host := w.provision("d")
		must(t, w.FaultHub("hub-a", iothub.Fault{Kind: iothub.FaultThrottle, DelayMs: 60_000}))
		must(t, w.FaultDPS(provisioning.DPSFault{Kind: provisioning.DPSSlow, DelayMs: 60_000}))
		o := w.hubOptions(host, "d")
		o.keepAlive = 20 // so that the hub bears 30 s of silence
		for addr, o := range map[string]connectOptions{
			w.hubAddr(host): o,
			w.info.DPS.MQTT: {id: "d", user: w.info.IDScope + "/registrations/d/api-version=2019-03-31", clean: true, keepAlive: 20},
		} {
			c := w.mustDial(addr)
			start := time.Now()
			c.send(connectBytes(o))
			c.want("20020000")
			if took := time.Since(start); took != time.Minute {
				t.Errorf("%s: CONNACK after %v", addr, took)
			}
			c.wantEnd()
			if took := time.Since(start); took != 90*time.Second { // from then on silence counts
				t.Errorf("%s: closed after %v", addr, took)
			}
		}
	})
}

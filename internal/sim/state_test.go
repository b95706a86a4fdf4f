package sim

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/iothub"
	"github.com/hubhop-iot/hubhop/internal/sim/provisioning"
	"github.com/hubhop-iot/hubhop/internal/sim/simtest"
)

// inKeptWorld is inWorld with a state directory.
func inKeptWorld(t *testing.T, change func(*Config), f func(w *world)) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "state")
	inWorld(t, func(c *Config) {
		c.StateDir = dir
		if change != nil {
			change(c)
		}
	}, f)
}

// reborn is the world after its simulator was killed at this moment and started again.
func (w *world) reborn() {
	w.t.Helper()
	synctest.Wait()
	after := simtest.Killed(w.t, w.config.StateDir)
	must(w.t, w.Close())
	w.config.StateDir = after
	w.start()
}

// If a file of the state directory has vanished or was emptied, the start says so. Otherwise a
// cloud that has lost everything would look like a new one.
func TestVanishedStateFileIsToldAtTheStart(t *testing.T) {
	inKeptWorld(t, func(c *Config) {
		c.ledgerSegment, c.ledgerCounts = 400, 1 // so that the counts and several segments come about
	}, func(w *world) {
		c := w.connect(w.provision("dev-1"), "dev-1")
		for i := range 20 {
			c.telemetry(fmt.Sprintf("%%24.mid=0123456789abcdef-%d", i+1), `{"a":"`+strings.Repeat("x", 100)+`"}`, uint16(i+1))
		}
		synctest.Wait()
		whole := simtest.Killed(t, w.config.StateDir)
		names, err := filepath.Glob(filepath.Join(whole, "*"))
		must(t, err)
		if len(names) < 6 {
			t.Fatal(names)
		}
		for _, path := range names {
			name := filepath.Base(path)
			for how, spoil := range map[string]func(path string) error{"missing": os.Remove, "empty": func(path string) error { return os.Truncate(path, 0) }} {
				config := w.config
				config.StateDir = simtest.Killed(t, whole)
				must(t, spoil(filepath.Join(config.StateDir, name)))
				again, err := New(config)
				if err == nil { // then nothing may be lost: the lock is nothing, and counts can be made from all messages
					if l := again.Ledger("dev-1", true); l.Received != 20 || len(l.Messages) != 20 || len(again.State().Devices) != 1 {
						t.Errorf("%s is %s, and nobody says so: %d received, %d kept", name, how, l.Received, len(l.Messages))
					}
					must(t, again.Close())
					continue
				}
				if !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "restore it from a copy") {
					t.Errorf("%s is %s: %v", name, how, err)
				}
			}
		}
		config := w.config // what is left when all of the ledger is gone is told as well
		config.StateDir = simtest.Killed(t, whole)
		for _, path := range names {
			if name := filepath.Base(path); strings.HasPrefix(name, "ledger") {
				must(t, os.Remove(filepath.Join(config.StateDir, name)))
			}
		}
		if _, err := New(config); err == nil || !strings.Contains(err.Error(), "ledger-") {
			t.Errorf("the whole ledger is missing: %v", err)
		}
		config.StateDir = simtest.Killed(t, whole)
		for _, name := range []string{"cloud.json", "state.log"} {
			must(t, os.Remove(filepath.Join(config.StateDir, name)))
		}
		if _, err := New(config); err == nil || !strings.Contains(err.Error(), "cloud.json is missing") {
			t.Errorf("all but the ledger is missing: %v", err)
		}
	})
}

// start makes another simulator of the same configuration.
func (w *world) start() {
	w.t.Helper()
	c := w.config
	c.Listen = w.net.Listen
	var err error
	if w.Sim, err = New(c); err != nil {
		w.t.Fatal(err)
	}
	if err := w.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.info = w.Info()
}

// After a restart clients find the same certificates, keys and addresses.
func TestClientsSeeTheSameCloudAfterARestart(t *testing.T) {
	for _, layout := range []string{LayoutLoopback, LayoutPorts} {
		inKeptWorld(t, func(c *Config) { c.Layout, c.ControlAddr = layout, "127.0.0.1:0" }, func(w *world) {
			before, ca, deviceCA := w.info, string(w.ca.CertificatePEM()), string(must2(w.deviceCA.KeyPEM()))
			w.connect(w.provision("dev-1"), "dev-1").telemetry("%24.mid=0123456789abcdef-1", "{}", 1)
			w.reborn()
			if was, is := string(azure.EncodeJSON(before)), string(azure.EncodeJSON(w.info)); was != is {
				t.Errorf("was\n%s\nis\n%s", was, is)
			}
			if ca != string(w.ca.CertificatePEM()) || deviceCA != string(must2(w.deviceCA.KeyPEM())) {
				t.Error("another authority")
			}
			w.connect(w.provision("dev-1"), "dev-1").telemetry("%24.mid=0123456789abcdef-1", "{}", 1)
			if l := w.Ledger("dev-1", true); l.Received != 2 || l.Duplicates != 1 || len(l.Messages) != 2 {
				t.Errorf("%+v", l)
			}
			must(t, w.ResetLedger())
			w.reborn()
			if l := w.Ledger("", true); l.Received != 0 || len(l.Messages) != 0 {
				t.Errorf("%+v", l)
			}
		})
	}
}

// A message that cannot be written down is not acknowledged, and its connection ends. When there is
// room again the next message is acknowledged.
func TestNoPubackOnAFullDisk(t *testing.T) {
	inKeptWorld(t, nil, func(w *world) {
		host := w.provision("dev-1")
		c := w.connect(host, "dev-1")
		c.telemetry("%24.mid=0123456789abcdef-1", "{}", 1)
		disk := simtest.NewFullDisk(60)
		w.ledger.WrapFile(disk.Over)
		c.send(publishBytes("devices/dev-1/messages/events/%24.mid=0123456789abcdef-2", `{"and":"so on, and on, and on"}`, 1, 2))
		c.wantEnd()
		if l := w.Ledger("dev-1", false); l.Received != 1 {
			t.Errorf("%+v", l)
		}
		disk.MakeRoom(1000)
		w.connect(host, "dev-1").telemetry("%24.mid=0123456789abcdef-2", "{}", 2)
		w.reborn()
		if l := w.Ledger("dev-1", false); l.Received != 2 || l.Distinct != 2 {
			t.Errorf("%+v", l)
		}
	})
}

// portrait is all that clients and operators can see of a cloud beside connections and the ledger.
func portrait(s *Sim) string {
	var all []any
	all = append(all, s.registry.Lasting()...)
	for _, h := range s.hubs {
		for _, device := range h.All() {
			for _, i := range append([]*iothub.Identity{device}, h.ModulesOf(device)...) {
				all = append(all, i.Lasting()...)
			}
		}
	}
	lines := make([]string, 0, len(all))
	for _, v := range all {
		lines = append(lines, string(azure.EncodeJSON(v)))
	}
	return strings.Join(lines, "\n")
}

// survives holds what a simulator would make of the directory if this one were killed now against
// what this one is.
func (w *world) survives(step string) {
	w.t.Helper()
	synctest.Wait()
	c := w.config
	c.StateDir = simtest.Killed(w.t, c.StateDir)
	again, err := New(c)
	if err != nil {
		w.t.Fatalf("after %s: %v", step, err)
	}
	for i, h := range again.hubs {
		h.SetHost(w.hubs[i].Host(), "")
	}
	was, is := strings.Split(portrait(w.Sim), "\n"), strings.Split(portrait(again), "\n")
	must(w.t, again.Close())
	for i := range max(len(was), len(is)) {
		if i >= len(was) || i >= len(is) || was[i] != is[i] {
			w.t.Fatalf("after %s: was\n%s\nis\n%s", step, strings.Join(was[min(i, len(was)):min(i+3, len(was))], "\n"), strings.Join(is[min(i, len(is)):min(i+3, len(is))], "\n"))
		}
	}
}

// Every change of a cloud is in the state directory as soon as it has happened.
func TestEveryChangeIsWrittenDownWhenItHasHappened(t *testing.T) {
	inKeptWorld(t, nil, func(w *world) {
		w.survives("the start")
		host := w.provision("dev-1")
		w.survives("an assignment")
		c := w.connect(host, "dev-1")
		c.subscribeAll()
		w.survives("a connection")
		text := "hi"
		_, err := w.SendC2D("dev-1", iothub.C2D{Text: &text, Properties: map[string]string{"iothub-ack": "full"}})
		must(t, err)
		c.wantPublish()
		w.survives("a message on its way")
		c.ask("$iothub/twin/PATCH/properties/reported/?$rid=1", `{"battery":42.50,"nested":{"a":[1,{"b":null}]},"big":4503599627370495}`)
		w.survives("a reported patch")
		c.ask("$iothub/twin/PATCH/properties/reported/?$rid=1", `{"battery":null}`)
		must(t, w.PatchDesired("dev-1", json.RawMessage(`{"fanSpeed":{"x":1.50}}`)))
		w.survives("a desired patch")
		c.close()
		w.survives("the end of a connection")
		_, err = w.SendC2D("dev-1", iothub.C2D{Body: json.RawMessage(`{"a":1}`), TTLSeconds: 60})
		must(t, err)
		time.Sleep(2 * time.Minute)
		_, err = w.C2DMessages("dev-1")
		must(t, err)
		w.survives("an expiry")
		i := w.hubs[0].Identity("dev-1")
		_, err = i.Post(iothub.C2D{Text: &text})
		must(t, err)
		token := sasFor(w.key("dev-1"), w.info.Hubs[0].Host+"/devices/dev-1", time.Now().Add(time.Hour), "")
		locked := w.mustDo(w.httpClient(), "GET", "https://"+w.info.Hubs[0].HTTPS+"/devices/dev-1/messages/deviceBound?api-version=2021-04-12", "",
			"Authorization", token, "IotHub-MessageLockTimeout", "60")
		if locked.status != 200 {
			t.Fatalf("nothing to lock: %+v", locked)
		}
		w.survives("a lock")
		s := w.service(0)
		s.want(200, "", "PATCH", "/twins/dev-1", `{"tags":{"floor":7},"properties":{"desired":{"y":2}}}`)
		w.survives("tags")
		s.want(200, "", "PUT", "/devices/by-service", `{"deviceId":"by-service","capabilities":{"iotEdge":true}}`)
		w.survives("a device made by a service")
		s.want(200, "", "PUT", "/devices/by-service", `{"deviceId":"by-service","status":"disabled","statusReason":"lost"}`, "If-Match", "*")
		w.survives("a device disabled by a service")
		_, err = w.hubs[0].AdmitModule("dev-1", "m", azure.Credentials{Keys: [][]byte{[]byte("a key of the module's own")}})
		must(t, err)
		m := w.hubs[0].Module("dev-1", "m")
		must(t, m.PatchDesired(map[string]any{"z": true}))
		w.survives("a module")
		d := w.dpsService()
		d.want(200, 0, "PUT", "/enrollments/single", `{"registrationId":"single","deviceId":"other","attestation":{"type":"symmetricKey"},"initialTwin":{"tags":{"a":1},"properties":{"desired":{"b":2.0}}}}`)
		cert := base64.StdEncoding.EncodeToString(w.deviceCert("x", nil).Certificate[0])
		d.want(200, 0, "PUT", "/enrollments/x", `{"registrationId":"x","attestation":{"type":"x509","x509":{"clientCertificates":{"primary":{"certificate":"`+cert+`"}}}}}`)
		w.survives("enrollments")
		must(t, w.Failover("dev-1", 10*time.Minute))
		w.survives("a failover")
		must(t, w.Block("dev-1"))
		w.survives("a block")
		must(t, w.Unblock("dev-1"))
		must(t, w.Disable("dev-1"))
		w.survives("a disabled device")
		must(t, w.Enable("dev-1"))
		must(t, w.DisableIdentity("dev-1"))
		w.survives("a disabled identity")
		must(t, w.Enable("dev-1"))
		time.Sleep(11 * time.Minute)
		if d := w.device("dev-1"); d.AssignedHub != "hub-a" {
			t.Errorf("%+v", d)
		}
		w.survives("the end of a failover")
		d.want(204, 0, "DELETE", "/enrollments/single", "")
		w.survives("an enrollment's end")
		must(t, w.hubs[0].DeleteModule("dev-1", "m", ""))
		w.survives("a module's end")
		s.want(204, "", "DELETE", "/devices/by-service", "", "If-Match", "*")
		w.survives("a device deleted by a service")
		d.want(204, 0, "DELETE", "/registrations/dev-1", "")
		w.survives("a registration's end")
		w.provision("dev-1")
		must(t, w.Delete("dev-1"))
		w.survives("a device's end")
		w.provision("dev-1")
		w.survives("a device's return")
	})
}

// When a cloud is killed and started again, a device's session, messages, twin and the end of its
// failover are what they were.
func TestDeviceDoesNotNoticeThatItsCloudWasKilled(t *testing.T) {
	inKeptWorld(t, nil, func(w *world) {
		host := w.provision("dev-1")
		o := w.hubOptions(host, "dev-1")
		o.clean = false
		c, _, _ := w.tryHub(o, host)
		c.subscribeAll()
		c.ask("$iothub/twin/PATCH/properties/reported/?$rid=1", `{"battery":42}`)
		must(t, w.PatchDesired("dev-1", json.RawMessage(`{"fanSpeed":1}`)))
		c.wantPublish()
		text := "hi"
		_, err := w.SendC2D("dev-1", iothub.C2D{Text: &text})
		must(t, err)
		sent := c.next() // and no PUBACK
		w.reborn()
		c, present, code := w.tryHub(o, host)
		if !present || code != 0 {
			t.Fatalf("session present %v, CONNACK %d", present, code)
		}
		again := c.next()
		if again.first != sent.first|0x08 || string(again.body) != string(sent.body) {
			t.Errorf("the message comes as %x %q", again.first, again.body)
		}
		if m, err := w.C2DMessages("dev-1"); err != nil || len(m) != 1 || m[0].DeliveryCount != 2 {
			t.Errorf("%+v %v", m, err)
		}
		c.send(publishBytes("$iothub/twin/GET/?$rid=2", "", 0, 0))
		if _, body := c.wantPublish(); body != `{"desired":{"$version":2,"fanSpeed":1},"reported":{"$version":2,"battery":42}}` {
			t.Errorf("the twin is %s", body)
		}
		must(t, w.Failover("dev-1", 10*time.Minute))
		time.Sleep(4 * time.Minute)
		w.reborn()
		if d := w.device("dev-1"); d.AssignedHub != "hub-b" {
			t.Errorf("%+v", d)
		}
		time.Sleep(6*time.Minute - time.Second)
		if d := w.device("dev-1"); d.AssignedHub != "hub-b" {
			t.Errorf("%+v", d)
		}
		time.Sleep(2 * time.Second)
		if d := w.device("dev-1"); d.AssignedHub != "hub-a" {
			t.Errorf("%+v", d)
		}
		must(t, w.Failover("dev-1", time.Minute)) // and one that should have ended while nobody was there
		after := simtest.Killed(t, w.config.StateDir)
		must(t, w.Close())
		time.Sleep(time.Hour)
		w.config.StateDir = after
		w.start()
		synctest.Wait()
		if d := w.device("dev-1"); d.AssignedHub != "hub-a" {
			t.Errorf("%+v", d)
		}
	})
}

// A change that cannot be written down is not confirmed, and has not happened.
func TestNothingIsConfirmedOnAFullDisk(t *testing.T) {
	inKeptWorld(t, nil, func(w *world) {
		host := w.provision("dev-1")
		c := w.connect(host, "dev-1")
		c.subscribeAll()
		disk := simtest.NewFullDisk(5)
		w.store.WrapFile(disk.Over)
		if topic, _ := c.ask("$iothub/twin/PATCH/properties/reported/?$rid=1", `{"battery":42}`); !strings.HasPrefix(topic, "$iothub/twin/res/500/") {
			t.Errorf("a patch: %s", topic)
		}
		text := "hi"
		for name, err := range map[string]error{
			"503 ServiceUnavailable":  w.PatchDesired("dev-1", json.RawMessage(`{"a":1}`)),
			"503 ServiceUnavailable ": func() error { _, err := w.SendC2D("dev-1", iothub.C2D{Text: &text}); return err }(),
		} {
			if refusal(err) != strings.TrimSpace(name) {
				t.Errorf("%v", err)
			}
		}
		disk.MakeRoom(1 << 20)
		if topic, _ := c.ask("$iothub/twin/PATCH/properties/reported/?$rid=1", `{"battery":42}`); !strings.HasPrefix(topic, "$iothub/twin/res/204/?$rid=1&$version=2") {
			t.Errorf("a patch: %s", topic)
		}
		disk.MakeRoom(5)
		if got := refusal(w.Failover("dev-1", 0)); got != "503 ServiceUnavailable" {
			t.Error(got)
		}
	})
}

// Services, operators and devices get an error if their change of an identity cannot be written
// down.
func TestChangesOfIdentitiesFailOnAFullDisk(t *testing.T) {
	inKeptWorld(t, nil, func(w *world) {
		s := w.service(0)
		defer s.http.CloseIdleConnections()
		host := w.provision("dev-1")
		for _, id := range []string{"made", "dies"} {
			s.want(200, "", "PUT", "/devices/"+id, `{"deviceId":"`+id+`"}`)
		}
		_, err := w.hubs[0].AdmitModule("dev-1", "m", azure.Credentials{})
		must(t, err)
		text := "hi"
		for range 2 {
			_, err = w.SendC2D("dev-1", iothub.C2D{Text: &text})
			must(t, err)
		}
		mailbox := func(method, path string) httpAnswer {
			token := sasFor(w.key("dev-1"), host+"/devices/dev-1", time.Now().Add(time.Hour), "")
			return w.mustDo(s.http, method, s.base+"/devices/dev-1/messages/devicebound"+path+"?api-version=2021-04-12", "", "Authorization", token)
		}
		locked := strings.Trim(mailbox("GET", "").header.Get("ETag"), `"`)
		c := w.connect(host, "dev-1")
		disk := simtest.NewFullDisk(5)
		w.store.WrapFile(disk.Over)
		for name, err := range map[string]error{
			"disable": w.Disable("made"), "enable": w.Enable("made"), "disable, dps": w.DisableIdentity("dev-1"), "enable, dps": w.Enable("dev-1"),
		} {
			if refusal(err) != "503 ServiceUnavailable" {
				t.Errorf("%s: %v", name, err)
			}
		}
		for path, header := range map[string]string{"/devices/dies": "If-Match", "/devices/dev-1/modules/m": "If-Match"} {
			s.want(503, "ServiceUnavailable", "DELETE", path, "", header, "*")
		}
		if a := mailbox("GET", ""); a.status != 503 {
			t.Errorf("a message is handed out: %d %s", a.status, a.text)
		}
		if a := mailbox("DELETE", "/"+locked); a.status != 503 {
			t.Errorf("a message is settled: %d %s", a.status, a.text)
		}
		c.wantEnd() // disabled above
		c = w.connect(host, "dev-1")
		c.send(subscribeBytes(1, 1, "$iothub/twin/res/#"))
		c.wantEnd()
		disk.MakeRoom(1 << 20)
		c = w.connect(host, "dev-1")
		c.subscribeAll()
		if a := mailbox("DELETE", "/"+locked); a.status != 204 { // it still has the lock
			t.Errorf("a message is settled later: %d %s", a.status, a.text)
		}
	})
}

func TestStateOfMoreHubsIsRefused(t *testing.T) {
	inKeptWorld(t, func(c *Config) { c.Hubs = 3 }, func(w *world) {
		w.service(2).want(200, "", "PUT", "/devices/d", `{"deviceId":"d"}`)
		c := w.config
		c.Hubs, c.StateDir = 2, simtest.Killed(t, c.StateDir)
		if _, err := New(c); err == nil || !strings.Contains(err.Error(), "start with --hubs 3") {
			t.Error(err)
		}
	})
}

// What the flags say of enrollments counts when it differs from the last start. A restart does not
// undo what a service changed.
func TestFlagsCountForEnrollmentsOnlyWhenTheyAreNew(t *testing.T) {
	inKeptWorld(t, nil, func(w *world) {
		d := w.dpsService()
		d.want(204, 0, "DELETE", "/enrollmentGroups/default-x509", "")
		w.reborn()
		d = w.dpsService()
		d.want(404, 404201, "GET", "/enrollmentGroups/default-x509", "")
		if a := d.want(200, 0, "GET", "/enrollmentGroups/default", ""); a.body["allocationPolicy"] != provisioning.AllocateStatic {
			t.Errorf("%s", a.text)
		}
		w.config.Allocation = provisioning.AllocateHashed
		w.reborn()
		d = w.dpsService()
		d.want(200, 0, "GET", "/enrollmentGroups/default-x509", "")
		if a := d.want(200, 0, "GET", "/enrollmentGroups/default", ""); a.body["allocationPolicy"] != provisioning.AllocateHashed {
			t.Errorf("%s", a.text)
		}
	})
}

func TestStateFilesAreForTheOwnerOnly(t *testing.T) {
	inWorld(t, func(c *Config) { c.StateDir = filepath.Join(t.TempDir(), "new", "state") }, func(w *world) {
		w.connect(w.provision("dev-1"), "dev-1").telemetry("a=b", "{}", 1)
		files, err := os.ReadDir(w.config.StateDir)
		must(t, err)
		for _, f := range files {
			info, err := f.Info()
			must(t, err)
			if info.Mode().Perm() != 0o600 {
				t.Errorf("%s is %v", f.Name(), info.Mode())
			}
		}
		if len(files) != 4 {
			t.Errorf("%v", files)
		}
	})
}

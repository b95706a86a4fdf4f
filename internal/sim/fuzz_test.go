package sim

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/memnet"
	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/simtest"
	"github.com/hubhop-iot/hubhop/internal/sim/wire"
)

// fuzzWorld is a cloud without a kernel, and in real time: what is fuzzed does not wait.
func fuzzWorld(f *testing.F) *world {
	f.Helper()
	c := DefaultConfig()
	c.Layout, c.RetryAfter, c.Polls = LayoutLoopback, 0, 0
	c.Listen = memnet.New().Listen
	c.LedgerKeep = 100
	s, err := New(c)
	if err != nil {
		f.Fatal(err)
	}
	if err := s.Start(); err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = s.Close() })
	w := &world{Sim: s, info: s.Info()}
	w.settleDevice("d")
	return w
}

func (w *world) settleDevice(id string) {
	_, _ = w.registry.Provision(id, azure.Credentials{Keys: [][]byte{w.key(id)}})
}

// The surfaces of the cloud in HTTP, with what a client needs to get beyond the first check.
type surface struct {
	name    string
	handler http.Handler
	auth    string
}

func (w *world) surfaces(f *testing.F) []surface {
	f.Helper()
	soon := time.Now().Add(24 * time.Hour)
	host := w.info.Hubs[0].Host
	hub, dps, control := w.servers[0].Handler(), w.servers[2].Handler(), w.servers[3].Handler()
	return []surface{
		{"control", control, ""},
		{"hub, as its owner", hub, tokenFor(f, w.info.Hubs[0].ConnectionString, soon)},
		{"hub, as a device", hub, sasFor(w.key("d"), host+"/devices/d", soon, "")},
		{"hub, as anybody", hub, ""},
		{"DPS, as its owner", dps, tokenFor(f, w.info.DPS.ConnectionString, soon)},
		{"DPS, as a device", dps, sasFor(w.key("d"), w.info.IDScope+"/registrations/d", soon, "registration")},
		{"IoT Central", dps, w.info.Central.APIToken},
	}
}

// FuzzHTTP gives every HTTP surface whole requests as they come off a connection. No request may
// cause a panic or an unexpected 5xx, and an answer that is said to be JSON must be JSON.
func FuzzHTTP(f *testing.F) {
	for _, seed := range []struct {
		surfaces string
		requests []string
	}{
		{"0", []string{
			"GET /api/state", "GET /api/ledger?device=d&messages=1", "DELETE /api/ledger", "GET /api/devices/d/twin?metadata=1", "GET /api/devices/d/c2d",
			`POST /api/hubs/hub-a/fault {"kind":"kill","close":"fin","seconds":30,"dpsKnows":false,"dpsLagSeconds":1}`, `POST /api/hubs/hub-b/fault {"kind":"slow","delayMs":5}`,
			"DELETE /api/hubs/hub-a/fault", `POST /api/dps/fault {"kind":"throttle","retryAfter":7}`, `POST /api/dps/fault {"kind":"slow","delayMs":1}`, "DELETE /api/dps/fault",
			`POST /api/devices/d/failover {"seconds":90}`, "POST /api/devices/d/failback", "POST /api/devices/d/delete", `POST /api/devices/d/disable {"dpsKnows":false}`,
			`POST /api/devices/d/methods/echo?timeoutSeconds=0.001 "hi"`, `PATCH /api/devices/d/desired {"a":{"b":null},"c":[1,2]}`,
			`POST /api/devices/d/c2d {"body":{"a":1},"properties":{"method-name":"setAlarm"},"ttlSeconds":60}`,
		}},
		{"123", []string{
			"GET /devices?top=10&api-version=2021-04-12", "GET /devices/d?api-version=2021-04-12",
			`PUT /devices/p?api-version=2021-04-12 {"deviceId":"p","status":"enabled","authentication":{"symmetricKey":{},"type":"sas"},"capabilities":{"iotEdge":false}}`,
			`POST /devices?api-version=2021-04-12 [{"id":"p","importMode":"create"}]`, "DELETE /devices/p?api-version=2021-04-12", "GET /statistics/devices?api-version=2021-04-12",
			`POST /devices/query?api-version=2021-04-12 {"query":"SELECT * FROM devices WHERE tags.a = 'b' AND properties.reported.x > 1 OR NOT is_defined(deviceId)"}`,
			"GET /twins/d?api-version=2021-04-12", `PATCH /twins/d?api-version=2021-04-12 {"properties":{"desired":{"a":1}},"tags":{"b":null}}`,
			`PUT /twins/d?api-version=2021-04-12 {"properties":{"desired":{"a":1}}}`,
			`POST /twins/d/methods?api-version=2021-04-12 {"methodName":"m","payload":{},"responseTimeoutInSeconds":"5","connectTimeoutInSeconds":0}`,
			`POST /devices/d/messages/events?api-version=2020-03-13 {"temp":1}`, "GET /devices/d/messages/devicebound?api-version=2020-03-13",
			"DELETE /devices/d/messages/devicebound/x?reject&api-version=2020-03-13", "POST /devices/d/messages/devicebound/x/abandon?api-version=2020-03-13",
			`PUT /devices/d/modules/m?api-version=2021-04-12 {"deviceId":"d","moduleId":"m"}`, "GET /$iothub/websocket?iothub-no-client-cert=true",
			`POST /digitaltwins/d/commands/x?api-version=2021-04-12 {}`, "DELETE /devices/d/commands?api-version=2021-04-12",
		}},
		{"45", []string{
			`PUT /0ne00000SIM/registrations/d/register?api-version=2019-03-31 {"registrationId":"d","payload":{"iotcModelId":"dtmi:a:b;1"}}`,
			"GET /0ne00000SIM/registrations/d/operations/4.x.y?api-version=2019-03-31 {}", `POST /0ne00000SIM/registrations/d?api-version=2019-03-31 {"registrationId":"d"}`,
			"GET /enrollments/e?api-version=2021-10-01", `PUT /enrollments/e?api-version=2021-10-01 {"registrationId":"e","attestation":{"type":"symmetricKey"},"allocationPolicy":"static","iotHubs":["hub-a"]}`,
			`POST /enrollments/query?api-version=2021-10-01 {"query": "{'additional_properties': {}, 'query': 'SELECT *'}"}`, "POST /enrollmentGroups/query?api-version=2021-10-01 {}",
			`PUT /enrollmentGroups/g?api-version=2021-10-01 {"enrollmentGroupId":"g","attestation":{"type":"symmetricKey","symmetricKey":{}},"reprovisionPolicy":{"updateHubAssignment":true,"migrateDeviceData":true}}`,
			"POST /enrollmentGroups/g/attestationmechanism?api-version=2021-10-01", "GET /registrations/d?api-version=2021-10-01", "DELETE /enrollments/e?api-version=2021-10-01",
			"DELETE /registrations/d?api-version=2021-10-01", "POST /registrations/g/query?api-version=2021-10-01",
			`POST /enrollments?api-version=2021-10-01 {"mode":"create","enrollments":[{"registrationId":"e"}]}`,
		}},
		{"6", []string{
			`POST /system/iothub/devices/d/manual-failover {"ttl":10}`, "POST /system/iothub/devices/d/manual-failback", "GET /api/devices?api-version=2022-07-31",
			`PUT /api/devices/d?api-version=2022-07-31 {"displayName":"D","enabled":true}`, `PATCH /api/devices/d?api-version=2022-07-31 {"enabled":false}`,
			"GET /api/devices/d/credentials?api-version=2022-07-31", `PATCH /api/devices/d/properties?api-version=2022-07-31 {"a":1}`, "GET /api/devices/d/telemetry/temp?api-version=2022-07-31",
			`POST /api/devices/d/commands/x?api-version=2022-07-31 {"request":{},"responseTimeout":1,"connectionTimeout":0}`, "GET /api/devices/d/attestation?api-version=2022-07-31",
			`PUT /api/devices/d/attestation?api-version=2022-07-31 {"type":"symmetricKey","symmetricKey":{"primaryKey":"aGVsbG8=","secondaryKey":"aGVsbG8="}}`,
			"GET /system/iothub/devices/d/get-twin?api-version=2022-07-31", "DELETE /api/devices/d?api-version=2022-07-31", "GET /api/deviceTemplates?api-version=2022-07-31",
			"GET /api/devices/d/commands/x?api-version=2022-07-31", "DELETE /system/iothub/devices/d/c2d", "DELETE /api/devices/d/attestation?api-version=2022-07-31",
			`PUT /api/deviceTemplates/dtmi:a:b;1?api-version=2022-07-31 {"@id":"dtmi:a:b;1","capabilityModel":{"@type":"Interface","contents":[]}}`,
		}},
	} {
		for _, n := range seed.surfaces {
			for _, request := range seed.requests {
				parts := append(strings.SplitN(request, " ", 3), "")
				for _, headers := range []string{"", "If-Match: *\r\nIothub-App-a: b\r\n", "If-Match: \"x\"\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"} {
					f.Add(byte(n-'0'), parts[0]+" "+parts[1]+" HTTP/1.1\r\nHost: 127.0.0.1\r\n"+headers+"\r\n", parts[2])
				}
			}
		}
	}
	w := fuzzWorld(f)
	surfaces := w.surfaces(f)
	f.Fuzz(func(t *testing.T, n byte, head, body string) {
		on := surfaces[int(n)%len(surfaces)]
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(head)))
		if err != nil {
			return
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		r = r.WithContext(ctx)
		r.Body, r.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
		r.TLS = &tls.ConnectionState{}
		if on.auth != "" {
			r.Header.Set("Authorization", on.auth)
		}
		if w.hubs[0].Identity("d") == nil {
			w.settleDevice("d")
		}
		rec := httptest.NewRecorder()
		on.handler.ServeHTTP(rec, r)
		switch answer := rec.Result(); {
		case answer.StatusCode >= 500 && answer.StatusCode != http.StatusGatewayTimeout && answer.StatusCode != http.StatusNotImplemented &&
			!strings.Contains(rec.Body.String(), "http.Hijacker"): // a recorder cannot become a WebSocket
			t.Errorf("%s: %s %s: %s %s", on.name, r.Method, r.URL, answer.Status, rec.Body)
		case strings.HasPrefix(answer.Header.Get("Content-Type"), "application/json") && !json.Valid(rec.Body.Bytes()):
			t.Errorf("%s: %s %s: %s is not JSON: %q", on.name, r.Method, r.URL, answer.Status, rec.Body)
		case (answer.StatusCode == 200 || answer.StatusCode == 202) && rec.Body.Len() == 0 && r.Method != http.MethodHead && ctx.Err() == nil:
			t.Errorf("%s: %s %s: an empty %s", on.name, r.Method, r.URL, answer.Status) // az takes it for a failure
		}
		for _, mend := range []func(id string) error{w.Failback, w.Unblock, w.Approve, w.Enable} { // for the next one
			_ = mend("d")
		}
		_ = w.HealDPS()
		for _, h := range w.info.Hubs {
			_ = w.HealHub(h.Name)
		}
	})
}

// tape is a client that has already said everything.
type tape struct {
	io.Reader
	heard bytes.Buffer
}

func (p *tape) Write(b []byte) (int, error)      { return p.heard.Write(b) }
func (p *tape) SetWriteDeadline(time.Time) error { return nil }
func (p *tape) CloseWrite() error                { return nil }

// nowhere is a socket without a peer.
type nowhere struct{ net.Conn }

func (nowhere) Close() error                     { return nil }
func (nowhere) Read([]byte) (int, error)         { return 0, io.EOF }
func (nowhere) Write(b []byte) (int, error)      { return len(b), nil }
func (nowhere) SetDeadline(time.Time) error      { return nil }
func (nowhere) SetReadDeadline(time.Time) error  { return nil }
func (nowhere) SetWriteDeadline(time.Time) error { return nil }

// FuzzSession plays a client's whole conversation to a hub or to DPS. The answers must be MQTT, and
// in the end nobody is connected.
func FuzzSession(f *testing.F) {
	w := fuzzWorld(f)
	for _, dump := range []string{simtest.VectorHubConnect, simtest.VectorHubSubscribe, simtest.VectorTelemetry, simtest.VectorDPSConnect, simtest.VectorDPSSubscribe, simtest.VectorRegister, simtest.VectorPoll} {
		b, _ := hex.DecodeString(strings.Join(strings.Fields(dump), ""))
		f.Add(false, b)
		f.Add(true, b)
	}
	for _, topic := range []string{"devices/d/messages/events/a=b&$.mid=1", "$iothub/twin/GET/?$rid=1", "$iothub/twin/PATCH/properties/reported/?$rid=2",
		"$iothub/methods/res/200/?$rid=1", "$iothub/unknown"} {
		f.Add(false, publishBytes(topic, `{"a":1}`, 1, 1))
	}
	f.Add(false, bytes.Join([][]byte{subscribeBytes(1, 1, "$iothub/twin/res/#", "$iothub/methods/POST/#", "devices/d/messages/devicebound/#"), {0xc0, 0, 0xe0, 0}}, nil))
	f.Add(false, bytes.Join([][]byte{packet(0xa2, []byte{0, 7}, mqttString("$iothub/twin/res/#")), {0x40, 2, 0, 1, 0xc0, 1, 0}}, nil))
	f.Add(true, bytes.Join([][]byte{subscribeBytes(1, 1, "$dps/registrations/res/#"), {0xc0, 0, 0xe0, 0}}, nil))
	o := w.hubOptions(w.info.Hubs[0].Host, "d")
	o.clean = true // one conversation knows nothing of the others
	hub := connectBytes(o)
	token := sasFor(w.key("d"), w.info.IDScope+"/registrations/d", time.Now().Add(24*time.Hour), "registration")
	dps := connectBytes(connectOptions{id: "d", user: w.info.IDScope + "/registrations/d/api-version=2019-03-31", password: token, clean: true, willTopic: "a", will: "b"})
	f.Fuzz(func(t *testing.T, atDPS bool, b []byte) {
		connect := hub
		if atDPS {
			connect = dps
		}
		for _, first := range [][]byte{nil, connect} {
			below := wire.NewConn(nowhere{}, &wire.Endpoint{})
			client := &tape{Reader: io.MultiReader(bytes.NewReader(first), bytes.NewReader(b))}
			secure := tls.Server(below, &tls.Config{}) // no handshake takes place
			at := wire.NewMQTT(below, secure, client, 256<<10)
			if atDPS {
				w.dps.Converse(at)
			} else {
				w.hubs[0].Converse(at)
			}
			at.Close()
			answers := bufio.NewReader(&client.heard)
			for {
				first, err := answers.ReadByte()
				if err != nil {
					break
				}
				n := 0
				for shift := 0; ; shift += 7 {
					c, err := answers.ReadByte()
					if err != nil {
						t.Fatal("half a packet")
					}
					n |= int(c&0x7f) << shift
					if c < 0x80 {
						break
					}
				}
				if got, _ := answers.Discard(n); got != n || first>>4 == 0 || first>>4 == 15 {
					t.Fatalf("packet %02x of %d bytes, %d came", first, n, got)
				}
			}
		}
		if w.hubs[0].Identity("d").Standing().Online {
			t.Fatal("still connected")
		}
	})
}

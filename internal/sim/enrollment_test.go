package sim

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math"
	"math/big"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
)

// dpsService is a client of DPS's service API that signs like the Azure CLI.
type dpsService struct {
	*world
	client *http.Client
	host   string
}

func (w *world) dpsService() *dpsService {
	c := w.httpClient()
	w.t.Cleanup(c.CloseIdleConnections)
	return &dpsService{w, c, w.info.DPS.HTTPS}
}

// token is made from the connection string, as clients make it.
func (s *dpsService) token(host string, expires time.Time) string {
	parts := map[string]string{}
	for part := range strings.SplitSeq(s.info.DPS.ConnectionString, ";") {
		k, v, _ := strings.Cut(part, "=")
		parts[k] = v
	}
	key, err := base64.StdEncoding.DecodeString(parts["SharedAccessKey"])
	must(s.t, err)
	return sasFor(key, host, expires, parts["SharedAccessKeyName"])
}

func (s *dpsService) call(method, path, body string, header ...string) httpAnswer {
	s.t.Helper()
	header = append([]string{"Authorization", s.token(s.host, time.Now().Add(10*time.Minute))}, header...)
	return s.mustDo(s.client, method, "https://"+s.host+path+"?api-version=2021-10-01", body, header...)
}

// want calls and checks the status and, of errors, the code.
func (s *dpsService) want(status, code int, method, path, body string, header ...string) httpAnswer {
	s.t.Helper()
	a := s.call(method, path, body, header...)
	got, _ := a.body["errorCode"].(float64)
	if a.status != status || int(got) != code {
		s.t.Errorf("%s %s: %d %s, want %d %d", method, path, a.status, a.text, status, code)
	}
	return a
}

// list is the answer to a query.
func list(a httpAnswer) (ids []string) {
	var all []struct{ RegistrationID, EnrollmentGroupID string }
	_ = json.Unmarshal([]byte(a.text), &all)
	for _, e := range all {
		ids = append(ids, e.RegistrationID+e.EnrollmentGroupID)
	}
	return ids
}

func TestDPSServiceEnrollments(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		s := w.dpsService()
		// what az sends for `iot dps enrollment create --ih hub --ap static --rp reprovisionandmigratedata`
		a := s.want(200, 0, "PUT", "/enrollments/dev-1", `{"registrationId":"dev-1","deviceId":"other-id","attestation":{"type":"symmetricKey"},"iotHubs":["127.0.0.3"],
			"allocationPolicy":"static","reprovisionPolicy":{"updateHubAssignment":true,"migrateDeviceData":true},"capabilities":{"iotEdge":false},
			"optionalDeviceInformation":{"a":{"b":1}},"initialTwin":{"tags":{"t":1},"properties":{"desired":{"d":1}}},"provisioningStatus":"enabled"}`)
		for _, field := range []string{"etag", "createdDateTimeUtc", "lastUpdatedDateTimeUtc"} {
			if a.body[field] == nil {
				t.Errorf("no %s in %s", field, a.text)
			}
		}
		keys := a.body["attestation"].(map[string]any)["symmetricKey"].(map[string]any)
		primary, err := base64.StdEncoding.DecodeString(keys["primaryKey"].(string))
		if err != nil || len(primary) != 64 || keys["primaryKey"] == keys["secondaryKey"] {
			t.Errorf("keys %v", keys)
		}
		a = s.want(200, 0, "GET", "/enrollments/DEV-1", "")
		if strings.Contains(a.text, "primaryKey") || a.body["deviceId"] != "other-id" || !strings.Contains(a.text, `"optionalDeviceInformation":{"a":{"b":1}}`) {
			t.Errorf("%s", a.text)
		}
		m := s.want(200, 0, "POST", "/Enrollments/dev-1/attestationmechanism/", "") // SDKs differ in case and slash
		if !reflect.DeepEqual(m.body, map[string]any{"type": "symmetricKey", "symmetricKey": keys}) {
			t.Errorf("%s", m.text)
		}

		// it is in force
		status, body := w.registerWith("dev-1", w.info.IDScope, sasFor(primary, w.info.IDScope+"/registrations/dev-1", time.Now().Add(time.Hour), "registration"))
		state := body["registrationState"].(map[string]any)
		if status != "200" || state["assignedHub"] != "127.0.0.3" || state["deviceId"] != "other-id" {
			t.Errorf("%s %v", status, body)
		}
		if twin, err := w.Twin("other-id"); err != nil || fmt.Sprint(twin.Desired) != "map[$version:1 d:1]" {
			t.Errorf("%v %v", twin, err)
		}
		if r := s.want(200, 0, "GET", "/registrations/dev-1", ""); r.body["assignedHub"] != "127.0.0.3" || r.body["status"] != "assigned" {
			t.Errorf("%s", r.text)
		}
		if a = s.want(200, 0, "GET", "/enrollments/dev-1", ""); !strings.Contains(a.text, `"registrationState":{`) {
			t.Errorf("%s", a.text)
		}

		// conditions
		etag := a.body["etag"].(string)
		change := strings.Replace(a.text, `"enabled"`, `"disabled"`, 1)
		s.want(409, 409000, "PUT", "/enrollments/dev-1", change)
		s.want(412, 412000, "PUT", "/enrollments/dev-1", change, "If-Match", `"other"`)
		s.want(404, 404201, "PUT", "/enrollments/dev-2", strings.ReplaceAll(change, "dev-1", "dev-2"), "If-Match", "*")
		b := s.want(200, 0, "PUT", "/enrollments/dev-1", change, "If-Match", etag) // as Node sends it
		if b.body["etag"] == etag || b.body["createdDateTimeUtc"] != a.body["createdDateTimeUtc"] {
			t.Errorf("%s after %s", b.text, a.text)
		}
		if m = s.want(200, 0, "POST", "/enrollments/dev-1/attestationmechanism", ""); !reflect.DeepEqual(m.body["symmetricKey"], keys) {
			t.Errorf("an update without keys changed them: %s", m.text)
		}
		_, body = w.registerWith("dev-1", w.info.IDScope, sasFor(primary, w.info.IDScope+"/registrations/dev-1", time.Now().Add(time.Hour), "registration"))
		if body["status"] != "disabled" || body["operationId"] != "" {
			t.Errorf("%v", body)
		}
		s.want(200, 0, "PUT", "/enrollments/dev-1", change, "If-Match", "*") // az
		s.want(200, 0, "PUT", "/enrollments/dev-1", change, "If-Match", `"*"`)
		s.want(412, 412000, "DELETE", "/enrollments/dev-1", "", "If-Match", etag)
		s.want(204, 0, "DELETE", "/enrollments/dev-1", "", "If-Match", "*")
		s.want(404, 404201, "DELETE", "/enrollments/dev-1", "")
		s.want(404, 404201, "GET", "/enrollments/dev-1", "")
		s.want(404, 404201, "POST", "/enrollments/dev-1/attestationmechanism", "")
		s.want(404, 404201, "GET", "/registrations/dev-1", "") // it goes with its enrollment

		// refusals
		for name, body := range map[string]string{
			"no JSON":          `{`,
			"other id":         `{"registrationId":"y","attestation":{"type":"symmetricKey"}}`,
			"no attestation":   `{}`,
			"bad attestation":  `{"attestation":{"type":"password"}}`,
			"short key":        `{"attestation":{"type":"symmetricKey","symmetricKey":{"primaryKey":"AAAA"}}}`,
			"no base64":        `{"attestation":{"type":"symmetricKey","symmetricKey":{"primaryKey":"!"}}}`,
			"no certificates":  `{"attestation":{"type":"x509"}}`,
			"bad certificate":  `{"attestation":{"type":"x509","x509":{"clientCertificates":{"primary":{"certificate":"AAAA"}}}}}`,
			"bad status":       `{"attestation":{"type":"symmetricKey"},"provisioningStatus":"on"}`,
			"bad policy":       `{"attestation":{"type":"symmetricKey"},"allocationPolicy":"dice"}`,
			"bad hub":          `{"attestation":{"type":"symmetricKey"},"iotHubs":["elsewhere.azure-devices.net"]}`,
			"two static hubs":  `{"attestation":{"type":"symmetricKey"},"allocationPolicy":"static","iotHubs":["hub-a","hub-b"]}`,
			"no webhook":       `{"attestation":{"type":"symmetricKey"},"allocationPolicy":"custom"}`,
			"bad webhook":      `{"attestation":{"type":"symmetricKey"},"allocationPolicy":"custom","customAllocationDefinition":{"webhookUrl":"file:///etc/passwd"}}`,
			"bad twin":         `{"attestation":{"type":"symmetricKey"},"initialTwin":{"tags":{"a.b":1}}}`,
			"bad device id":    `{"attestation":{"type":"symmetricKey"},"deviceId":"a b"}`,
			"unknown CA":       `{"attestation":{"type":"x509","x509":{"caReferences":{"primary":"mine"}}}}`,
			"certificates too": `{"attestation":{"type":"x509","x509":{}}}`,
		} {
			if a := s.call("PUT", "/enrollments/x", body); a.status != 400 || a.body["errorCode"] != 400004.0 || a.body["trackingId"] == nil {
				t.Errorf("%s: %d %s", name, a.status, a.text)
			}
		}
		s.want(400, 400004, "PUT", "/enrollments/x.", `{"attestation":{"type":"symmetricKey"}}`)
		s.want(400, 400004, "PUT", "/enrollmentGroups/x", `{"attestation":{"type":"tpm","tpm":{}}}`)
		s.want(404, 404000, "GET", "/enrollments/x/y/z", "")
		s.want(200, 0, "PUT", "/enrollments/x", `{"attestation":{"type":"tpm","tpm":{"endorsementKey":"a"}}}`)
	})
}

func TestDPSServiceQueries(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		s := w.dpsService()
		for _, id := range []string{"e", "b", "d", "a", "c"} {
			s.want(200, 0, "PUT", "/enrollments/"+id, `{"attestation":{"type":"symmetricKey"}}`)
		}
		const all = `{"query":"SELECT * FROM enrollments"}`
		if a := s.want(200, 0, "POST", "/enrollments/query", all); fmt.Sprint(list(a)) != "[a b c d e]" || a.header.Get("X-Ms-Continuation") != "" || a.header.Get("X-Ms-Item-Type") != "Enrollment" || strings.Contains(a.text, "Key\":\"") {
			t.Errorf("%s %v", a.text, a.header)
		}
		var seen [][]string
		for next := ""; ; {
			a := s.want(200, 0, "POST", "/enrollments/query", all, "x-ms-max-item-count", "2", "x-ms-continuation", next)
			seen = append(seen, list(a))
			if next = a.header.Get("X-Ms-Continuation"); next == "" {
				break
			}
			if len(seen) == 1 {
				s.want(204, 0, "DELETE", "/enrollments/b", "") // what is deleted between two pages hides nothing else
			}
		}
		if fmt.Sprint(seen) != "[[a b] [c d] [e]]" {
			t.Errorf("%v", seen)
		}
		// as the Azure CLI writes it
		a := s.want(200, 0, "POST", "/enrollmentGroups/query", `{"query": "{'additional_properties': {}, 'query': 'SELECT *'}"}`)
		if fmt.Sprint(list(a)) != "[default default-x509]" {
			t.Errorf("%s", a.text)
		}
		if a = s.want(200, 0, "POST", "/enrollmentGroups/query", `{"query":"*"}`); len(list(a)) != 2 {
			t.Errorf("%s", a.text)
		}
		for _, bad := range []string{``, `{`, `{}`, `[]`, `{"query":""}`, `{"query":7}`, `{"query":"select * where deviceId='x'"}`} {
			s.want(400, 400004, "POST", "/enrollments/query", bad)
		}
		s.want(400, 400004, "POST", "/enrollments/query", all, "x-ms-max-item-count", "0")
		s.want(400, 400004, "POST", "/enrollments/query", all, "x-ms-continuation", "!")

		// registrations of a group
		w.provision("d1")
		w.provision("d2")
		a = s.want(200, 0, "POST", "/registrations/default/query", `{"query":"*"}`)
		if fmt.Sprint(list(a)) != "[d1 d2]" || !strings.Contains(a.text, `"assignedHub":"127.0.0.2"`) {
			t.Errorf("%s", a.text)
		}
		s.want(404, 404201, "POST", "/registrations/none/query", all)
		etag, _ := s.want(200, 0, "GET", "/registrations/d1", "").body["etag"].(string)
		s.want(412, 412000, "DELETE", "/registrations/d1", "", "If-Match", "other")
		s.want(204, 0, "DELETE", "/registrations/d1", "", "If-Match", etag)
		s.want(404, 404201, "DELETE", "/registrations/d1", "")
		w.connect("hub-a", "d1") // it stays in its hub
		if sub := w.substatus("d1"); sub != "initialAssignment" {
			t.Error(sub)
		}

		// bulk
		one := func(mode, id, more string) httpAnswer {
			return s.want(200, 0, "POST", "/enrollments/", `{"mode":"`+mode+`","enrollments":[{"registrationId":"`+id+`","attestation":{"type":"symmetricKey"}`+more+`}]}`)
		}
		for _, c := range []struct {
			mode, id, more string
			code           float64
		}{
			{"create", "bulk", "", 0}, {"create", "bulk", "", 409000}, {"update", "bulk", "", 0}, {"update", "nobody", "", 404201},
			{"updateIfMatchETag", "bulk", `,"etag":"x"`, 412000}, {"delete", "bulk", `,"etag":"x"`, 412000}, {"delete", "bulk", "", 0}, {"delete", "bulk", "", 404201},
		} {
			a := one(c.mode, c.id, c.more)
			code := 0.0
			if errs := a.body["errors"].([]any); len(errs) > 0 {
				code = errs[0].(map[string]any)["errorCode"].(float64)
			}
			if code != c.code || a.body["isSuccessful"] != (c.code == 0) {
				t.Errorf("%+v: %s", c, a.text)
			}
		}
		s.want(400, 400004, "POST", "/enrollments", `{"mode":"create","enrollments":[]}`)
		s.want(400, 400004, "POST", "/enrollments", `{"mode":"dance","enrollments":[{"registrationId":"x"}]}`)
	})
}

func TestDPSServiceAccess(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		s := w.dpsService()
		soon := time.Now().Add(10 * time.Minute)
		key := w.dps.key[0]
		raw := func(sr string) string {
			sig := base64.StdEncoding.EncodeToString(hmacSHA256(key, fmt.Sprintf("%s\n%d", sr, soon.Unix())))
			return fmt.Sprintf("SharedAccessSignature sr=%s&sig=%s&se=%d&skn=%s", sr, url.QueryEscape(sig), soon.Unix(), dpsPolicy)
		}
		milli := func() string { // azure-iot-provisioning-service signs milliseconds
			sr, se := s.host, time.Now().UnixMilli()
			sig := base64.StdEncoding.EncodeToString(hmacSHA256(key, fmt.Sprintf("%s\n%d", url.QueryEscape(sr), se)))
			return fmt.Sprintf("SharedAccessSignature sr=%s&sig=%s&skn=%s&se=%d", url.QueryEscape(sr), url.QueryEscape(sig), dpsPolicy, se)
		}
		for name, c := range map[string]struct {
			token string
			code  float64
		}{
			"with port":          {s.token(s.host, soon), 0},
			"without port":       {s.token("127.0.0.1", soon), 0},
			"alias":              {s.token("DPS.sim.local:443", soon), 0},
			"Azure's name":       {s.token("mine.azure-devices-provisioning.net", soon), 0},
			"secondary key":      {sasFor(w.dps.key[1], s.host, soon, dpsPolicy), 0},
			"unescaped":          {raw("127.0.0.1:8443"), 0},
			"lower-case":         {raw("127.0.0.1%3a8443"), 0},
			"milliseconds":       {milli(), 0},
			"prefix":             {s.token(s.host+"/enrollmentGroups", soon), 0},
			"other part":         {s.token(s.host+"/enrollments", soon), 401002},
			"half a segment":     {s.token(s.host+"/enroll", soon), 401002},
			"other host":         {s.token("evil.net", soon), 401002},
			"other policy":       {sasFor(key, s.host, soon, "iothubowner"), 401002},
			"no policy":          {sasFor(key, s.host, soon, ""), 401002},
			"wrong key":          {sasFor(w.key("d"), s.host, soon, dpsPolicy), 401002},
			"expired":            {s.token(s.host, time.Now().Add(-time.Second)), 401002},
			"garbage":            {"Bearer x", 401000},
			"none":               {"", 401000},
			"a device's, signed": {sasFor(w.key("d"), w.info.IDScope+"/registrations/d", soon, "registration"), 401002},
		} {
			a := w.mustDo(s.client, "GET", "https://"+s.host+"/enrollmentGroups/default?api-version=2021-10-01", "", "Authorization", c.token)
			if code, _ := a.body["errorCode"].(float64); code != c.code || (c.code == 0) != (a.status == 200) || c.code != 0 && a.status != 401 {
				t.Errorf("%s: %d %s", name, a.status, a.text)
			}
		}
		for _, query := range []string{"", "?api-version=", "?api-version=1", "?api-version=1999-01-01", "?api-version=2021-10-01-beta"} {
			a := w.mustDo(s.client, "GET", "https://"+s.host+"/enrollmentGroups/default"+query, "", "Authorization", s.token(s.host, soon))
			if a.status != 400 || a.body["errorCode"] != 400004.0 {
				t.Errorf("%q: %d %s", query, a.status, a.text)
			}
		}
		// the version counts for devices too: over MQTT at register, since CONNECT is always accepted
		c := w.mustDial(w.info.DPS.MQTT)
		c.send(connectBytes(connectOptions{id: "d", user: w.info.IDScope + "/registrations/d/api-version=1", password: w.deviceToken("d"), clean: true}))
		c.want("20020000")
		c.send(subscribeBytes(1, 1, dpsResponses))
		c.want("9003000101")
		if status, body := w.registerAt(c, "d", ""); status != "400" || body["errorCode"] != 400004.0 {
			t.Errorf("%s %v", status, body)
		}
	})
}

func (w *world) deviceToken(id string) string {
	return sasFor(w.key(id), w.info.IDScope+"/registrations/"+id, time.Now().Add(time.Hour), "registration")
}

// ca is a certificate authority, with an intermediate one below it unless it is one itself.
type ca struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  string
}

func newCA(t *testing.T, name string, parent *ca) *ca {
	t.Helper()
	c, _ := issueCert(t, name, parent, true)
	return c
}

func issueCert(t *testing.T, name string, parent *ca, isCA bool) (*ca, tls.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: isCA, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	if isCA {
		template.KeyUsage = x509.KeyUsageCertSign
	}
	signer, signerKey := template, key
	if parent != nil {
		signer, signerKey = parent.cert, parent.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, signer, key.Public(), signerKey)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	chain := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	if parent != nil {
		chain.Certificate = append(chain.Certificate, parent.cert.Raw)
	}
	return &ca{cert, key, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))}, chain
}

func (w *world) registerX509(id string, certs ...tls.Certificate) (status string, body map[string]any) {
	w.t.Helper()
	c := w.mustDial(w.info.DPS.MQTT, certs...)
	defer c.close()
	c.send(connectBytes(connectOptions{id: id, user: w.info.IDScope + "/registrations/" + id + "/api-version=2019-03-31", clean: true, noPassword: true}))
	c.want("20020000")
	c.send(subscribeBytes(1, 1, dpsResponses))
	c.want("9003000101")
	return w.registerAt(c, id, "")
}

func (w *world) hubX509(host, id string, certs ...tls.Certificate) byte {
	w.t.Helper()
	c := w.mustDial(w.hubAddr(host), certs...)
	defer c.close()
	c.send(connectBytes(connectOptions{id: id, user: host + "/" + id + "/?api-version=2021-04-12", keepAlive: 60, noPassword: true}))
	return c.next().body[1]
}

func TestX509Enrollments(t *testing.T) {
	inWorld(t, func(c *Config) { c.RetryAfter = 0 }, func(w *world) {
		s := w.dpsService()
		quote := func(pem string) string { return string(azure.EncodeJSON(pem)) }
		self, selfCert := issueCert(t, "solo", nil, false)
		_, spareCert := issueCert(t, "solo", nil, false)
		spare := base64.StdEncoding.EncodeToString(spareCert.Certificate[0]) // DER in base64, as az uploads some
		_, otherCert := issueCert(t, "solo", nil, false)

		a := s.want(200, 0, "PUT", "/enrollments/solo", `{"deviceId":"solo-device","attestation":{"type":"x509","x509":{"clientCertificates":{"primary":{"certificate":`+quote(self.pem)+`},"secondary":{"certificate":"`+spare+`"}}}}}`)
		if strings.Contains(a.text, "BEGIN") || !strings.Contains(a.text, azure.SHA1Thumbprint(self.cert)) || !strings.Contains(a.text, `"subjectName":"CN=solo"`) {
			t.Errorf("%s", a.text)
		}
		s.want(200, 0, "PUT", "/enrollments/solo", a.text, "If-Match", "*") // as it was shown: the certificates stay
		for name, c := range map[string]struct {
			cert tls.Certificate
			code float64
		}{"primary": {selfCert, 0}, "secondary": {spareCert, 0}, "other": {otherCert, 401002}, "device CA": {w.deviceCert("solo", nil), 401002}} {
			status, body := w.registerX509("solo", c.cert)
			if code, _ := body["errorCode"].(float64); code != c.code || c.code == 0 && body["status"] != "assigned" {
				t.Errorf("%s: %s %v", name, status, body)
			}
			want := byte(0)
			if c.code != 0 {
				want = 5
			}
			if got := w.hubX509("127.0.0.2", "solo-device", c.cert); got != want {
				t.Errorf("%s: CONNACK %d", name, got)
			}
		}
		time.Sleep(25 * time.Hour) // until the certificate is old
		if status, body := w.registerX509("solo", selfCert); status != "401" || body["errorCode"] != 401002.0 {
			t.Errorf("expired: %s %v", status, body)
		}

		// a group by a CA in the middle of the chain
		root := newCA(t, "my root", nil)
		middle := newCA(t, "my intermediate", root)
		s.want(200, 0, "PUT", "/enrollmentGroups/mine", `{"attestation":{"type":"x509","x509":{"signingCertificates":{"primary":{"certificate":`+quote(middle.pem)+`}}}},"iotHubs":["hub-b"]}`)
		_, leaf := issueCert(t, "leaf", middle, false)
		_, stranger := issueCert(t, "leaf", newCA(t, "my intermediate", nil), false)
		_, body := w.registerX509("leaf", leaf)
		state, _ := body["registrationState"].(map[string]any)
		if state["assignedHub"] != "127.0.0.3" || fmt.Sprint(state["x509"]) != "map[enrollmentGroupId:mine]" {
			t.Errorf("%v", body)
		}
		if code := w.hubX509("127.0.0.3", "leaf", leaf); code != 0 {
			t.Errorf("CONNACK %d", code)
		}
		if code := w.hubX509("127.0.0.3", "leaf", stranger); code != 5 {
			t.Errorf("a stranger's certificate: CONNACK %d", code)
		}
		if code := w.hubX509("127.0.0.3", "leaf", w.deviceCert("leaf", nil)); code != 5 {
			t.Errorf("the device CA's certificate: CONNACK %d", code)
		}
		for name, cert := range map[string]tls.Certificate{"stranger": stranger, "wrong name": w.deviceCert("x", nil)} {
			if status, body := w.registerX509("leaf", cert); status != "401" || body["errorCode"] != 401002.0 {
				t.Errorf("%s: %s %v", name, status, body)
			}
		}
		s.want(400, 400004, "PUT", "/enrollmentGroups/bad", `{"attestation":{"type":"x509","x509":{"clientCertificates":{"primary":{"certificate":`+quote(self.pem)+`}}}}}`)
		// without a group that signs keys nobody is known by one
		s.want(204, 0, "DELETE", "/enrollmentGroups/default", "")
		if status, body := w.registerWith("k", w.info.IDScope, w.deviceToken("k")); status != "404" || body["errorCode"] != 404201.0 {
			t.Errorf("%s %v", status, body)
		}
	})
}

func TestSeveralGroups(t *testing.T) {
	key := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("k", 32)))
	inWorld(t, func(c *Config) {
		c.RetryAfter = 0
		c.EnrollmentDocuments = []json.RawMessage{
			json.RawMessage(`{"enrollmentGroupId":"North","attestation":{"type":"symmetricKey","symmetricKey":{"secondaryKey":"` + key + `"}},"iotHubs":["hub-b"]}`),
			json.RawMessage(`{"registrationId":"one","deviceId":"uno","attestation":{"type":"symmetricKey","symmetricKey":{"primaryKey":"` + key + `"}},"iotHubHostName":"hub-b"}`),
		}
	}, func(w *world) {
		token := func(id string) string {
			return sasFor(hmacSHA256([]byte(strings.Repeat("k", 32)), id), w.info.IDScope+"/registrations/"+id, time.Now().Add(time.Hour), "registration")
		}
		_, body := w.registerWith("n", w.info.IDScope, token("n"))
		if state := body["registrationState"].(map[string]any); state["assignedHub"] != "127.0.0.3" {
			t.Errorf("%v", body)
		}
		if hub := w.provision("d"); hub != "127.0.0.2" {
			t.Errorf("the default group's device is at %s", hub)
		}
		_, body = w.registerWith("one", w.info.IDScope, sasFor([]byte(strings.Repeat("k", 32)), w.info.IDScope+"/registrations/one", time.Now().Add(time.Hour), "registration"))
		if state := body["registrationState"].(map[string]any); state["deviceId"] != "uno" || state["assignedHub"] != "127.0.0.3" {
			t.Errorf("%v", body)
		}
		must(t, w.EnrollDocument([]byte(`{"enrollmentGroupId":"north","attestation":{"type":"symmetricKey","symmetricKey":{"primaryKey":"`+key+`"}},"provisioningStatus":"disabled"}`)))
		if _, body = w.registerWith("n", w.info.IDScope, token("n")); body["status"] != "disabled" {
			t.Errorf("%v", body)
		}
		for _, bad := range []string{`{`, `{}`, `{"registrationId":"a","enrollmentGroupId":"b","attestation":{"type":"symmetricKey"}}`, `{"registrationId":"a"}`} {
			if got := refusal(w.EnrollDocument([]byte(bad))); got != "400 BadRequest" {
				t.Errorf("%s: %s", bad, got)
			}
		}
		// two registrations cannot be one device
		must(t, w.EnrollDocument([]byte(`{"registrationId":"two","deviceId":"uno","attestation":{"type":"symmetricKey","symmetricKey":{"primaryKey":"`+key+`"}}}`)))
		if status, body := w.registerWith("two", w.info.IDScope, sasFor([]byte(strings.Repeat("k", 32)), w.info.IDScope+"/registrations/two", time.Now().Add(time.Hour), "registration")); status != "409" {
			t.Errorf("%s %v", status, body)
		}
	})
	for _, bad := range []string{`{"registrationId":"a","attestation":{"type":"symmetricKey"},"iotHubs":["hub-z"]}`, `{"registrationId":"a"}`} {
		c := DefaultConfig()
		c.Layout, c.ControlAddr, c.EnrollmentDocuments = LayoutPorts, "127.0.0.1:0", []json.RawMessage{json.RawMessage(bad)}
		s, err := New(c)
		if err == nil {
			err = s.Start()
			_ = s.Close()
		}
		if err == nil || !strings.Contains(err.Error(), "enrollment") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// The reprovision policies, against both ways to leave a hub: where the device is sent after its group changed, what becomes of its
// twin, and what its old hub says.
func TestReprovisionMatrix(t *testing.T) {
	const (
		whole   = `{"desired":{"$version":%d,"first":1,"later":2},"reported":{"$version":%d,"seen":3}}`
		initial = `{"desired":{"$version":%d,"first":1},"reported":{"$version":%d}}`
	)
	for _, c := range []struct {
		policy, move   string
		hub, substatus string
		twin, tags     string
		old            byte   // the old hub's CONNACK
		back, backTwin string // the same on the way back
	}{
		{ReprovisionMigrate, MoveDisable, "127.0.0.3", substatusMigrated, fmt.Sprintf(whole, 1, 1), "map[room:7]", 3, substatusReturned, fmt.Sprintf(whole, 2, 2)},
		{ReprovisionMigrate, MoveDelete, "127.0.0.3", substatusMigrated, fmt.Sprintf(whole, 1, 1), "map[room:7]", 5, substatusReturned, fmt.Sprintf(whole, 1, 1)},
		{ReprovisionReset, MoveDisable, "127.0.0.3", substatusReset, fmt.Sprintf(initial, 1, 1), "map[room:1]", 3, substatusReturned, fmt.Sprintf(initial, 3, 3)},
		{ReprovisionReset, MoveDelete, "127.0.0.3", substatusReset, fmt.Sprintf(initial, 1, 1), "map[room:1]", 5, substatusReturned, fmt.Sprintf(initial, 1, 1)},
		{ReprovisionNever, MoveDisable, "127.0.0.2", substatusInitial, fmt.Sprintf(whole, 2, 2), "map[room:7]", 0, substatusInitial, fmt.Sprintf(whole, 2, 2)},
		{ReprovisionNever, MoveDelete, "127.0.0.2", substatusInitial, fmt.Sprintf(whole, 2, 2), "map[room:7]", 0, substatusInitial, fmt.Sprintf(whole, 2, 2)},
	} {
		t.Run(c.policy+" "+c.move, func(t *testing.T) {
			inWorld(t, func(conf *Config) { conf.RetryAfter, conf.Move, conf.Reprovision = 0, c.move, c.policy }, func(w *world) {
				s := w.dpsService()
				group := func(hub string) {
					m := s.want(200, 0, "POST", "/enrollmentGroups/default/attestationmechanism", "")
					s.want(200, 0, "PUT", "/enrollmentGroups/default", `{"attestation":`+m.text+`,"iotHubs":["`+hub+`"],"initialTwin":{"tags":{"room":1},"properties":{"desired":{"first":1}}}}`, "If-Match", "*")
				}
				group("hub-a")
				old := w.connect(w.provision("d"), "d")
				old.subscribeAll()
				must(t, w.PatchDesired("d", json.RawMessage(`{"later":2}`)))
				old.wantPublish()
				if topic, _ := old.ask("$iothub/twin/PATCH/properties/reported/?$rid=1", `{"seen":3}`); !strings.Contains(topic, "/204/") {
					t.Errorf("%s", topic)
				}
				i := w.hubs[0].identity("d")
				i.mu.Lock()
				must(t, i.tags.apply(map[string]any{"room": 7}, time.Now()))
				i.mu.Unlock()

				group("hub-b")
				old.send([]byte{0xc0, 0})
				old.want("d000") // nothing happens before the device registers
				dps := w.dpsConnect("d")
				_, body := w.registerAt(dps, "d", "")
				state := body["registrationState"].(map[string]any)
				if state["assignedHub"] != c.hub || state["substatus"] != c.substatus {
					t.Errorf("%v", state)
				}
				if c.old != 0 {
					old.wantEnd()
				}
				if _, _, code := w.tryHub(w.hubOptions("127.0.0.2", "d"), "127.0.0.2"); code != c.old {
					t.Errorf("the old hub says CONNACK %d", code)
				}
				twin := func() string {
					client := w.connect(c.hub, "d")
					client.subscribeAll()
					_, text := client.ask("$iothub/twin/GET/?$rid=1", "")
					return text
				}
				if got := twin(); got != c.twin {
					t.Errorf("the twin is %s, want %s", got, c.twin)
				}
				here := w.hubs[0]
				if c.hub == "127.0.0.3" {
					here = w.hubs[1]
				}
				if i := here.identity("d"); fmt.Sprint(i.tags.props) != c.tags {
					t.Errorf("the tags are %v, want %s", i.tags.props, c.tags)
				}
				if c.policy != ReprovisionReset {
					before := c.substatus
					if _, body = w.registerAt(dps, "d", ""); body["registrationState"].(map[string]any)["substatus"] != before {
						t.Errorf("registered once more: %v", body)
					}
				}
				group("hub-a")
				_, body = w.registerAt(dps, "d", "")
				state = body["registrationState"].(map[string]any)
				if state["assignedHub"] != "127.0.0.2" || state["substatus"] != c.back {
					t.Errorf("on the way back: %v", state)
				}
				c.hub = "127.0.0.2"
				if got := twin(); got != c.backTwin {
					t.Errorf("back again, the twin is %s, want %s", got, c.backTwin)
				}
			})
		})
	}
}

// An enrollment that is changed while a device is failed over decides at the next registration, for good.
func TestChangedEnrollmentEndsFailover(t *testing.T) {
	inWorld(t, func(c *Config) { c.RetryAfter, c.Hubs = 0, 3 }, func(w *world) {
		w.provision("d")
		must(t, w.Failover("d", time.Minute))
		if hub := w.provision("d"); hub != "127.0.0.3" {
			t.Errorf("%s", hub)
		}
		w.dpsService().want(200, 0, "PUT", "/enrollmentGroups/default", `{"attestation":{"type":"symmetricKey"},"iotHubs":["hub-c"]}`, "If-Match", "*")
		if hub := w.provision("d"); hub != "127.0.0.4" {
			t.Errorf("%s", hub)
		}
		time.Sleep(2 * time.Minute)
		if d := w.device("d"); d.AssignedHub != "hub-c" {
			t.Errorf("%+v", d)
		}
	})
}

// "Re-provision and reset" resets a device that stays where it is as well.
func TestResetInPlace(t *testing.T) {
	inWorld(t, func(c *Config) { c.RetryAfter, c.Reprovision = 0, ReprovisionReset }, func(w *world) {
		host := w.provision("d")
		must(t, w.PatchDesired("d", json.RawMessage(`{"a":1}`)))
		c := w.dpsConnect("d")
		_, body := w.registerAt(c, "d", "")
		state := body["registrationState"].(map[string]any)
		if state["assignedHub"] != host || state["substatus"] != "deviceDataReset" {
			t.Errorf("%v", state)
		}
		if twin, err := w.Twin("d"); err != nil || fmt.Sprint(twin.Desired) != "map[$version:3]" {
			t.Errorf("%v %v", twin, err)
		}
		// polled once more the same registration does nothing
		must(t, w.PatchDesired("d", json.RawMessage(`{"a":2}`)))
		c.send(publishBytes("$dps/registrations/GET/iotdps-get-operationstatus/?$rid=x&operationId="+body["operationId"].(string), "", 0, 0))
		if topic, _ := c.wantPublish(); !strings.Contains(topic, "/200/") {
			t.Errorf("%s", topic)
		}
		if twin, _ := w.Twin("d"); fmt.Sprint(twin.Desired) != "map[$version:4 a:2]" {
			t.Errorf("%v", twin)
		}
	})
}

func TestAllocationPolicies(t *testing.T) {
	inWorld(t, func(c *Config) {
		c.Hubs, c.RetryAfter, c.Allocation, c.HubWeights = 3, 0, AllocateHashed, []int{3, 1}
	}, func(w *world) {
		counts := map[string]int{}
		const n = 3000
		e := w.registry.groups[defaultGroup]
		for i := range n {
			counts[w.registry.choose(e, fmt.Sprintf("device-%d", i)).name]++
		}
		for name, share := range map[string]float64{"hub-a": 0.6, "hub-b": 0.2, "hub-c": 0.2} {
			if got := float64(counts[name]) / n; math.Abs(got-share) > 0.05 {
				t.Errorf("%s has %.2f of the devices, want %.2f", name, got, share)
			}
		}
		// a hub that goes away moves its own devices only
		fewer := *e
		fewer.IotHubs = []string{"hub-a", "hub-b"}
		for i := range n {
			id := fmt.Sprintf("device-%d", i)
			if before, after := w.registry.choose(e, id), w.registry.choose(&fewer, id); before != after && before.name != "hub-c" {
				t.Fatalf("%s moved from %s to %s", id, before.name, after.name)
			}
		}
	})
	inWorld(t, func(c *Config) { c.Hubs, c.RetryAfter, c.Allocation = 3, 0, AllocateGeoLatency }, func(w *world) {
		s := w.dpsService()
		s.want(200, 0, "PUT", "/enrollmentGroups/default", `{"attestation":{"type":"symmetricKey"},"allocationPolicy":"geoLatency","iotHubs":["hub-c.sim.local","hub-a"]}`, "If-Match", "*")
		if hub := w.provision("d"); hub != "127.0.0.4" {
			t.Errorf("%s", hub)
		}
		must(t, w.FaultHub("hub-c", Fault{Kind: FaultKill}))
		for _, id := range []string{"d", "e"} {
			if hub := w.provision(id); hub != "127.0.0.2" {
				t.Errorf("%s: %s", id, hub)
			}
		}
		must(t, w.FaultHub("hub-a", Fault{Kind: FaultKill}))
		if hub := w.provision("d"); hub != "127.0.0.2" { // hub-b is none of the group's
			t.Errorf("%s", hub)
		}
		must(t, w.HealHub("hub-a"))
		if got := refusal(w.Failover("d", 0)); got != "409 NoHealthyHub" {
			t.Error(got)
		}
	})
	for _, bad := range []func(*Config){
		func(c *Config) { c.Allocation = AllocateCustom }, func(c *Config) { c.Webhook = "hub" }, func(c *Config) { c.HubWeights = []int{0} },
		func(c *Config) { c.HubWeights = []int{1, 1, 1} }, func(c *Config) { c.Reprovision = "x" }, func(c *Config) { c.MalformedDPS = "x" },
		func(c *Config) { c.DPSLimits.PollsPer10s = -1 },
	} {
		c := DefaultConfig()
		bad(&c)
		if _, err := New(c); err == nil {
			t.Errorf("%+v is accepted", c)
		}
	}
}

// hooks answers webhooks in place of a network.
type hooks func(r *http.Request, body map[string]any) (status int, answer string)

func (h hooks) RoundTrip(r *http.Request) (*http.Response, error) {
	var body map[string]any
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		return nil, err
	}
	status, answer := h(r, body)
	if status == 0 {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(answer)), Request: r}, nil
}

func TestCustomAllocation(t *testing.T) {
	var status int
	var answer string
	var asked map[string]any
	inWorld(t, func(c *Config) {
		c.RetryAfter, c.Allocation, c.Webhook = time.Second, AllocateCustom, "https://hook.example/api/allocate?code=1"
		c.Hooks = hooks(func(r *http.Request, body map[string]any) (int, string) {
			if r.Method != "POST" || r.URL.String() != "https://hook.example/api/allocate?code=1" || r.Header.Get("Content-Type") != "application/json; charset=utf-8" {
				t.Errorf("%s %s %v", r.Method, r.URL, r.Header)
			}
			asked = body
			return status, answer
		})
	}, func(w *world) {
		c := w.dpsConnect("d")
		register := func(payload string) map[string]any {
			_, body := w.registerAt(c, "d", payload)
			return body["registrationState"].(map[string]any)
		}
		for _, bad := range []struct {
			status int
			answer string
			code   float64
			text   string
		}{
			{401, "", 400209, "Custom allocation failed with status code: 401"},
			{400, "", 400207, "Custom allocation failed with status code: 400"},
			{302, "", 400207, "Custom allocation failed with status code: 302"},
			{200, "{}", 400208, ""},
			{200, `{"iotHubHostName":"elsewhere"}`, 400208, ""},
			{200, "<html>", 400207, ""},
			{200, `{"iotHubHostName":"127.0.0.3","initialTwin":{"tags":{"a.b":1}}}`, 400207, ""},
		} {
			status, answer = bad.status, bad.answer
			state := register("")
			if text, _ := state["errorMessage"].(string); state["status"] != "failed" || state["errorCode"] != bad.code || !strings.HasPrefix(text, bad.text) || state["assignedHub"] != nil {
				t.Errorf("%+v: %v", bad, state)
			}
		}
		if a := w.device("d"); a.AssignedHub != "" {
			t.Errorf("%+v", a)
		}

		status, answer = 200, `{"iotHubHostname":"127.0.0.3","initialTwin":{"tags":{"kind":"toaster"},"properties":{"desired":{"state":"ready"}}},"payload":{"hello":"device"}}`
		state := register(`,"payload":{"modelId":"dtmi:x;1"}`)
		if state["assignedHub"] != "127.0.0.3" || state["substatus"] != "initialAssignment" || fmt.Sprint(state["payload"]) != "map[hello:device]" {
			t.Errorf("%v", state)
		}
		if i := w.hubs[1].identity("d"); fmt.Sprint(i.tags.props, i.desired.props) != "map[kind:toaster] map[state:ready]" {
			t.Errorf("%v %v", i.tags.props, i.desired.props)
		}
		if got, want := string(azure.EncodeJSON(asked["deviceRuntimeContext"])), `{"payload":{"modelId":"dtmi:x;1"},"registrationId":"d","symmetricKey":{}}`; got != want {
			t.Errorf("asked with %s", got)
		}
		group, _ := asked["enrollmentGroup"].(map[string]any)
		if group["enrollmentGroupId"] != "default" || group["allocationPolicy"] != "custom" || asked["individualEnrollment"] != nil || fmt.Sprint(asked["linkedHubs"]) != "[127.0.0.2 127.0.0.3]" ||
			strings.Contains(string(azure.EncodeJSON(asked)), "primaryKey") {
			t.Errorf("asked with %s", azure.EncodeJSON(asked))
		}

		// the next time it says otherwise, and the twin migrates since it gives none
		must(t, w.PatchDesired("d", json.RawMessage(`{"more":1}`)))
		answer = `{"iotHubHostName":"127.0.0.2"}`
		if state = register(""); state["assignedHub"] != "127.0.0.2" || state["substatus"] != "deviceDataMigrated" || state["payload"] != nil {
			t.Errorf("%v", state)
		}
		runtime := asked["deviceRuntimeContext"].(map[string]any)
		if runtime["currentIotHubHostName"] != "127.0.0.3" || runtime["currentDeviceId"] != "d" {
			t.Errorf("%v", runtime)
		}
		if twin, _ := w.Twin("d"); fmt.Sprint(twin.Desired) != "map[$version:1 more:1 state:ready]" {
			t.Errorf("%v", twin)
		}
		// a twin it gives counts, whatever the policy
		answer = `{"iotHubHostName":"127.0.0.3","initialTwin":{"properties":{"desired":{"only":1}}}}`
		if state = register(""); state["substatus"] != "reprovisionedToInitialAssignment" {
			t.Errorf("%v", state)
		}
		if i := w.hubs[1].identity("d"); fmt.Sprint(i.tags.props, i.desired.props) != "map[] map[only:1]" {
			t.Errorf("%v %v", i.tags.props, i.desired.props)
		}
		// a failed registration leaves the device where it is
		status = 503
		if state = register(""); state["errorCode"] != 400207.0 || w.device("d").AssignedHub != "hub-b" {
			t.Errorf("%v %+v", state, w.device("d"))
		}
		w.connect("hub-b", "d")
		// a webhook can only name hubs its enrollment allows
		status, answer = 200, `{"iotHubHostName":"127.0.0.2"}`
		w.dpsService().want(200, 0, "PUT", "/enrollments/one", `{"attestation":{"type":"symmetricKey","symmetricKey":{"primaryKey":"`+
			base64.StdEncoding.EncodeToString(w.key("one"))+`"}},"allocationPolicy":"custom","iotHubs":["hub-b"]}`)
		_, body := w.registerWith("one", w.info.IDScope, w.deviceToken("one"))
		if state := body["registrationState"].(map[string]any); state["errorCode"] != 400208.0 || asked["individualEnrollment"] == nil {
			t.Errorf("%v, asked with %s", state, azure.EncodeJSON(asked))
		}
		// IoT Central's failover comes before the webhook
		status, answer = 200, `{"iotHubHostName":"127.0.0.3"}`
		must(t, w.Failover("d", 0))
		if state = register(""); state["assignedHub"] != "127.0.0.2" {
			t.Errorf("%v", state)
		}
		// one that never answers gives up in the end
		must(t, w.Failback("d"))
		status = 0
		start := time.Now()
		if state = register(""); state["errorCode"] != 400207.0 || time.Since(start) < webhookTimeout {
			t.Errorf("%v after %v", state, time.Since(start))
		}
		// and does not hold up the end of the simulator
		c.send(publishBytes("$dps/registrations/PUT/iotdps-register/?$rid=1", `{}`, 0, 0))
		c.wantPublish()
	})
}

func TestDPSLimits(t *testing.T) {
	inWorld(t, func(c *Config) {
		c.Polls, c.RetryAfter, c.DPSLimits = 100, 3*time.Second, DPSLimits{RegistrationsPerMinute: 3, PollsPer10s: 5}
	}, func(w *world) {
		register := func(id string) (topic, text string) {
			c := w.dpsConnect(id)
			defer c.close()
			c.send(publishBytes("$dps/registrations/PUT/iotdps-register/?$rid=1", `{}`, 0, 0))
			return c.wantPublish()
		}
		for i := range 3 {
			if topic, _ := register(fmt.Sprintf("d%d", i)); !strings.Contains(topic, "/202/") {
				t.Fatalf("%s", topic)
			}
		}
		time.Sleep(20 * time.Second)
		if topic, text := register("d4"); topic != "$dps/registrations/res/429/?$rid=1&retry-after=40" || !strings.Contains(text, "429001") {
			t.Errorf("%s %s", topic, text)
		}
		time.Sleep(40 * time.Second)
		_, text := register("d0")
		operation := strings.Split(text, `"`)[3]
		c, other := w.dpsConnect("d0"), w.dpsConnect("d1")
		poll := publishBytes("$dps/registrations/GET/iotdps-get-operationstatus/?$rid=2&operationId="+operation, "", 0, 0)
		for range 5 {
			c.send(poll)
			if topic, _ := c.wantPublish(); !strings.Contains(topic, "/202/") {
				t.Errorf("%s", topic)
			}
		}
		c.send(poll)
		if topic, _ := c.wantPublish(); topic != "$dps/registrations/res/429/?$rid=2&retry-after=10" {
			t.Errorf("%s", topic)
		}
		other.send(poll) // another device is not held up: its operation it is not
		if topic, _ := other.wantPublish(); !strings.Contains(topic, "/404/") {
			t.Errorf("%s", topic)
		}
		time.Sleep(10 * time.Second)
		c.send(poll)
		if topic, _ := c.wantPublish(); !strings.Contains(topic, "/202/") {
			t.Errorf("%s", topic)
		}
	})
}

func TestDPSOddities(t *testing.T) {
	inWorld(t, func(c *Config) { c.RetryAfterFirst, c.MalformedDPS = true, MalformedClose }, func(w *world) {
		c := w.dpsConnect("d")
		register := publishBytes("$dps/registrations/PUT/iotdps-register/?$rid=1", `{}`, 0, 0)
		c.send(register)
		if topic, _ := c.wantPublish(); topic != "$dps/registrations/res/202/?retry-after=3&$rid=1" {
			t.Errorf("%s", topic)
		}
		must(t, w.FaultDPS(DPSFault{Kind: DPSStray}))
		c.send(register)
		first, text := c.wantPublish()
		second, again := c.wantPublish()
		third, last := c.wantPublish()
		if strings.HasSuffix(first, "$rid=1") || !strings.HasSuffix(second, "$rid=1") || second != third || text != again || again != last {
			t.Errorf("%s, %s, %s", first, second, third)
		}
		bad := w.mustDial(w.info.DPS.MQTT)
		bad.send(connectBytes(connectOptions{id: "d", user: "x", clean: true}))
		bad.wantEnd()
		// operations are bounded
		for range 10 {
			w.dps.remember(&operation{id: azure.NewGUID(), created: time.Now()})
		}
		if n := len(w.dps.operations); n != 12 {
			t.Errorf("%d operations", n)
		}
	})
}

func TestOperationsAreKept(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		c := w.dpsConnect("d")
		c.send(publishBytes("$dps/registrations/PUT/iotdps-register/?$rid=1", `{}`, 0, 0))
		_, text := c.wantPublish()
		under := strings.Split(text, `"`)[3]
		c.close()
		time.Sleep(15 * time.Minute)
		w.provision("other")
		c = w.dpsConnect("d")
		c.send(publishBytes("$dps/registrations/GET/iotdps-get-operationstatus/?$rid=2&operationId="+under, "", 0, 0))
		if topic, _ := c.wantPublish(); !strings.Contains(topic, "/200/") {
			t.Errorf("%s", topic)
		}
		for range operationLimit + 10 {
			w.dps.remember(&operation{id: azure.NewGUID(), created: time.Now()})
		}
		if n, m := len(w.dps.operations), len(w.dps.oldest); n != operationLimit || m != operationLimit {
			t.Errorf("%d operations, %d in order", n, m)
		}
	})
}

func TestCertificateSigning(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	must(t, err)
	csr := func(cn string) string {
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: cn}}, key)
		must(t, err)
		return base64.StdEncoding.EncodeToString(der)
	}
	inWorld(t, func(c *Config) { c.RetryAfter = 0 }, func(w *world) {
		register := func(version, more string) map[string]any {
			c := w.mustDial(w.info.DPS.MQTT)
			defer c.close()
			c.send(connectBytes(connectOptions{id: "d", user: w.info.IDScope + "/registrations/d/api-version=" + version, password: w.deviceToken("d"), clean: true}))
			c.want("20020000")
			c.send(subscribeBytes(1, 1, dpsResponses))
			c.want("9003000101")
			_, body := w.registerAt(c, "d", more)
			return body
		}
		state := func(body map[string]any) map[string]any { return body["registrationState"].(map[string]any) }
		if s := state(register("2019-03-31", `,"csr":"`+csr("d")+`"`)); s["issuedCertificateChain"] != nil {
			t.Errorf("%v", s)
		}
		s := state(register("2021-11-01-preview", `,"clientCertificateCsr":"`+csr("d")+`"`))
		if text, _ := s["issuedClientCertificate"].(string); !strings.HasPrefix(text, "-----BEGIN CERTIFICATE-----") {
			t.Errorf("%v", s)
		}
		s = state(register("2025-07-01-preview", `,"csr":"`+csr("d")+`"`))
		chain := s["issuedCertificateChain"].([]any)
		cert := tls.Certificate{PrivateKey: key}
		for _, text := range chain {
			der, err := base64.StdEncoding.DecodeString(text.(string))
			must(t, err)
			cert.Certificate = append(cert.Certificate, der)
		}
		if code := w.hubX509("127.0.0.2", "d", cert); len(chain) != 2 || code != 0 {
			t.Errorf("%d certificates, CONNACK %d", len(chain), code)
		}
		for _, bad := range []string{"!", "AAAA", csr("other")} {
			if body := register("2025-07-01-preview", `,"csr":"`+bad+`"`); body["errorCode"] != 400004.0 {
				t.Errorf("%.20s: %v", bad, body)
			}
		}
	})
}

// DPS that lags behind names the old hub until it notices, and so does the control; a heal in between makes it forget.
func TestDPSLagsBehind(t *testing.T) {
	inWorld(t, func(c *Config) { c.RetryAfter = 0 }, func(w *world) {
		w.provision("d")
		lag := Fault{Kind: FaultKill, DPSLagSeconds: 90}
		must(t, w.FaultHub("hub-a", lag))
		for _, step := range []struct {
			wait time.Duration
			hub  string
		}{{0, "127.0.0.2"}, {89 * time.Second, "127.0.0.2"}, {time.Second, "127.0.0.3"}, {time.Hour, "127.0.0.3"}} {
			time.Sleep(step.wait)
			if hub := w.provision("d"); hub != step.hub {
				t.Errorf("after another %v DPS says %s", step.wait, hub)
			}
		}
		must(t, w.HealHub("hub-a"))
		if hub := w.provision("d"); hub != "127.0.0.3" {
			t.Errorf("nothing calls it back, but DPS says %s", hub)
		}
		must(t, w.Failback("d"))
		must(t, w.FaultHub("hub-a", lag))
		time.Sleep(time.Minute)
		must(t, w.HealHub("hub-a"))
		time.Sleep(time.Minute)
		if hub := w.provision("d"); hub != "127.0.0.2" {
			t.Errorf("healed in time, but DPS says %s", hub)
		}
		unknown := false
		must(t, w.FaultHub("hub-a", Fault{Kind: FaultKill, DPSKnows: &unknown}))
		time.Sleep(time.Hour)
		if hub := w.provision("d"); hub != "127.0.0.2" {
			t.Errorf("DPS does not know, but says %s", hub)
		}
	})
}

// Both ways to leave a hub, both refusals of a disabled identity, with a key and with a certificate.
func TestMovesAndRefusals(t *testing.T) {
	for _, move := range []string{MoveDisable, MoveDelete} {
		for _, refusal := range []byte{3, 5} {
			inWorld(t, func(c *Config) { c.RetryAfter, c.Move, c.DisabledRefusal = 0, move, refusal }, func(w *world) {
				want := refusal
				if move == MoveDelete {
					want = 5
				}
				w.provision("k")
				cert := w.deviceCert("x", nil)
				if _, body := w.registerX509("x", cert); body["status"] != "assigned" {
					t.Fatalf("%v", body)
				}
				must(t, w.Failover("k", 0))
				must(t, w.Failover("x", 0))
				if _, _, code := w.tryHub(w.hubOptions("127.0.0.2", "k"), "127.0.0.2"); code != want {
					t.Errorf("%s %d: a key gets CONNACK %d", move, refusal, code)
				}
				if code := w.hubX509("127.0.0.2", "x", cert); code != want {
					t.Errorf("%s %d: a certificate gets CONNACK %d", move, refusal, code)
				}
				if code := w.hubX509("127.0.0.3", "x", cert); code != 0 {
					t.Errorf("%s %d: the new hub says CONNACK %d", move, refusal, code)
				}
				w.connect("hub-b", "k")
			})
		}
	}
}

func FuzzEnrollment(f *testing.F) {
	f.Add([]byte(`{"registrationId":"a","attestation":{"type":"x509","x509":{"clientCertificates":{"primary":{"certificate":"AAAA","info":{}}}}}}`))
	f.Add([]byte(`{"enrollmentGroupId":"a","attestation":{"type":"symmetricKey"},"initialTwin":{"tags":{"a":null}},"iotHubs":["hub-a"]}`))
	f.Add([]byte(`{"enrollmentGroupId":"a","attestation":{"type":"x509","x509":{"caReferences":{"primary":"device-ca"}}},"reprovisionPolicy":null}`))
	c := DefaultConfig()
	s, err := New(c)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = s.Close() })
	f.Fuzz(func(t *testing.T, doc []byte) {
		if s.registry.enrolDocument(doc) != nil {
			return
		}
		e, _ := decodeEnrollment(doc)
		list := s.registry.list(e.group())
		stored := list[strings.ToLower(e.id())]
		if again, err := decodeEnrollment(azure.EncodeJSON(stored)); err != nil || again.id() != stored.id() {
			t.Fatalf("%s comes back as %v, %v", azure.EncodeJSON(stored), again, err)
		}
		if h := s.registry.choose(stored, "d"); h == nil || stored.twin() == nil || stored.public() == nil {
			t.Fatal("no hub")
		}
		_ = s.registry.remove(e.group(), e.id(), "")
	})
}

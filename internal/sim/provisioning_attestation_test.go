package sim

import (
	"bytes"
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
	"math/big"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/provisioning"
)

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
	c.send(subscribeBytes(1, 1, "$dps/registrations/res/#"))
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

func TestEnrollmentsTakeOnlyTheirCertificates(t *testing.T) {
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

func TestDeviceBelongsToTheGroupThatSignsForIt(t *testing.T) {
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

func TestDPSSignsCertificateRequests(t *testing.T) {
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
			c.send(subscribeBytes(1, 1, "$dps/registrations/res/#"))
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

func TestDPSTakesOnlyTheRightCredentials(t *testing.T) {
	individual := bytes.Repeat([]byte{7}, 32)
	inWorld(t, func(c *Config) {
		c.Enrollments = []provisioning.Enrollment{{RegistrationID: "solo", DeviceID: "solo-device", PrimaryKey: base64.StdEncoding.EncodeToString(individual)}}
	}, func(w *world) {
		hour := time.Now().Add(time.Hour)
		scope := w.info.IDScope
		d := scope + "/registrations/d"
		secondary := azure.DeriveKey(w.registry.GroupKeys()[1], "d")
		raw := func(sr string, key []byte) string { // the Node SDK signs the text unescaped, the embedded SDK with %2f
			sig := base64.StdEncoding.EncodeToString(hmacSHA256(key, fmt.Sprintf("%s\n%d", sr, hour.Unix())))
			return fmt.Sprintf("SharedAccessSignature sr=%s&sig=%s&skn=registration&se=%d", sr, strings.NewReplacer("+", "%2B", "/", "%2F", "=", "%3D").Replace(sig), hour.Unix())
		}
		for name, c := range map[string]struct {
			id, scope, token string
			code             float64 // 0 is success
		}{
			"good":                 {"d", scope, sasFor(w.key("d"), d, hour, "registration"), 0},
			"secondary":            {"d", scope, sasFor(secondary, d, hour, "registration"), 0},
			"no skn":               {"d", scope, sasFor(w.key("d"), d, hour, ""), 0},
			"unescaped":            {"d", scope, raw(d, w.key("d")), 0},
			"lower-case escapes":   {"d", scope, raw(strings.ReplaceAll(d, "/", "%2f"), w.key("d")), 0},
			"individual":           {"solo", scope, sasFor(individual, scope+"/registrations/solo", hour, "registration"), 0},
			"wrong key":            {"d", scope, sasFor(w.key("e"), d, hour, "registration"), 401000},
			"other skn":            {"d", scope, sasFor(w.key("d"), d, hour, "device"), 401000},
			"other device":         {"d", scope, sasFor(w.key("d"), scope+"/registrations/e", hour, "registration"), 401000},
			"garbage":              {"d", scope, "hello", 401000},
			"empty":                {"d", scope, "", 401000},
			"group for individual": {"solo", scope, sasFor(w.key("solo"), scope+"/registrations/solo", hour, "registration"), 401000},
			"expired":              {"d", scope, sasFor(w.key("d"), d, time.Now().Add(-time.Second), "registration"), 401002},
			"unknown scope":        {"d", "0ne0000OTHER", sasFor(w.key("d"), "0ne0000OTHER/registrations/d", hour, "registration"), 401002},
			"bad id":               {"d e", scope, sasFor(w.key("d e"), scope+"/registrations/d e", hour, "registration"), 400004},
		} {
			status, body := w.registerWith(c.id, c.scope, c.token)
			if code, _ := body["errorCode"].(float64); code != c.code || c.code == 0 && status != "200" || c.code != 0 && status != fmt.Sprint(int(c.code)/1000) {
				t.Errorf("%s: %s %v", name, status, body)
			}
			if c.code != 0 && (body["trackingId"] == "" || !regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{7}Z$`).MatchString(body["timestampUtc"].(string))) {
				t.Errorf("%s: %v", name, body)
			}
		}
		if d := w.device("solo-device"); d.AssignedHub != "hub-a" {
			t.Errorf("%+v", d)
		}
	})
}

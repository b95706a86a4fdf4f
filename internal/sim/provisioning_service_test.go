package sim

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"
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

func TestServiceMakesChangesAndDeletesEnrollments(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		s := w.dpsService()
		// what az sends for `iot dps enrollment create --ih hub --ap static --rp
		// reprovisionandmigratedata`
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

func TestServiceListsEnrollmentsInPages(t *testing.T) {
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

func TestServiceOfDPSTakesOnlyItsOwnTokens(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		s := w.dpsService()
		soon := time.Now().Add(10 * time.Minute)
		key := w.dps.ServiceKeys()[0]
		raw := func(sr string) string {
			sig := base64.StdEncoding.EncodeToString(hmacSHA256(key, fmt.Sprintf("%s\n%d", sr, soon.Unix())))
			return fmt.Sprintf("SharedAccessSignature sr=%s&sig=%s&se=%d&skn=%s", sr, url.QueryEscape(sig), soon.Unix(), "provisioningserviceowner")
		}
		milli := func() string { // azure-iot-provisioning-service signs milliseconds
			sr, se := s.host, time.Now().UnixMilli()
			sig := base64.StdEncoding.EncodeToString(hmacSHA256(key, fmt.Sprintf("%s\n%d", url.QueryEscape(sr), se)))
			return fmt.Sprintf("SharedAccessSignature sr=%s&sig=%s&skn=%s&se=%d", url.QueryEscape(sr), url.QueryEscape(sig), "provisioningserviceowner", se)
		}
		for name, c := range map[string]struct {
			token string
			code  float64
		}{
			"with port":          {s.token(s.host, soon), 0},
			"without port":       {s.token("127.0.0.1", soon), 0},
			"alias":              {s.token("DPS.sim.local:443", soon), 0},
			"Azure's name":       {s.token("mine.azure-devices-provisioning.net", soon), 0},
			"secondary key":      {sasFor(w.dps.ServiceKeys()[1], s.host, soon, "provisioningserviceowner"), 0},
			"unescaped":          {raw("127.0.0.1:8443"), 0},
			"lower-case":         {raw("127.0.0.1%3a8443"), 0},
			"milliseconds":       {milli(), 0},
			"prefix":             {s.token(s.host+"/enrollmentGroups", soon), 0},
			"other part":         {s.token(s.host+"/enrollments", soon), 401002},
			"half a segment":     {s.token(s.host+"/enroll", soon), 401002},
			"other host":         {s.token("evil.net", soon), 401002},
			"other policy":       {sasFor(key, s.host, soon, "iothubowner"), 401002},
			"no policy":          {sasFor(key, s.host, soon, ""), 401002},
			"wrong key":          {sasFor(w.key("d"), s.host, soon, "provisioningserviceowner"), 401002},
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
		// the version counts for devices too: over MQTT at register, since CONNECT is always
		// accepted
		c := w.mustDial(w.info.DPS.MQTT)
		c.send(connectBytes(connectOptions{id: "d", user: w.info.IDScope + "/registrations/d/api-version=1", password: w.deviceToken("d"), clean: true}))
		c.want("20020000")
		c.send(subscribeBytes(1, 1, "$dps/registrations/res/#"))
		c.want("9003000101")
		if status, body := w.registerAt(c, "d", ""); status != "400" || body["errorCode"] != 400004.0 {
			t.Errorf("%s %v", status, body)
		}
	})
}

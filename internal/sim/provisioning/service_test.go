package provisioning

import (
	"strings"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/iothub"
)

func TestUserNamesOfDPSAreParsed(t *testing.T) {
	for s, ok := range map[string]bool{
		"0ne/registrations/d/api-version=1": true, "0ne/registrations/d/api-version=1&ClientVersion=a%2Fb": true, "0ne/registrations/d/?api-version=1": false,
		"0ne/registrations/d/api-version=": false, "0ne/registrations/d": false, "/registrations/d/api-version=1": false, "0ne/registrations//api-version=1": false,
		"0ne/registration/d/api-version=1": false, "": false, "0ne/registrations/d/api-version=&x=1": false, "0ne/registrations/d/api-version=1&ClientVersion=a/b": true,
	} {
		if _, got := parseDPSUsername(s); got != ok {
			t.Errorf("%s: %v", s, got)
		}
	}
}

func TestModelIDIsReadFromRegisterBodies(t *testing.T) {
	for body, want := range map[string]string{
		`{"registrationId":"dev","payload":{"modelId":"dtmi:x;1"}}`:     "dtmi:x;1",
		`{"registrationId":"DEV","payload":{"iotcModelId":"dtmi:x;1"}}`: "dtmi:x;1",
		`{"payload":"{\"modelId\": \"dtmi:x;1\"}"}`:                     "dtmi:x;1",
		`{"payload":null,"registrationId":"dev"}`:                       "",
		`{"payload":[1]}`:           "",
		`{"payload":"text"}`:        "",
		`{"csr":"x"}`:               "",
		`{}`:                        "",
		`{"payload":{"modelId":7}}`: "",
		`{"payload":{"iotcModelId":"dtmi:y;1","modelId":"dtmi:x;1"}}   `: "dtmi:x;1",
	} {
		request, err := parseRegister([]byte(body), claim{registrationID: "dev"})
		if err != nil || modelIDIn(request.payload) != want {
			t.Errorf("%s: %q %v", body, modelIDIn(request.payload), err)
		}
	}
	for _, body := range []string{``, ` `, `null`, ` null`, `[]`, `7`, `{`, `{"registrationId":"other"}`, `{"registrationId":7}`, `{} {}`, strings.Repeat(" ", registerLimit) + `{}`} {
		if _, err := parseRegister([]byte(body), claim{registrationID: "dev"}); err == nil {
			t.Errorf("%.40q: accepted", body)
		}
	}
}

func FuzzRegisterBody(f *testing.F) {
	f.Add([]byte(`{"registrationId":"dev","payload":"{\"modelId\":\"x\"}"}`))
	f.Add([]byte(`{"csr":"MIIB"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if request, err := parseRegister(b, claim{registrationID: "dev", version: csrVersion}); err == nil {
			_ = modelIDIn(request.payload)
		}
	})
}

func FuzzDPSUsername(f *testing.F) {
	f.Add("0ne/registrations/d/api-version=1&ClientVersion=a%2Fb")
	f.Fuzz(func(_ *testing.T, s string) { _, _ = parseDPSUsername(s) })
}

func TestTheNewestOperationsAreRemembered(t *testing.T) {
	p := &Service{operations: map[string]*operation{}, registry: &Registry{now: time.Now}}
	for range operationLimit + 10 {
		p.remember(&operation{id: azure.NewGUID(), created: time.Now()})
	}
	if n, m := len(p.operations), len(p.oldest); n != operationLimit || m != operationLimit {
		t.Errorf("%d operations, %d in order", n, m)
	}
}

func FuzzEnrollment(f *testing.F) {
	f.Add([]byte(`{"registrationId":"a","attestation":{"type":"x509","x509":{"clientCertificates":{"primary":{"certificate":"AAAA","info":{}}}}}}`))
	f.Add([]byte(`{"enrollmentGroupId":"a","attestation":{"type":"symmetricKey"},"initialTwin":{"tags":{"a":null}},"iotHubs":["hub-a"]}`))
	f.Add([]byte(`{"enrollmentGroupId":"a","attestation":{"type":"x509","x509":{"caReferences":{"primary":"device-ca"}}},"reprovisionPolicy":null}`))
	authority, err := azure.NewAuthority("device CA", time.Now())
	if err != nil {
		f.Fatal(err)
	}
	h := iothub.New(iothub.Options{Name: "hub-a", Now: time.Now, Devices: authority, Tell: func(iothub.Event) {}})
	r := NewRegistry(RegistryOptions{Allocation: AllocateStatic, Reprovision: ReprovisionMigrate, Hubs: []*iothub.Hub{h}, Authority: authority, Now: time.Now, Tell: func(iothub.Event) {}})
	f.Fuzz(func(t *testing.T, doc []byte) {
		if r.enrolDocument(doc) != nil {
			return
		}
		e, _ := decodeEnrollment(doc)
		list := r.list(e.group())
		stored := list[strings.ToLower(e.id())]
		if again, err := decodeEnrollment(azure.EncodeJSON(stored)); err != nil || again.id() != stored.id() {
			t.Fatalf("%s comes back as %v, %v", azure.EncodeJSON(stored), again, err)
		}
		if h := r.choose(stored, "d"); h == nil || stored.twin() == nil || stored.public() == nil {
			t.Fatal("no hub")
		}
		_ = r.remove(e.group(), e.id(), "")
	})
}

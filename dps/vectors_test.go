package dps

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/hubhop-iot/hubhop/internal/mqtt"
)

// The vectors are those of Microsoft's documentation, not of this code.
const (
	docGroupKey = "8isrFI1sGsIlvvFSSFRiMfCNzv21fjbE/+ah/lSh3lF8e2YG1Te7w1KpZhJFFXJrqYKi9yegxkqIChbqOS9Egw=="
	testGroup   = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+Pw=="
	testKey     = "E39QatCTEm7t/ejZBZgJQreX8WqJDe8a/oHSRHFfROw="
)

func TestDerivedKeyIsThatOfTheDocumentation(t *testing.T) {
	for _, v := range []struct{ group, id, want string }{
		{docGroupKey, "sn-007-888-abc-mac-a1-b2-c3-d4-e5-f6", "Jsm0lyGpjaVYVP2g3FnmnmG9dI/9qU24wNoykUmermc="},
		{testGroup, "dev-001", testKey},
		{testGroup, "sn-007-888-abc-mac-a1-b2-c3-d4-e5-f6", "H49tqPHTlla5LkNA3pLy6NhQsAJ1mlIoQhoIwGmv15I="},
	} {
		if got, err := DeriveKey(v.group, v.id); err != nil || got != v.want {
			t.Errorf("DeriveKey(…, %q) = %q, %v", v.id, got, err)
		}
	}
}

func TestUnusableKeysAreRefusedWithoutTheirContent(t *testing.T) {
	for _, key := range []string{"", "not base64!", "AAEC\nAw==", "AAECAw==", " " + testKey} {
		err := CheckKey(key)
		if err == nil {
			t.Errorf("%q is taken for a key", key)
		} else if key != "" && strings.Contains(err.Error(), strings.TrimSpace(key)) {
			t.Errorf("the error quotes the key: %v", err)
		}
	}
	if _, err := DeriveKey(testGroup, "white space"); err == nil {
		t.Error("a registration id with a space")
	}
}

func TestRegistrationIDsAreThoseThatDPSTakes(t *testing.T) {
	for id, ok := range map[string]bool{
		"dev-001": true, "A.b_c:d-": true, strings.Repeat("x", 128): true, "7": true,
		"": false, strings.Repeat("x", 129): false, "a b": false, "dev/1": false, "dev.": false, "dev_": false, "dév": false,
	} {
		if err := CheckRegistrationID(id); (err == nil) != ok {
			t.Errorf("CheckRegistrationID(%q) = %v", id, err)
		}
	}
}

func testClient() *Client {
	return &Client{IDScope: "0ne00ABCDEF", RegistrationID: "dev-001", Key: testKey, Agent: "go-ha/1.0", ModelID: "dtmi:Sample:Failover;1"}
}

const vectorPassword = "SharedAccessSignature sr=0ne00ABCDEF%2Fregistrations%2Fdev-001&sig=wqIZmdcsZcqW7zzvu62MuX2YtNuT6%2Fi4yfIXj6rkSjk%3D&se=1900000000&skn=registration"

func TestTokenIsThatOfTheDocumentation(t *testing.T) {
	got, err := testClient().token(time.Unix(1900000000, 0).Add(-TokenLife))
	if err != nil || got != vectorPassword {
		t.Errorf("token = %q, %v", got, err)
	}
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestPacketsAreThoseOfTheDocumentation compares what leaves with dumps of such packets; only
// the keep-alive is ours.
func TestPacketsAreThoseOfTheDocumentation(t *testing.T) {
	x := &mqttExchange{c: testClient()}
	got := x.appendConnect(nil, vectorPassword)
	want := unhex(t, `10 fb 01 00 04 4d 51 54 54 04 c2 00 78 00 07 64 65 76 2d 30 30 31 00 52`)
	want[11], want[12] = byte(int(keepAlive/time.Second)>>8), byte(int(keepAlive/time.Second)&0xff)
	if len(got) != 254 || !bytes.Equal(got[:len(want)], want) {
		t.Errorf("CONNECT\n got % x", got)
	}
	if rest := string(got[len(want):]); rest != "0ne00ABCDEF/registrations/dev-001/api-version=2019-03-31&ClientVersion=go-ha%2F1.0\x00\x92"+vectorPassword {
		t.Errorf("CONNECT carries %q", rest)
	}
	got = x.appendSubscribe(nil)
	if want := unhex(t, `82 1d 00 01 00 18 24 64 70 73 2f 72 65 67 69 73 74 72 61 74 69 6f 6e 73 2f 72 65 73 2f 23 01`); !bytes.Equal(got, want) {
		t.Errorf("SUBSCRIBE\n got % x\nwant % x", got, want)
	}
	if got, want := string(x.c.payload()), `{"registrationId":"dev-001","payload":{"modelId":"dtmi:Sample:Failover;1"}}`; got != want {
		t.Errorf("payload %s", got)
	}
}

func TestResponseTopicsAreReadInAnyOrder(t *testing.T) {
	for _, v := range []struct {
		topic  string
		status int
		rid    string
		retry  time.Duration
		ok     bool
	}{
		{"$dps/registrations/res/202/?$rid=1&retry-after=3", 202, "1", 3 * time.Second, true},
		{"$dps/registrations/res/202/?retry-after=120&$rid=1", 202, "1", 120 * time.Second, true},
		{"$dps/registrations/res/200/?$rid=a-b", 200, "a-b", -1, true},
		{"$dps/registrations/res/429/?%24rid=2&retry-after=0", 429, "2", 0, true},
		{"$dps/registrations/res/202/?$rid=1&retry-after=9999", 202, "1", 300 * time.Second, true},
		{"$dps/registrations/res/202/?$rid=1&retry-after=soon", 202, "1", -1, true},
		{"$dps/registrations/res/202/?$rid=1&retry-after=-1", 202, "1", 0, true},
		{"$dps/registrations/res/202/?$rid=1&retry-after=2.5", 202, "1", 2500 * time.Millisecond, true},
		{"$dps/registrations/res/202/?$rid=1&retry-after=99999999999999999999999", 202, "1", 300 * time.Second, true},
		{"$dps/registrations/res/202/?$rid=1&retry-after=-99999999999999999999999", 202, "1", 0, true},
		{"$dps/registrations/res/202/?$rid=1&retry-after=1e400", 202, "1", 300 * time.Second, true},
		{"$dps/registrations/res/202/?$rid=1&retry-after=NaN", 202, "1", -1, true},
		{"$dps/registrations/res/202/?$rid=1&retry-after=Thu%2C%2001%20Jan%202026%2000%3A00%3A07%20GMT", 202, "1", 7 * time.Second, true},
		{"$dps/registrations/res/202/?$rid=1&retry-after=Thu, 01 Jan 2026 01:00:00 GMT", 202, "1", 300 * time.Second, true},
		{"$dps/registrations/res/202/?$rid=1&retry-after=Thu, 01 Jan 1970 00:00:00 GMT", 202, "1", 0, true},
		{"$dps/registrations/res/202", 0, "", 0, false},
		{"$dps/registrations/res/x/?$rid=1", 0, "", 0, false},
		{"$iothub/twin/res/200/?$rid=1", 0, "", 0, false},
	} {
		a, rid, ok := parseResponse(v.topic, nil, time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
		if ok != v.ok || ok && (a.status != v.status || rid != v.rid || a.retryAfter != v.retry) {
			t.Errorf("%s: %+v %q %v", v.topic, a, rid, ok)
		}
	}
}

// TestAnswersAreReadWithTheirCornerCases goes through the documents of Microsoft's documentation,
// corner cases included.
func TestAnswersAreReadWithTheirCornerCases(t *testing.T) {
	for name, v := range map[string]struct {
		status  int
		body    string
		code    int
		state   string
		message string
	}{
		"failed":           {200, `{"operationId":"4.a.b","status":"failed","registrationState":{"status":"failed","errorCode":400207,"errorMessage":"Custom allocation failed with status code: 400"}}`, 400207, "failed", "Custom allocation failed with status code: 400"},
		"blocked":          {200, `{"operationId":"4.a.b","status":"failed","registrationState":{"status":"failed","errorCode":400209}}`, 400209, "failed", ""},
		"disabled":         {200, `{"operationId":"","status":"disabled","registrationState":{"registrationId":"r","status":"disabled"}}`, 0, "disabled", ""},
		"lost hub":         {200, `{"operationId":"4.a.b","status":"failed","registrationState":{"status":"failed","errorCode":401002,"errorMessage":"{\"Message\":\"ErrorCode:IotHubUnauthorizedAccess;Unauthorized\",\"ExceptionMessage\":\"Tracking ID:8b5d\"}"}}`, 401002, "failed", "ErrorCode:IotHubUnauthorizedAccess;Unauthorized"},
		"bad key":          {401, `{"errorCode":401000,"trackingId":"t","message":"Unauthorized","timestampUtc":"2020-04-10T05:24:22.4718526Z"}`, 401000, "", "Unauthorized"},
		"throttled":        {429, `{"errorCode":429001,"trackingId":"t","message":"Operations are being throttled for this tenant."}`, 429001, "", "Operations are being throttled for this tenant."},
		"without document": {503, ``, 0, "", ""},
		"a proxy's page":   {502, `<html>`, 0, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			a := answer{status: v.status, body: []byte(v.body), retryAfter: -1}
			d, err := parse(a)
			if err != nil {
				t.Fatal(err)
			}
			if e := d.refusal(StepRegister, a); e.Code != v.code || e.State != v.state || e.Message != v.message || e.Status != v.status {
				t.Errorf("%+v", e)
			}
		})
	}
	if _, err := parse(answer{status: 200, body: []byte("no JSON")}); err == nil {
		t.Error("a success that is not JSON was taken")
	}
}

// fit checks that a text is fit for a line of a log.
func fit(t *testing.T, text string) {
	t.Helper()
	if len(text) > 1000 || !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		t.Fatalf("a text of %d bytes: %.200q", len(text), text)
	}
}

// FuzzReadPacket: no bytes end the process, take more memory than DPS's largest packet, or pass for
// the end of the connection.
func FuzzReadPacket(f *testing.F) {
	f.Add([]byte{0x20, 2, 0, 0})
	f.Add([]byte{0x30, 5, 0, 9, 'a', 'b', 'c'})
	f.Add([]byte{0x90, 3, 0, 1, 1})
	f.Add([]byte{0xf0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		x := &mqttExchange{in: mqtt.NewReader(bytes.NewReader(b), maxDocument, readBuffer)}
		for {
			if _, err := x.next(); err != nil {
				if !errors.Is(err, ErrNonsense) && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Fatal(err)
				}
				fit(t, err.Error())
				return
			}
		}
	})
}

// TestMalformedPacketIsNoEndOfTheConnection: a malformed packet is reported as such, and not as the
// end of the connection.
func TestMalformedPacketIsNoEndOfTheConnection(t *testing.T) {
	for _, b := range [][]byte{
		{0x30, 2, 0, 9}, {0x20, 0}, {0x20, 1, 0}, {0xf0, 0}, {0x20, 0xff, 0xff, 0xff, 0xff, 1}, {0x30, 0xff, 0xff, 0xff, 0x7f},
	} {
		x := &mqttExchange{in: mqtt.NewReader(bytes.NewReader(b), maxDocument, readBuffer)}
		if p, err := x.next(); !errors.Is(err, ErrNonsense) {
			t.Errorf("% x: %v %v", b, p, err)
		}
	}
}

// TestImpossibleNamesOfDPSAreRefused: an impossible hub, device or operation is refused before it
// is kept, dialled or told, and the error is short.
func TestImpossibleNamesOfDPSAreRefused(t *testing.T) {
	long := strings.Repeat("x", 66000)
	for body, good := range map[string]bool{
		`{"status":"assigned","registrationState":{"assignedHub":"h.azure-devices.net","deviceId":"d-1"}}`:    true,
		`{"status":"assigned","registrationState":{"assignedHub":"127.0.0.1:8883","deviceId":"a:b,c=@$'d%"}}`: true,
		`{"status":"assigned","registrationState":{"assignedHub":"[::1]:8883"}}`:                              true,
		`{"status":"assigned","registrationState":{"assignedHub":"::1"}}`:                                     true,
		`{"status":"assigning","operationId":"5.71cf.1111-a_b~c:d"}`:                                          true,
		`{"status":"assigned","registrationState":{"assignedHub":"h","substatus":"` + long + `"}}`:            true, // it says nothing that matters
		`{"status":"assigned","registrationState":{"assignedHub":"` + long + `"}}`:                            false,
		`{"status":"assigned","registrationState":{"assignedHub":"` + strings.Repeat("y.", 127) + `"}}`:       false,
		`{"status":"assigned","registrationState":{"assignedHub":"a b"}}`:                                     false,
		`{"status":"assigned","registrationState":{"assignedHub":"h\n"}}`:                                     false,
		`{"status":"assigned","registrationState":{"assignedHub":"h/x"}}`:                                     false,
		`{"status":"assigned","registrationState":{"assignedHub":"-h"}}`:                                      false,
		`{"status":"assigned","registrationState":{"assignedHub":"h:0"}}`:                                     false,
		`{"status":"assigned","registrationState":{"assignedHub":"h:65536"}}`:                                 false,
		`{"status":"assigned","registrationState":{"assignedHub":"h:"}}`:                                      false,
		`{"status":"assigned","registrationState":{"assignedHub":":8883"}}`:                                   false,
		`{"status":"assigned","registrationState":{"assignedHub":"h\u0000"}}`:                                 false,
		`{"status":"assigned","registrationState":{"assignedHub":"h","deviceId":"` + long + `"}}`:             false,
		`{"status":"assigned","registrationState":{"assignedHub":"h","deviceId":"d/#"}}`:                      false,
		`{"status":"assigned","registrationState":{"assignedHub":"h","deviceId":"+"}}`:                        false,
		`{"status":"assigned","registrationState":{"assignedHub":"h","deviceId":"a\u0000b"}}`:                 false,
		`{"status":"assigned","registrationState":{"assignedHub":"h","deviceId":"a\nb"}}`:                     false,
		`{"status":"assigned","registrationState":{"assignedHub":"h","deviceId":"é"}}`:                        false,
		`{"status":"assigning","operationId":"` + long + `"}`:                                                 false,
		`{"status":"assigning","operationId":"a/#"}`:                                                          false,
		`{"status":"assigning","operationId":"a&retry-after=0"}`:                                              false,
		`{"status":"assigning","operationId":"a b"}`:                                                          false,
		`{"status":"` + long + `"}`: false,
		`{"status":"a\u001b[31m"}`:  false,
		`{}`:                        false,
		`{"status":"failed","registrationState":{"errorCode":` + strings.Repeat("9", 66000) + `}}`: false,
	} {
		_, err := parse(answer{status: 200, body: []byte(body)})
		if good != (err == nil) || err != nil && !errors.Is(err, ErrNonsense) {
			t.Errorf("%.120s: %v", body, err)
		}
		if err != nil {
			fit(t, err.Error())
		}
		if _, err := parse(answer{status: 500, body: []byte(body)}); err != nil { // of a refusal the status says enough
			t.Errorf("%.120s: %v", body, err)
		}
	}
	d, err := parse(answer{status: 200, body: []byte(`{"status":"failed","trackingId":"` + long + `","registrationState":{"errorMessage":"a\n\u001b[31m` + long + `"}}`)})
	if err != nil {
		t.Fatal(err)
	}
	fit(t, d.State.ErrorMessage)
	if d.TrackingID != "" || d.State.Substatus != "" {
		t.Errorf("%.100q", d.TrackingID)
	}
	d, _ = parse(answer{status: 401, body: []byte(`{"trackingId":"8b5d-1","message":"` + long + `"}`)})
	if fit(t, d.Message); d.TrackingID != "8b5d-1" || !strings.HasPrefix(d.Message, "xxx") {
		t.Errorf("%.100q %q", d.Message, d.TrackingID)
	}
}

func FuzzParseResponse(f *testing.F) {
	f.Add("$dps/registrations/res/202/?$rid=1&retry-after=3", []byte(`{"status":"assigning"}`))
	f.Add("$dps/registrations/res/200/?$rid=1", []byte(`{}`))
	f.Fuzz(func(t *testing.T, topic string, body []byte) {
		a, _, ok := parseResponse(topic, body, time.Unix(0, 0))
		if !ok {
			return
		}
		if a.retryAfter < -1 || a.retryAfter > maxRetryAfter {
			t.Fatalf("retry-after %v", a.retryAfter)
		}
		d, err := parse(a)
		if err != nil {
			fit(t, err.Error())
			return
		}
		fit(t, d.refusal(StepPoll, a).Error())
		fit(t, d.refusal(StepPoll, a).TrackingID)
		for _, name := range []string{d.State.AssignedHub, d.State.DeviceID, d.OperationID, d.State.Substatus} {
			if len(name) > 260 || strings.ContainsAny(name, "+#/ \x00\n") {
				t.Fatalf("%q was let through", name)
			}
		}
	})
}

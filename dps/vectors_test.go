package dps

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"
	"time"
)

// The vectors are those of Microsoft's documentation and of the protocol's description, not of this code.
const (
	docGroupKey = "8isrFI1sGsIlvvFSSFRiMfCNzv21fjbE/+ah/lSh3lF8e2YG1Te7w1KpZhJFFXJrqYKi9yegxkqIChbqOS9Egw=="
	testGroup   = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+Pw=="
	testKey     = "E39QatCTEm7t/ejZBZgJQreX8WqJDe8a/oHSRHFfROw="
)

func TestDeriveKey(t *testing.T) {
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

func TestKeysThatAreNone(t *testing.T) {
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

func TestRegistrationIDs(t *testing.T) {
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

func TestToken(t *testing.T) {
	got, err := testClient().token(time.Unix(1900000000, 0).Add(-tokenLife))
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

// TestPacketsByteForByte compares what leaves with the dumps of the protocol's description; only the keep-alive is ours.
func TestPacketsByteForByte(t *testing.T) {
	x := &mqttExchange{c: testClient()}
	var out bytes.Buffer
	x.writeConnect(&out, vectorPassword)
	want := unhex(t, `10 fb 01 00 04 4d 51 54 54 04 c2 00 78 00 07 64 65 76 2d 30 30 31 00 52`)
	want[11], want[12] = byte(int(keepAlive/time.Second)>>8), byte(int(keepAlive/time.Second)&0xff)
	got := out.Bytes()
	if len(got) != 254 || !bytes.Equal(got[:len(want)], want) {
		t.Errorf("CONNECT\n got % x", got)
	}
	if rest := string(got[len(want):]); rest != "0ne00ABCDEF/registrations/dev-001/api-version=2019-03-31&ClientVersion=go-ha%2F1.0\x00\x92"+vectorPassword {
		t.Errorf("CONNECT carries %q", rest)
	}
	out.Reset()
	x.writeSubscribe(&out)
	if want := unhex(t, `82 1d 00 01 00 18 24 64 70 73 2f 72 65 67 69 73 74 72 61 74 69 6f 6e 73 2f 72 65 73 2f 23 01`); !bytes.Equal(out.Bytes(), want) {
		t.Errorf("SUBSCRIBE\n got % x\nwant % x", out.Bytes(), want)
	}
	if got, want := string(x.c.payload()), `{"registrationId":"dev-001","payload":{"modelId":"dtmi:Sample:Failover;1"}}`; got != want {
		t.Errorf("payload %s", got)
	}
}

func TestResponseTopics(t *testing.T) {
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
		{"$dps/registrations/res/202/?$rid=1&retry-after=-1", 202, "1", -1, true},
		{"$dps/registrations/res/202", 0, "", 0, false},
		{"$dps/registrations/res/x/?$rid=1", 0, "", 0, false},
		{"$iothub/twin/res/200/?$rid=1", 0, "", 0, false},
	} {
		a, rid, ok := parseResponse(v.topic, nil)
		if ok != v.ok || ok && (a.status != v.status || rid != v.rid || a.retryAfter != v.retry) {
			t.Errorf("%s: %+v %q %v", v.topic, a, rid, ok)
		}
	}
}

// TestAnswers goes through the documents of the protocol's description, corner cases included.
func TestAnswers(t *testing.T) {
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

func FuzzParseResponse(f *testing.F) {
	f.Add("$dps/registrations/res/202/?$rid=1&retry-after=3", []byte(`{"status":"assigning"}`))
	f.Add("$dps/registrations/res/200/?$rid=1", []byte(`{}`))
	f.Fuzz(func(t *testing.T, topic string, body []byte) {
		a, _, ok := parseResponse(topic, body)
		if !ok {
			return
		}
		if a.retryAfter > maxRetryAfter {
			t.Fatalf("retry-after %v", a.retryAfter)
		}
		if d, err := parse(a); err == nil {
			_ = d.refusal(StepPoll, a).Error()
		}
	})
}

package hub

import (
	"bytes"
	"encoding/hex"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/amenzhinsky/iothub/common"
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestConnectIsThatOfTheDocumentation compares CONNECT with a dump of such a packet (Microsoft:
// "Communicate with an IoT hub using the MQTT protocol").
func TestConnectIsThatOfTheDocumentation(t *testing.T) {
	const password = "SharedAccessSignature sr=hub-a.azure-devices.net%2Fdevices%2Fdev-001&sig=aHEUNvkjF0joS%2FrUmcwJhi7e8YwplZm8UPArWccmuWc%3D&se=1900000000"
	d := &Dialer{ModelID: "dtmi:Sample:Failover;1", Agent: "go-ha/1.0", KeepAlive: 240 * time.Second}
	connect := d.connect(Attempt{Host: "hub-a.azure-devices.net", DeviceID: "dev-001"}, password)
	got := connect.Append(nil)
	head := unhex(t, `10 98 02 00 04 4d 51 54 54 04 c0 00 f0 00 07 64 65 76 2d 30 30 31 00 7a`)
	if !bytes.Equal(got[:len(head)], head) {
		t.Errorf("CONNECT\n got % x\nwant % x", got[:len(head)], head)
	}
	const user = "hub-a.azure-devices.net/dev-001/?api-version=2021-04-12&DeviceClientType=go-ha%2F1.0&model-id=dtmi%3ASample%3AFailover%3B1"
	if rest := string(got[len(head):]); rest != user+"\x00\x87"+password {
		t.Errorf("CONNECT carries %q", rest)
	}
	if len(got) != 283 {
		t.Errorf("CONNECT has %d bytes, not 283", len(got))
	}
	connect = d.connect(Attempt{Host: "h", DeviceID: "d"}, "")
	bare := connect.Append(nil)
	if bare[9] != 0x80 {
		t.Errorf("without password the flags are %#x", bare[9])
	}
}

func TestTokenIsForTheDeviceAndTellsItsEnd(t *testing.T) {
	sas, err := common.NewSharedAccessSignature("hub-a.azure-devices.net/devices/dev-001", "", "E39QatCTEm7t/ejZBZgJQreX8WqJDe8a/oHSRHFfROw=", time.Unix(1900000000, 0))
	if err != nil || sas.Sig != "aHEUNvkjF0joS/rUmcwJhi7e8YwplZm8UPArWccmuWc=" {
		t.Fatalf("%v %v", sas, err)
	}
	password, expires, err := KeyToken(time.Now, "E39QatCTEm7t/ejZBZgJQreX8WqJDe8a/oHSRHFfROw=", time.Hour)("127.0.0.1:18884", "dev-001")
	if err != nil || !strings.HasPrefix(password, "SharedAccessSignature sr=127.0.0.1%3A18884%2Fdevices%2Fdev-001&sig=") || strings.Contains(password, "skn=") {
		t.Errorf("%q %v", password, err)
	}
	if left := time.Until(expires); left < 59*time.Minute || left > time.Hour {
		t.Errorf("expires in %v", left)
	}
	// A token ends at a whole second. What is told of its end must not be later: a link that waits
	// until then would be closed before.
	_, text, _ := strings.Cut(password, "&se=")
	if se, err := strconv.ParseInt(text, 10, 64); err != nil || expires.After(time.Unix(se, 0)) {
		t.Errorf("%s is said to end at %v; %v", password, expires, err)
	}
	if _, _, err := KeyToken(time.Now, "secret?", time.Hour)("h", "d"); err == nil || strings.Contains(err.Error(), "secret?") {
		t.Errorf("%v", err)
	}
}

// appendEvent makes the packet of a telemetry message as Send does, with the packet id 5.
func appendEvent(topic string, bag, common, body []byte, again bool) []byte {
	m := event(topic, bag, common, body)
	return m.Append(nil, 5, again)
}

// TestTelemetryIsThatOfTheDocumentation compares a telemetry PUBLISH with the dump.
func TestTelemetryIsThatOfTheDocumentation(t *testing.T) {
	topic, bag := eventsTopic("dev-001"), []byte("%24.ct=application%2Fjson&%24.ce=utf-8&%24.mid=m1&a=b%20c")
	got := appendEvent(topic, bag, nil, []byte(`{"temp":21.5}`), false)
	want := unhex(t, `32 6a 00 59 64 65 76 69 63 65 73 2f 64 65 76 2d 30 30 31 2f 6d 65 73 73
  61 67 65 73 2f 65 76 65 6e 74 73 2f 25 32 34 2e 63 74 3d 61 70 70 6c 69
  63 61 74 69 6f 6e 25 32 46 6a 73 6f 6e 26 25 32 34 2e 63 65 3d 75 74 66
  2d 38 26 25 32 34 2e 6d 69 64 3d 6d 31 26 61 3d 62 25 32 30 63 00 05 7b
  22 74 65 6d 70 22 3a 32 31 2e 35 7d`)
	if !bytes.Equal(got, want) {
		t.Errorf("PUBLISH\n got % x\nwant % x", got, want)
	}
	cut := bytes.IndexByte(bag, '&')
	if again := appendEvent(topic, bag[:cut], bag[cut+1:], []byte(`{"temp":21.5}`), false); !bytes.Equal(again, want) {
		t.Errorf("with its bag in two parts\n got % x\nwant % x", again, want)
	}
	for _, half := range [][2][]byte{{bag, nil}, {nil, bag}, {nil, nil}} { // nothing is separated from nothing
		got, want := appendEvent(topic, half[0], half[1], nil, false), appendEvent(topic+string(half[0])+string(half[1]), nil, nil, nil, false)
		if !bytes.Equal(got, want) {
			t.Errorf("with half a bag\n got % x\nwant % x", got, want)
		}
	}
	if again := appendEvent(topic, bag, nil, nil, true); again[0] != 0x3a {
		t.Errorf("DUP makes the first byte %#x", again[0])
	}
	long := appendEvent("t", nil, nil, make([]byte, 200_000), false)
	if !bytes.Equal(long[:4], []byte{0x32, 0xc5, 0x9a, 0x0c}) {
		t.Errorf("a long one begins % x", long[:4])
	}
}

func TestPropertyBagsAreReadWithoutAMap(t *testing.T) {
	for bag, want := range map[Properties]map[string]string{
		"a&b=&c=%24x":              {"a": "", "b": "", "c": "$x", "d": ""},
		"%24.mid=m1&a=b%20c":       {"$.mid": "m1", "a": "b c"},
		"$.mid=m1":                 {"$.mid": "m1"},
		"x=a%26b%3Dc":              {"x": "a&b=c"}, // decoded once, after splitting
		"x=1%2B1":                  {"x": "1+1"},
		"x=1+1":                    {"x": "1+1"}, // a plus is a plus
		"x=a;b":                    {"x": "a;b"}, // a semicolon separates nothing
		"x=a=b":                    {"x": "a=b"},
		"x=1&x=2":                  {"x": "1"},
		"x=%zz":                    {"x": "%zz"}, // a property that is misspelt must not lose its message
		"x=%2524":                  {"x": "%24"},
		"":                         {"": "", "x": ""},
		"&&":                       {"": ""},
		"method-name=setAlarm&foo": {"method-name": "setAlarm", "foo": ""},
	} {
		for key, value := range want {
			if got := bag.Get(key); got != value {
				t.Errorf("%q of %q is %q, not %q", key, bag, got, value)
			}
		}
	}
}

func TestInboundTopicsAreSortedAndBounded(t *testing.T) {
	body := []byte("x")
	for topic, want := range map[string]inbound{
		"devices/dev-1/messages/devicebound/%24.mid=m&iothub-ack=none": &Message{Body: body, Properties: "%24.mid=m&iothub-ack=none"},
		"devices/dev-1/messages/deviceBound/a=b":                       &Message{Body: body, Properties: "a=b"},
		"devices/dev-1/messages/devicebound/":                          &Message{Body: body},
		"devices/dev-1/messages/devicebound":                           &Message{Body: body},
		"$iothub/methods/POST/echo/?$rid=a7":                           &Method{Name: "echo", Payload: body, rid: "a7"},
		"$iothub/methods/POST/thermostat1*getMax/?%24rid=1":            &Method{Name: "thermostat1*getMax", Payload: body, rid: "1"},
		"$iothub/methods/POST/a%20b/?$rid=1":                           &Method{Name: "a b", Payload: body, rid: "1"},
		"$iothub/twin/PATCH/properties/desired/?$version=5":            &Desired{Version: 5, Body: body},
		"$iothub/methods/POST/echo":                                    nil,
		"$iothub/methods/POST//?$rid=1":                                nil,
		"devices/dev-2/messages/devicebound/a=b":                       nil,
		"devices/dev-1/messages/deviceboundary/a=b":                    nil,
		"something/else":                                               nil,

		// What no hub sends is bounded before anybody keeps, answers or shows it.
		"$iothub/methods/POST/" + strings.Repeat("x", 60_000) + "/?$rid=1": &Method{Name: strings.Repeat("x", maxName-3) + "…", Payload: body, rid: "1"},
		"$iothub/methods/POST/a%1b%5B2Jb%0a\u202ec/?$rid=1":                &Method{Name: "a\ufffd[2Jb\ufffd\ufffdc", Payload: body, rid: "1"},
		"$iothub/methods/POST/echo/?$rid=" + strings.Repeat("1", 129):      nil,
		"$iothub/methods/POST/echo/?$rid=1%23":                             &Method{Name: "echo", Payload: body, rid: "1%23"}, // it goes back as it came
		"$iothub/methods/POST/echo/?$rid=a/b":                              nil,
		"$iothub/methods/POST/echo/?$rid=a#":                               nil,
		"$iothub/methods/POST/echo/?$rid=a\nb":                             nil,
	} {
		in, answer := parseTopic("dev-1", topic, body)
		if answer != nil || !reflect.DeepEqual(in, want) {
			t.Errorf("%s: %#v %v", topic, in, answer)
		}
	}
	if _, a := parseTopic("d", "$iothub/twin/res/204/?$rid=61&$version=13", nil); a == nil || a.status != 204 || a.rid != "61" || a.version != 13 {
		t.Errorf("%+v", a)
	}
	if in, _ := parseTopic("d", "$iothub/twin/PATCH/properties/desired/?$version=5", make([]byte, maxChange+1)); !reflect.DeepEqual(in, &Desired{Missed: true}) {
		t.Errorf("an endless change: %v", in)
	}
	if _, a := parseTopic("d", "$iothub/twin/res/200/?$rid=61", make([]byte, maxTwin+1)); a == nil || a.body != nil || a.size != maxTwin+1 {
		t.Errorf("an endless twin: %v", a)
	}
	if _, a := parseTopic("d", "$iothub/twin/res/400/?$rid=61", []byte(`{"message":"`+strings.Repeat("x", 60_000)+`\n"}`)); len(a.err().Error()) > 2*maxWords {
		t.Errorf("an endless refusal: %v", a.err())
	}
	for bag, want := range map[Properties]string{
		"$.mid=" + Properties(strings.Repeat("m", 128)): strings.Repeat("m", 128),
		"$.mid=" + Properties(strings.Repeat("m", 129)): "",
		"$.mid=a%0ab": "",
		"$.mid=%ff":   "",
		"$.mid=a%20b": "a b",
	} {
		if got := bag.ID(); got != want {
			t.Errorf("the id of %q is %q", bag, got)
		}
	}
	if got := Properties("method-name=" + strings.Repeat("ä", 5000)).Name("method-name"); len(got) > maxName || !utf8.ValidString(got) {
		t.Errorf("an endless name is kept as %q", got)
	}
	if in, a := parseTopic("d", "$iothub/twin/res/204", nil); in != nil || a != nil {
		t.Errorf("an answer without rid is for nobody: %v %v", in, a)
	}
}

func FuzzInboundTopic(f *testing.F) {
	f.Add("devices/dev-1/messages/devicebound/%24.mid=m", []byte("x"))
	f.Add("$iothub/methods/POST/echo/?$rid=1", []byte(`"x"`))
	f.Add("$iothub/methods/POST/a%0a%1b[2J/?$rid=+/#", []byte(`"x"`))
	f.Add("$iothub/twin/PATCH/properties/desired/?$version=5", []byte(`{}`))
	f.Add("$iothub/twin/res/200/?$rid=1", []byte(`{}`))
	f.Add("$iothub/twin/res/400/?$rid=1", []byte(`{"errorCode":400004,"message":"x\u001b"}`))
	f.Fuzz(func(t *testing.T, topic string, body []byte) {
		in, a := parseTopic("dev-1", topic, body)
		if in != nil && a != nil {
			t.Fatal("two things at once")
		}
		plain := func(what, s string, most int) {
			if len(s) > most || printable(s, most) != s {
				t.Fatalf("%s is %q", what, s)
			}
		}
		switch in := in.(type) {
		case *Method:
			plain("the name", in.Name, maxName)
			plain("the request id", in.rid, maxID)
			if strings.ContainsAny(in.rid, "+#/\x00") {
				t.Fatalf("the answer's topic would be none: %q", in.rid)
			}
		case *Message:
			plain("the id", in.Properties.ID(), maxID)
			plain("the command", in.Properties.Name("method-name"), maxName)
		case *Desired:
			if len(in.Body) > maxChange {
				t.Fatalf("a change of %d bytes is kept", len(in.Body))
			}
		}
		if a != nil && a.err() != nil {
			plain("the refusal", a.err().Error(), 4*maxWords) // in quotes
		}
	})
}

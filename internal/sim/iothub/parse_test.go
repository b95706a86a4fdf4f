package iothub

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
)

func TestUserNamesOfHubsAreParsed(t *testing.T) {
	for s, want := range map[string]username{
		"h/d/?api-version=2021-04-12":     {host: "h", device: "d"},
		"h:8883/d/api-version=2016-11-14": {host: "h:8883", device: "d"},
		"h/d":                             {host: "h", device: "d", oldest: true},
		"h/d/":                            {host: "h", device: "d", oldest: true},
		"h/d/m/?api-version=1":            {host: "h", device: "d", module: "m"},
		"h/d/?DeviceClientType=a%2Fb%20c&api-version=1":              {host: "h", device: "d"},
		"h/d/?api-version=1&model-id=dtmi%3AS%3AF%3B1":               {host: "h", device: "d", modelID: "dtmi:S:F;1"},
		"h/d/?api-version=1&model-id=dtmi:S:F;1&model-id=x":          {host: "h", device: "d", modelID: "dtmi:S:F;1"},
		"h/a-.+%_#*?!(),:=@$';z/?api-version=1&unknown&also=unknown": {host: "h", device: "a-.+%_#*?!(),:=@$';z"},
	} {
		if got, err := parseUsername(s); err != nil || got != want {
			t.Errorf("%s: %+v %v", s, got, err)
		}
	}
	for _, s := range []string{"", "h", "/d", "h/", "h/d e", "h/d e/", "h/d/?", "h/d/m", "h/d/m/", "h/d/?api-version=", "h/d/?api-version", "/d/?api-version=1", "h//?api-version=1",
		"h/d//?api-version=1", "h/d e/?api-version=1", "h/d/m/x/?api-version=1", "h/" + strings.Repeat("d", 129) + "/?api-version=1"} {
		if got, err := parseUsername(s); err == nil {
			t.Errorf("%s: %+v", s, got)
		}
	}
}

func FuzzUsername(f *testing.F) {
	f.Add("h/d/?api-version=2021-04-12&model-id=dtmi%3AS%3AF%3B1")
	f.Fuzz(func(t *testing.T, s string) {
		if u, err := parseUsername(s); err == nil && (u.host == "" || !azure.ValidDeviceID(u.device)) {
			t.Fatalf("%q gives %+v", s, u)
		}
	})
}

func FuzzTwinPatch(f *testing.F) {
	f.Add([]byte(`{"a":{"b":null,"c":[1,2.5,"x"]},"$version":3}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		patch, err := ParsePatch(b)
		if err != nil {
			return
		}
		d := document{version: 1}
		if d.apply(patch, time.Unix(0, 0)) == nil {
			if _, err := ParsePatch(azure.EncodeJSON(d.view(false))); err != nil {
				t.Fatalf("%s gives a document that is refused: %v", b, err)
			}
		}
	})
}

// The parts of a topic that carry a query are read alike, however often they are read.
func FuzzTopic(f *testing.F) {
	for _, topic := range []string{"$iothub/twin/res/204/?$rid=1&$version=2", "$dps/registrations/res/202/?retry-after=120&$rid=1", "$dps/registrations/res/202",
		"devices/+/messages/#", "$iothub/methods/POST/#", "+/+/#"} {
		f.Add(topic, "$rid")
	}
	f.Fuzz(func(t *testing.T, topic, key string) {
		_, query, _ := strings.Cut(topic, "?")
		raw, has := azure.QueryRaw(query, key)
		value, same := azure.QueryValue(query, key)
		if has != same || azure.Unescape(raw) != value {
			t.Fatalf("%q of %q: %q and %q", key, query, raw, value)
		}
		if plain, err := url.ParseQuery(query); err == nil && !strings.ContainsAny(query, "+%;") && plain.Get(key) != raw && !strings.ContainsAny(key, "+%;&=") {
			t.Fatalf("%q of %q: %q, net/url says %q", key, query, raw, plain.Get(key))
		}
		if filterMatches(topic, "$iothub/twin/res/#") && strings.HasPrefix(topic, "#") {
			t.Fatalf("%q reaches topics that begin with $", topic)
		}
		var u subscriptions
		u.set(&Identity{id: "d"}, topic, 1)
	})
}

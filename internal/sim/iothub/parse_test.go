package iothub

import (
	"net/url"
	"strings"
	"testing"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
)

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

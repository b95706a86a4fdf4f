package sim

import (
	"strings"
	"testing"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
)

func TestServiceQueriesTwins(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		s := w.service(0)
		for _, d := range []struct{ id, status, tags, desired string }{
			{"a", "enabled", `{"room":{"floor":1},"kind":"fan"}`, `{"speed":10}`},
			{"b", "disabled", `{"room":{"floor":2},"kind":"fan"}`, `{"speed":20,"on":true}`},
			{"c", "enabled", `{"kind":"o'lamp"}`, `{}`},
		} {
			s.want(200, "", "PUT", "/devices/"+d.id, `{"status":"`+d.status+`"}`)
			s.want(200, "", "PATCH", "/twins/"+d.id, `{"tags":`+d.tags+`,"properties":{"desired":`+d.desired+`}}`)
		}
		ask := func(query string, header ...string) httpAnswer {
			t.Helper()
			return s.want(200, "", "POST", "/devices/query", string(azure.EncodeJSON(map[string]string{"query": query})), header...)
		}
		for where, want := range map[string]string{
			"":                                "abc",
			"WHERE deviceId = 'b'":            "b",
			"where deviceId != 'b'":           "ac",
			"WHERE status = 'enabled'":        "ac",
			"WHERE tags.room.floor = 1":       "a",
			"WHERE tags.room.floor >= 1":      "ab",
			"WHERE tags['room'].floor < 2":    "a",
			"WHERE tags.kind = 'o''lamp'":     "c",
			"WHERE deviceId IN ['a','c','x']": "ac",
			"WHERE deviceId NIN ['a']":        "bc",
			"WHERE NOT deviceId IN []":        "abc",
			"WHERE properties.desired.speed > 5 AND properties.desired.speed < 15.5":           "a",
			"WHERE deviceId = 'a' OR deviceId = 'c' AND status = 'disabled'":                   "a",
			"WHERE (deviceId = 'a' OR deviceId = 'c') AND NOT status = 'disabled'":             "ac",
			"WHERE properties.desired.on = true":                                               "b",
			"WHERE properties.desired.on":                                                      "b",
			"WHERE is_defined(tags.room)":                                                      "ab",
			"WHERE NOT IS_DEFINED(tags.room)":                                                  "c",
			"WHERE startswith(tags.kind, 'fa')":                                                "ab",
			"WHERE capabilities.iotEdge = false":                                               "abc",
			"WHERE tags.kind < 5":                                                              "",
			"WHERE tags.nothing = 'x'":                                                         "",
			"WHERE connectionState = 'Connected'":                                              "",
			"WHERE devices.deviceId = 'a'":                                                     "a",
			"WHERE properties.desired.speed=20":                                                "b",
			"WHERE properties.reported.$version = 1":                                           "abc",
			`WHERE deviceId = "a"`:                                                             "a",
			"WHERE is_string(tags.kind) AND is_number(properties.desired.speed) AND true=true": "ab",
		} {
			a := ask("select * FROM devices " + where)
			got := ""
			for _, part := range strings.Split(a.text, `{"deviceId":"`)[1:] {
				got += part[:1]
			}
			if got != want || a.header.Get("x-ms-item-type") != "Twin" {
				t.Errorf("%q: %s, want %s", where, got, want)
			}
		}
		for query, want := range map[string]string{
			"SELECT deviceId FROM devices":                                                            `[{"deviceId":"a"},{"deviceId":"b"},{"deviceId":"c"}]`,
			"SELECT TOP 1 deviceId, tags.room.floor AS f FROM devices":                                `[{"deviceId":"a","f":1}]`,
			"SELECT COUNT() AS n FROM devices":                                                        `[{"n":3}]`,
			"SELECT COUNT(*) AS n FROM devices WHERE deviceId='x'":                                    `[{"n":0}]`,
			"SELECT tags.kind, COUNT() AS n FROM devices GROUP BY tags.kind":                          `[{"kind":"fan","n":2},{"kind":"o'lamp","n":1}]`,
			"SELECT AVG(properties.desired.speed) AS v, MAX(properties.desired.speed) FROM devices":   `[{"$2":20,"v":15}]`,
			"SELECT SUM(properties.desired.speed) AS s, min(properties.desired.speed) m FROM devices": "",
			"SELECT * FROM devices.modules":                                                           `[]`,
		} {
			if want == "" {
				s.want(400, "ArgumentInvalid", "POST", "/devices/query", string(azure.EncodeJSON(map[string]string{"query": query})))
			} else if a := ask(query); a.text != want {
				t.Errorf("%s: %s, want %s", query, a.text, want)
			}
		}
		page, ids := ask("SELECT * FROM devices", "x-ms-max-item-count", "2"), ""
		for pages := 0; ; pages++ {
			for _, part := range strings.Split(page.text, `{"deviceId":"`)[1:] {
				ids += part[:1]
			}
			next := page.header.Get("x-ms-continuation")
			if next == "" {
				break
			}
			if ids += "|"; pages > 3 {
				t.Fatal("the pages do not end")
			}
			page = ask("SELECT * FROM devices", "x-ms-max-item-count", "2", "x-ms-continuation", next)
		}
		if ids != "ab|c" {
			t.Errorf("pages %s", ids)
		}
		s.want(400, "ArgumentInvalid", "POST", "/devices/query", `{"query":"SELECT * FROM devices"}`, "x-ms-continuation", "!")
		s.want(400, "ArgumentInvalid", "POST", "/devices/query", `{"query":"SELECT * FROM devices"}`, "x-ms-max-item-count", "0")
		s.want(400, "ArgumentInvalid", "POST", "/devices/query", `{}`)
	})
}

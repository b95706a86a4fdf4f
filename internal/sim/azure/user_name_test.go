package azure

import (
	"strings"
	"testing"
)

func TestUserNamesOfHubsAreParsed(t *testing.T) {
	for s, want := range map[string]HubUserName{
		"h/d/?api-version=2021-04-12":     {Host: "h", Device: "d"},
		"h:8883/d/api-version=2016-11-14": {Host: "h:8883", Device: "d"},
		"h/d":                             {Host: "h", Device: "d", Oldest: true},
		"h/d/":                            {Host: "h", Device: "d", Oldest: true},
		"h/d/m/?api-version=1":            {Host: "h", Device: "d", Module: "m"},
		"h/d/?DeviceClientType=a%2Fb%20c&api-version=1":              {Host: "h", Device: "d"},
		"h/d/?api-version=1&model-id=dtmi%3AS%3AF%3B1":               {Host: "h", Device: "d", ModelID: "dtmi:S:F;1"},
		"h/d/?api-version=1&model-id=dtmi:S:F;1&model-id=x":          {Host: "h", Device: "d", ModelID: "dtmi:S:F;1"},
		"h/a-.+%_#*?!(),:=@$';z/?api-version=1&unknown&also=unknown": {Host: "h", Device: "a-.+%_#*?!(),:=@$';z"},
	} {
		if got, err := ParseHubUserName(s); err != nil || got != want {
			t.Errorf("%s: %+v %v", s, got, err)
		}
	}
	for _, s := range []string{"", "h", "/d", "h/", "h/d e", "h/d e/", "h/d/?", "h/d/m", "h/d/m/", "h/d/?api-version=", "h/d/?api-version", "/d/?api-version=1", "h//?api-version=1",
		"h/d//?api-version=1", "h/d e/?api-version=1", "h/d/m/x/?api-version=1", "h/" + strings.Repeat("d", 129) + "/?api-version=1"} {
		if got, err := ParseHubUserName(s); err == nil {
			t.Errorf("%s: %+v", s, got)
		}
	}
}

func FuzzUsername(f *testing.F) {
	f.Add("h/d/?api-version=2021-04-12&model-id=dtmi%3AS%3AF%3B1")
	f.Fuzz(func(t *testing.T, s string) {
		if u, err := ParseHubUserName(s); err == nil && (u.Host == "" || !ValidDeviceID(u.Device)) {
			t.Fatalf("%q gives %+v", s, u)
		}
	})
}

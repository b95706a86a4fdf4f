package device

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/journal"
)

// TestDesiredReplaced: when a service replaces all desired properties, the hub sends the new ones
// and does not name the removed ones. The device notices that at once, reads the document once for
// all changes that wait, and acknowledges nothing twice.
func TestDesiredReplaced(t *testing.T) {
	t.Parallel()
	const before = `{"desired":{"fanSpeed":5,"gone":1,"part":{"__t":"c","a":1,"b":2},"$version":3},"reported":{"$version":1}}`
	for name, test := range map[string]struct {
		version int
		changes []string
		after   string // the document then
		gets    int
		want    []string // is in what the device reports after the change
		never   []string
	}{
		"replaced": {4, []string{`{"fanSpeed":6,"$version":4}`},
			`{"desired":{"fanSpeed":6,"$version":4},"reported":{"fanSpeed":{"value":6,"ac":200,"av":4,"ad":"completed"},"gone":{"value":1,"ac":404,"av":3},` +
				`"part":{"__t":"c","a":{"value":1,"ac":404,"av":3},"b":{"value":2,"ac":404,"av":3}},"$version":3}}`,
			2, []string{`"fanSpeed":{"value":6,"ac":200,"av":4`, `"gone":null`, `"a":null`, `"b":null`}, nil},
		"replaced by nothing": {4, []string{`{"$version":4}`},
			`{"desired":{"$version":4},"reported":{"fanSpeed":{"value":5,"ac":200,"av":3},"$version":3}}`, 2, []string{`"fanSpeed":null`}, nil},
		"one of several": {4, []string{`{"fanSpeed":6,"$version":4}`},
			`{"desired":{"fanSpeed":6,"gone":1,"part":{"__t":"c","a":1,"b":2},"$version":4},"reported":{"fanSpeed":{"value":6,"ac":200,"av":4},"gone":{"value":1,"ac":404,"av":3},` +
				`"part":{"__t":"c","a":{"value":1,"ac":404,"av":3},"b":{"value":2,"ac":404,"av":3}},"$version":3}}`,
			2, []string{`"fanSpeed":{"value":6,"ac":200,"av":4`}, []string{"gone", "part"}},
		"all of them": {4, []string{`{"fanSpeed":6,"gone":2,"part":{"__t":"c","a":2,"b":3},"$version":4}`}, ``, 1, []string{`"fanSpeed":{"value":6,"ac":200,"av":4`}, nil},
		"fifty in line": {53, fifty(), `{"desired":{"fanSpeed":50,"$version":53},"reported":{"fanSpeed":{"value":1,"ac":200,"av":4},"$version":3}}`, 3, // the device may read it before it has dealt with all
			[]string{`"fanSpeed":{"value":50,"ac":200,"av":53`}, nil},
		"a scalar for a component": {4, []string{`{"part":7,"gone":1,"fanSpeed":5,"$version":4}`},
			`{"desired":{"fanSpeed":5,"gone":1,"part":7,"$version":4},"reported":{"fanSpeed":{"value":5,"ac":200,"av":4},"gone":{"value":1,"ac":404,"av":4},"part":{"__t":"c","own":1},"$version":3}}`,
			2, []string{`"fanSpeed":{"value":5,"ac":200,"av":4`}, []string{`"part":{"value":7`, `"part":null`}},
		"a component removed": {4, []string{`{"part":null,"gone":1,"fanSpeed":5,"$version":4}`}, ``, 1, []string{`"part":{"__t":"c","a":null,"b":null}`}, []string{`"part":null`}},
	} {
		t.Run(name, func(t *testing.T) {
			at := -1
			h := &scriptedHub{}
			h.twin = func(n int) (string, string) {
				if n == 1 {
					return "200", before
				}
				return "200", test.after
			}
			h.after = func(send func(topic, body string)) {
				time.Sleep(10 * time.Second)
				h.mu.Lock()
				at = len(h.reports)
				h.mu.Unlock()
				for i, c := range test.changes {
					send(fmt.Sprintf("$iothub/twin/PATCH/properties/desired/?$version=%d", test.version-len(test.changes)+1+i), c)
				}
			}
			told := h.world(t, nil, 12*time.Second)
			if found := bugs(told); len(found) > 0 {
				t.Errorf("%v", found)
			}
			after := strings.Join(h.reports[at:], "\n")
			for _, want := range test.want {
				if !strings.Contains(after, want) {
					t.Errorf("%s is missing in %s", want, after)
				}
			}
			for _, never := range test.never {
				if strings.Contains(after, never) {
					t.Errorf("%s is in %s", never, after)
				}
			}
			if h.links != 1 || h.gets > test.gets || test.gets == 2 && h.gets != 2 {
				t.Errorf("%d links, asked %d times, not %d", h.links, h.gets, test.gets)
			}
			if test.version == 4 && len(h.reports[at:]) > test.gets {
				t.Errorf("reported %d times: %s", len(h.reports[at:]), after)
			}
		})
	}
}

func fifty() (all []string) {
	for i := range 50 {
		all = append(all, fmt.Sprintf(`{"fanSpeed":%d,"$version":%d}`, i+1, i+4))
	}
	return all
}

// TestEachStartAppliesWhatIsDesired: a device gives its handler the desired value once after each
// start, although the value has not changed and is acknowledged. A new link is no start.
func TestEachStartAppliesWhatIsDesired(t *testing.T) {
	applied := 0
	handled := func(c *plan) {
		c.also = func(a *App) {
			a.Desired = map[string]Desired{"fanSpeed": {Apply: func(_ context.Context, r Request) (Ack, error) {
				if applied++; string(r.Value) != "7" {
					t.Errorf("applied %s", r.Value)
				}
				return Ack{}, nil
			}}}
		}
	}
	bubble(t, setup{device: handled}, func(t *testing.T, w *world) {
		expect := func(times int) {
			t.Helper()
			w.run(20 * time.Second)
			if applied != times || w.acknowledged("fanSpeed") != "7 200 2" {
				t.Errorf("applied %d times, not %d; acknowledged %s", applied, times, w.acknowledged("fanSpeed"))
			}
		}
		w.run(5 * time.Second)
		w.must(w.cloud.PatchDesired("dev-1", []byte(`{"fanSpeed":7}`)))
		expect(1)
		w.must(w.cloud.Disconnect("dev-1"))
		expect(1)
		w.halt()
		w.start()
		expect(2)
	})
}

// TestCloudFloods: a hub sends as fast as it can. The device's events about it are bounded, and say
// how many more there were.
func TestCloudFloods(t *testing.T) {
	t.Parallel()
	const each = 3000
	h := &scriptedHub{twin: func(n int) (string, string) {
		version := 3
		if n > 1 {
			version = each + 3
		}
		return "200", fmt.Sprintf(`{"desired":{"fanSpeed":%d,"$version":%d},"reported":{"$version":1}}`, n, version)
	}}
	h.after = func(send func(topic, body string)) {
		time.Sleep(5 * time.Second)
		for i := range each {
			send(fmt.Sprintf("$iothub/twin/PATCH/properties/desired/?$version=%d", i+4), fmt.Sprintf(`{"fanSpeed":"%d","x%d":1}`, i, i))
			send(fmt.Sprintf("$iothub/methods/POST/nobody%d/?$rid=%d", i, i), "1")
			send(fmt.Sprintf("devices/dev-1/messages/devicebound/%%24.mid=m%d&method-name=nobody", i), "1")
			if i%10 == 0 {
				time.Sleep(30 * time.Millisecond) // else they are too many for the queues, which is another test's
			}
		}
	}
	base := h.after
	h.after = func(send func(topic, body string)) {
		base(send)
		time.Sleep(20 * time.Second) // changes that come too fast are one in the end; so many keys of one are not
		send(fmt.Sprintf("$iothub/twin/PATCH/properties/desired/?$version=%d", each+4), `{`+many(1000)+`"fanSpeed":1}`)
	}
	told := h.world(t, nil, time.Minute)
	n := map[journal.Kind]int{}
	sums := map[journal.Kind]string{}
	for _, e := range told {
		n[e.Kind]++
		if strings.Contains(e.Text, " more ") {
			sums[e.Kind] = e.Text
		}
	}
	for _, kind := range []journal.Kind{journal.DesiredChange, journal.MethodCall, journal.CloudMessage} {
		if n[kind] < cloudEvents || n[kind] > 3*cloudEvents || sums[kind] == "" {
			t.Errorf("%s: told %d times, %q", kind, n[kind], sums[kind])
		}
	}
	if h.links != 1 || h.messages < 55 || len(h.completed) != each {
		t.Errorf("%d links, %d samples, %d messages completed", h.links, h.messages, len(h.completed))
	}
}

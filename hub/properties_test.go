package hub

import (
	"fmt"
	"maps"
	"net/url"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/hubhop-iot/hubhop/telemetry/message"
)

// bagText is the property bag of m as it stands in a topic.
func bagText(t testing.TB, b *bag, m message.Outgoing) string {
	t.Helper()
	own, common, err := b.encode(&m)
	if err != nil {
		t.Fatal(err)
	}
	if len(own) > 0 && len(common) > 0 {
		return string(own) + "&" + string(common)
	}
	return string(own) + string(common)
}

var bagTime = time.Date(2026, 3, 1, 9, 30, 0, 123456789, time.FixedZone("", 3600))

// A message's fields have IoT Hub's names and order, and its application's properties overrule none
// of them.
func TestBag(t *testing.T) {
	for want, m := range map[string]message.Outgoing{
		"":              {},
		"%24.mid=m%261": {ID: "m&1"},
		"%24.mid=box-1&iothub-creation-time-utc=2026-03-01T08%3A30%3A00.123Z&gap=3-7&b=x%20y%2Bz&level=high&%24.ct=application%2Fjson&%24.ce=utf-8&%24.sub=thermostat1": {
			ID: "box-1", Gap: "3-7", Message: message.Message{ContentType: "application/json", ContentEncoding: "utf-8", Created: bagTime, Component: "thermostat1",
				Properties: map[string]string{"level": "high", "b": "x y+z", "$.mid": "mine", "$.ct": "text/plain", "$.ce": "x", "$.sub": "x", "gap": "1-1", "iothub-creation-time-utc": "now"}}},
		"%24.ce=x&%24.ct=text%2Fplain&%24.mid=mine&%24.sub=&gap=1-1&iothub-creation-time-utc=now": { // nothing is overruled
			Message: message.Message{Properties: map[string]string{"$.mid": "mine", "$.ct": "text/plain", "$.ce": "x", "$.sub": "", "gap": "1-1", "iothub-creation-time-utc": "now"}}},
		"a=&%24.ce=gzip": {Message: message.Message{ContentEncoding: "gzip", Properties: map[string]string{"a": ""}}},
	} {
		b := new(bag)
		if got := bagText(t, b, m); got != want {
			t.Errorf("bag = %q, want %q", got, want)
		}
		size := 0
		for pair := range strings.SplitSeq(want, "&") {
			name, value, _ := strings.Cut(pair, "=")
			size += len(unescape(name)) + len(unescape(value))
		}
		if b.size() != size {
			t.Errorf("%q has names and values of %d bytes, not %d", want, size, b.size())
		}
	}
}

// A bag is the same whatever bag was written before it.
func TestBagAfterOthers(t *testing.T) {
	var b bag
	of := func(id, ct, sub string, props ...string) message.Outgoing {
		m := message.Outgoing{ID: id, Message: message.Message{ContentType: ct, Component: sub, Created: bagTime, Properties: map[string]string{}}}
		for i := 0; i < len(props); i += 2 {
			m.Properties[props[i]] = props[i+1]
		}
		return m
	}
	for i, m := range []message.Outgoing{
		of("m-1", "a/b", "", "t", "8:30"),
		of("m-2", "a/b", "", "t", "8:31"),
		of("m-3", "a/b", ""),
		{},
		of("m-4", "", "", "t", "8:31", "x", "ä=&"),
		of("m-4", "", "sub", "t", "8:31", "x", "ä=&", "y", ""),
		of("m-5", "a", "", "t", "\xff"),
		of("m-4", "", "sub", "t", "8:31", "x", "ä=&", "y", ""),
		of("m-5", "\xff", ""),
		of("m-4", "a/b", "sub", "y", " "),
		of("m-5", "\xff", ""),
		of("", "", "", "t", "8:3"),
	} {
		own, common, err := b.encode(&m)
		if strings.Contains(m.ContentType+m.Properties["t"], "\xff") {
			if err == nil {
				t.Errorf("%d: it took what is no text: %q %q", i, own, common)
			}
			continue
		}
		alone := new(bag)
		if want := bagText(t, alone, m); err != nil || bagText(t, &b, m) != want || b.size() != alone.size() {
			t.Errorf("%d: %q and %q, %d bytes, %v; want %q, %d", i, own, common, b.size(), err, want, alone.size())
		}
	}
}

func TestMessagesNoHubWouldTake(t *testing.T) {
	prop := func(name, value string) message.Outgoing {
		return message.Outgoing{Message: message.Message{Properties: map[string]string{name: value}}}
	}
	for name, v := range map[string]struct {
		body int
		m    message.Outgoing
		ok   bool
	}{
		"the largest that fits": {maxMessage - 100, message.Outgoing{ID: "m"}, true},
		"as large as can be":    {maxMessage - len(eventsTopic("d")) - 3 - len("n=v"), prop("n", "v"), true},
		"one byte larger":       {maxMessage - len(eventsTopic("d")) - 2 - len("n=v"), prop("n", "v"), false},
		"body too large":        {maxMessage + 1, message.Outgoing{}, false},
		"with its properties":   {maxMessage - 5, prop("name", "value"), false},
		"topic too long":        {0, prop("a", strings.Repeat("%", 30_000)), false},
		"nameless property":     {1, prop("", "x"), false},
		"name that is no text":  {1, prop("\xff", "x"), false},
		"value that is no text": {1, prop("x", "a\xc3"), false},
		"id that is no text":    {1, message.Outgoing{ID: "\xc3"}, false},
		"type that is no text":  {1, message.Outgoing{Message: message.Message{ContentType: "a\xc3"}}, false},
	} {
		var b bag
		own, common, err := b.encode(&v.m)
		if err == nil {
			e := event(eventsTopic("d"), own, common, nil)
			err = checkSize(e.TopicLength(), v.body, b.size())
		}
		if (err == nil) != v.ok {
			t.Errorf("%s: %v", name, err)
		}
		if p, is := err.(interface{ Permanent() bool }); err != nil && (!is || !p.Permanent()) {
			t.Errorf("%s: the refusal is not final", name)
		}
	}
}

// A creation time is the same whatever second the one before it was in.
func TestCreationTimes(t *testing.T) {
	var d dates
	wanted := func(at time.Time) string {
		return "x" + strings.ReplaceAll(at.UTC().Format(creationTime), ":", url.QueryEscape(":"))
	}
	at := time.Date(2026, 3, 1, 8, 30, 59, 998_999_999, time.FixedZone("", 3600))
	for _, step := range []time.Duration{0, time.Millisecond, 2 * time.Millisecond, 12 * time.Millisecond, time.Second, 0, time.Minute, time.Millisecond} {
		at = at.Add(step)
		if got, want := string(d.append([]byte("x"), at)), wanted(at); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	for _, at := range []time.Time{time.Date(12026, 3, 1, 8, 30, 59, 0, time.UTC), time.Date(12026, 3, 1, 8, 30, 59, 7e6, time.UTC)} { // nobody's clock, but a box may hold it
		if got, want := string(d.append([]byte("x"), at)), wanted(at); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// Writing a bag allocates nothing.
func TestBagAllocatesNothing(t *testing.T) {
	var b bag
	m := message.Outgoing{ID: "0123456789abcdef-1000", Message: message.Message{ContentType: "application/json", ContentEncoding: "utf-8", Created: bagTime,
		Properties: map[string]string{"b": "x y", "a": "1"}}}
	if n := testing.AllocsPerRun(100, func() {
		m.Created = m.Created.Add(time.Millisecond)
		if _, _, err := b.encode(&m); err != nil {
			t.Error(err)
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkBag(b *testing.B) {
	var text bag
	messages := make([]message.Outgoing, 64)
	for i := range messages {
		messages[i] = message.Outgoing{ID: fmt.Sprintf("0123456789abcdef-%d", 1000+i), Message: message.Message{ContentType: "application/json",
			ContentEncoding: "utf-8", Created: bagTime.Add(time.Duration(i) * time.Millisecond)}}
	}
	b.ReportAllocs()
	for b.Loop() {
		for i := range messages {
			if _, _, err := text.encode(&messages[i]); err != nil {
				b.Fatal(err)
			}
		}
	}
}

func FuzzPropertyBag(f *testing.F) {
	f.Add("a", "b c")
	f.Add("$.mid", "&=+%")
	f.Add("0", "\xd1")
	f.Add("", "x")
	f.Fuzz(func(t *testing.T, key, value string) {
		m := message.Outgoing{Message: message.Message{Properties: map[string]string{key: value}}}
		if key == "" || !utf8.ValidString(key) || !utf8.ValidString(value) {
			if text, _, err := new(bag).encode(&m); err == nil {
				t.Fatalf("%q=%q is sent as %q", key, value, text)
			}
			return
		}
		if got := Properties(bagText(t, new(bag), m)).Get(key); got != value {
			t.Fatalf("%q=%q came back as %q", key, value, got)
		}
		named := message.Outgoing{ID: value, Message: message.Message{Component: key, Properties: maps.Clone(m.Properties)}}
		if text := Properties(bagText(t, new(bag), named)); value != "" && text.Get(midName) != value || text.Get(componentName) != key {
			t.Fatalf("id %q and component %q came back as %q", value, key, text)
		}
	})
}

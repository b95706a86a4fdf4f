package device

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"github.com/hubhop-iot/hubhop/hub"
	"github.com/hubhop-iot/hubhop/internal/clock"
	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/internal/memnet"
	"github.com/hubhop-iot/hubhop/internal/virtual"
	"github.com/hubhop-iot/hubhop/telemetry"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

// scriptedHub is a hub that takes telemetry, and answers everything else as a test wants it.
type scriptedHub struct {
	cert   tls.Certificate
	twin   func(n int) (status, body string)   // the answer to the nth GET of the twin; nil: an empty twin
	report func(body []byte) (answer string)   // to a patch of the reported part; nil: 204
	after  func(send func(topic, body string)) // is called once for each session, after its SUBACK, in a goroutine of its own
	sink   func(journal.Event)
	wall   func() time.Time // the device's system clock; nil: the bubble's

	mu                                sync.Mutex
	links, messages, gets             int
	reports, completed, methodAnswers []string
}

// world runs the device d against the hub for a time, and returns its events.
func (h *scriptedHub) world(t *testing.T, change func(*Device), d time.Duration) (told []journal.Event) {
	t.Helper()
	m, dir := virtual.Model(t), virtual.Dir(t)
	synctest.Test(t, func(t *testing.T) {
		cert, pool := memnet.Certificate(t, badHub)
		h.cert = cert
		n := memnet.New()
		defer listen(t, n, h.session)()
		j := new(journal.Journal)
		if h.sink != nil {
			j.Sink(h.sink)
		}
		var mu sync.Mutex
		j.Sink(func(e journal.Event) {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, e)
		})
		c := plan{
			Shared: Shared{
				Clock: clock.Machine{Wall: h.wall},
				Roots: pool, DialContext: n.DialContext,
			},
			Config: Config{
				MethodTimeout: 25 * time.Second,
				DrainTimeout:  time.Second,
				Outbox:        outbox.Options{MaxBytes: 1 << 20},
				Link:          hub.Options{KeepAlive: 20 * time.Second, TokenLife: time.Hour},
				Drain:         telemetry.DrainOptions{Window: 64},
			},
			Identity: Identity{
				DeviceID: "dev-1", Key: "a2V5", PinnedHub: badHub, StateDir: dir,
			},
			does: does{
				Model: m, Telemetry: true,
				TelemetryInterval: time.Second, Desired: true, Reported: true, Methods: true, C2D: true, ReportedInterval: time.Minute,
			},
		}
		dev := c.device(j)
		if change != nil {
			change(dev)
		}
		ctx, cancel := context.WithTimeout(t.Context(), d)
		defer cancel()
		if err := dev.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	return told
}

func (h *scriptedHub) session(raw net.Conn) {
	c := tls.Server(raw, &tls.Config{Certificates: []tls.Certificate{h.cert}})
	defer func() { _ = c.Close() }()
	var writing sync.Mutex
	write := func(p packets.ControlPacket) {
		writing.Lock()
		defer writing.Unlock()
		_ = p.Write(c)
	}
	pid := uint16(0)
	send := func(topic, body string) {
		p := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
		p.TopicName, p.Payload = topic, []byte(body)
		if strings.Contains(topic, "devicebound") {
			pid++
			p.Qos, p.MessageID = 1, pid
		}
		write(p)
	}
	for {
		p, err := packets.ReadPacket(c)
		if err != nil {
			return
		}
		switch q := p.(type) {
		case *packets.ConnectPacket:
			h.mu.Lock()
			h.links++
			h.mu.Unlock()
			write(packets.NewControlPacket(packets.Connack))
		case *packets.SubscribePacket:
			s := packets.NewControlPacket(packets.Suback).(*packets.SubackPacket)
			s.MessageID, s.ReturnCodes = q.MessageID, make([]byte, len(q.Topics))
			write(s)
			if h.after != nil {
				go h.after(send)
			}
		case *packets.PingreqPacket:
			write(packets.NewControlPacket(packets.Pingresp))
		case *packets.PubackPacket:
			h.mu.Lock()
			h.completed = append(h.completed, fmt.Sprint(q.MessageID))
			h.mu.Unlock()
		case *packets.PublishPacket:
			h.published(q, send, write)
		}
	}
}

func (h *scriptedHub) published(q *packets.PublishPacket, send func(topic, body string), write func(packets.ControlPacket)) {
	if _, rid, ok := strings.Cut(q.TopicName, "$iothub/twin/GET/?$rid="); ok {
		h.mu.Lock()
		h.gets++
		n, twin := h.gets, h.twin
		h.mu.Unlock()
		status, body := "200", `{"desired":{"$version":1},"reported":{"$version":1}}`
		if twin != nil {
			status, body = twin(n)
		}
		send("$iothub/twin/res/"+status+"/?$rid="+rid, body)
	}
	if _, rid, ok := strings.Cut(q.TopicName, "$iothub/twin/PATCH/properties/reported/?$rid="); ok {
		h.mu.Lock()
		h.reports = append(h.reports, string(q.Payload))
		h.mu.Unlock()
		answer := "204"
		if h.report != nil {
			answer = h.report(q.Payload)
		}
		send("$iothub/twin/res/"+answer+"/?$rid="+rid+"&$version=2", "")
	}
	if rest, ok := strings.CutPrefix(q.TopicName, "$iothub/methods/res/"); ok {
		h.mu.Lock()
		h.methodAnswers = append(h.methodAnswers, rest+" "+string(q.Payload))
		h.mu.Unlock()
	}
	if q.Qos == 1 {
		h.mu.Lock()
		h.messages++
		h.mu.Unlock()
		a := packets.NewControlPacket(packets.Puback).(*packets.PubackPacket)
		a.MessageID = q.MessageID
		write(a)
	}
}

// deep returns a JSON value with this many levels.
func deep(n int) string { return strings.Repeat(`{"a":`, n) + "1" + strings.Repeat("}", n) }

// TestOddTwins: a wrong answer to a request for the twin stops the twin and nothing else. Telemetry
// flows on over the same link, and a person is told once.
func TestOddTwins(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"empty":                 ``,
		"null":                  `null`,
		"a number":              `7`,
		"a text":                `"twin"`,
		"an array":              `[]`,
		"an array of twins":     `[{"desired":{},"reported":{}}]`,
		"half of one":           `{"desired":{"fanSpeed":`,
		"neither part":          `{}`,
		"no desired":            `{"reported":{"$version":1,"fanSpeed":{"value":1,"ac":200,"av":1}}}`,
		"desired null":          `{"desired":null,"reported":{"$version":1,"fanSpeed":{"value":1,"ac":200,"av":1}}}`,
		"no reported":           `{"desired":{"fanSpeed":5,"$version":3}}`,
		"reported null":         `{"desired":{"fanSpeed":5,"$version":3},"reported":null}`,
		"desired an array":      `{"desired":[1,2],"reported":{}}`,
		"desired a text":        `{"desired":"all","reported":{}}`,
		"reported an array":     `{"desired":{},"reported":[]}`,
		"too deep":              deep(20_000),
		"desired too deep":      `{"desired":` + deep(20_000) + `,"reported":{}}`,
		"not UTF-8":             "\xff\xfe\xfd",
		"binary":                strings.Repeat("\x00\x01\x02", 1000),
		"an answer for another": `{"operationId":"1","status":"assigning"}`,
	} {
		t.Run(name, func(t *testing.T) {
			h := &scriptedHub{twin: func(int) (string, string) { return "200", body }}
			told := h.world(t, nil, 5*time.Minute)
			warnings := 0
			for _, e := range told {
				if e.Kind == journal.Warning && strings.Contains(e.Text, "twin") {
					warnings++
				}
			}
			if found := bugs(told); len(found) > 0 {
				t.Errorf("%v", found)
			}
			if h.links != 1 || h.messages < 295 || warnings != 1 || h.gets < 5 {
				t.Errorf("%d links, %d messages in 5 min, told %d times, asked %d times", h.links, h.messages, warnings, h.gets)
			}
		})
	}
}

// TestHardTwins: any content of a twin's two parts is handled. No link is lost over it, and every
// property that can be acknowledged is.
func TestHardTwins(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		desired, reported string // members
		want              string // is in what the device reports
	}{
		"a version of any size":    {`"$version":99999999999999999999999,"fanSpeed":5`, ``, `"fanSpeed":{"value":5,"ac":200,"av":0`},
		"the largest version":      {`"$version":9223372036854775807,"fanSpeed":5`, ``, `"fanSpeed":{"value":5,"ac":200,"av":0`},
		"a version below 0":        {`"$version":-5,"fanSpeed":5`, ``, `"fanSpeed":{"value":5`},
		"a version that is a text": {`"$version":"new","fanSpeed":5`, ``, `"fanSpeed":{"value":5`},
		"a version with a point":   {`"$version":1.5e3,"fanSpeed":5`, ``, `"fanSpeed":{"value":5`},
		"a number of any size":     {`"fanSpeed":1e999999999,"x":1`, ``, `"x":{`},
		"as deep as JSON goes":     {`"deep":` + deep(9_990) + `,"fanSpeed":5`, ``, `"fanSpeed":{"value":5`},
		"a property without name":  {`"":1,"fanSpeed":5`, ``, `"fanSpeed":{"value":5`},
		"an object without name":   {`"":{"a":1,"__t":"c"},"fanSpeed":5`, ``, `"fanSpeed":{"value":5`},
		"a name with a slash":      {`"a/b":{"__t":"c","c/d":1},"fanSpeed":5`, ``, `"fanSpeed":{"value":5`},
		"a very long name":         {`"` + strings.Repeat("n", 100_000) + `":1,"fanSpeed":5`, ``, `"fanSpeed":{"value":5`},
		"escapes in a name":        {`"\u001b[31m\n":1,"fanSpeed":5`, ``, `"fanSpeed":{"value":5`},
		"a value of 200 KB":        {`"big":"` + strings.Repeat("v", 200_000) + `","fanSpeed":5`, ``, `"fanSpeed":{"value":5`},
		"5,000 properties":         {many(5_000) + `"fanSpeed":5`, ``, `"fanSpeed":{"value":5`},
		"foreign acknowledgements": {`"fanSpeed":5`, `"fanSpeed":[1,2],"battery":{"value":{},"ac":"x"},"x":{"value":1,"ac":1e99,"av":-3}`, `"fanSpeed":{"value":5`},
	} {
		t.Run(name, func(t *testing.T) {
			h := &scriptedHub{twin: func(int) (string, string) {
				return "200", `{"desired":{` + test.desired + `},"reported":{` + test.reported + `}}`
			}}
			told := h.world(t, nil, time.Minute)
			for _, e := range told {
				if e.Kind == journal.Bug {
					t.Errorf("%s\n%s", e.Text, e.Error)
				}
				if len(e.Text) > 2000 || strings.ContainsAny(e.Text, "\x1b\n") {
					t.Errorf("%d bytes in one event: %.200q", len(e.Text), e.Text)
				}
			}
			if h.links != 1 || h.messages < 55 || len(told) > 3*cloudEvents {
				t.Errorf("%d links, %d messages in a minute, %d events", h.links, h.messages, len(told))
			}
			if all := strings.Join(h.reports, "\n"); !strings.Contains(all, test.want) {
				t.Errorf("reported %.2000s", all)
			}
		})
	}
}

func many(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `"p%d":%d,`, i, i)
	}
	return b.String()
}

// TestOddMessages sends a device desired changes, methods and cloud-to-device messages with topics
// and content that no hub should send. None of them ends the link, loses a sample or stops its
// path: an ordinary message of each kind, sent last, is handled.
func TestOddMessages(t *testing.T) {
	t.Parallel()
	bodies := []string{``, `null`, `7`, `"text"`, `[]`, `{}`, `{"a":`, deep(20_000), deep(9_999), "\xff\x00", `{"$version":null}`, `{"$version":{}}`,
		`{"fanSpeed":null}`, `{"":null}`, `{"fanSpeed":{"__t":"c"}}`, `{"fanSpeed":{"__t":"c","x":null}}`, `{"part":{"__t":"c"}}`, `{"part":null}`,
		`{"fanSpeed":` + strings.Repeat("9", 100_000) + `}`, `"` + strings.Repeat("v", 100_000) + `"`, "\x1b[2J\n"}
	names := []string{"echo", "setAlarm", "%", "%00", "%FF%FE", "%1B%5B2J%0A", strings.Repeat("n", 60_000), "/", "a/b/?$rid=1", "$", "+", "#"}
	var topics []string
	for _, version := range []string{"", "?$version=", "?$version=-1", "?$version=0", "?$version=1", "?$version=99999999999999999999", "?$version=x", "/?$version=7",
		"?$version=9223372036854775807", "?%24version=3", "?&&&=&=", "?$version=5"} {
		topics = append(topics, "$iothub/twin/PATCH/properties/desired/"+version)
	}
	for _, name := range names {
		topics = append(topics, "$iothub/methods/POST/"+name+"/?$rid=7", "$iothub/methods/POST/"+name, "$iothub/methods/POST/"+name+"/?$rid=")
		topics = append(topics, "devices/dev-1/messages/devicebound/method-name="+name, "devices/dev-1/messages/devicebound/%24.mid="+name+"&method-name",
			"devices/dev-1/messages/devicebound/"+name+"="+name, "devices/dev-1/messages/devicebound"+name)
	}
	for _, status := range []string{"200", "0", "-1", "999999999999", "x", "", "200/?$rid=0", "200/?$rid=1", "204/?$rid=2&$version=x"} {
		topics = append(topics, "$iothub/twin/res/"+status)
	}
	topics = append(topics, "$iothub/", "$", "nonsense", "devices/other/messages/devicebound/")

	h := &scriptedHub{twin: func(int) (string, string) {
		return "200", `{"desired":{"fanSpeed":5,"part":{"__t":"c","a":1},"$version":3},"reported":{"$version":1}}`
	}}
	h.after = func(send func(topic, body string)) {
		time.Sleep(5 * time.Second)
		for _, topic := range topics {
			for _, body := range bodies {
				send(topic, body)
				time.Sleep(50 * time.Millisecond) // a flood is another test's
			}
		}
		time.Sleep(time.Minute)
		h.mu.Lock()
		h.twin = func(int) (string, string) {
			return "200", `{"desired":{"fanSpeed":77,"$version":77},"reported":{"$version":1}}`
		}
		h.mu.Unlock()
		send("$iothub/methods/POST/echo/?$rid=fff", `"last"`)
		send("devices/dev-1/messages/devicebound/%24.mid=last&method-name=echo", `1`)
		send("$iothub/twin/PATCH/properties/desired/?$version=77", `{"fanSpeed":77,"$version":77}`)
	}
	const life = 15 * time.Minute
	told := h.world(t, nil, life)
	if found := bugs(told); len(found) > 0 {
		t.Errorf("%v", found)
	}
	for _, e := range told {
		if len(e.Text) > 2000 || strings.ContainsAny(e.Text, "\x1b\n\x00") || len(e.Name) > 128+3 {
			t.Errorf("%d bytes in one event: %.200q, name %.200q", len(e.Text), e.Text, e.Name)
		}
	}
	if h.links != 1 || h.messages < 890 {
		t.Errorf("%d links, %d messages in %v", h.links, h.messages, life)
	}
	if all := strings.Join(h.methodAnswers, "\n"); !strings.Contains(all, `200/?$rid=fff "last"`) {
		t.Errorf("the last method was not answered; %d were", len(h.methodAnswers))
	}
	sent := 0
	for _, topic := range topics {
		if strings.Contains(topic, "devicebound") {
			sent += len(bodies)
		}
	}
	if len(h.completed) != sent+1 {
		t.Errorf("%d messages completed of %d", len(h.completed), sent+1)
	}
	if all := strings.Join(h.reports, "\n"); !strings.Contains(all, `"fanSpeed":{"value":77,"ac":200,"av":77`) {
		t.Errorf("the last change was not acknowledged; reported %.3000s", all)
	}
}

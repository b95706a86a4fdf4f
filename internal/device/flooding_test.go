package device

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"github.com/hubhop-iot/hubhop/hub"
	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/internal/memnet"
	"github.com/hubhop-iot/hubhop/model"
	"github.com/hubhop-iot/hubhop/telemetry"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

// loose is a hub that does what a test says, after it has let the device in and acknowledged its
// messages. One goroutine serves each link: heard gets each PUBLISH of QoS 0, subscribed comes when
// the link is up.
type loose struct {
	subscribed func(send func(topic string, qos byte, body []byte))
	heard      func(topic string, body []byte, send func(topic string, qos byte, body []byte))
	acked      int // PUBACKs of the device
}

// with runs a device against the hub for a time, and returns the device's events.
func (h *loose) with(t *testing.T, change func(d *Device), limit time.Duration) (told []journal.Event) {
	t.Helper()
	m, err := model.Parse([]byte(`{"@id":"dtmi:t:T;1","@type":"Interface","@context":"dtmi:dtdl:context;2","contents":[
		{"@type":"Property","name":"size","schema":"integer","writable":true},{"@type":"Command","name":"slow"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	cert, pool := memnet.Certificate(t, badHub)
	n := memnet.New()
	defer listenTLS(t, n, cert, h.serve)()
	j := new(journal.Journal)
	events := make(chan journal.Event, 10_000)
	j.Sink(func(e journal.Event) { events <- e })
	d := plan{
		Shared: Shared{
			Roots: pool, DialContext: n.DialContext,
		},
		Config: Config{
			MethodTimeout: time.Hour,
			DrainTimeout:  time.Second,
			Outbox:        outbox.Options{MaxBytes: 1 << 20},
			Link:          hub.Options{KeepAlive: 20 * time.Second, TokenLife: time.Hour},
			Drain:         telemetry.DrainOptions{Window: 64},
		},
		Identity: Identity{
			DeviceID: "dev-1", Key: "a2V5", PinnedHub: badHub, StateDir: t.TempDir(),
		},
		does: does{
			Model: m, Telemetry: true, TelemetryInterval: time.Second, Desired: true, Methods: true, C2D: true,
		},
	}.device(j)
	change(d)
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	if err := d.Run(ctx); err != nil {
		t.Error(err)
	}
	close(events)
	for e := range events {
		told = append(told, e)
	}
	return told
}

func (h *loose) serve(c *tls.Conn) {
	send := func(topic string, qos byte, body []byte) {
		p := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
		p.TopicName, p.Qos, p.MessageID, p.Payload = topic, qos, 1, body
		_ = p.Write(c)
	}
	for {
		p, err := packets.ReadPacket(c)
		if err != nil {
			return
		}
		switch q := p.(type) {
		case *packets.ConnectPacket:
			_ = packets.NewControlPacket(packets.Connack).Write(c)
		case *packets.SubscribePacket:
			s := packets.NewControlPacket(packets.Suback).(*packets.SubackPacket)
			s.MessageID, s.ReturnCodes = q.MessageID, make([]byte, len(q.Topics))
			_ = s.Write(c)
			h.subscribed(send)
		case *packets.PingreqPacket:
			_ = packets.NewControlPacket(packets.Pingresp).Write(c)
		case *packets.PubackPacket:
			h.acked++
		case *packets.PublishPacket:
			if q.Qos == 1 {
				a := packets.NewControlPacket(packets.Puback).(*packets.PubackPacket)
				a.MessageID = q.MessageID
				_ = a.Write(c)
				continue
			}
			h.heard(q.TopicName, q.Payload, send)
		}
	}
}

func emptyTwin(topic string, send func(topic string, qos byte, body []byte)) {
	if _, rid, ok := strings.Cut(topic, "$iothub/twin/GET/?$rid="); ok {
		send("$iothub/twin/res/200/?$rid="+rid, 0, []byte(`{"desired":{"$version":1},"reported":{"$version":1}}`))
	}
}

// lost returns the reasons for which links ended.
func lost(told []journal.Event) (why []string) {
	for _, e := range told {
		if e.Kind == journal.Lost {
			why = append(why, e.Error)
		}
	}
	return why
}

// TestMessagesBeyondTheirBound: a handler is slow. As many messages as a hub sends without a PUBACK
// may wait for it; more are a violation of the protocol, and the error says so.
func TestMessagesBeyondTheirBound(t *testing.T) {
	for name, v := range map[string]struct {
		messages int
		lost     bool
	}{"as a hub sends them": {50, false}, "without end": {200, true}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				links := 0
				h := &loose{
					subscribed: func(send func(topic string, qos byte, body []byte)) {
						if links++; links > 1 {
							return
						}
						for range v.messages {
							send("devices/dev-1/messages/devicebound/method-name=slow", 1, []byte(`"`+strings.Repeat("x", 64_000)+`"`))
						}
					},
					heard: func(topic string, _ []byte, send func(topic string, qos byte, body []byte)) { emptyTwin(topic, send) },
				}
				told := h.with(t, func(d *Device) {
					d.handle("slow", func(ctx context.Context, _ json.RawMessage) (json.RawMessage, error) {
						select {
						case <-time.After(time.Second):
						case <-ctx.Done():
						}
						return nil, ctx.Err()
					})
				}, 2*time.Minute)
				switch why := lost(told); {
				case !v.lost && (len(why) > 0 || h.acked != v.messages):
					t.Errorf("lost %v; %d PUBACKs", why, h.acked)
				case v.lost && (len(why) != 1 || !strings.Contains(why[0], "protocol violation: more than 1024 messages, or 4 MiB of them, are waiting")):
					t.Errorf("lost %v", why)
				}
			})
		})
	}
}

// TestChangesBeyondTheirBound: changes come faster than the device can answer. It reads the twin
// again instead of keeping all changes, and ends with the same properties.
func TestChangesBeyondTheirBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const changes = 300
		var reads int
		var acknowledged string
		h := &loose{
			subscribed: func(func(topic string, qos byte, body []byte)) {},
			heard: func(topic string, body []byte, send func(topic string, qos byte, body []byte)) {
				if _, rid, ok := strings.Cut(topic, "$iothub/twin/GET/?$rid="); ok {
					version := 1
					if reads++; reads == 1 { // the answer comes behind what happens meanwhile, as if it had been made before
						for n := range changes {
							send(fmt.Sprintf("$iothub/twin/PATCH/properties/desired/?$version=%d", n+2), 0,
								fmt.Appendf(nil, `{"size":%d,"note":"%s","$version":%d}`, n+2, strings.Repeat("x", 60_000), n+2))
						}
					} else {
						version = changes + 1
					}
					send("$iothub/twin/res/200/?$rid="+rid, 0, fmt.Appendf(nil, `{"desired":{"size":%d,"$version":%d},"reported":{"$version":1}}`, version, version))
				}
				if _, rest, ok := strings.Cut(topic, "$iothub/twin/PATCH/properties/reported/?$rid="); ok {
					var patch struct {
						Size struct{ Value, AC, AV json.RawMessage } `json:"size"`
					}
					_ = json.Unmarshal(body, &patch)
					acknowledged = fmt.Sprintf("%s %s %s", patch.Size.Value, patch.Size.AC, patch.Size.AV)
					send("$iothub/twin/res/204/?$version=2&$rid="+rest, 0, nil)
				}
			},
		}
		told := h.with(t, func(*Device) {}, time.Minute)
		if why := lost(told); len(why) > 0 || reads != 2 || acknowledged != "301 200 301" {
			t.Errorf("lost %v; the twin was read %d times; acknowledged %s", why, reads, acknowledged)
		}
	})
}

// TestMethodsBeyondTheirBound: payloads that together are too large are refused with 503, as too
// many methods are, until there is room again.
func TestMethodsBeyondTheirBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answers := map[string]string{}
		h := &loose{
			subscribed: func(send func(topic string, qos byte, body []byte)) {
				for n := range 6 {
					send(fmt.Sprintf("$iothub/methods/POST/slow/?$rid=%d", n), 0, []byte(`"`+strings.Repeat("x", 500_000)+`"`))
				}
			},
			heard: func(topic string, _ []byte, send func(topic string, qos byte, body []byte)) {
				emptyTwin(topic, send)
				if rest, ok := strings.CutPrefix(topic, "$iothub/methods/res/"); ok {
					status, rid, _ := strings.Cut(rest, "/?$rid=")
					if answers[rid] = status; rid == "0" { // there is room again
						send("$iothub/methods/POST/slow/?$rid=again", 0, []byte(`"`+strings.Repeat("x", 500_000)+`"`))
					}
				}
			},
		}
		told := h.with(t, func(d *Device) {
			d.handle("slow", func(context.Context, json.RawMessage) (json.RawMessage, error) {
				time.Sleep(time.Second)
				return nil, nil
			})
		}, 10*time.Second)
		for rid, want := range map[string]string{"0": "200", "1": "200", "2": "200", "3": "200", "4": "503", "5": "503", "again": "200"} {
			if answers[rid] != want {
				t.Errorf("%s was answered %s", rid, answers[rid])
			}
		}
		if why := lost(told); len(why) > 0 {
			t.Errorf("lost %v", why)
		}
	})
}

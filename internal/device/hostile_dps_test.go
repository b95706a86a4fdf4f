package device

import (
	"context"
	"crypto/tls"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"github.com/hubhop-iot/hubhop/dps"
	"github.com/hubhop-iot/hubhop/hub"
	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/internal/memnet"
	"github.com/hubhop-iot/hubhop/internal/virtual"
)

// TestOddDPS lets DPS give a wrong answer and then the right one. No wrong answer ends the device,
// keeps it from the right one, or makes it log without end.
func TestOddDPS(t *testing.T) {
	const right = `{"operationId":"1","status":"assigned","registrationState":{"assignedHub":"10.9.9.9","deviceId":"dev-1","status":"assigned"}}`
	assigned := func(hub, device string) string {
		return `{"status":"assigned","registrationState":{"assignedHub":"` + hub + `","deviceId":"` + device + `","status":"assigned"}}`
	}
	for name, test := range map[string]struct{ topic, body string }{
		"empty":                     {"200/?$rid=RID", ``},
		"null":                      {"200/?$rid=RID", `null`},
		"an array":                  {"200/?$rid=RID", `[]`},
		"too deep":                  {"200/?$rid=RID", deep(20_000)},
		"half of one":               {"200/?$rid=RID", `{"status":"assi`},
		"no state":                  {"200/?$rid=RID", `{"status":"assigned"}`},
		"state null":                {"200/?$rid=RID", `{"status":"assigned","registrationState":null}`},
		"no hub":                    {"200/?$rid=RID", assigned("", "dev-1")},
		"a hub that is none":        {"200/?$rid=RID", assigned("https://x/y", "dev-1")},
		"a hub of 60,000 bytes":     {"200/?$rid=RID", assigned(strings.Repeat("h", 60_000), "dev-1")},
		"escapes in a hub":          {"200/?$rid=RID", assigned(`\u001b[2J\n`, "dev-1")},
		"an id of 66,000":           {"200/?$rid=RID", assigned("10.9.9.9", strings.Repeat("d", 66_000))},
		"an id for no topic":        {"200/?$rid=RID", assigned("10.9.9.9", "a/#")},
		"a status that is none":     {"x/?$rid=RID", `{}`},
		"a status of any size":      {"99999999999999999999/?$rid=RID", `{}`},
		"an operation of any size":  {"202/?$rid=RID&retry-after=1", `{"operationId":"` + strings.Repeat("o", 60_000) + `","status":"assigning"}`},
		"an operation for no topic": {"202/?$rid=RID&retry-after=1", `{"operationId":"a/+/#\u0000","status":"assigning"}`},
		"no operation":              {"202/?$rid=RID&retry-after=1", `{"status":"assigning"}`},
		"another request's answer":  {"200/?$rid=other", assigned("10.9.9.9", "dev-1")},
		"another topic":             {"", `{}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := virtual.Dir(t)
			synctest.Test(t, func(t *testing.T) {
				cert, pool := memnet.Certificate(t, badHub)
				n := memnet.New()
				began := time.Now()
				defer listenTLS(t, n, cert, func(c *tls.Conn) {
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
						case *packets.PublishPacket:
							_, rid, _ := strings.Cut(q.TopicName, "$rid=")
							rid, _, _ = strings.Cut(rid, "&")
							topic, body := test.topic, test.body
							if time.Since(began) > time.Minute {
								topic, body = "200/?$rid=RID", right
							}
							a := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
							a.TopicName = "$dps/registrations/res/" + strings.ReplaceAll(topic, "RID", rid)
							if topic == "" {
								a.TopicName = "elsewhere"
							}
							a.Payload = []byte(body)
							_ = a.Write(c)
						}
					}
				})()
				j := new(journal.Journal)
				var mu sync.Mutex
				var told []journal.Event
				j.Sink(func(e journal.Event) {
					mu.Lock()
					defer mu.Unlock()
					told = append(told, e)
				})
				d := plan{
					Shared: Shared{
						Roots: pool, DialContext: n.DialContext,
					},
					Config: Config{
						ProvisioningHost: badHub, ProvisioningTransport: dps.MQTT,
						DrainTimeout: time.Second,
						Link:         hub.Options{KeepAlive: 20 * time.Second, TokenLife: time.Hour},
					},
					Identity: Identity{
						DeviceID: "dev-1", IDScope: "0ne", Key: "a2V5", StateDir: dir,
					},
				}.device(j)
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
				defer cancel()
				if err := d.Run(ctx); err != nil {
					t.Error(err)
				}
				if found := bugs(told); len(found) > 0 {
					t.Errorf("%v", found)
				}
				reached, size := false, 0
				for _, e := range told {
					reached = reached || e.Kind == journal.Dialing && e.Hub == "10.9.9.9"
					size += len(e.Text) + len(e.Error)
					if strings.ContainsAny(e.Text, "\x1b\n\x00") || len(e.Text) > 3000 {
						t.Errorf("told %.300q", e.Text)
					}
				}
				if !reached {
					t.Errorf("the right answer was not followed; the last thing told is %q", told[len(told)-2].Text)
				}
				if size > 1<<20 {
					t.Errorf("%d bytes were told", size)
				}
			})
		})
	}
}

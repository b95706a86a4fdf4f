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

	"github.com/hubhop-iot/hubhop/hub"
	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/internal/memnet"
	"github.com/hubhop-iot/hubhop/telemetry"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

// TestTwinThatIsRefused: a hub that refuses to show the twin takes telemetry all the same. The link
// stays, and the refusal is told.
func TestTwinThatIsRefused(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		cert, pool := memnet.Certificate(t, badHub)
		n := memnet.New()
		var mu sync.Mutex
		links, messages := 0, 0
		defer listenTLS(t, n, cert, func(c *tls.Conn) {
			for {
				p, err := packets.ReadPacket(c)
				if err != nil {
					return
				}
				mu.Lock()
				switch q := p.(type) {
				case *packets.ConnectPacket:
					links++
					_ = packets.NewControlPacket(packets.Connack).Write(c)
				case *packets.SubscribePacket:
					s := packets.NewControlPacket(packets.Suback).(*packets.SubackPacket)
					s.MessageID, s.ReturnCodes = q.MessageID, make([]byte, len(q.Topics))
					_ = s.Write(c)
				case *packets.PingreqPacket:
					_ = packets.NewControlPacket(packets.Pingresp).Write(c)
				case *packets.PublishPacket:
					if _, rid, ok := strings.Cut(q.TopicName, "$iothub/twin/GET/?$rid="); ok {
						a := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
						a.TopicName = "$iothub/twin/res/404/?$rid=" + rid
						_ = a.Write(c)
					}
					if q.Qos == 1 {
						messages++
						a := packets.NewControlPacket(packets.Puback).(*packets.PubackPacket)
						a.MessageID = q.MessageID
						_ = a.Write(c)
					}
				}
				mu.Unlock()
			}
		})()
		told := 0
		j := new(journal.Journal)
		j.Sink(func(e journal.Event) {
			if e.Kind == journal.Warning && strings.Contains(e.Text, "404") {
				told++
			}
		})
		d := plan{
			Shared: Shared{
				Roots: pool, DialContext: n.DialContext,
			},
			Config: Config{
				DrainTimeout: time.Second,
				Outbox:       outbox.Options{MaxBytes: 1 << 20},
				Link:         hub.Options{KeepAlive: 20 * time.Second, TokenLife: time.Hour},
				Drain:        telemetry.DrainOptions{Window: 64},
			},
			Identity: Identity{
				DeviceID: "dev-1", Key: "a2V5", PinnedHub: badHub, StateDir: dir,
			},
			does: does{
				Telemetry: true, TelemetryInterval: time.Second, Desired: true, Reported: true, ReportedInterval: time.Minute,
			},
		}.device(j)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		if err := d.Run(ctx); err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		if links != 1 || messages < 590 || told < 5 || told > 40 {
			t.Errorf("%d links, %d messages, told %d times", links, messages, told)
		}
	})
}

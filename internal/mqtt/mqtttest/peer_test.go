package mqtttest

import (
	"net"
	"sync"
	"testing"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

// failing counts what a test that should fail is told.
type failing struct {
	testing.TB
	errors int
}

func (f *failing) Errorf(string, ...any) { f.errors++ }

// TestWelcomeFailsOnAnEarlyPublish: the opening has no PUBLISH but the one that ends it.
func TestWelcomeFailsOnAnEarlyPublish(t *testing.T) {
	for early, want := range map[string]int{"": 0, "out/": 1} {
		client, server := net.Pipe()
		verdict := &failing{TB: t}
		var wg sync.WaitGroup
		wg.Go(func() {
			p := Peer{T: verdict, Conn: server, Hello: "hello"}
			if p.Welcome() == nil {
				t.Error("CONNECT was not seen")
			}
		})
		device := Peer{T: t, Conn: client}
		device.Send(packets.NewControlPacket(packets.Connect))
		if _, ok := device.Read().(*packets.ConnackPacket); !ok {
			t.Error("no CONNACK")
		}
		if early != "" {
			device.Send(Downlink(early, nil))
		}
		device.Send(Downlink("hello", nil))
		wg.Wait()
		_ = client.Close()
		if verdict.errors != want {
			t.Errorf("a PUBLISH to %q first: %d errors, want %d", early, verdict.errors, want)
		}
	}
}

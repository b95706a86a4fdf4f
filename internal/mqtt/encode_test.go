package mqtt

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

// decoded reads one packet with the codec that this package's readers do not use for it.
func decoded(t *testing.T, b []byte) packets.ControlPacket {
	t.Helper()
	r := bytes.NewReader(b)
	p, err := packets.ReadPacket(r)
	if err != nil || r.Len() != 0 {
		t.Fatalf("% x: %v, %d bytes are left", b, err, r.Len())
	}
	return p
}

func TestConnectCarriesItsWillAndCleanStart(t *testing.T) {
	c := Connect{ClientID: "c-1", Username: "u", Password: "p", KeepAlive: 90 * time.Second, CleanStart: true,
		Will: &Will{Topic: "gone", Body: []byte("x"), QoS: 1, Retain: true}}
	p, ok := decoded(t, c.Append(nil)).(*packets.ConnectPacket)
	if !ok || p.ClientIdentifier != "c-1" || p.Username != "u" || string(p.Password) != "p" || p.Keepalive != 90 || !p.CleanSession ||
		p.ProtocolVersion != 4 || !p.WillFlag || p.WillTopic != "gone" || string(p.WillMessage) != "x" || p.WillQos != 1 || !p.WillRetain {
		t.Errorf("%v", p)
	}
	c = Connect{ClientID: "c-1", KeepAlive: 30 * time.Hour}
	p, ok = decoded(t, c.Append(nil)).(*packets.ConnectPacket)
	if !ok || p.UsernameFlag || p.PasswordFlag || p.WillFlag || p.CleanSession || p.Keepalive != 65535 {
		t.Errorf("%v", p)
	}
}

func TestSubscriptionsAreReadAsTheyWereWritten(t *testing.T) {
	sub := decoded(t, AppendSubscribe(nil, 7, Filter{"a/#", 1}, Filter{"b", 0})).(*packets.SubscribePacket)
	if sub.MessageID != 7 || !reflect.DeepEqual(sub.Topics, []string{"a/#", "b"}) || !bytes.Equal(sub.Qoss, []byte{1, 0}) {
		t.Errorf("%v", sub)
	}
	unsub := decoded(t, appendUnsubscribe(nil, 8, "a/#", "b")).(*packets.UnsubscribePacket)
	if unsub.MessageID != 8 || !reflect.DeepEqual(unsub.Topics, []string{"a/#", "b"}) {
		t.Errorf("%v", unsub)
	}
}

func TestPublishIsReadAsItWasWritten(t *testing.T) {
	for _, size := range []int{0, 1, 127, 128, 16_383, 16_384, 200_000} {
		for _, qos := range []byte{0, 1} {
			for _, again := range []bool{false, true} {
				m := Message{Topic: "a/", Tail: [3][]byte{[]byte("b"), nil, []byte("c")}, Body: []byte(strings.Repeat("x", size)), QoS: qos}
				p := decoded(t, m.Append(nil, 300, again)).(*packets.PublishPacket)
				want := uint16(300)
				if qos == 0 {
					want = 0
				}
				if p.TopicName != "a/bc" || len(p.TopicName) != m.TopicLength() || !bytes.Equal(p.Payload, m.Body) || p.Qos != qos || p.Dup != again || p.MessageID != want {
					t.Errorf("%d bytes, QoS %d, again %v: %v", size, qos, again, p)
				}
			}
		}
	}
	m := Message{Topic: "t", Body: make([]byte, 200_000)}
	if b := m.Append(nil, 0, false); !bytes.Equal(b[:4], []byte{0x30, 0xc3, 0x9a, 0x0c}) {
		t.Errorf("a long one begins % x", b[:4])
	}
}

func TestSmallPacketsAreReadAsTheyWereWritten(t *testing.T) {
	if p := decoded(t, AppendPuback(nil, 0x1234)).(*packets.PubackPacket); p.MessageID != 0x1234 {
		t.Errorf("%v", p)
	}
	if _, ok := decoded(t, appendPingreq(nil)).(*packets.PingreqPacket); !ok {
		t.Error("no PINGREQ")
	}
	if _, ok := decoded(t, AppendDisconnect(nil)).(*packets.DisconnectPacket); !ok {
		t.Error("no DISCONNECT")
	}
}

package mqtt5

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/eclipse/paho.golang/packets"
)

// FuzzReader holds the reader to the codec of somebody else: what both accept, they read alike. And
// the reader takes no more memory than what has come.
func FuzzReader(f *testing.F) {
	var b bytes.Buffer
	alias, expiry := uint16(3), uint32(9)
	for _, p := range []packets.Packet{
		&packets.Connack{SessionPresent: true, Properties: &packets.Properties{ReceiveMaximum: &alias}},
		&packets.Publish{Topic: "a/b", QoS: 1, PacketID: 7, Payload: []byte("body"), Properties: &packets.Properties{
			TopicAlias: &alias, MessageExpiry: &expiry, ContentType: "text/plain", ResponseTopic: "r", CorrelationData: []byte{1},
			User: []packets.User{{Key: "k", Value: "v"}}}},
		&packets.Puback{PacketID: 1, ReasonCode: 0x97, Properties: &packets.Properties{ReasonString: "full"}},
		&packets.Suback{PacketID: 1, Reasons: []byte{1, 0x87}, Properties: &packets.Properties{}},
		&packets.Disconnect{ReasonCode: 0x9d, Properties: &packets.Properties{ServerReference: "other"}},
		&packets.Auth{ReasonCode: 0x18, Properties: &packets.Properties{AuthMethod: "m", AuthData: []byte("d")}},
		&packets.Pingresp{},
	} {
		b.Reset()
		_, _ = p.WriteTo(&b)
		f.Add(bytes.Clone(b.Bytes()))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r := NewReader(bytes.NewReader(data), 1<<16)
		other := bytes.NewReader(data)
		for {
			p, err := r.Next()
			if err != nil {
				if !errors.Is(err, ErrProtocol) && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Fatalf("an error without a cause: %v", err)
				}
				break
			}
			q, err := packets.ReadPacket(other)
			if err != nil {
				break // it is stricter in places
			}
			if pub, ok := q.Content.(*packets.Publish); ok {
				if string(p.Topic) != pub.Topic || !bytes.Equal(p.Payload, pub.Payload) || p.QoS > 0 && p.ID != pub.PacketID || len(p.User) != len(pub.Properties.User) {
					t.Fatalf("%+v, and the other reader has %+v", p, pub)
				}
			}
		}
		if len(r.buf) > max(readBuffer, 4*len(data)) {
			t.Fatalf("a buffer of %d bytes for %d", len(r.buf), len(data))
		}
	})
}

// FuzzMessage has the codec of somebody else read what this one writes.
func FuzzMessage(f *testing.F) {
	f.Add("a", []byte("x"), uint16(1), true, uint32(3), "text", "r", []byte("c"), uint16(2), "k", "v")
	f.Fuzz(func(t *testing.T, topic string, body []byte, id uint16, retain bool, expiry uint32, content, response string, correlation []byte, alias uint16, key, value string) {
		for _, s := range []string{topic, content, response, string(correlation), key, value} {
			if len(s) > 65535 {
				return
			}
		}
		m := Message{Topic: topic, Payload: body, QoS: 1, Retain: retain, Text: true, Expiry: expiry, ContentType: content, ResponseTopic: response,
			Correlation: correlation, Alias: alias, User: AppendUser(nil, key, value)}
		out := m.Append(nil, id, true)
		if len(out) > m.Size() {
			t.Fatalf("%d bytes, and Size says %d", len(out), m.Size())
		}
		p, err := packets.ReadPacket(bytes.NewReader(out))
		if err != nil {
			return // texts that it does not take
		}
		q := p.Content.(*packets.Publish)
		if q.Topic != topic || !bytes.Equal(q.Payload, body) || q.PacketID != id || q.Retain != retain || !q.Duplicate || q.Properties.ContentType != content ||
			q.Properties.ResponseTopic != response || !bytes.Equal(q.Properties.CorrelationData, correlation) || q.Properties.User[0] != (packets.User{Key: key, Value: value}) {
			t.Fatalf("%+v", q)
		}
	})
}

// The packets that open a session are read by the codec of somebody else.
func TestPacketsOfTheClientAreReadByOthers(t *testing.T) {
	out := AppendConnect(nil, &Hello{ClientID: "id", Username: "u", Password: []byte("p"), KeepAlive: 60, SessionExpiry: 3600, ReceiveMaximum: 100,
		MaximumPacket: 1 << 20, AliasMaximum: 5, AuthMethod: "K8S-SAT", AuthData: []byte("token")})
	out = AppendSubscribe(out, 3, Filter{"a/#", 1}, Filter{"b", 0})
	out = AppendUnsubscribe(out, 4, "a/#", "b")
	out = AppendPuback(out, 5)
	out = AppendAuth(out, Reauthenticate, "K8S-SAT", []byte("new"))
	out = appendPingreq(out)
	out = AppendDisconnect(out, TakenOver)
	in := bytes.NewReader(out)
	next := func() any {
		p, err := packets.ReadPacket(in)
		if err != nil {
			t.Fatal(err)
		}
		return p.Content
	}
	c := next().(*packets.Connect)
	if c.ClientID != "id" || c.CleanStart || c.Username != "u" || string(c.Password) != "p" || c.KeepAlive != 60 || *c.Properties.SessionExpiryInterval != 3600 ||
		*c.Properties.ReceiveMaximum != 100 || *c.Properties.MaximumPacketSize != 1<<20 || *c.Properties.TopicAliasMaximum != 5 ||
		c.Properties.AuthMethod != "K8S-SAT" || string(c.Properties.AuthData) != "token" {
		t.Errorf("%+v %+v", c, c.Properties)
	}
	s := next().(*packets.Subscribe)
	if s.PacketID != 3 || len(s.Subscriptions) != 2 || s.Subscriptions[0].Topic != "a/#" || s.Subscriptions[0].QoS != 1 || !s.Subscriptions[0].RetainAsPublished || s.Subscriptions[0].RetainHandling != 1 {
		t.Errorf("%+v", s)
	}
	if u := next().(*packets.Unsubscribe); u.PacketID != 4 || len(u.Topics) != 2 {
		t.Errorf("%+v", u)
	}
	if a := next().(*packets.Puback); a.PacketID != 5 {
		t.Errorf("%+v", a)
	}
	if a := next().(*packets.Auth); a.ReasonCode != 0x19 || string(a.Properties.AuthData) != "new" {
		t.Errorf("%+v", a)
	}
	next()
	if d := next().(*packets.Disconnect); d.ReasonCode != 0x8e {
		t.Errorf("%+v", d)
	}
	in = bytes.NewReader(AppendConnect(nil, &Hello{ClientID: "id", CleanStart: true, ReceiveMaximum: 1, MaximumPacket: 100}))
	if c := next().(*packets.Connect); !c.CleanStart || c.UsernameFlag || c.PasswordFlag || c.WillFlag {
		t.Errorf("%+v", c)
	}
}

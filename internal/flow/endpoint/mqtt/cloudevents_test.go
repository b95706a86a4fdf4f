package mqtt

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.golang/packets"
	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	mochipackets "github.com/mochi-mqtt/server/v2/packets"

	"github.com/hubhop-iot/hubhop/internal/flow/endpoint/cloudevents"
	"github.com/hubhop-iot/hubhop/internal/flow/endpoint/endtest"
	"github.com/hubhop-iot/hubhop/internal/flow/node"
	"github.com/hubhop-iot/hubhop/internal/mqtt5"
)

func TestCloudEventsFollowTheTablesOfTheManual(t *testing.T) {
	whole := []node.Property{{Key: "specversion", Value: "1.0"}, {Key: "type", Value: "t"}, {Key: "source", Value: "s"}, {Key: "id", Value: "i"},
		{Key: "time", Value: "then"}, {Key: "subject", Value: "sub"}, {Key: "dataschema", Value: "old"}, {Key: "x", Value: "y"}}
	part := whole[1:]
	odd := append([]node.Property{{Key: "specversion", Value: "0.3"}}, part...)
	const asIs = "type=t source=s id=i time=then subject=sub dataschema=old x=y"
	for _, c := range []struct {
		name   string
		how    cloudevents.Mode
		stamp  bool
		in     []node.Property
		schema string
		id     string
		want   string
	}{
		{"as they are", cloudevents.AsTheyAre, false, part, "new", "g/n/1", asIs},
		{"propagate with all four", cloudevents.Propagate, false, whole, "", "", "specversion=1.0 " + asIs},
		{"propagate with a schema", cloudevents.Propagate, false, whole, "new", "", "specversion=1.0 type=t source=s id=i time=then subject=sub x=y dataschema=new"},
		{"propagate with one missing", cloudevents.Propagate, false, part, "new", "", asIs},
		{"create with all four", cloudevents.CreateOrRemap, false, whole, "", "", "specversion=1.0 " + asIs},
		{"create with one missing", cloudevents.CreateOrRemap, false, part, "new", "g/n/1", "x=y specversion=1.0 type=ms.aio-dataflow.telemetry source=aio://local id=" + made("g/n/1") + " subject=a/b time=2000-01-01T00:00:00.000Z dataschema=new"},
		{"create from another version", cloudevents.CreateOrRemap, false, odd, "", "g/n/1", "dataschema=old x=y specversion=1.0 type=ms.aio-dataflow.telemetry source=aio://local id=" + made("g/n/1") + " subject=a/b time=2000-01-01T00:00:00.000Z"},
		{"an id is stamped", cloudevents.AsTheyAre, true, nil, "", "g/n/1", "id=g/n/1"},
		{"an id that came in stays", cloudevents.AsTheyAre, true, part, "", "g/n/1", asIs},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				config := Config{Name: "local", CloudEvents: c.how, StampID: c.stamp}
				user, err := config.user(&node.Message{Topic: "a/b", Properties: c.in, Schema: c.schema, ID: c.id})
				if err != nil {
					t.Fatal(err)
				}
				m := mqtt5.Message{Topic: "a/b", QoS: 1, User: user}
				p, err := packets.ReadPacket(bytes.NewReader(m.Append(nil, 1, false)))
				if err != nil {
					t.Fatal(err)
				}
				var got []string
				for _, u := range p.Content.(*packets.Publish).Properties.User {
					got = append(got, u.Key+"="+u.Value)
				}
				if strings.Join(got, " ") != c.want {
					t.Errorf("got  %s\nwant %s", strings.Join(got, " "), c.want)
				}
			})
		})
	}
}

// made returns the id that a message with this ID gets as a new CloudEvent.
func made(id string) string {
	m := node.Message{}
	m.Properties = cloudevents.Set(&node.Message{ID: id}, cloudevents.CreateOrRemap, "local")
	id, _ = m.Get(cloudevents.ID)
	return id
}

// eventGrid is a broker with the limits of Event Grid (Microsoft's page "MQTT features supported by
// Azure Event Grid"): 512 KiB, no retain, no shared subscriptions, ten topic aliases. Its longest
// keep alive, 1,160 s, is checked here.
func eventGrid(t *testing.T) (*rig, *aliasCounter) {
	c := &aliasCounter{}
	o := &mochi.Options{Logger: slog.New(slog.DiscardHandler), Capabilities: mochi.NewDefaultServerCapabilities()}
	o.Capabilities.MaximumPacketSize, o.Capabilities.RetainAvailable, o.Capabilities.SharedSubAvailable = 512<<10, 0, 0
	o.Capabilities.TopicAliasMaximum, o.Capabilities.MaximumQos = 10, 1
	server := mochi.New(o)
	g := &rig{listen: freePort(t), rest: func() bool { return atomic.LoadInt64(&server.Info.Inflight) == 0 }}
	if err := server.AddHook(c, nil); err != nil {
		t.Fatal(err)
	}
	if err := server.AddListener(listeners.NewTCP(listeners.Config{ID: "test", Address: fmt.Sprintf("127.0.0.1:%d", g.listen)})); err != nil {
		t.Fatal(err)
	}
	if err := server.Serve(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	return g, c
}

// aliasCounter lets everybody in whose keep alive is short enough, and counts topic aliases.
type aliasCounter struct {
	mochi.HookBase
	atomic.Int64
}

func (c *aliasCounter) ID() string { return "event grid" }

func (c *aliasCounter) Provides(b byte) bool {
	return b == mochi.OnConnectAuthenticate || b == mochi.OnACLCheck || b == mochi.OnPacketRead || b == mochi.OnPacketEncode
}

func (c *aliasCounter) OnACLCheck(*mochi.Client, string, bool) bool { return true }

func (c *aliasCounter) OnConnectAuthenticate(_ *mochi.Client, pk mochipackets.Packet) bool {
	return pk.Connect.Keepalive > 0 && pk.Connect.Keepalive <= 1160
}

func (c *aliasCounter) OnPacketRead(_ *mochi.Client, pk mochipackets.Packet) (mochipackets.Packet, error) {
	if pk.FixedHeader.Type == mochipackets.Publish && pk.Properties.TopicAlias > 0 {
		c.Add(1)
	}
	for _, f := range pk.Filters {
		if strings.HasPrefix(f.Filter, "$share/") {
			return pk, mochipackets.ErrSharedSubscriptionsNotSupported
		}
	}
	return pk, nil
}

// OnPacketEncode says in the CONNACK what mochi-mqtt leaves out.
func (c *aliasCounter) OnPacketEncode(_ *mochi.Client, pk mochipackets.Packet) mochipackets.Packet {
	if pk.FixedHeader.Type == mochipackets.Connack {
		pk.Properties.MaximumPacketSize, pk.Properties.TopicAliasMaximum = 512<<10, 10
		pk.Properties.RetainAvailable, pk.Properties.RetainAvailableFlag = 0, true
		pk.Properties.SharedSubAvailable, pk.Properties.SharedSubAvailableFlag = 0, true
	}
	return pk
}

func TestAnEndpointKeepsToTheRulesOfEventGrid(t *testing.T) {
	g, out := eventGrid(t)
	c := plainConfig(t, g.listen, "in")
	c.KeepAlive = 1160 * time.Second
	var said strings.Builder
	s := newSource(t, c, "a/#", "$shared/g/b")
	got := newCollector()
	start(t, func(ctx context.Context) error { return s.Run(ctx, got.take) })
	endtest.Until(t, "the refusal of the shared subscription", func() bool { return s.Status().State == Refused })
	// CONNACK says that there are no shared subscriptions, so the refusal is known before the
	// broker has the other filter. What is published in between would not come.
	endtest.Until(t, "the subscription", s.subscribed)
	if text := s.Status().Text; !strings.Contains(text, "without $shared/<group>/") {
		t.Error(text)
	}
	c.ClientID, c.Log = "out", func(_ bool, text string) { said.WriteString(text) }
	d := newDestination(t, c)
	start(t, d.Run)
	done := newCompletions()
	ms, tickets := numbered("a/topic", 0, 3)
	ms[0].Retain = true
	ms[1].Payload = make([]byte, 600<<10)
	for i := range ms { // one after the other: see rig.rest
		if _, err := d.Send(t.Context(), ms[i:i+1], done, tickets[i:i+1]); err != nil {
			t.Fatal(err)
		}
		done.until(t, i+1)
		endtest.Until(t, "the rest of the broker", g.rest)
	}
	if done.errs[0] != nil || done.errs[2] != nil || done.errs[1] == nil || !strings.Contains(done.errs[1].Error(), "packets of 524288 bytes at most") {
		t.Error(done.errs)
	}
	got.until(t, "both", func(got []node.Delivery) bool { return len(got) == 2 })
	for _, m := range got.all() {
		if m.Message.Retain || m.Message.Topic != "a/topic" {
			t.Errorf("%+v", m.Message)
		}
	}
	if !strings.Contains(said.String(), "set retain: Never") {
		t.Error(said.String())
	}
	if out.Load() == 0 {
		t.Error("no topic alias was used, although ten are allowed")
	}
	c.KeepAlive = 1161 * time.Second
	c.ClientID = "long"
	long := newDestination(t, c)
	start(t, long.Run)
	endtest.Until(t, "the refusal of a long keep alive", func() bool { return long.Status().State != Connected && long.Status().Text != "" })
}

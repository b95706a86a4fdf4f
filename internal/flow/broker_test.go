package flow

import (
	"log/slog"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/storage"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/hubhop-iot/hubhop/internal/memnet"
)

// brokerAddress is where the broker of a test listens, on its network in memory.
const brokerAddress = "127.0.0.1:1883"

// broker is an MQTT 5 broker of other hands on a network in memory. It keeps its sessions over a
// restart, as one with a disk does.
type broker struct {
	t      *testing.T
	wire   *memnet.Net
	server *mochi.Server
	kept   memory
}

// start starts the broker with what it has kept.
func (b *broker) start() {
	b.t.Helper()
	listener, err := b.wire.Listen("tcp", brokerAddress)
	if err != nil {
		b.t.Fatal(err)
	}
	b.server = mochi.New(&mochi.Options{Logger: slog.New(slog.DiscardHandler), Capabilities: mochi.NewDefaultServerCapabilities()})
	kept := b.kept
	for _, err := range []error{b.server.AddHook(&kept, nil), b.server.AddListener(listeners.NewNet("wire", listener)), b.server.Serve()} {
		if err != nil {
			b.t.Fatal(err)
		}
	}
}

// stop ends the broker, and keeps what one with a disk would.
func (b *broker) stop() {
	b.t.Helper()
	if err := b.server.Close(); err != nil {
		b.t.Error(err)
	}
	synctest.Wait()
	b.kept = memory{}
	for id, c := range b.server.Clients.GetAll() {
		b.kept.clients = append(b.kept.clients, storage.Client{ID: id, ProtocolVersion: 5, Properties: storage.ClientProperties{
			SessionExpiryInterval: c.Properties.Props.SessionExpiryInterval, SessionExpiryIntervalFlag: true, ReceiveMaximum: c.Properties.Props.ReceiveMaximum,
		}})
		for _, s := range c.State.Subscriptions.GetAll() {
			b.kept.subscriptions = append(b.kept.subscriptions, storage.Subscription{Client: id, Filter: s.Filter, Qos: s.Qos})
		}
		for _, p := range c.State.Inflight.GetAll(false) {
			b.kept.messages = append(b.kept.messages, storage.Message{
				Client: id, ID: id + strconv.Itoa(int(p.PacketID)), Origin: p.Origin, TopicName: p.TopicName, Payload: p.Payload, FixedHeader: p.FixedHeader,
				Created: p.Created, PacketID: p.PacketID, Properties: storage.MessageProperties{User: p.Properties.User},
			})
		}
	}
}

// memory is what the broker has kept, and lets everybody in.
type memory struct {
	mochi.HookBase
	clients       []storage.Client
	subscriptions []storage.Subscription
	messages      []storage.Message
}

func (*memory) ID() string { return "memory" }

func (*memory) Provides(b byte) bool {
	switch b {
	case mochi.OnConnectAuthenticate, mochi.OnACLCheck, mochi.StoredClients, mochi.StoredSubscriptions, mochi.StoredInflightMessages:
		return true
	}
	return false
}

func (*memory) OnConnectAuthenticate(*mochi.Client, packets.Packet) bool { return true }
func (*memory) OnACLCheck(*mochi.Client, string, bool) bool              { return true }

func (m *memory) StoredClients() ([]storage.Client, error)             { return m.clients, nil }
func (m *memory) StoredSubscriptions() ([]storage.Subscription, error) { return m.subscriptions, nil }
func (m *memory) StoredInflightMessages() ([]storage.Message, error)   { return m.messages, nil }

// said collects what flows say.
type said struct {
	mu     sync.Mutex
	all    []string
	warned []string // those of all that are warnings
}

func (s *said) add(warning bool, flow, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if warning {
		s.warned = append(s.warned, flow+": "+text)
	}
	s.all = append(s.all, flow+": "+text)
}

// warnings are the texts that were warnings.
func (s *said) warnings() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.warned...)
}

func (s *said) texts() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.all...)
}

package mqtt

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/hubhop-iot/hubhop/internal/flow/node"
	"github.com/hubhop-iot/hubhop/internal/memnet"
	"github.com/hubhop-iot/hubhop/internal/mqtt5"
)

// script is a small broker in memory for one client, written on the codec of somebody else. It
// keeps the session, has a queue for the client, and checks what the client may do.
type script struct {
	t   testing.TB
	net *memnet.Net
	l   net.Listener

	mu       sync.Mutex
	refuse   byte // a CONNACK with this reason; 0: none
	lose     bool // the session is lost at the next connection
	session  bool
	queue    []string // payloads to come
	flying   []flight // sent, without PUBACK
	nextID   uint16
	filters  map[string]bool
	got      []string        // payloads of the client, each once
	seen     map[uint16]bool // packet ids of the client's messages that were not acknowledged
	limit    int             // bytes of a payload; 0: none
	puback   func(n int) byte
	mute     bool // no PUBACK and no SUBACK is sent, but pings are answered
	conn     net.Conn
	connects int
	most     int                // window of the client
	greedy   bool               // three windows are sent
	raw      []byte             // follows each CONNACK
	rawID    uint16             // of a message in it that has to be acknowledged; 0: none
	cleans   []bool             // clean start of each CONNECT
	grant    packets.Properties // of each CONNACK
	tokens   []string           // of each CONNECT and AUTH
	end      *time.Timer
	noRenew  bool          // AUTH is answered with DISCONNECT
	lag      time.Duration // before each packet is handled
}

type flight struct {
	id   uint16
	body string
}

const scriptAddress = "broker.test:1883"

func newScript(t testing.TB) *script {
	b := &script{t: t, net: memnet.New(), filters: map[string]bool{}, seen: map[uint16]bool{}}
	var err error
	if b.l, err = b.net.Listen("tcp", scriptAddress); err != nil {
		t.Fatal(err)
	}
	go b.accept(b.l)
	return b
}

func (b *script) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go b.serve(c)
	}
}

func (b *script) config(client string) Config {
	c := Defaults()
	c.Name, c.Host, c.ClientID, c.DialContext = "script", scriptAddress, client, b.net.DialContext
	return c
}

func (b *script) close() {
	b.l.Close()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.end != nil {
		b.end.Stop()
	}
	if b.conn != nil {
		b.conn.Close()
	}
}

func (b *script) serve(c net.Conn) {
	defer c.Close()
	for {
		p, err := packets.ReadPacket(c)
		if err != nil {
			return
		}
		b.mu.Lock()
		lag := b.lag
		b.mu.Unlock()
		time.Sleep(lag)
		b.mu.Lock()
		ok := b.packet(c, p)
		b.mu.Unlock()
		if !ok {
			return
		}
	}
}

func (b *script) send(c net.Conn, content packets.Packet) { _, _ = content.WriteTo(c) }

func (b *script) packet(c net.Conn, p *packets.ControlPacket) bool {
	switch p := p.Content.(type) {
	case *packets.Connect:
		b.connects++
		b.cleans = append(b.cleans, p.CleanStart)
		if p.Properties.SessionExpiryInterval == nil || p.Properties.MaximumPacketSize == nil {
			b.t.Error("a CONNECT without session expiry or maximum packet size")
		}
		if b.refuse != 0 {
			b.send(c, &packets.Connack{ReasonCode: b.refuse, Properties: &packets.Properties{}})
			return false
		}
		if b.conn != nil {
			b.conn.Close()
		}
		if b.lose || p.CleanStart {
			b.lose, b.session, b.flying, b.filters = false, false, nil, map[string]bool{}
		}
		b.conn, b.most = c, int(*p.Properties.ReceiveMaximum)
		if p.Properties.AuthMethod != "" && !b.token(c, p.Properties.AuthMethod, p.Properties.AuthData) {
			b.send(c, &packets.Connack{ReasonCode: byte(mqtt5.NotAuthorized), Properties: &packets.Properties{}})
			return false
		}
		grant := b.grant
		b.send(c, &packets.Connack{SessionPresent: b.session, Properties: &grant})
		b.session = true
		for _, f := range b.flying {
			b.publish(c, f, true)
		}
		_, _ = c.Write(b.raw)
		if b.rawID != 0 {
			b.flying = append(b.flying, flight{id: b.rawID})
		}
	case *packets.Subscribe:
		var reasons []byte
		for _, s := range p.Subscriptions {
			if !s.RetainAsPublished || s.RetainHandling != 1 {
				b.t.Error("a SUBSCRIBE without Retain as Published, or without Retain Handling 1")
			}
			if strings.HasPrefix(s.Topic, "secret/") {
				reasons = append(reasons, byte(mqtt5.NotAuthorized))
				continue
			}
			b.filters[s.Topic] = true
			reasons = append(reasons, s.QoS)
		}
		if b.mute {
			return true
		}
		b.send(c, &packets.Suback{PacketID: p.PacketID, Reasons: reasons, Properties: &packets.Properties{}})
	case *packets.Unsubscribe:
		for _, f := range p.Topics {
			delete(b.filters, f)
		}
		b.send(c, &packets.Unsuback{PacketID: p.PacketID, Reasons: make([]byte, len(p.Topics)), Properties: &packets.Properties{}})
	case *packets.Puback:
		if c != b.conn {
			return true
		}
		if len(b.flying) == 0 || b.flying[0].id != p.PacketID {
			b.t.Errorf("a PUBACK out of order: %d", p.PacketID)
			return false
		}
		b.flying = b.flying[1:]
	case *packets.Publish:
		if b.limit > 0 && len(p.Payload) > b.limit {
			b.send(c, &packets.Disconnect{ReasonCode: byte(mqtt5.PacketTooLarge), Properties: &packets.Properties{}})
			return false
		}
		if p.QoS > 0 && !p.Duplicate || !b.seen[p.PacketID] {
			b.got = append(b.got, string(p.Payload))
		}
		b.seen[p.PacketID] = true
		if b.mute {
			return true
		}
		var reason byte
		if b.puback != nil {
			reason = b.puback(len(b.got))
		}
		if reason >= 0x80 {
			b.got = b.got[:len(b.got)-1]
		}
		delete(b.seen, p.PacketID)
		b.send(c, &packets.Puback{PacketID: p.PacketID, ReasonCode: reason, Properties: &packets.Properties{}})
	case *packets.Auth:
		if b.noRenew {
			b.send(c, &packets.Disconnect{ReasonCode: byte(mqtt5.ProtocolError), Properties: &packets.Properties{}})
			return false
		}
		if p.ReasonCode != byte(mqtt5.Reauthenticate) {
			b.t.Errorf("an AUTH with the reason %d", p.ReasonCode)
		}
		if !b.token(c, p.Properties.AuthMethod, p.Properties.AuthData) {
			return false
		}
		b.send(c, &packets.Auth{Properties: &packets.Properties{AuthMethod: p.Properties.AuthMethod}})
	case *packets.Pingreq:
		b.send(c, &packets.Pingresp{})
	case *packets.Disconnect:
		return false
	}
	b.pump()
	return true
}

// token takes a token, and ends the connection when the token ends. It returns false for one that
// has ended.
func (b *script) token(c net.Conn, method string, token []byte) bool {
	end, ok := expiry(string(token))
	if !ok || method != methodServiceAccount {
		b.t.Errorf("a token without an end: %s %s", method, token)
	}
	b.tokens = append(b.tokens, string(token))
	if b.end != nil {
		b.end.Stop()
	}
	if time.Until(end) <= 0 {
		return false
	}
	b.end = time.AfterFunc(time.Until(end), func() {
		b.send(c, &packets.Disconnect{ReasonCode: byte(mqtt5.NotAuthorized), Properties: &packets.Properties{}})
		c.Close()
	})
	return true
}

func (b *script) publish(c net.Conn, f flight, again bool) {
	b.send(c, &packets.Publish{Topic: "a", QoS: 1, PacketID: f.id, Duplicate: again, Payload: []byte(f.body), Properties: &packets.Properties{}})
}

// pump sends what the window allows.
func (b *script) pump() {
	most := b.most
	if b.greedy {
		most *= 3
	}
	for len(b.filters) > 0 && len(b.flying) < most && len(b.queue) > 0 {
		if b.nextID++; b.nextID == 0 {
			b.nextID = 1
		}
		f := flight{b.nextID, b.queue[0]}
		b.queue, b.flying = b.queue[1:], append(b.flying, f)
		b.publish(b.conn, f, false)
	}
}

// connections returns how often the client has connected.
func (b *script) connections() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.connects
}

// kick closes the connection.
func (b *script) kick() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.conn != nil {
		b.conn.Close()
	}
}

// pass lets virtual time pass, and everything come to rest.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func inBubble(t *testing.T, f func(t *testing.T, b *script)) {
	synctest.Test(t, func(t *testing.T) {
		b := newScript(t)
		defer b.close()
		f(t, b)
	})
}

func TestAcknowledgementsKeepTheOrderOfReceiptWhateverTheGraphDoes(t *testing.T) {
	inBubble(t, func(t *testing.T, b *script) {
		const n = 2000
		for i := range n {
			b.queue = append(b.queue, strconv.Itoa(i))
		}
		s := newSource(t, b.config("in"), "a")
		held := newCollector()
		held.hold = true
		r := start(t, func(ctx context.Context) error { return s.Run(ctx, held.take) })
		given := 0
		for round := 0; ; round++ {
			pass(time.Second)
			synctest.Wait()
			all := held.all()
			part := all[given:]
			given = len(all)
			if len(part) > 100 {
				t.Fatalf("%d messages without an acknowledgement", len(part))
			}
			rand.Shuffle(len(part), func(i, k int) { part[i], part[k] = part[k], part[i] })
			if round%3 == 1 { // the connection goes while all of them are in the graph
				b.kick()
				pass(10 * time.Second)
				synctest.Wait()
			}
			for _, d := range part {
				d.From.Acked([]uint64{d.Ticket})
			}
			pass(time.Second)
			b.mu.Lock()
			done := len(b.queue) == 0 && len(b.flying) == 0
			b.mu.Unlock()
			if done {
				break
			}
			if round > 1000 {
				t.Fatal("it does not end")
			}
		}
		// The graph had all of them when the connections went, so none came twice.
		if got := held.all(); len(got) != n {
			t.Errorf("%d messages, not %d", len(got), n)
		} else {
			checkOrder(t, got, n)
		}
		if s.Status().Again == 0 {
			t.Error("the broker has sent nothing again")
		}
		r.stop()
	})
}

// Mosquitto 2.0 sends more than it may. The graph has no more than the receive maximum all the
// same, and gets each message once.
func TestABrokerThatSendsTooMuchWaits(t *testing.T) {
	inBubble(t, func(t *testing.T, b *script) {
		const n = 1000
		for i := range n {
			b.queue = append(b.queue, strconv.Itoa(i))
		}
		b.greedy = true
		c := b.config("in")
		c.MaxInflight = 10
		var said []string
		c.Log = func(warning bool, text string) {
			if said = append(said, text); warning {
				t.Errorf("a warning of what no person can change: %s", text)
			}
		}
		s := newSource(t, c, "a")
		held := newCollector()
		held.hold = true
		r := start(t, func(ctx context.Context) error { return s.Run(ctx, held.take) })
		given := 0
		for range n/c.MaxInflight + 5 {
			pass(time.Second)
			part := held.all()[given:]
			given += len(part)
			if len(part) > c.MaxInflight {
				t.Fatalf("the graph has %d messages without an acknowledgement", len(part))
			}
			for _, d := range part {
				d.From.Acked([]uint64{d.Ticket})
			}
		}
		checkOrder(t, held.all(), n)
		if x := s.Status(); x.Connects != 1 || x.Again != 0 || x.InFlight != 0 {
			t.Errorf("at the end %+v", x)
		}
		r.stop()
		if len(said) != 1 || !strings.Contains(said[0], "more than 10 messages without an acknowledgement") {
			t.Errorf("it says %q", said)
		}
	})
}

// TestAStoppedSourceLeavesWhenTheBrokerHasReadAll: the next connection would overtake what the broker
// has not read, and messages would come twice. What comes meanwhile is not handed in. A broker that
// does not hang up is not waited for.
func TestAStoppedSourceLeavesWhenTheBrokerHasReadAll(t *testing.T) {
	for _, c := range []struct {
		lag         time.Duration
		least, most time.Duration
		unread      int
	}{
		{5 * time.Millisecond, 100 * time.Millisecond, 900 * time.Millisecond, 0},
		{time.Minute, time.Second, 1100 * time.Millisecond, 100},
	} {
		inBubble(t, func(t *testing.T, b *script) {
			for i := range 200 {
				b.queue = append(b.queue, strconv.Itoa(i))
			}
			s := newSource(t, b.config("in"), "a")
			held := newCollector()
			held.hold = true
			r := start(t, func(ctx context.Context) error { return s.Run(ctx, held.take) })
			pass(time.Second)
			b.mu.Lock()
			b.lag = c.lag
			b.mu.Unlock()
			for _, d := range held.all() {
				d.From.Acked([]uint64{d.Ticket})
			}
			began := time.Now()
			r.stop()
			took, unread := time.Since(began), 0
			b.mu.Lock()
			for _, f := range b.flying {
				if n, _ := strconv.Atoi(f.body); n < 100 {
					unread++
				}
			}
			b.lag = 0
			b.mu.Unlock()
			if took < c.least || took > c.most || unread != c.unread {
				t.Errorf("a broker that takes %v for a packet: after %v it has not read %d acknowledgements", c.lag, took, unread)
			}
			if n := len(held.all()); n != 100 {
				t.Errorf("the graph was given %d messages", n)
			}
			pass(c.lag)
		})
	}
}

// The end of a source that waits for acknowledgements, as in TestABrokerThatSendsTooMuchWaits, is quick.
func TestASourceThatWaitsForAcknowledgementsEnds(t *testing.T) {
	inBubble(t, func(t *testing.T, b *script) {
		for i := range 50 {
			b.queue = append(b.queue, strconv.Itoa(i))
		}
		b.greedy = true
		c := b.config("in")
		c.MaxInflight = 10
		s := newSource(t, c, "a")
		held := newCollector()
		held.hold = true
		r := start(t, func(ctx context.Context) error { return s.Run(ctx, held.take) })
		pass(time.Second)
		if got := len(held.all()); got != c.MaxInflight {
			t.Errorf("the graph has %d messages", got)
		}
		r.stop()
		if got := len(held.all()); got != c.MaxInflight {
			t.Errorf("the graph was given %d messages at the end", got)
		}
	})
}

func TestARefusedEndpointTriesWithPatience(t *testing.T) {
	inBubble(t, func(t *testing.T, b *script) {
		b.refuse = byte(mqtt5.NotAuthorized)
		d := newDestination(t, b.config("out"))
		r := start(t, d.Run)
		pass(time.Hour)
		st := d.Status()
		if b.connects < 60 || b.connects > 140 {
			t.Errorf("%d attempts in an hour", b.connects)
		}
		if st.State != Refused || !strings.Contains(st.Text, "not authorized (0x87)") || !strings.Contains(st.Text, "credentials") {
			t.Errorf("%+v", st)
		}
		b.mu.Lock()
		b.refuse = 0
		b.mu.Unlock()
		pass(2 * time.Minute)
		if st := d.Status(); st.State != Connected || st.Text != "" {
			t.Errorf("%+v", st)
		}
		r.stop()
	})
}

// TestABrokerThatStartsLateIsFoundSoon: where nobody listens no pause grows to a minute.
func TestABrokerThatStartsLateIsFoundSoon(t *testing.T) {
	inBubble(t, func(t *testing.T, b *script) {
		for range 20 {
			c := b.config("in")
			c.Host = "late.test:1883"
			before := b.net.Dials(c.Host)
			s := newSource(t, c, "a")
			r := start(t, func(ctx context.Context) error { return s.Run(ctx, newCollector().take) })
			pass(10 * time.Minute)
			if n := b.net.Dials(c.Host) - before; n > 250 {
				t.Errorf("%d dials in ten minutes", n)
			}
			l, err := b.net.Listen("tcp", c.Host)
			if err != nil {
				t.Fatal(err)
			}
			go b.accept(l)
			pass(longestDial)
			if st := s.Status(); st.State != Connected {
				t.Errorf("%v after the broker's start: %+v", longestDial, st)
			}
			r.stop()
			l.Close()
		}
	})
}

func TestASilentNetworkIsNoticedAndNothingIsLost(t *testing.T) {
	inBubble(t, func(t *testing.T, b *script) {
		d := newDestination(t, b.config("out"))
		r := start(t, d.Run)
		done := newCompletions()
		for i := range 5 {
			ms, tickets := numbered("a", i*20, 20)
			if i > 0 {
				b.net.Cut(scriptAddress)
			}
			if _, err := d.Send(t.Context(), ms, done, tickets); err != nil {
				t.Fatal(err)
			}
			pass(90 * time.Second) // more than the keep alive and the wait for its answer
			if i > 0 && d.Status().State == Connected {
				t.Error("the silence was not noticed in 90 s")
			}
			b.net.Mend(scriptAddress)
			pass(2 * time.Minute)
			synctest.Wait()
		}
		if len(done.done) != 100 || d.Status().InFlight != 0 {
			t.Fatalf("%d completed, %+v", len(done.done), d.Status())
		}
		for i, body := range b.got {
			if body != strconv.Itoa(i) {
				t.Fatalf("message %d is %s", i, body)
			}
		}
		r.stop()
	})
}

func TestAnIdleSessionStaysOverADay(t *testing.T) {
	inBubble(t, func(t *testing.T, b *script) {
		s := newSource(t, b.config("in"), "a")
		r := start(t, func(ctx context.Context) error { return s.Run(ctx, newCollector().take) })
		pass(24 * time.Hour)
		if b.connects != 1 {
			t.Errorf("%d connections", b.connects)
		}
		r.stop()
	})
}

func TestALostSessionIsCountedAndSubscribedAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, b *script) {
		s := newSource(t, b.config("in"), "a", "$shared/g/b")
		got := newCollector()
		r := start(t, func(ctx context.Context) error { return s.Run(ctx, got.take) })
		pass(time.Second)
		if !b.filters["a"] || !b.filters["$share/g/b"] {
			t.Errorf("%v", b.filters)
		}
		b.mu.Lock()
		b.lose = true
		b.mu.Unlock()
		b.kick()
		pass(time.Minute)
		if st := s.Status(); st.Gaps != 1 || len(b.filters) != 2 {
			t.Errorf("%+v, %v", st, b.filters)
		}
		if err := s.SetFilters([]string{"a", "c"}); err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		if fmt.Sprint(b.filters) != "map[a:true c:true]" {
			t.Errorf("%v", b.filters)
		}
		r.stop()
	})
}

func TestALaterRunTakesBackTheFiltersThatItDoesNotWant(t *testing.T) {
	file := t.TempDir() + "/subscriptions"
	inBubble(t, func(t *testing.T, b *script) {
		for _, filters := range [][]string{{"a", "b"}, {"b", "c"}} {
			c := b.config("in")
			c.StateFile = file
			s := newSource(t, c, filters...)
			r := start(t, func(ctx context.Context) error { return s.Run(ctx, newCollector().take) })
			pass(time.Second)
			r.stop()
		}
		if fmt.Sprint(b.filters) != "map[b:true c:true]" {
			t.Errorf("%v", b.filters)
		}
	})
}

// TestAFilterEndsWhenTheNewOnesAreThere: a message that the old and the new filter take would be lost
// between an UNSUBSCRIBE and a SUBSCRIBE. The broker here gives no SUBACK at first, once to a change
// on the connection, and once to a run with other filters.
func TestAFilterEndsWhenTheNewOnesAreThere(t *testing.T) {
	file := t.TempDir() + "/subscriptions"
	inBubble(t, func(t *testing.T, b *script) {
		has := func(when, want string) {
			t.Helper()
			pass(time.Second)
			b.mu.Lock()
			defer b.mu.Unlock()
			if got := fmt.Sprint(b.filters); got != want {
				t.Errorf("%s the broker has %s, not %s", when, got, want)
			}
		}
		silent := func(mute bool) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.mute = mute
		}
		c := b.config("in")
		c.StateFile = file
		s := newSource(t, c, "x/#", "y")
		r := start(t, func(ctx context.Context) error { return s.Run(ctx, newCollector().take) })
		has("at first", "map[x/#:true y:true]")
		silent(true)
		if err := s.SetFilters([]string{"x/+", "y"}); err != nil {
			t.Fatal(err)
		}
		has("before its answer", "map[x/#:true x/+:true y:true]")
		silent(false)
		b.kick()
		pass(time.Minute)
		has("after its answer", "map[x/+:true y:true]")
		if err := s.SetFilters([]string{"x/#", "y"}); err != nil {
			t.Fatal(err)
		}
		has("after an answer at once", "map[x/#:true y:true]")
		r.stop()

		silent(true)
		s = newSource(t, c, "x/+")
		r = start(t, func(ctx context.Context) error { return s.Run(ctx, newCollector().take) })
		has("before its answer to the next run", "map[x/#:true x/+:true y:true]")
		silent(false)
		b.kick()
		pass(time.Minute)
		has("after its answer to the next run", "map[x/+:true]")
		r.stop()
	})
}

func TestAMessageThatTheBrokerRefusesForNowIsSentAgainInItsPlace(t *testing.T) {
	inBubble(t, func(t *testing.T, b *script) {
		refusals := 0
		b.puback = func(n int) byte {
			if n == 5 && refusals < 3 {
				refusals++
				return byte(mqtt5.QuotaExceeded)
			}
			return 0
		}
		c := b.config("out")
		c.MaxInflight = 1
		d := newDestination(t, c)
		r := start(t, d.Run)
		done := newCompletions()
		go func() {
			ms, tickets := numbered("a", 0, 10)
			_, _ = d.Send(t.Context(), ms, done, tickets)
		}()
		pass(10 * time.Minute)
		if fmt.Sprint(b.got) != "[0 1 2 3 4 5 6 7 8 9]" || len(done.done) != 10 {
			t.Errorf("%v, %d", b.got, len(done.done))
		}
		b.puback = func(int) byte { return byte(mqtt5.BadTopic) }
		ms, tickets := numbered("a", 10, 1)
		if _, err := d.Send(t.Context(), ms, done, tickets); err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		if err := done.errs[10]; err == nil || !strings.Contains(err.Error(), "topic name invalid (0x90)") {
			t.Errorf("a message at fault: %v", err)
		}
		r.stop()
	})
}

func TestAMessageThatEndsTheSessionByItsSizeIsFoundOut(t *testing.T) {
	inBubble(t, func(t *testing.T, b *script) {
		b.limit = 1000
		d := newDestination(t, b.config("out"))
		r := start(t, d.Run)
		done := newCompletions()
		ms, tickets := numbered("a", 0, 3)
		ms[1].Payload = make([]byte, 2000)
		if _, err := d.Send(t.Context(), ms, done, tickets); err != nil {
			t.Fatal(err)
		}
		pass(5 * time.Minute)
		if fmt.Sprint(b.got) != "[0 2]" || len(done.done) != 3 || b.connects > 3 {
			t.Errorf("%v %v, %d connections", b.got, done.errs, b.connects)
		}
		r.stop()
	})
}

func TestExpiryCountsTheTimeHere(t *testing.T) {
	inBubble(t, func(t *testing.T, b *script) {
		b.refuse = byte(mqtt5.Busy)
		d := newDestination(t, b.config("out"))
		r := start(t, d.Run)
		done := newCompletions()
		ms, tickets := numbered("a", 0, 2)
		ms[0].Expires, ms[1].Expires = time.Now().Add(time.Minute), time.Now().Add(time.Hour)
		if _, err := d.Send(t.Context(), ms, done, tickets); err != nil {
			t.Fatal(err)
		}
		pass(10 * time.Minute)
		b.mu.Lock()
		b.refuse = 0
		b.mu.Unlock()
		pass(2 * time.Minute)
		if fmt.Sprint(b.got) != "[1]" || len(done.done) != 2 || !errors.Is(errors.Join(done.errs...), node.ErrExpired) || d.Status().Dropped != 1 {
			t.Errorf("%v %v %+v", b.got, done.errs, d.Status())
		}
		r.stop()
	})
}

// TestWithheldAcknowledgementsEndTheSession: the broker answers pings, so the network is fine.
func TestWithheldAcknowledgementsEndTheSession(t *testing.T) {
	inBubble(t, func(t *testing.T, b *script) {
		b.mute = true
		c := b.config("out")
		var said string
		c.Log = func(_ bool, text string) { said += text + "\n" }
		d := newDestination(t, c)
		r := start(t, d.Run)
		done := newCompletions()
		ms, tickets := numbered("a", 0, 3)
		if _, err := d.Send(t.Context(), ms, done, tickets); err != nil {
			t.Fatal(err)
		}
		pass(mqtt5.AnswerLimit - time.Second)
		if b.connections() != 1 {
			t.Errorf("%d connections before the limit", b.connections())
		}
		pass(20 * time.Minute)
		if b.connections() < 5 || b.connections() > 20 || len(done.done) != 0 {
			t.Errorf("%d connections, %d completed", b.connections(), len(done.done))
		}
		b.mu.Lock()
		b.mute = false
		b.mu.Unlock()
		pass(3 * time.Minute)
		connects := b.connections()
		if fmt.Sprint(b.got) != "[0 1 2]" || len(done.done) != 3 || d.Status().State != Connected {
			t.Errorf("%v, %d completed, %+v", b.got, len(done.done), d.Status())
		}
		pass(24 * time.Hour)
		if b.connections() != connects {
			t.Errorf("%d connections more, with nothing owed", b.connections()-connects)
		}
		r.stop()
		if !strings.Contains(said, "withholds its acknowledgements: 3 in 1m0s; hubhop connects anew") {
			t.Errorf("said %q", said)
		}
	})
}

// TestASlowBrokerKeepsItsSession: each answer begins the wait for the next one anew.
func TestASlowBrokerKeepsItsSession(t *testing.T) {
	inBubble(t, func(t *testing.T, b *script) {
		b.puback = func(int) byte { time.Sleep(50 * time.Second); return 0 }
		c := b.config("out")
		c.KeepAlive = 0 // the broker answers no pings meanwhile
		d := newDestination(t, c)
		r := start(t, d.Run)
		done := newCompletions()
		ms, tickets := numbered("a", 0, 20)
		if _, err := d.Send(t.Context(), ms, done, tickets); err != nil {
			t.Fatal(err)
		}
		pass(20 * time.Minute)
		if b.connections() != 1 || len(done.done) != 20 {
			t.Errorf("%d connections, %d completed", b.connections(), len(done.done))
		}
		r.stop()
	})
}

// TestAFullGraphIsNoWithheldAnswer: what the broker has answered waits on this side.
func TestAFullGraphIsNoWithheldAnswer(t *testing.T) {
	inBubble(t, func(t *testing.T, b *script) {
		b.queue = []string{"0", "1", "2"}
		s := newSource(t, b.config("in"), "a")
		room, took := make(chan struct{}), 0
		r := start(t, func(ctx context.Context) error {
			return s.Run(ctx, func(d node.Delivery) bool {
				if took++; took == 1 {
					if err := s.SetFilters([]string{"a", "b"}); err != nil { // its answer is not read before there is room
						t.Error(err)
					}
				}
				select {
				case <-room:
				case <-ctx.Done():
					return false
				}
				s.Acked([]uint64{d.Ticket})
				return true
			})
		})
		pass(time.Hour)
		if b.connections() != 1 {
			t.Errorf("%d connections", b.connections())
		}
		close(room)
		pass(time.Second)
		if took != 3 || !s.subscribed() {
			t.Errorf("%d messages, subscribed: %v", took, s.subscribed())
		}
		b.mu.Lock()
		b.mute = true
		b.mu.Unlock()
		if err := s.SetFilters([]string{"a", "b", "c"}); err != nil {
			t.Fatal(err)
		}
		pass(2 * time.Minute)
		if b.connections() < 2 {
			t.Error("a SUBACK that is withheld is not noticed")
		}
		r.stop()
	})
}

// TestADestinationEndsSubscriptionsOfAnEarlierUse of its client id: what comes of them is not for
// it.
func TestADestinationEndsSubscriptionsOfAnEarlierUse(t *testing.T) {
	inBubble(t, func(t *testing.T, b *script) {
		b.session, b.filters["a"], b.queue = true, true, []string{"x", "y"}
		d := newDestination(t, b.config("out"))
		r := start(t, d.Run)
		done := newCompletions()
		ms, tickets := numbered("a", 0, 5)
		if _, err := d.Send(t.Context(), ms, done, tickets); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		b.kick()
		pass(time.Minute)
		r.stop()
		if got := fmt.Sprint(b.cleans); got != "[false true false]" || len(b.filters) != 0 {
			t.Errorf("clean starts %s, filters %v", got, b.filters)
		}
		if len(done.done) != 5 || errors.Join(done.errs...) != nil {
			t.Errorf("%d completed: %v", len(done.done), done.errs)
		}
	})
}

// TestAWindowOfOneIsKeptInBothDirections, whoever has set it.
func TestAWindowOfOneIsKeptInBothDirections(t *testing.T) {
	inBubble(t, func(t *testing.T, b *script) {
		one := uint16(1)
		b.grant.ReceiveMaximum = &one
		b.mute = true
		d := newDestination(t, b.config("out"))
		r := start(t, d.Run)
		done := newCompletions()
		ms, tickets := numbered("a", 0, 50)
		if _, err := d.Send(t.Context(), ms, done, tickets); err != nil {
			t.Fatal(err)
		}
		pass(10 * time.Second)
		b.mu.Lock()
		if fmt.Sprint(b.got) != "[0]" {
			t.Errorf("%v were sent without an acknowledgement, although one was allowed", b.got)
		}
		b.mute = false
		b.mu.Unlock()
		b.kick()
		pass(time.Minute)
		r.stop()
		if len(b.got) != 50 || len(done.done) != 50 {
			t.Errorf("%d came, %d completed", len(b.got), len(done.done))
		}
	})
	inBubble(t, func(t *testing.T, b *script) {
		for i := range 50 {
			b.queue = append(b.queue, strconv.Itoa(i))
		}
		c := b.config("in")
		c.MaxInflight = 1
		s := newSource(t, c, "a")
		got := newCollector()
		r := start(t, func(ctx context.Context) error { return s.Run(ctx, got.take) })
		pass(time.Minute)
		r.stop()
		checkOrder(t, got.all(), 50)
	})
}

// TestABrokerThatLiesAboutTheSessionLosesNothing: it says that it has kept a session, and has
// neither the subscriptions nor the messages in flight; or it says that it has not, and sends them
// again.
func TestABrokerThatLiesAboutTheSessionLosesNothing(t *testing.T) {
	for _, has := range []bool{true, false} {
		inBubble(t, func(t *testing.T, b *script) {
			for i := range 100 {
				b.queue = append(b.queue, strconv.Itoa(i))
			}
			s := newSource(t, b.config("in"), "a")
			got := newCollector()
			got.hold = true
			r := start(t, func(ctx context.Context) error { return s.Run(ctx, got.take) })
			for range 4 {
				pass(10 * time.Second)
				b.mu.Lock()
				if b.session = has; has { // the messages in flight are gone, and come as new ones
					for i, f := range b.flying {
						b.queue = append(b.queue[:i:i], append([]string{f.body}, b.queue[i:]...)...)
					}
					b.flying, b.filters = nil, map[string]bool{}
				}
				b.mu.Unlock()
				b.kick()
			}
			got.mu.Lock()
			got.hold = false
			got.mu.Unlock()
			for _, d := range got.all() {
				d.From.Acked([]uint64{d.Ticket})
			}
			pass(time.Minute)
			r.stop()
			have := map[string]bool{}
			for _, d := range got.all() {
				have[string(d.Message.Payload)] = true
			}
			if len(have) != 100 || len(b.flying) != 0 || len(b.queue) != 0 {
				t.Errorf("session kept: %v: %d of 100 messages, %d not acknowledged, %d waiting", has, len(have), len(b.flying), len(b.queue))
			}
		})
	}
}

// TestABrokerThatIsFasterThanTheGraphWaits: what comes is not held here.
func TestABrokerThatIsFasterThanTheGraphWaits(t *testing.T) {
	inBubble(t, func(t *testing.T, b *script) {
		c := b.config("in")
		c.KeepAlive = 0 // a PINGRESP would come into the middle of a message
		s := newSource(t, c, "a")
		room, got := make(chan struct{}), newCollector()
		r := start(t, func(ctx context.Context) error {
			return s.Run(ctx, func(d node.Delivery) bool {
				select {
				case <-room:
				case <-ctx.Done():
					return false
				}
				return got.take(d)
			})
		})
		pass(time.Second)
		const n = 5000
		var written atomic.Int64
		b.mu.Lock()
		conn := b.conn
		b.mu.Unlock()
		go func() {
			for i := range n {
				p := &packets.Publish{Topic: "a", Payload: append(strconv.AppendInt(nil, int64(i), 10), make([]byte, 2000)...), Properties: &packets.Properties{}}
				if size, err := p.WriteTo(conn); err == nil {
					written.Add(size)
				}
			}
		}()
		pass(time.Hour)
		if w := written.Load(); w > 2<<20 {
			t.Errorf("%d bytes were taken from the broker while the graph took nothing", w)
		}
		close(room)
		pass(time.Minute)
		r.stop()
		if all := got.all(); len(all) != n {
			t.Errorf("%d of %d messages came", len(all), n)
		}
	})
}

// TestTopicsOfTheGreatestLengthPass, and a longer one is a fault of its message.
func TestTopicsOfTheGreatestLengthPass(t *testing.T) {
	inBubble(t, func(t *testing.T, b *script) {
		d := newDestination(t, b.config("out"))
		r := start(t, d.Run)
		done := newCompletions()
		ms, tickets := numbered("a", 0, 2)
		ms[0].Topic, ms[1].Topic = strings.Repeat("t", 65535), strings.Repeat("t", 65536)
		if _, err := d.Send(t.Context(), ms, done, tickets); err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		r.stop()
		if fmt.Sprint(b.got) != "[0]" || len(done.errs) != 2 || errors.Join(done.errs...) == nil {
			t.Errorf("%v, %.300v", b.got, done.errs)
		}
	})
	inBubble(t, func(t *testing.T, b *script) {
		var p strings.Builder
		_, _ = (&packets.Publish{Topic: strings.Repeat("t", 65535), Payload: []byte("x"), QoS: 1, PacketID: 1, Properties: &packets.Properties{}}).WriteTo(&p)
		b.raw, b.rawID = []byte(p.String()), 1
		s := newSource(t, b.config("in"), "#")
		got := newCollector()
		r := start(t, func(ctx context.Context) error { return s.Run(ctx, got.take) })
		pass(time.Second)
		r.stop()
		if all := got.all(); len(all) != 1 || len(all[0].Message.Topic) != 65535 {
			t.Errorf("%d messages came", len(all))
		}
	})
}

// TestAKeepAliveOfTheBrokerDoesNotMakeThisSideBlind: a longer one than asked for binds nobody.
func TestAKeepAliveOfTheBrokerDoesNotMakeThisSideBlind(t *testing.T) {
	for _, seconds := range []uint16{0, 20, 65535} {
		inBubble(t, func(t *testing.T, b *script) {
			b.grant.ServerKeepAlive = &seconds
			s := newSource(t, b.config("in"), "a")
			r := start(t, func(ctx context.Context) error { return s.Run(ctx, newCollector().take) })
			pass(time.Minute)
			b.net.Cut(scriptAddress)
			pass(90 * time.Second)
			if s.Status().State == Connected {
				t.Errorf("with %d s of the broker the silence was not noticed in 90 s", seconds)
			}
			r.stop()
		})
	}
}

// TestRefusedFiltersAreToldOnceEach, although they are asked for again every minute.
func TestRefusedFiltersAreToldOnceEach(t *testing.T) {
	inBubble(t, func(t *testing.T, b *script) {
		c := b.config("in")
		var said []string
		c.Log = func(_ bool, text string) { said = append(said, text) }
		filters := []string{"a"}
		for i := range 20 {
			filters = append(filters, fmt.Sprintf("secret/%d", i))
		}
		s := newSource(t, c, filters...)
		r := start(t, func(ctx context.Context) error { return s.Run(ctx, newCollector().take) })
		pass(time.Hour)
		st := s.Status()
		r.stop()
		if len(said) != 20 || !strings.Contains(said[0], `the broker refuses the filter "secret/`) {
			t.Errorf("said %d: %.1000q", len(said), said)
		}
		if st.State != Refused || !strings.Contains(st.Text, "secret/0") || !strings.Contains(st.Text, "secret/19") || b.connections() != 1 {
			t.Errorf("%+v, %d connections", st, b.connections())
		}
	})
}

// TestRetainedMessagesBeforeASubackDoNotEndTheSession, however long they take.
func TestRetainedMessagesBeforeASubackDoNotEndTheSession(t *testing.T) {
	inBubble(t, func(t *testing.T, b *script) {
		b.mute = true
		s := newSource(t, b.config("in"), "a")
		got := newCollector()
		r := start(t, func(ctx context.Context) error { return s.Run(ctx, got.take) })
		for range 30 {
			pass(20 * time.Second)
			b.mu.Lock()
			b.send(b.conn, &packets.Publish{Topic: "a", Retain: true, Payload: []byte("x"), Properties: &packets.Properties{}})
			b.mu.Unlock()
		}
		if b.connections() != 1 {
			t.Errorf("%d connections", b.connections())
		}
		pass(2 * time.Minute)
		if b.connections() == 1 {
			t.Error("a SUBACK that is withheld is not noticed")
		}
		r.stop()
		if n := len(got.all()); n != 30 {
			t.Errorf("%d messages came", n)
		}
	})
}

// jwt is a token that ends at a time.
func jwt(end time.Time) string {
	return "e30." + base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"exp":%d}`, end.Unix())) + ".sig"
}

// TestTokensAreRenewedWithinTheSession: with tokens of an hour, as Kubernetes writes them, a day
// needs one connection. A broker that does not know the renewal gets the new token with the next
// connection.
func TestTokensAreRenewedWithinTheSession(t *testing.T) {
	for _, knows := range []bool{true, false} {
		t.Run(fmt.Sprint("the broker knows it: ", knows), func(t *testing.T) {
			inBubble(t, func(t *testing.T, b *script) {
				b.noRenew = !knows
				token, written := "", time.Time{}
				kubelet := func(context.Context) (string, error) { // writes a new token at 80 % of the old one's life
					if time.Since(written) >= 48*time.Minute {
						written = time.Now()
						token = jwt(written.Add(time.Hour))
					}
					return token, nil
				}
				c := b.config("in")
				c.Auth = Auth{Method: ServiceAccountToken, Token: kubelet}
				var said []string
				c.Log = func(_ bool, text string) { said = append(said, text) }
				s := newSource(t, c, "a")
				r := start(t, func(ctx context.Context) error { return s.Run(ctx, newCollector().take) })
				pass(24 * time.Hour)
				r.stop()
				if knows && (b.connections() != 1 || len(said) > 0) || !knows && (b.connections() < 20 || b.connections() > 30) {
					t.Errorf("%d connections; said %q", b.connections(), said)
				}
				if n := len(b.tokens); n < 24 || n > 30 || s.Status().Gaps != 0 {
					t.Errorf("%d tokens, %+v", n, s.Status())
				}
				if strings.Contains(strings.Join(said, " "), "not authorized") {
					t.Errorf("a token has ended: %q", said)
				}
			})
		})
	}
}

// TestATokenThatNobodyRenewsEndsTheSession, and the next one is asked for with patience.
func TestATokenThatNobodyRenewsEndsTheSession(t *testing.T) {
	inBubble(t, func(t *testing.T, b *script) {
		asked, end := 0, time.Now().Add(time.Hour)
		c := b.config("in")
		c.Auth = Auth{Method: ServiceAccountToken, Token: func(context.Context) (string, error) { asked++; return jwt(end), nil }}
		s := newSource(t, c, "a")
		r := start(t, func(ctx context.Context) error { return s.Run(ctx, newCollector().take) })
		pass(2 * time.Hour)
		if st := s.Status(); st.State != Refused || !strings.Contains(st.Text, "check the credentials (method ServiceAccountToken)") || asked > 120 {
			t.Errorf("%+v, asked %d times", st, asked)
		}
		r.stop()
	})
}

func TestTheEndOfATokenIsReadWhereThereIsOne(t *testing.T) {
	for token, want := range map[string]int64{
		jwt(time.Unix(1234567890, 0)): 1234567890, "": 0, "a.b": 0, "a.b.c": 0, "a.!.c": 0, "e30.e30.x": 0,
		"e30." + base64.RawURLEncoding.EncodeToString([]byte(`{"exp":1e300}`)) + ".x": 0,
		"e30." + base64.RawURLEncoding.EncodeToString([]byte(`{"exp":"1"}`)) + ".x":   0,
	} {
		end, ok := expiry(token)
		if ok != (want != 0) || ok && end.Unix() != want {
			t.Errorf("%q: %v, %v", token, end, ok)
		}
	}
}

// TestAHostileBrokerIsBounded sends what no broker may send: the connection ends with a reason, or
// the message is dropped with one, and the next one is tried.
func TestAHostileBrokerIsBounded(t *testing.T) {
	user := func(n int, key, value string) *packets.Properties {
		p := &packets.Properties{}
		for range n {
			p.User = append(p.User, packets.User{Key: key, Value: value})
		}
		return p
	}
	publish := func(topic, body string, p *packets.Properties) []byte {
		var b strings.Builder
		_, _ = (&packets.Publish{Topic: topic, Payload: []byte(body), QoS: 1, PacketID: 1, Properties: p}).WriteTo(&b)
		return []byte(b.String())
	}
	long := strings.Repeat("n", 65535)
	for _, c := range []struct {
		name    string
		raw     []byte
		dropped bool   // else the connection ends
		says    string // in the log
	}{
		{"10,000 user properties", publish("a", "x", user(10000, "k", "v")), true, "too many properties: 10000"},
		{"names of 64 KB", publish("a", "x", user(3, long, "v")), true, "name of a property is too long: 65535"},
		{"invalid UTF-8 in a topic", publish("a\xff", "x", user(0, "", "")), true, "topic is not valid text"},
		{"invalid UTF-8 in a property", publish("a", "x", user(1, "k", "\xff")), true, "not valid text"},
		{"a payload of more than 1 MB", publish("a", strings.Repeat("x", 1<<20+1), user(0, "", "")), true, "too large: 1048577"},
		{"a packet beyond the maximum", []byte{0x30, 0xff, 0xff, 0xff, 0x7f}, false, "bytes; at most"},
		{"a length that does not end", []byte{0x30, 0xff, 0xff, 0xff, 0xff, 0xff}, false, "length of a packet is not valid"},
		{"QoS 2", []byte{0x34, 6, 0, 1, 'a', 0, 1, 0}, false, "QoS 2"},
		{"a second CONNACK", []byte{0x20, 3, 0, 0, 0}, false, "second CONNACK"},
		{"a PUBREL", []byte{0x62, 2, 0, 1}, false, "malformed|unexpected|first byte"},
		{"an unknown alias", []byte{0x30, 6, 0, 0, 3, 0x23, 0, 9}, false, "topic alias 9, although none was allowed"},
		{"a SUBACK for nothing", []byte{0x90, 4, 9, 9, 0, 0}, false, "answers nothing"},
		{"a property twice", []byte{0x30, 9, 0, 1, 'a', 4, 1, 1, 1, 1}, false, "twice|malformed"},
		{"type 0", []byte{0, 0}, false, "unexpected packet of type 0"},
		{"an AUTH that nobody has asked for", []byte{0xf0, 0}, false, "an AUTH that answers nothing"},
		{"the topic alias 0", []byte{0x30, 8, 0, 1, 'a', 3, 0x23, 0, 0, 'x'}, false, "topic alias 0"},
		{"DISCONNECT with a reason", []byte{0xe0, 2, 0x8e, 0}, false, "session taken over (0x8e)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, b *script) {
				var mu sync.Mutex
				var said []string
				b.raw = c.raw
				config := b.config("in")
				config.Log = func(_ bool, text string) {
					mu.Lock()
					defer mu.Unlock()
					said = append(said, text)
				}
				s := newSource(t, config, "a")
				if c.dropped {
					b.rawID = 1
				}
				got := newCollector()
				r := start(t, func(ctx context.Context) error { return s.Run(ctx, got.take) })
				pass(4 * time.Minute)
				r.stop()
				mu.Lock()
				defer mu.Unlock()
				found := false
				for word := range strings.SplitSeq(c.says, "|") {
					found = found || strings.Contains(strings.Join(said, "\n"), word)
				}
				if !found {
					t.Errorf("the log does not say %q: %.2000q", c.says, said)
				}
				if c.dropped != (b.connects == 1) {
					t.Errorf("%d connections", b.connects)
				}
				if b.connects > 40 {
					t.Errorf("%d connections in four minutes", b.connects)
				}
			})
		})
	}
}

var _ node.Source = (*Source)(nil)
var _ node.Destination = (*Destination)(nil)

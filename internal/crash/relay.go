package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/hubhop-iot/hubhop/internal/mqtt5"
)

// relay stands between the broker and hubhop, and counts what the broker sends again. Only that may
// arrive again downstream. It also asks the broker for signs of life, which it answers behind the
// acknowledgements before: so the relay knows which of these the broker has read.
//
// With early it also acknowledges each message as soon as the broker sends it, and hubhop's own
// acknowledgements go nowhere. So hubhop is crippled: what it has in hand when it is killed is
// lost, and the verdict must say so.
type relay struct {
	stream
	l     net.Listener
	to    string // the broker
	early bool

	mu   sync.Mutex
	sent [2]sentTo // by graph
}

// sentTo is what a broker has sent to a graph.
type sentTo struct {
	seen, acked []bool // by number
	again       int64
	own         int64 // of those: what hubhop had acknowledged already

	// Of the connection that there is:
	inHand      map[uint16]uint64 // the numbers of messages that are not acknowledged, by packet id
	count, acks int64             // messages, and acknowledgements of hubhop
	read        int64             // acknowledgements that the broker has read
	pings       []int64           // of the pings that are not answered: the acknowledgements before; -1: hubhop asks
}

// The graphs, which have a client of the broker each.
const (
	mappedGraph = iota
	windowsGraph
)

var graphs = [...]string{mappedGraph: "mapped", windowsGraph: "windows"}

const pingEvery = 10 * time.Millisecond

// afterDeath is how long the broker does not notice that hubhop was killed, with early.
const afterDeath = 200 * time.Millisecond

func newRelay(ctx context.Context, s stream, broker string, early bool) (*relay, error) {
	var c net.ListenConfig
	l, err := c.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &relay{stream: s, l: l, to: broker, early: early}
	for i := range r.sent {
		r.sent[i].seen, r.sent[i].acked = make([]bool, s.last+1), make([]bool, s.last+1)
	}
	context.AfterFunc(ctx, func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return // the run is over
			}
			go r.serve(ctx, conn)
		}
	}()
	return r, nil
}

func (r *relay) address() string { return r.l.Addr().String() }

// again returns how many messages the broker has sent again to a graph, and how many of these
// hubhop had acknowledged before.
func (r *relay) again(graph int) (all, own int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sent[graph].again, r.sent[graph].own
}

// unread returns how many messages the broker has sent to a graph without having read an
// acknowledgement, for the graph with more of them.
func (r *relay) unread() (most int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.sent {
		most = max(most, r.sent[i].count-r.sent[i].read)
	}
	return most
}

// serve passes the packets of one connection on.
func (r *relay) serve(ctx context.Context, client net.Conn) {
	defer func() { _ = client.Close() }()
	var d net.Dialer
	broker, err := d.DialContext(ctx, "tcp", r.to)
	if err != nil {
		return // the broker is down
	}
	defer func() { _ = broker.Close() }()
	defer context.AfterFunc(ctx, func() { _ = client.Close(); _ = broker.Close() })()
	fromClient := bufio.NewReader(client)
	connect, _, err := readPacket(fromClient)
	if err != nil {
		return
	}
	// The client id names the graph. Somebody else is not let through, so that a run cannot count
	// for one graph what is of another.
	graph := slices.IndexFunc(graphs[:], func(name string) bool { return bytes.Contains(connect, []byte("."+name+".")) })
	if graph < 0 {
		return
	}
	var mu sync.Mutex
	toBroker := func(p []byte) bool {
		mu.Lock()
		defer mu.Unlock()
		r.passed(graph, p)
		_, err := broker.Write(p)
		return err == nil
	}
	r.begin(graph)
	defer r.begin(graph) // nothing is in hand
	if !toBroker(connect) {
		return
	}
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		tick := time.NewTicker(pingEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-ended:
				return
			}
			mu.Lock()
			if r.asks(graph) {
				_, _ = broker.Write(ping) // the other direction notices a broker that is gone
			}
			mu.Unlock()
		}
	}()
	go func() {
		for {
			p, _, err := readPacket(fromClient)
			if err != nil {
				if !r.early {
					_ = broker.Close() // hubhop is gone
				}
				return
			}
			if (!r.early || mqtt5.Kind(p[0]>>4) != mqtt5.Puback) && !toBroker(p) {
				return
			}
		}
	}()
	var gone time.Time // of hubhop; what the broker still sends is acknowledged all the same, with early
	for in := bufio.NewReader(broker); ; {
		p, head, err := readPacket(in)
		if err != nil {
			return
		}
		if id, payload, ok := publishOf(p, head); ok {
			r.came(graph, id, payload)
			if r.early && !toBroker(mqtt5.AppendPuback(nil, id)) {
				return
			}
		}
		if mqtt5.Kind(p[0]>>4) == mqtt5.Pingresp && r.answered(graph) {
			continue
		}
		if _, err := client.Write(p); err != nil && gone.IsZero() {
			if !r.early {
				return
			}
			gone = time.Now()
			_ = broker.SetReadDeadline(gone.Add(afterDeath))
		}
	}
}

// ping is a PINGREQ (MQTT 5 section 3.12).
var ping = []byte{byte(mqtt5.Pingreq) << 4, 0}

// begin begins a connection of a graph.
func (r *relay) begin(graph int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := &r.sent[graph]
	s.inHand, s.count, s.acks, s.read, s.pings = map[uint16]uint64{}, 0, 0, 0, nil
}

// came notes a message that the broker has sent to a graph.
func (r *relay) came(graph int, id uint16, payload []byte) {
	var body struct {
		G uint64 `json:"g"`
	}
	if json.Unmarshal(payload, &body) != nil {
		return // it is not of the stream
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s := &r.sent[graph]
	s.count++
	s.inHand[id] = body.G
	if body.G > r.last {
		return // it only closes the last window
	}
	if s.seen[body.G] {
		s.again++
		if s.acked[body.G] {
			s.own++
		}
	}
	s.seen[body.G] = true
}

// passed notes a packet that goes to the broker.
func (r *relay) passed(graph int, p []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := &r.sent[graph]
	switch mqtt5.Kind(p[0] >> 4) {
	case mqtt5.Pingreq:
		s.pings = append(s.pings, -1)
	case mqtt5.Puback:
		id := binary.BigEndian.Uint16(p[2:]) // an acknowledgement is short, so its length has one byte
		if g, ok := s.inHand[id]; ok {
			s.acks++
			delete(s.inHand, id)
			if g <= r.last {
				s.acked[g] = true
			}
		}
	default: // it says nothing of messages
	}
}

// asks says whether the relay asks the broker for a sign of life, because something has been
// acknowledged since the last one.
func (r *relay) asks(graph int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := &r.sent[graph]
	if len(s.pings) > 0 || s.acks == s.read {
		return false
	}
	s.pings = append(s.pings, s.acks)
	return true
}

// answered notes a sign of life. It says whether the relay has asked for it.
func (r *relay) answered(graph int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := &r.sent[graph]
	if len(s.pings) == 0 {
		return false
	}
	acks := s.pings[0]
	s.pings = s.pings[1:]
	if acks < 0 {
		return false
	}
	s.read = acks
	return true
}

// readPacket reads a whole packet. head is how many bytes come before what its length counts (MQTT
// 5 section 2.1).
func readPacket(in *bufio.Reader) (p []byte, head int, err error) {
	kind, err := in.ReadByte()
	if err != nil {
		return nil, 0, err
	}
	n, err := binary.ReadUvarint(in)
	if err != nil {
		return nil, 0, err
	}
	p = binary.AppendUvarint([]byte{kind}, n)
	head = len(p)
	p = append(p, make([]byte, n)...)
	_, err = io.ReadFull(in, p[head:])
	return p, head, err
}

// publishOf returns the packet id and the payload of a PUBLISH with QoS 1 (MQTT 5 section 3.3.2).
func publishOf(p []byte, head int) (id uint16, payload []byte, ok bool) {
	if mqtt5.Kind(p[0]>>4) != mqtt5.Publish || p[0]&6 == 0 || len(p) < head+2 {
		return 0, nil, false
	}
	at := head + 2 + int(binary.BigEndian.Uint16(p[head:]))
	if len(p) < at+2 {
		return 0, nil, false
	}
	id, rest := binary.BigEndian.Uint16(p[at:]), p[at+2:]
	properties, n := binary.Uvarint(rest)
	if n <= 0 || uint64(len(rest)-n) < properties {
		return 0, nil, false
	}
	return id, rest[n+int(properties):], true
}

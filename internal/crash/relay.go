package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"io"
	"net"
	"sync"
	"time"

	"github.com/hubhop-iot/hubhop/internal/mqtt5"
)

// relay stands between the broker and hubhop, and counts what the broker sends again. Only that may
// arrive again downstream.
//
// With early it also acknowledges each message as soon as the broker sends it, and hubhop's own
// acknowledgements go nowhere. So hubhop is crippled: what it has in hand when it is killed is lost,
// and the verdict must say so.
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
	seen  []bool // by number
	again int64
}

// The graphs, which have a client of the broker each.
const (
	mappedGraph = iota
	windowsGraph
)

var graphs = [...]string{mappedGraph: "mapped", windowsGraph: "windows"}

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
		r.sent[i].seen = make([]bool, s.last+1)
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

// again returns how many messages the broker has sent again to each graph.
func (r *relay) again() (mapped, windows int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sent[mappedGraph].again, r.sent[windowsGraph].again
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
	graph := mappedGraph
	if bytes.Contains(connect, []byte("hubhop-"+graphs[windowsGraph]+"-")) {
		graph = windowsGraph
	}
	var mu sync.Mutex
	toBroker := func(b []byte) bool {
		mu.Lock()
		defer mu.Unlock()
		_, err := broker.Write(b)
		return err == nil
	}
	if !toBroker(connect) {
		return
	}
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
			r.count(graph, payload)
			if r.early && !toBroker(mqtt5.AppendPuback(nil, id)) {
				return
			}
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

// count notes a message that the broker has sent to a graph.
func (r *relay) count(graph int, payload []byte) {
	var body struct {
		G uint64 `json:"g"`
	}
	if json.Unmarshal(payload, &body) != nil || body.G > r.last {
		return // it is not of the stream, or only closes the last window
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s := &r.sent[graph]
	if s.seen[body.G] {
		s.again++
	}
	s.seen[body.G] = true
}

// readPacket reads a whole packet. head is how many bytes come before what its length counts (MQTT 5
// section 2.1).
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

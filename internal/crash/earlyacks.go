package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"time"

	"github.com/hubhop-iot/hubhop/internal/mqtt5"
)

// earlyAcks stands between the broker and hubhop, and acknowledges each message as soon as the
// broker sends it. Hubhop's own acknowledgements go nowhere. So hubhop is crippled: what it has in
// hand when it is killed is lost, and the verdict must say so.
type earlyAcks struct {
	l  net.Listener
	to string
}

// afterDeath is how long the broker does not notice that hubhop was killed.
const afterDeath = 200 * time.Millisecond

func newEarlyAcks(ctx context.Context, broker string) (*earlyAcks, error) {
	var c net.ListenConfig
	l, err := c.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	e := &earlyAcks{l: l, to: broker}
	context.AfterFunc(ctx, func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return // the run is over
			}
			go e.serve(ctx, conn)
		}
	}()
	return e, nil
}

func (e *earlyAcks) address() string { return e.l.Addr().String() }

// serve passes the packets of one connection on.
func (e *earlyAcks) serve(ctx context.Context, client net.Conn) {
	defer func() { _ = client.Close() }()
	var d net.Dialer
	broker, err := d.DialContext(ctx, "tcp", e.to)
	if err != nil {
		return // the broker is down
	}
	defer func() { _ = broker.Close() }()
	defer context.AfterFunc(ctx, func() { _ = client.Close(); _ = broker.Close() })()
	var mu sync.Mutex
	toBroker := func(b []byte) bool {
		mu.Lock()
		defer mu.Unlock()
		_, err := broker.Write(b)
		return err == nil
	}
	go func() {
		for in := bufio.NewReader(client); ; {
			p, _, err := readPacket(in)
			if err != nil || mqtt5.Kind(p[0]>>4) != mqtt5.Puback && !toBroker(p) {
				return
			}
		}
	}()
	var gone time.Time // of hubhop; what the broker still sends is acknowledged all the same
	for in := bufio.NewReader(broker); ; {
		p, head, err := readPacket(in)
		if err != nil {
			return
		}
		if id, ok := idOf(p, head); ok && !toBroker(mqtt5.AppendPuback(nil, id)) {
			return
		}
		if _, err := client.Write(p); err != nil && gone.IsZero() {
			gone = time.Now()
			_ = broker.SetReadDeadline(gone.Add(afterDeath))
		}
	}
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

// idOf returns the packet id of a PUBLISH with QoS 1 (MQTT 5 section 3.3.2).
func idOf(p []byte, head int) (id uint16, ok bool) {
	if mqtt5.Kind(p[0]>>4) != mqtt5.Publish || p[0]&6 == 0 || len(p) < head+2 {
		return 0, false
	}
	at := head + 2 + int(binary.BigEndian.Uint16(p[head:]))
	if len(p) < at+2 {
		return 0, false
	}
	return binary.BigEndian.Uint16(p[at:]), true
}

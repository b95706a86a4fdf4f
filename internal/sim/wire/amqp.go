package wire

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"time"

	"github.com/rs/zerolog"
)

// This file has as much of AMQP 1.0 as is needed to refuse its clients with a reason. A client
// whose connection is only closed cannot tell why; it prints the condition of a proper close. The
// numbers are those of the OASIS standard, parts 1, 2 and 5.

// AMQPPort is the port of AMQP over TLS.
const AMQPPort = 5671

const (
	// amqpWebSocket is the subprotocol in which Azure's clients speak AMQP over WebSocket.
	amqpWebSocket = "AMQPWSB10"
	amqpCondition = "amqp:not-implemented"
	amqpSorry     = "This is a simulator of IoT Hub and DPS; it speaks MQTT and HTTPS, and no AMQP. Choose MQTT (port 8883), " +
		"or MQTT over WebSocket, as the transport of the SDK."
	amqpTimeout    = 30 * time.Second // for the whole conversation
	amqpFrameLimit = 64 << 10
)

const (
	amqpFrame = 0 // type of a frame, and of the protocol in the first 8 bytes of a layer
	saslFrame = 1
	saslLayer = 3
)

func amqpLayer(id byte) []byte { return []byte{'A', 'M', 'Q', 'P', id, 1, 0, 0} }

// appendAMQPFrame writes a frame with a performative: a described list.
func appendAMQPFrame(b []byte, kind, code byte, fields ...[]byte) []byte {
	body := amqpDescribed(code, fields...)
	b = binary.BigEndian.AppendUint32(b, uint32(8+len(body)))
	return append(append(b, 2, kind, 0, 0), body...)
}

func amqpDescribed(code byte, fields ...[]byte) []byte {
	var list []byte
	for _, f := range fields {
		list = append(list, f...)
	}
	b := append([]byte{0x00, 0x53, code}, 0xd0) // list32
	b = binary.BigEndian.AppendUint32(b, uint32(4+len(list)))
	b = binary.BigEndian.AppendUint32(b, uint32(len(fields)))
	return append(b, list...)
}

// amqpText is a string (0xa1) or a symbol (0xa3) of at most 255 bytes.
func amqpText(constructor byte, s string) []byte {
	return append([]byte{constructor, byte(len(s))}, s...)
}

func amqpSymbols(symbols ...string) []byte {
	elements := []byte{byte(len(symbols)), 0xa3}
	for _, s := range symbols {
		elements = append(append(elements, byte(len(s))), s...)
	}
	return append([]byte{0xe0, byte(len(elements))}, elements...)
}

var errNoAMQP = errors.New("not AMQP 1.0")

// refuseAMQP answers the client's opening until the client can receive an error, and sends the
// error.
func refuseAMQP(client io.ReadWriter) error {
	header := make([]byte, 8)
	next := func() (layer byte, err error) {
		_, err = io.ReadFull(client, header)
		if err == nil && string(header[:4]) != "AMQP" {
			err = errNoAMQP
		}
		return header[4], err
	}
	layer, err := next()
	if err != nil {
		return err
	}
	if layer == saslLayer {
		hello := appendAMQPFrame(amqpLayer(saslLayer), saslFrame, 0x40, amqpSymbols("ANONYMOUS", "PLAIN", "EXTERNAL", "MSSBCBS"))
		if _, err := client.Write(hello); err != nil {
			return err
		}
		if err := skipAMQPFrame(client); err != nil { // sasl-init; any client may go on
			return err
		}
		if _, err := client.Write(appendAMQPFrame(nil, saslFrame, 0x44, []byte{0x50, 0})); err != nil { // outcome: ok
			return err
		}
		if layer, err = next(); err != nil {
			return err
		}
	}
	if layer != amqpFrame { // TLS within TLS
		_, err := client.Write(amqpLayer(amqpFrame))
		return errors.Join(err, errNoAMQP)
	}
	last := appendAMQPFrame(amqpLayer(amqpFrame), amqpFrame, 0x10, amqpText(0xa1, "hubhop sim"))
	last = appendAMQPFrame(last, amqpFrame, 0x18, amqpDescribed(0x1d, amqpText(0xa3, amqpCondition), amqpText(0xa1, amqpSorry)))
	if _, err := client.Write(last); err != nil {
		return err
	}
	_, _ = io.CopyN(io.Discard, client, amqpFrameLimit) // reads the client's reply, because closing earlier could reset the answer away
	return nil
}

func skipAMQPFrame(r io.Reader) error {
	size := make([]byte, 4)
	if _, err := io.ReadFull(r, size); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(size)
	if n < 8 || n > amqpFrameLimit {
		return errNoAMQP
	}
	_, err := io.CopyN(io.Discard, r, int64(n)-4)
	return err
}

// AMQPDesk refuses the AMQP clients of a hub or of DPS.
type AMQPDesk struct {
	Hub  string // its name in the log
	Log  zerolog.Logger
	Told *Novelty
}

// serve handles one connection to the port of AMQP.
func (a *AMQPDesk) serve(c *Conn, config *tls.Config) {
	secure := tls.Server(c, config)
	a.speak(c, secure, secure)
}

// speak handles one connection over TLS, or over WebSocket.
func (a *AMQPDesk) speak(c *Conn, _ *tls.Conn, via Carrier) {
	_ = c.SetDeadline(time.Now().Add(amqpTimeout))
	err := refuseAMQP(via)
	level := zerolog.DebugLevel
	if a.Told.IsNew(a.Hub + " amqp") {
		level = zerolog.InfoLevel
	}
	a.Log.WithLevel(level).Str("hub", a.Hub).Str("kind", "refuse").AnErr("error", err).Msg("a client of AMQP is refused: there is MQTT and HTTPS here, choose MQTT as its transport")
	_ = via.CloseWrite()
	c.sayGoodbye()
	_ = c.Close()
}

// Listen lets the desk have an address of its own, which is bound and not served yet.
func (a *AMQPDesk) Listen(listen func(network, addr string) (net.Listener, error), addr string, config *tls.Config) (*Endpoint, error) {
	e := &Endpoint{Listen: listen, Serve: func(c *Conn) { a.serve(c, config) }}
	return e, e.Bind(addr)
}

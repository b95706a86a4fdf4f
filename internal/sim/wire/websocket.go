package wire

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// webSocketPath is where DPS and hubs speak MQTT over WebSocket, on the port of HTTPS.
const webSocketPath = "/$iothub/websocket"

// upgrader accepts any Origin, because a device proves who it is in its CONNECT, as on TCP. The
// Azure CLI sends its own address as Origin.
var upgrader = websocket.Upgrader{
	ReadBufferSize: smallBuffer, WriteBufferSize: smallBuffer, WriteBufferPool: &sync.Pool{},
	CheckOrigin: func(*http.Request) bool { return true },
	Error: func(w http.ResponseWriter, _ *http.Request, status int, reason error) {
		http.Error(w, reason.Error(), status)
	},
}

// HandleWebSocket lets mux accept WebSocket connections. It hands each to speak, which returns at
// the end of the connection. It hands those that offer AMQP to the desk that refuses them.
func HandleWebSocket(mux *http.ServeMux, amqp *AMQPDesk, speak func(c *Conn, secure *tls.Conn, via Carrier)) {
	mux.HandleFunc("GET "+webSocketPath, func(w http.ResponseWriter, r *http.Request) {
		protocol, speak := "", speak
		for _, offered := range websocket.Subprotocols(r) {
			if strings.EqualFold(offered, "mqtt") { // the C SDK writes it in capitals
				protocol = offered
				break
			}
			if strings.EqualFold(offered, amqpWebSocket) {
				protocol = offered
			}
		}
		if strings.EqualFold(protocol, amqpWebSocket) {
			speak = amqp.speak
		}
		if protocol == "" && websocket.IsWebSocketUpgrade(r) {
			http.Error(w, "Sec-WebSocket-Protocol must offer mqtt; there is no other protocol here", http.StatusBadRequest)
			return
		}
		ws, err := upgrader.Upgrade(w, r, http.Header{"Sec-WebSocket-Protocol": {protocol}})
		if err != nil {
			return // it has said so
		}
		secure, _ := ws.NetConn().(*tls.Conn)
		below, ok := secure.NetConn().(*signalConn)
		if !ok {
			_ = ws.Close()
			return
		}
		via := &webStream{ws: ws}
		ws.SetPingHandler(via.pong)
		below.upgraded <- func() { speak(below.Conn, secure, via) }
	})
}

// webStream is the stream of bytes in the binary messages of a WebSocket. Packets and messages need
// not begin or end together.
type webStream struct {
	ws      *websocket.Conn
	message io.Reader // what is left of the message that is being read
}

func (s *webStream) Read(p []byte) (int, error) {
	for {
		if s.message == nil {
			kind, message, err := s.ws.NextReader()
			if err != nil {
				return 0, plainError(err)
			}
			if kind != websocket.BinaryMessage {
				return 0, fmt.Errorf("%w: MQTT in a text frame", ErrMalformed)
			}
			s.message = message
		}
		n, err := s.message.Read(p)
		if errors.Is(err, io.EOF) {
			s.message, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, plainError(err)
		}
	}
}

// plainError says in the words of package net what gorilla has wrapped.
func plainError(err error) error {
	if _, closed := errors.AsType[*websocket.CloseError](err); closed {
		return io.EOF
	}
	if n, ok := errors.AsType[net.Error](err); ok && n.Timeout() {
		return os.ErrDeadlineExceeded
	}
	return err
}

func (s *webStream) Write(p []byte) (int, error) {
	if err := s.ws.WriteMessage(websocket.BinaryMessage, p); err != nil {
		return 0, plainError(err)
	}
	return len(p), nil
}

func (s *webStream) SetWriteDeadline(t time.Time) error { return s.ws.SetWriteDeadline(t) }

func (s *webStream) pong(data string) error {
	return s.ws.WriteControl(websocket.PongMessage, []byte(data), time.Now().Add(WriteTimeout))
}

// CloseWrite says goodbye on both layers, as far as the client has not done so first.
func (s *webStream) CloseWrite() error {
	bye := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
	_ = s.ws.WriteControl(websocket.CloseMessage, bye, time.Now().Add(lingerTimeout))
	if secure, ok := s.ws.NetConn().(*tls.Conn); ok {
		return secure.CloseWrite()
	}
	return nil
}

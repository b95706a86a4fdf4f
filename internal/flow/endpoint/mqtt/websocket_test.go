package mqtt

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/hubhop-iot/hubhop/internal/flow/endpoint/endtest"
)

// TestAHostileWebSocketIsBounded: what no broker may send ends the connection with a reason, and
// packets need not match the messages of the WebSocket (MQTT 5 section 6).
func TestAHostileWebSocketIsBounded(t *testing.T) {
	connack := []byte{0x20, 3, 0, 0, 0}
	for _, c := range []struct {
		name   string
		answer func(ws *websocket.Conn) error // to a CONNECT
		says   string                         // in the log; empty: the source is connected
	}{
		{"a message of text", func(ws *websocket.Conn) error { return ws.WriteMessage(websocket.TextMessage, connack) }, "a WebSocket message of text"},
		{"a message beyond the maximum", func(ws *websocket.Conn) error {
			_ = ws.WriteMessage(websocket.BinaryMessage, connack)
			return ws.WriteMessage(websocket.BinaryMessage, make([]byte, 8<<20))
		}, "unexpected packet of type 0|read limit exceeded"},
		{"a normal close", func(ws *websocket.Conn) error {
			return ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, "bye"), time.Time{})
		}, "has ended the connection before its answer"},
		{"a message for each byte, and empty ones", func(ws *websocket.Conn) error {
			for _, b := range connack {
				if err := ws.WriteMessage(websocket.BinaryMessage, []byte{b}); err != nil {
					return err
				}
				if err := ws.WriteMessage(websocket.BinaryMessage, nil); err != nil {
					return err
				}
			}
			return ws.WriteControl(websocket.PingMessage, []byte("x"), time.Now().Add(time.Second))
		}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				ws, err := (&websocket.Upgrader{Subprotocols: []string{"mqtt"}}).Upgrade(w, r, nil)
				if err != nil {
					return
				}
				defer func() { _ = ws.Close() }()
				if _, _, err := ws.ReadMessage(); err != nil {
					return
				}
				_ = c.answer(ws)
				for err == nil { // until the source has gone
					_, _, err = ws.ReadMessage()
				}
			}))
			defer server.Close()
			config := Defaults()
			config.Name, config.Host, config.ClientID, config.WebSocket = "ws", strings.TrimPrefix(server.URL, "http://")+"/mqtt", "c", true
			var mu sync.Mutex
			said := ""
			config.Log = func(_ bool, text string) {
				mu.Lock()
				defer mu.Unlock()
				said += text + "\n"
			}
			s := newSource(t, config, "a")
			r := start(t, func(ctx context.Context) error { return s.Run(ctx, newCollector().take) })
			defer r.stop()
			if c.says == "" {
				endtest.Until(t, "the connection", func() bool { return s.Status().State == Connected })
				return
			}
			endtest.Until(t, "the reason "+c.says, func() bool {
				mu.Lock()
				defer mu.Unlock()
				for word := range strings.SplitSeq(c.says, "|") {
					if strings.Contains(said, word) {
						return true
					}
				}
				return false
			})
		})
	}
}

// Package wire has the server's side of the network: sockets with faults below TLS, MQTT 3.1.1 on
// them, the same over WebSocket, and HTTP. It knows no service: what a packet means is its user's
// business.
//
//   - endpoint.go: one listening address, its sockets, and the faults that hit them below TLS
//   - kernel_linux.go, kernel_other.go: what such faults need of the operating system
//   - mqtt.go: one MQTT connection with its bounded output, delays and end
//   - codec.go: the packets of MQTT 3.1.1
//   - websocket.go: the stream of an MQTT connection in a WebSocket
//   - http.go: net/http on the sockets of an endpoint
//   - tunnel.go: connections that come through a CONNECT proxy
//   - amqp.go: as much AMQP as it takes to refuse a client with a reason
//   - telling.go: bounds what clients can write into the log
//
// # Locks
//
// The mutex of an [Endpoint] guards its listener and its set of connections; the mutex of a [Conn]
// guards deadlines and its end, and may be taken while the endpoint's is held. The mutex of an
// [MQTT] guards its output and is always the last. OnOver and OnHangUp are called without any of
// them.
package wire

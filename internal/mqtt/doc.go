// Package mqtt is MQTT 3.1.1 on the wire for everybody on our side. It knows nothing of Azure:
// which topics and names there are, and what a message means, is the business of its callers.
//
// [Endpoint] dials a server over TLS and lets it prove its name. A [Session] is one session on such
// a connection: it subscribes, publishes with QoS 0 and 1, and hands inbound messages to its
// [Handler], which acknowledges them by hand. It notices by itself that the server is gone. It
// never reconnects and never retries: what a [Past] keeps lets the next session send unacknowledged
// messages as MQTT wants it. A [Batch] of messages is written in the goroutine that sends it, as
// far as the socket takes it; so a session has one goroutine, its reader, and when it is idle it
// keeps no buffers but those that a read needs.
//
// A caller that wants less uses the parts: [Reader] reads the server's packets and bounds them,
// [Connect], [Message] and the Append functions make this side's.
//
// # Where MQTT 5 fits
//
// The codec below knows 3.1.1 only. For version 5, [Connect] and [Message] get properties behind
// their variable headers, and [Packet] gets those that a server sends. [RefusalError], the codes of
// a SUBACK, and a PUBACK with a reason code above 0x7f, which completes its message with an error,
// have room for reason codes. The session expiry stands beside [Connect].CleanStart. The receive
// maximum of a server's CONNACK bounds the window of a session, which so far is a proposal; the
// receive maximum of this side is what bounds the receipts that a handler may owe. A DISCONNECT of
// the server is a reason of an end, like a refusal. Nothing else in a session depends on the
// version.
package mqtt

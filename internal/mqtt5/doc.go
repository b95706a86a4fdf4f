// Package mqtt5 is the client side of MQTT 5 on the wire, with QoS 0 and 1. It knows nothing of
// data flows: which topics there are, what a message means, and when a session is opened again is
// the business of its callers.
//
// [Open] opens a session on a connection of any kind. [Session.Serve] reads it in the goroutine of
// its caller, and hands in each packet. [Session.Send] queues packets; all that is queued while a
// write is under way leaves in the next one. So a session has one goroutine of its own, its writer.
// It notices by itself that the server is gone. It never reconnects, and it keeps no messages.
//
// A caller that wants less uses the parts: [Reader] reads the server's packets and bounds them, the
// Append functions make this side's. They are apart from package mqtt, the session of version
// 3.1.1, because only their framing is alike. That session is built around the opening of a hub's
// link, and each difference would be a branch on its hot paths.
package mqtt5

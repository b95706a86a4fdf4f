// Package hub is one connection to one Azure IoT Hub, in IoT Hub's words on internal/mqtt.
//
// [Dialer.Dial] opens TCP, TLS and an MQTT session and returns a [Link], or an [*Error] that says
// how far it came. A link carries everything a device does: telemetry ([Link.Send]; each message is
// completed on its PUBACK), the twin ([Link.Twin], [Link.Report]), and what comes from the cloud,
// which [Link.Serve] hands to a [Handler]. A link notices by itself that the hub is gone.
// [Link.Done] is closed then, and [Link.Err] returns the first reason.
//
// A link never reconnects and never retries. What follows its end is decided elsewhere (package
// failover).
//
//   - dial.go: the way to a link; options.go: how long it may be idle, and its token; sas.go,
//     connection_string.go: what a device proves itself with; errors.go: why there is none
//   - link.go: the link and its end
//   - send.go: telemetry; properties.go: the properties of a message, which are the end of its
//     topic; topics.go: all other topics, and what arrives on them
//   - inbox.go: what waits for the handler, and its bounds; queue.go: a bounded queue
//   - twin.go: requests about the twin
//   - trace.go, traffic.go: what others may watch
package hub

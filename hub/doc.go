// Package hub is one connection to one Azure IoT Hub, in IoT Hub's words on internal/mqtt.
//
// [Dialer.Dial] opens TCP, TLS and an MQTT session and returns a [Link], or an [*Error] that says
// how far it came. A link carries everything a device does: telemetry ([Link.Send]; each message is
// completed on its PUBACK), the twin ([Link.Twin], [Link.Report]), and what comes from the cloud,
// which [Link.Serve] hands to a [Handler]. A link notices by itself that the hub is gone.
// [Link.Done] is closed then, and [Link.Err] returns the first reason.
//
// A link never reconnects and never retries. What follows its end is decided elsewhere.
package hub

// Package hub is one connection to one Azure IoT Hub.
//
// [Dialer.Dial] opens TCP, TLS and an MQTT 3.1.1 session and returns a [Link], or an [*Error] that
// says how far it came. A link carries everything a device does: telemetry ([Link.Publish], with a
// completion per PUBACK), the twin ([Link.Twin], [Link.Report]), and what comes from the cloud
// ([Link.Receive]: desired properties, direct methods, cloud-to-device messages). It notices by
// itself that the peer is gone ([Link.Done], [Link.Err]) and never calls its owner: errors are
// pulled, not pushed.
//
// The link never reconnects and never retries. One failed link is the end of that link; what comes
// next is decided elsewhere.
package hub

package hub

import (
	"github.com/hubhop-iot/hubhop/internal/mqtt"
)

// Packet describes one MQTT packet for [Dialer].Trace. It contains no token.
type Packet struct {
	Host string
	mqtt.Traced
}

package hub

import (
	"net"

	"github.com/hubhop-iot/hubhop/internal/mqtt"
)

// Packet describes one MQTT packet for [Dialer].Trace. It contains no token.
type Packet struct {
	Host string
	mqtt.Traced
}

// Peer returns the name of the other side that Host is not: the IP address if Host is a name, or a
// name from the certificate if Host is an IP address. It is empty if that is not known.
func (l *Link) Peer() string {
	name, _, err := net.SplitHostPort(mqtt.WithPort(l.attempt.Host, DefaultPort))
	if err != nil {
		return ""
	}
	conn := l.session.Conn()
	if net.ParseIP(name) == nil {
		ip, _, _ := net.SplitHostPort(conn.RemoteAddr().String())
		return ip
	}
	if certs := conn.ConnectionState().PeerCertificates; len(certs) > 0 && len(certs[0].DNSNames) > 0 {
		return certs[0].DNSNames[0]
	}
	return ""
}

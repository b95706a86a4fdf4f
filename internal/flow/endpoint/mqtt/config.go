package mqtt

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/internal/flow/endpoint/cloudevents"
)

// Config says how a broker is reached, and what is done with messages. The zero value of a field
// has no default here, unless its comment says so: start with [Defaults].
type Config struct {
	Name      string // of the endpoint, for errors, and as the target in a CloudEvents source
	Host      string // host:port, with WebSocket also host:port/path
	WebSocket bool   // subprotocol mqtt
	// TLS returns the configuration of a connection, and is called before each; nil: connections
	// are not encrypted.
	TLS  func() (*tls.Config, error)
	Auth Auth

	KeepAlive     time.Duration    // whole seconds up to 65,535; 0: none
	SessionExpiry time.Duration    // whole seconds; how long the broker keeps a session without us
	MaxInflight   int              // 1 to 65,535: the receive maximum of a source, the unacknowledged messages of a destination
	QoS           byte             // 0 or 1
	NeverRetain   bool             // the retain flag is cleared
	ClientID      string           // from [ClientID]: it must not change, because the broker's session belongs to it
	CloudEvents   cloudevents.Mode // of a destination

	// StampID makes a destination add the id of a message as the user property "id", unless the
	// message has such a property.
	StampID bool
	// StateFile is where a source remembers what it has subscribed to, so that a later run can take
	// back what is not wanted any more. Empty: nothing is remembered.
	StateFile string
	// MaxPayload is the most bytes of a message's payload; a larger one is dropped by a source.
	MaxPayload int
	// MaxProperties and MaxName bound the user properties of a message that a source takes: how
	// many there are, and the bytes of a name.
	MaxProperties, MaxName int
	// Linger is how long a source that is stopped waits for acknowledgements of what it has handed
	// in.
	Linger time.Duration

	// Log, if set, is told in one sentence what a person may want to know. A warning says what is
	// wrong, or what the broker does less than was asked for.
	Log func(warning bool, text string)
	// DialContext opens TCP connections. Nil stands for the system's.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)

	// schedule stands for the function of the same name if it is set, for tests in real time.
	schedule func(err error, tries int) (time.Duration, State)
}

// Defaults returns the settings that an endpoint has when its manifest says nothing.
func Defaults() Config {
	return Config{
		KeepAlive: time.Minute, SessionExpiry: time.Hour, MaxInflight: 100, QoS: 1,
		MaxPayload: 1 << 20, MaxProperties: 1000, MaxName: 1024, Linger: time.Second,
	}
}

// maxClientID is how many bytes a client id may have; Event Grid takes no more.
const maxClientID = 128

// ClientID returns the client id of a node of a graph: the prefix with the names of both, such as
// plant-1.minutes.sensors. Without a prefix it begins with hubhop- and the device, so that several
// devices can run the same flows on one broker. Two different nodes never get the same id. The id
// of a node is always the same, since the broker's session belongs to it. It has at most 128 bytes;
// one that would be longer ends in a hash instead.
func ClientID(prefix, device, graph, node string) string {
	switch {
	case prefix != "":
	case device != "":
		prefix = "hubhop-" + legible(device)
	default:
		prefix = "hubhop"
	}
	id := prefix + "." + graph + "." + node // names of graphs and nodes have no dot
	if len(id) <= maxClientID {
		return id
	}
	sum := sha256.Sum256([]byte(id))
	return strings.ToValidUTF8(id[:maxClientID-33], "") + "-" + hex.EncodeToString(sum[:16])
}

// legible replaces the characters of a device's id that brokers refuse in a client id, such as +
// and #, which are wildcards in their access rules. A hash then tells the device from others.
func legible(device string) string {
	out := strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' || strings.ContainsRune("-._:", r) {
			return r
		}
		return '_'
	}, device)
	if out == device {
		return device
	}
	sum := sha256.Sum256([]byte(device))
	return out + "_" + hex.EncodeToString(sum[:8])
}

// check returns every fault of a configuration.
func (c *Config) check() error {
	var faults []error
	bad := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("MQTT endpoint %q: "+format, append([]any{c.Name}, args...)...))
	}
	host, path, slash := strings.Cut(c.Host, "/")
	name, port, err := net.SplitHostPort(host)
	if n, e := strconv.Atoi(port); err != nil || name == "" || e != nil || n < 1 || n > 65535 {
		bad("host %q is not host:port; write for example broker:8883", c.Host)
	}
	if slash && !c.WebSocket {
		bad("host %q has the path /%s, which only WebSockets have; take the path away or set protocol: WebSockets", c.Host, path)
	}
	if c.MaxInflight < 1 || c.MaxInflight > 65535 {
		bad("maxInflightMessages is %d; it must be 1 to 65535", c.MaxInflight)
	}
	if c.KeepAlive < 0 || c.KeepAlive > 65535*time.Second {
		bad("keepAliveSeconds is %d; it must be 0 to 65535", c.KeepAlive/time.Second)
	}
	if c.SessionExpiry < 0 || c.SessionExpiry > (1<<32-1)*time.Second {
		bad("sessionExpirySeconds is %d; it must be 0 to 4294967295", c.SessionExpiry/time.Second)
	}
	if c.QoS > 1 {
		bad("qos is %d; it must be 0 or 1", c.QoS)
	}
	if c.ClientID == "" || len(c.ClientID) > 65535 {
		bad("the client id has %d bytes; shorten clientIdPrefix and the names of the graph and its node", len(c.ClientID))
	}
	if err := c.checkAuth(); err != nil {
		bad("%w", err)
	}
	return errors.Join(faults...)
}

// pause returns how long to wait before the next attempt.
func (c *Config) pause(err error, tries int) (time.Duration, State) {
	if c.schedule != nil {
		return c.schedule(err, tries)
	}
	return schedule(err, tries)
}

func (c *Config) warn(format string, args ...any) { c.log(true, format, args...) }

func (c *Config) log(warning bool, format string, args ...any) {
	if c.Log != nil {
		c.Log(warning, fmt.Sprintf("MQTT endpoint %q: %s", c.Name, fmt.Sprintf(format, args...)))
	}
}

// maxPacket is the largest packet that this side takes: topic and properties come on top of the
// payload.
func (c *Config) maxPacket() int { return c.MaxPayload + 256<<10 }

package hub

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/hubhop-iot/hubhop/internal/mqtt"
)

const (
	apiVersion = "2021-04-12"
	// DefaultPort is MQTT over TLS.
	DefaultPort = "8883"
	// DefaultWindow is how many PUBLISHes may be in flight on one link.
	DefaultWindow = 64
	// MaxKeepAlive is the longest a hub grants: 29.45 minutes are 1.5 times it.
	MaxKeepAlive = 1177 * time.Second

	// A token is replaced at least so long before it ends, so that messages in flight are
	// acknowledged.
	renewMargin = 6 * time.Second

	dialLimit = 10 * time.Second // for TCP, and again for TLS
	maxPacket = 512 << 10        // bytes of one inbound packet; a hub sends 256 KB at most
	maxOwing  = 1024             // C2D messages without their PUBACK; a hub sends 50 at most
)

// Dialer makes links for one device. It knows who the device is, how the device proves it, and what
// the device wants to hear. Its fields are set once and then only read. Its methods may be called
// from any goroutine.
type Dialer struct {
	// Token makes the MQTT password for a hub, and returns when it ends. It is nil if TLS carries a
	// client certificate.
	Token       func(host, deviceID string) (password string, expires time.Time, err error)
	TLS         *tls.Config
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
	Addresses   func() ([]net.Addr, error) // of this machine; nil asks the system
	ModelID     string                     // DTDL model to announce; empty for none
	Agent       string                     // name and version of this client, free text
	// KeepAlive is 1 s to 1177 s. A link that was silent for so long is tested. If the link carries
	// a sample at least each 15 s, it is tested after 2 s.
	KeepAlive time.Duration
	Window    int // PUBLISHes in flight; 0 means 64

	// Desired, Methods and C2D are what the device wants to hear: changes of desired properties,
	// direct methods, cloud-to-device messages. The link unsubscribes from the others, because the
	// hub remembers the subscriptions of an earlier process.
	Desired, Methods, C2D bool
	// Twin is set if the device reads or reports properties. The first request for the twin then
	// leaves with the subscriptions.
	Twin bool

	// Trace, if set, is called with every packet, sent or received, without its secrets. It must
	// not block, and several goroutines may call it at once.
	Trace func(Packet)
	// Acked, if set, is told of each PUBACK how long after its PUBLISH it came, unless a link
	// before had sent the message too. It must be quick, and it must not call the link.
	Acked func(took time.Duration)

	mu   sync.Mutex
	left map[string]mqtt.Past // hub → what the last link to it left
	pace mqtt.Pace            // of the last link to any hub
}

// Attempt says how one link is to be made.
type Attempt struct {
	Host     string // host or host:port
	DeviceID string
	// Gateway, host or host:port, is dialled in the hub's place. Its certificate must have its own
	// name. User name and token still name the hub. If Gateway is empty, the hub is dialled.
	Gateway string
	TLS     *tls.Config // for this attempt; nil: that of the Dialer
	// Sequential waits for CONNACK before anything follows CONNECT. Otherwise CONNECT, SUBSCRIBE,
	// the request for the twin and what Early sends leave in one write. Some hubs drop what comes
	// before their CONNACK; then a sequential attempt is the way in.
	Sequential bool
	// Early, if set, is called after the TLS handshake and before anything is written. It is not
	// called if the attempt is sequential. What it sends leaves in one write with CONNECT, as far
	// as it fits (see [ErrNoRoom]). Each of its messages is completed like any other, maybe before
	// Dial returns. If the hub refuses the session, it has not seen them. Early must not block.
	Early func(l *Link)
	// Progress, if set, is called after TCP and after TLS were opened.
	Progress func(Phase)
}

// peer returns the address that is dialled.
func (a Attempt) peer() string {
	if a.Gateway != "" {
		return a.Gateway
	}
	return a.Host
}

// failed returns the error of this attempt, or of the link that it became.
func (a Attempt) failed(p Phase, err error) *Error {
	return &Error{Phase: p, Host: a.Host, Gateway: a.Gateway, Err: err}
}

// Dial makes one attempt. It returns a link whose session is up and whose subscriptions are
// granted, or an [*Error]. It gives up when ctx ends, after 10 s without TCP, after 10 s without
// TLS, or when the hub is silent for too long before the link is up.
func (d *Dialer) Dial(ctx context.Context, a Attempt) (*Link, error) {
	password, expires := "", time.Time{}
	if d.Token != nil {
		var err error
		if password, expires, err = d.Token(a.Host, a.DeviceID); err != nil {
			return nil, a.failed(PhaseConnect, err)
		}
	}
	to := d.endpoint(a)
	conn, err := to.Connect(ctx, a.Progress)
	if f, ok := errors.AsType[*mqtt.Error](err); ok {
		return nil, a.failed(f.Phase, f.Err)
	}
	early := a.Early
	a.Early, a.Progress, a.TLS = nil, nil, nil
	l := &Link{dialer: d, attempt: a, early: early, events: eventsTopic(a.DeviceID), expires: expires}
	l.session = mqtt.NewSession(conn, mqtt.Options{
		Connect: d.connect(a, password), Handler: (*listener)(l), Sequential: a.Sequential, Window: d.window(),
		MaxPacket: maxPacket, MaxOwing: maxOwing, Past: d.recall(a.Host), Endpoint: to, Trace: d.trace(a.Host), Acked: d.Acked,
	})
	if !expires.IsZero() {
		l.renewTimer = time.AfterFunc(renewAfter(max(0, time.Until(expires))), l.renew)
	}
	l.session.Start()
	if l.session.Await(ctx) {
		return l, nil
	}
	return nil, l.session.Err()
}

// endpoint returns the way to a hub or gateway.
func (d *Dialer) endpoint(a Attempt) *mqtt.Endpoint {
	conf := cmp.Or(a.TLS, d.TLS)
	return &mqtt.Endpoint{
		Address: mqtt.WithPort(a.peer(), DefaultPort), TLS: conf, DialContext: d.DialContext, Addresses: d.Addresses, Limit: dialLimit,
		// Some gateways of the service ask for the certificate late.
		Renegotiate: conf != nil && len(conf.Certificates) > 0,
	}
}

func (d *Dialer) window() int {
	if d.Window <= 0 {
		return DefaultWindow
	}
	return d.Window
}

func (d *Dialer) trace(host string) func(mqtt.Traced) {
	if d.Trace == nil {
		return nil
	}
	return func(t mqtt.Traced) { d.Trace(Packet{host, t}) }
}

// connect follows IoT Hub's grammar ("Communicate with an IoT hub using the MQTT protocol"): host
// and device id as they are, query values percent-encoded.
func (d *Dialer) connect(a Attempt, password string) mqtt.Connect {
	c := mqtt.Connect{
		ClientID: a.DeviceID, KeepAlive: min(max(d.KeepAlive, time.Second), MaxKeepAlive), Password: password,
		Username: a.Host + "/" + a.DeviceID + "/?api-version=" + apiVersion + "&DeviceClientType=" + escape(d.Agent),
	}
	if d.ModelID != "" {
		c.Username += "&model-id=" + escape(d.ModelID)
	}
	return c
}

// renewAfter returns how long a token with this life is used: for 80 to 90 % of it, but at least
// until renewMargin before its end, so that messages in flight are acknowledged even over a slow
// path or on a busy machine. If the life is too short for that, half of it is used at most. The
// result is random within its bounds, so that a fleet that connected together does not renew
// together.
func renewAfter(life time.Duration) time.Duration {
	at, last := life*80/100+rand.N(life/10+1), max(life-renewMargin, life/2)
	if at > last {
		at = last - rand.N(last/5+1)
	}
	return at
}

// remember keeps what the next link to the same hub should know: which messages are unacknowledged,
// because MQTT wants them sent there again with the same packet id and DUP, and how much round
// trips on this path vary.
func (d *Dialer) remember(host string, past mqtt.Past) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if past.Pace.Measured() { // the link has carried telemetry
		d.pace = past.Pace
	}
	// Hubs come and go. To forget one costs only the DUP flag, and some patience.
	if d.left == nil || len(d.left) > 16 {
		d.left = map[string]mqtt.Past{}
	}
	d.left[host] = past
}

func (d *Dialer) recall(host string) mqtt.Past {
	d.mu.Lock()
	defer d.mu.Unlock()
	past := d.left[host]
	delete(d.left, host)
	past.Pace = d.pace
	return past
}

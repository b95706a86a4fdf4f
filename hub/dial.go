package hub

import (
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

	// Before the end of a token: messages in flight are acknowledged in it.
	renewMargin = 6 * time.Second

	dialLimit = 10 * time.Second // for TCP, and again for TLS
)

// Dialer knows one device: who it is, how it proves it and what it wants to hear. It is set up once
// and then only read; its methods may be called from any goroutine.
type Dialer struct {
	// Token makes the MQTT password for a hub and says when it ends. Nil when TLS carries a client
	// certificate.
	Token       func(host, deviceID string) (password string, expires time.Time, err error)
	TLS         *tls.Config
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
	Addresses   func() ([]net.Addr, error) // of this machine; nil asks the system
	ModelID     string                     // DTDL model to announce; empty for none
	Agent       string                     // name and version of this client, free text
	// 1 s … 1177 s; a link that was silent for so long is tested. If it carries a sample at least
	// each 15 s, that is 2 s.
	KeepAlive time.Duration
	Window    int // PUBLISHes in flight, 0 means 64

	// What the device wants to hear. What it does not want is unsubscribed, because the hub
	// remembers the subscriptions of the process before.
	Desired, Methods, C2D bool
	// Twin is on when the device reads or reports properties; the first read is then sent with the
	// subscriptions.
	Twin bool

	// Trace, if set, is called with every packet, sent or received, without its secrets. It must
	// not block, and several goroutines may call it at once.
	Trace func(Packet)

	mu   sync.Mutex
	left map[string]mqtt.Past // hub → what the last link to it left
	pace mqtt.Pace            // of the last link to any hub
}

// Attempt is one try.
type Attempt struct {
	Host     string // host or host:port
	DeviceID string
	// Gateway, host or host:port, is dialled in the hub's place, and its certificate must have its
	// own name. User name and token still name the hub. If it is empty, the hub is dialled.
	Gateway string
	// Sequential waits for CONNACK before it sends on; otherwise CONNECT, SUBSCRIBE and the twin
	// request leave in one write, with what Early publishes. It is the careful way for a hub that
	// drops what comes before its CONNACK.
	Sequential bool
	// Early, if set, is called when TLS is through and before anything is written, unless the
	// attempt is sequential. What it publishes leaves in one write with CONNECT, as far as it fits
	// (see [ErrNoRoom]). Each of these messages gets its completion like any other, which may be
	// before Dial returns. If the hub refuses the session it has not seen them. Early must not
	// block.
	Early func(l *Link)
	// Progress, if set, hears of each phase that was completed before the session (dial, TLS).
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
// granted, or an [*Error]. It gives up when ctx ends, after 10 s without TCP, 10 s without TLS, or
// when the link is found dead by silence before its CONNACK.
func (d *Dialer) Dial(ctx context.Context, a Attempt) (*Link, error) {
	fail := func(p Phase, err error) (*Link, error) { return nil, a.failed(p, err) }
	password, expires := "", time.Time{}
	if d.Token != nil {
		var err error
		if password, expires, err = d.Token(a.Host, a.DeviceID); err != nil {
			return fail(PhaseConnect, err)
		}
	}
	to := d.endpoint(a.peer())
	conn, err := to.Connect(ctx, a.Progress)
	if f, ok := errors.AsType[*mqtt.Failure](err); ok {
		return nil, a.failed(f.Phase, f.Err)
	}
	l := &Link{dialer: d, attempt: a, events: eventsTopic(a.DeviceID), expires: expires}
	l.session = mqtt.NewSession(conn, mqtt.Options{
		Connect: d.connect(a, password), Handler: (*listener)(l), Sequential: a.Sequential, Window: d.window(), Past: d.recall(a.Host),
		Endpoint: to, Trace: d.trace(a.Host),
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
func (d *Dialer) endpoint(host string) *mqtt.Endpoint {
	return &mqtt.Endpoint{
		Address: mqtt.WithPort(host, DefaultPort), TLS: d.TLS, DialContext: d.DialContext, Addresses: d.Addresses, Limit: dialLimit,
		// Some gateways of the service ask for the certificate late.
		Renegotiate: d.TLS != nil && len(d.TLS.Certificates) > 0,
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

// renewAfter returns after which part of its life a token is replaced: 80 to 90 %, but at least
// renewMargin before its end, so that messages in flight are acknowledged even over a slow path or
// on a busy machine. A life that is too short for that is used to at most a half. The time is
// jittered, so that a fleet that connected together does not renew together.
func renewAfter(life time.Duration) time.Duration {
	at, last := life*80/100+rand.N(life/10+1), max(life-renewMargin, life/2)
	if at > last {
		at = last - rand.N(last/5+1)
	}
	return at
}

// remember keeps what a link left unacknowledged, for the next link to the same hub: MQTT wants it
// there with the same packet id and DUP set. It also keeps how far round trips on this path are to
// be trusted.
func (d *Dialer) remember(host string, past mqtt.Past) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if past.Pace.Measured() { // the link has carried telemetry
		d.pace = past.Pace
	}
	// Hubs come and go; a forgotten one only costs the DUP flag, and some patience.
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

package hub

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

const (
	apiVersion = "2021-04-12"
	// DefaultPort is MQTT over TLS.
	DefaultPort = "8883"
	// DefaultWindow is how many PUBLISHes may be in flight on one link.
	DefaultWindow = 64
	// MaxKeepAlive is the longest a hub grants: 29.45 minutes are 1.5 times it.
	MaxKeepAlive = 1177 * time.Second

	renewMargin = 6 * time.Second // before the end of a token: messages in flight are acknowledged in it

	dialTimeout = 10 * time.Second
	tlsTimeout  = 10 * time.Second
)

// Dialer knows one device: who it is, how it proves it and what it wants to hear. It is set up once and then only read; its
// methods may be called from any goroutine.
type Dialer struct {
	// Token makes the MQTT password for a hub and says when it ends. Nil when TLS carries a client certificate.
	Token       func(host, deviceID string) (password string, expires time.Time, err error)
	TLS         *tls.Config
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
	Addresses   func() ([]net.Addr, error) // of this machine; nil asks the system
	ModelID     string                     // DTDL model to announce; empty for none
	Agent       string                     // name and version of this client, free text
	KeepAlive   time.Duration              // 1 s … 1177 s; a link that was silent for so long is tested. If it carries a sample at least each 15 s, that is 2 s
	Window      int                        // PUBLISHes in flight, 0 means 64

	// What the device wants to hear. What it does not want is unsubscribed, because the hub remembers the subscriptions of the
	// process before.
	Desired, Methods, C2D bool
	// Twin is on when the device reads or reports properties; the first read is then sent with the subscriptions.
	Twin bool

	// Trace, if set, is called with every packet, sent or received, without its secrets. It must
	// not block, and several goroutines may call it at once.
	Trace func(Packet)

	mu   sync.Mutex
	left map[string]memory // hub → what the last link to it left
	pace pace              // of the last link to any hub
}

// memory is what a link leaves to the next one to the same hub.
type memory struct {
	unacked map[string]uint16 // message id → packet id of PUBLISHes without PUBACK
	varied  time.Duration     // how much its round trips differed; 0: not known
}

// Attempt is one try.
type Attempt struct {
	Host     string // host or host:port
	DeviceID string
	// Gateway, host or host:port, is dialled in the hub's place, and its certificate must have its
	// own name. User name and token still name the hub. If it is empty, the hub is dialled.
	Gateway string
	// Sequential waits for CONNACK before it sends on; otherwise CONNECT, SUBSCRIBE and the twin request leave in one write, with
	// what Early publishes. It
	// is the careful way for a hub that drops what comes before its CONNACK.
	Sequential bool
	// Early, if set, is called when TLS is through and before anything is written, unless the attempt is sequential. What it publishes
	// leaves in one write with CONNECT, as far as it fits (see [ErrNoRoom]). Each of these messages gets its completion like any other,
	// which may be before Dial returns. If the hub refuses the session it has not seen them. Early must not block.
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

// Dial makes one attempt. It returns a link whose session is up and whose subscriptions are granted, or an [*Error]. It gives up
// when ctx ends, after 10 s without TCP, 10 s without TLS, or when the link is found dead by silence before its CONNACK.
func (d *Dialer) Dial(ctx context.Context, a Attempt) (*Link, error) {
	fail := func(p Phase, err error) (*Link, error) { return nil, a.failed(p, err) }
	progress := a.Progress
	if progress == nil {
		progress = func(Phase) {}
	}
	password, expires := "", time.Time{}
	if d.Token != nil {
		var err error
		if password, expires, err = d.Token(a.Host, a.DeviceID); err != nil {
			return fail(PhaseConnect, err)
		}
	}
	began := time.Now()
	raw, err := d.dialTCP(ctx, a.peer())
	if err != nil {
		return fail(PhaseDial, err)
	}
	progress(PhaseDial)
	dialled := time.Now()
	under := &wire{Conn: raw}
	secure, err := d.handshake(ctx, under, a.peer())
	if err != nil {
		return fail(PhaseTLS, err)
	}
	progress(PhaseTLS)

	l := d.newLink(a, under, secure, expires)
	l.dialled(dialled.Sub(began), time.Since(dialled))
	l.start(d.connectPacket(a, password))
	if l.opened(ctx) {
		return l, nil
	}
	l.join()
	return nil, l.Err()
}

func (d *Dialer) dialTCP(ctx context.Context, host string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	dial := d.DialContext
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	return dial(ctx, "tcp", address(host))
}

func (d *Dialer) handshake(ctx context.Context, raw net.Conn, host string) (*tls.Conn, error) {
	short, cancel := context.WithTimeout(ctx, tlsTimeout)
	defer cancel()
	conf := d.TLS.Clone()
	if conf == nil {
		conf = &tls.Config{}
	}
	conf.MinVersion = max(conf.MinVersion, tls.VersionTLS12)
	if len(conf.Certificates) > 0 {
		conf.Renegotiation = tls.RenegotiateOnceAsClient // some gateways of the service ask for the certificate late
	}
	if conf.ServerName == "" {
		conf.ServerName, _, _ = net.SplitHostPort(address(host))
	}
	secure := tls.Client(raw, conf)
	if err := secure.HandshakeContext(short); err != nil {
		reset(raw)
		if short.Err() != nil && ctx.Err() == nil {
			err = fmt.Errorf("%w in %v", ErrSilent, tlsTimeout)
		}
		return nil, err
	}
	return secure, nil
}

// connectPacket follows IoT Hub's grammar: host and device id as they are, query values
// percent-encoded.
func (d *Dialer) connectPacket(a Attempt, password string) []byte {
	p := packets.NewControlPacket(packets.Connect).(*packets.ConnectPacket)
	p.ProtocolName, p.ProtocolVersion = "MQTT", 4
	p.ClientIdentifier = a.DeviceID
	p.Keepalive = uint16(min(max(d.KeepAlive, time.Second), MaxKeepAlive) / time.Second)
	p.UsernameFlag = true
	p.Username = a.Host + "/" + a.DeviceID + "/?api-version=" + apiVersion + "&DeviceClientType=" + escape(d.Agent)
	if d.ModelID != "" {
		p.Username += "&model-id=" + escape(d.ModelID)
	}
	if password != "" {
		p.PasswordFlag, p.Password = true, []byte(password)
	}
	var out bytes.Buffer
	_ = p.Write(&out) // a bytes.Buffer does not fail
	return out.Bytes()
}

func (d *Dialer) newLink(a Attempt, under *wire, secure *tls.Conn, expires time.Time) *Link {
	now := time.Now()
	window := d.Window
	if window <= 0 {
		window = DefaultWindow
	}
	left, pace := d.recall(a.Host)
	l := &Link{
		dialer: d, attempt: a, raw: under.Conn, wire: under, conn: secure, in: bufio.NewReaderSize(secure, readBuffer),
		ready: make(chan struct{}), done: make(chan struct{}), arrived: make(chan struct{}, 1), renew: make(chan struct{}),
		keepAlive: min(max(d.KeepAlive, time.Second), MaxKeepAlive), expires: expires,
		calls: map[string]chan *twinAnswer{}, resend: left.unacked,
		events: eventsTopic(a.DeviceID), pace: pace,
		watch: watch{maxWindow: window, window: window, lastIn: now, lastOut: now, setupSince: now, varied: left.varied},
	}
	if len(l.resend) > 0 {
		l.reserved = make(map[uint16]bool, len(l.resend))
		for _, pid := range l.resend {
			l.reserved[pid] = true
		}
	}
	l.room = sync.NewCond(&l.mu)
	l.flusher = func() { l.flush(false) }
	under.use()
	if !expires.IsZero() {
		l.renewTimer = time.AfterFunc(renewAfter(max(0, time.Until(expires))), func() { close(l.renew) })
	}
	return l
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

// remember keeps what a link left unacknowledged, for the next link to the same hub: MQTT wants it there with the same packet id
// and DUP set. And it keeps how far round trips on this path are to be trusted.
func (d *Dialer) remember(host string, m memory, p pace) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if p.n > 0 { // the link has carried telemetry
		d.pace = p
	}
	if d.left == nil || len(d.left) > 16 { // hubs come and go; a forgotten one only costs the DUP flag, and some patience
		d.left = map[string]memory{}
	}
	d.left[host] = m
}

func (d *Dialer) recall(host string) (memory, pace) {
	d.mu.Lock()
	defer d.mu.Unlock()
	m := d.left[host]
	delete(d.left, host)
	return m, d.pace
}

// probe asks, without a second session, whether the hub is there at all: TCP and TLS, and nothing in it. It calls answered in between, and
// returns the address that it left from.
func (d *Dialer) probe(ctx context.Context, host string, answered func()) (from net.Addr, err error) {
	raw, err := d.dialTCP(ctx, host)
	if err != nil {
		return nil, err
	}
	answered()
	secure, err := d.handshake(ctx, raw, host)
	if err != nil {
		return nil, err
	}
	_ = secure.Close()
	return raw.LocalAddr(), nil
}

// has reports whether an address is this machine's. What the system does not tell is so.
func (d *Dialer) has(a net.Addr) bool {
	local, ok := a.(*net.TCPAddr)
	if !ok || local.IP.IsLoopback() { // all of 127.0.0.0/8 is, and only one of it is listed
		return true
	}
	list := d.Addresses
	if list == nil {
		list = net.InterfaceAddrs
	}
	all, err := list()
	return err != nil || slices.ContainsFunc(all, func(own net.Addr) bool {
		n, ok := own.(*net.IPNet)
		return ok && n.IP.Equal(local.IP)
	})
}

// address adds the MQTT port where the host has none.
func address(host string) string {
	if _, _, err := net.SplitHostPort(host); err == nil {
		return host
	}
	return net.JoinHostPort(strings.Trim(host, "[]"), DefaultPort)
}

// reset closes so that nothing of this connection arrives later.
func reset(c net.Conn) {
	if l, ok := c.(interface{ SetLinger(sec int) error }); ok {
		_ = l.SetLinger(0)
	}
	_ = c.Close()
}

// ended says in one word what the other side did, where the network's own words are long.
func ended(err error) error {
	if oe, ok := errors.AsType[*net.OpError](err); ok && oe.Err != nil {
		if oe.Op == "local error" { // TLS gives this name to faults that it has found itself
			return fmt.Errorf("%w: malformed TLS record: %w", ErrProtocol, oe.Err)
		}
		return oe.Err
	}
	if e, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return fmt.Errorf("%w: malformed TLS record: %w", ErrProtocol, e)
	}
	return err
}

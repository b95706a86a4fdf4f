package mqtt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/hubhop-iot/hubhop/internal/flow/endpoint/credentials"
	"github.com/hubhop-iot/hubhop/internal/mqtt5"
	"github.com/hubhop-iot/hubhop/internal/plain"
)

// The schedule of reconnects. Where a person must act, or another client has the session, there is
// no haste.
const (
	firstPause   = 250 * time.Millisecond
	firstRefused = 5 * time.Second
	longestPause = time.Minute
	longestDial  = 5 * time.Second  // where nobody listens, one more dial is cheap for both sides
	steady       = 30 * time.Second // a connection that lasted so long starts the schedule anew
)

// State is how an endpoint's connection is.
type State string

// The states of a connection.
const (
	Connecting State = "connecting"
	Connected  State = "connected"
	Waiting    State = "waiting" // for the next attempt
	Refused    State = "refused" // waiting too, but a person must probably act
	Stopped    State = "stopped"
)

// Status is a snapshot of an endpoint.
type Status struct {
	State State
	Since time.Time // of the state
	Text  string    // what is wrong, and the next step; empty: nothing

	Connects uint64 // connections that the broker accepted
	Gaps     uint64 // times the broker had lost the session, so that messages may be missing
	InFlight int    // messages that were taken or sent, and are not acknowledged
	Messages uint64 // taken from the broker, or acknowledged by it
	Again    uint64 // messages that the broker, or this side, has sent again
	Dropped  uint64 // messages that were refused, or had expired
}

// link keeps one endpoint connected.
type link struct {
	c *Config

	mu     sync.Mutex
	status Status
	said   map[string]bool // what was said once
	clean  bool            // the next connection begins without what the broker has kept
}

func (l *link) set(s State, text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.status.State, l.status.Since, l.status.Text = s, time.Now(), text
}

func (l *link) isClean() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.clean
}

func (l *link) setClean(clean bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.clean = clean
}

func (l *link) count(f func(s *Status)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f(&l.status)
}

func (l *link) snapshot() Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.status
}

// once warns of what happens with each message, or at each connect, a single time.
func (l *link) once(key, format string, args ...any) {
	if l.unsaid(key) {
		l.c.warn(format, args...)
	}
}

// unsaid reports whether nothing was said about key so far.
func (l *link) unsaid(key string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.said[key] {
		return false
	}
	if l.said == nil {
		l.said = map[string]bool{}
	}
	l.said[key] = true
	return true
}

// run connects and serves, again and again, until ctx ends. serve returns when the session has
// ended, with its reason.
func (l *link) run(ctx context.Context, serve func(ctx context.Context, s *mqtt5.Session) error) {
	defer l.set(Stopped, "")
	tries, said, trouble := 0, "", false
	for ctx.Err() == nil {
		l.set(Connecting, l.snapshot().Text)
		began := time.Now()
		s, hello, err := l.c.open(ctx, l.isClean())
		if err == nil {
			l.setClean(false)
			l.set(Connected, "")
			if trouble {
				again := ""
				if l.snapshot().Connects > 0 {
					again = " again"
				}
				l.c.log(false, "%s: connected%s", l.c.Host, again)
				trouble = false
			}
			l.count(func(s *Status) { s.Connects++ })
			l.granted(&s.Grant)
			renewing, stop := context.WithCancel(ctx)
			var renewer sync.WaitGroup
			renewer.Go(func() { l.renew(renewing, s, hello) })
			err = ended(serve(ctx, s))
			stop()
			renewer.Wait()
			if time.Since(began) >= steady && !errors.Is(err, mqtt5.ErrWithheld) {
				tries = 0
			}
		}
		if ctx.Err() != nil {
			return
		}
		pause, state := l.c.pause(err, tries)
		tries++
		text := l.c.describe(err)
		l.set(state, text)
		if tries == 1 || text != said {
			l.c.warn("%s", text)
			said, trouble = text, true
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// granted notes where the broker does less than was asked for.
func (l *link) granted(g *mqtt5.Grant) {
	if asked := uint32(l.c.SessionExpiry / time.Second); g.HasExpiry && g.SessionExpiry < asked {
		l.once("expiry", "the broker keeps the session for %d s only, not for %d s: what it holds is lost after a longer outage", g.SessionExpiry, asked)
	}
}

// schedule returns how long to wait before the next attempt.
func schedule(err error, tries int) (time.Duration, State) {
	first, longest, state := firstPause, longestPause, Waiting
	if needsPerson(err) {
		first, state = firstRefused, Refused
	} else if _, ok := undialed(err); ok {
		longest = longestDial
	}
	pause := min(longest, first<<min(tries, 10))
	return pause/2 + rand.N(pause/2+1), state
}

// undialed reports whether a connection did not come about below MQTT and TLS: nobody listens, the
// name or the network is not there.
func undialed(err error) (*net.OpError, bool) {
	op, ok := errors.AsType[*net.OpError](err)
	return op, ok && op.Op == "dial"
}

// needsPerson reports whether trying again soon is of little use.
func needsPerson(err error) bool {
	if r, ok := errors.AsType[*mqtt5.ReasonError](err); ok {
		switch r.Reason {
		case mqtt5.BadVersion, mqtt5.BadClientID, mqtt5.BadPassword, mqtt5.NotAuthorized, mqtt5.Banned, mqtt5.BadAuthMethod,
			mqtt5.TakenOver, mqtt5.QuotaExceeded, mqtt5.UseAnother, mqtt5.Moved, mqtt5.NoRetain, mqtt5.NoQoS, mqtt5.PacketTooLarge,
			mqtt5.NotSupported, mqtt5.NoShared, mqtt5.NoWildcards:
			return true
		default:
			return false
		}
	}
	_, upgrade := errors.AsType[*upgradeError](err)
	return upgrade || credentials.IsLocal(err) || credentials.IsTLS(err)
}

// endedError says that the broker has ended a session without a reason, as brokers do that stop,
// and some when another client takes over the session.
type endedError struct{ err error }

func (e *endedError) Error() string { return "the broker has ended the connection without a reason" }
func (e *endedError) Unwrap() error { return e.err }

func ended(err error) error {
	if brokenOff(err) {
		return &endedError{err}
	}
	return err
}

// brokenOff reports whether the other side has ended the connection below MQTT.
func brokenOff(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)
}

// describe makes the sentence for a person: what is wrong with which endpoint, and the next step.
func (c *Config) describe(err error) string {
	text := err.Error()
	// Without the addresses: that of the broker stands before it, and the own port is another one
	// each time, so that the log would have a line for each attempt.
	if op, dial := undialed(err); dial {
		text = "no connection: " + op.Err.Error()
	} else if op != nil && !brokenOff(err) && (op.Op == "read" || op.Op == "write") {
		text = "the connection broke: " + op.Err.Error()
	} else if brokenOff(err) && !isEnded(err) {
		text = "the broker has ended the connection before its answer"
	}
	text = plain.Line(text, 400)
	if hint := c.hint(err); hint != "" {
		text += "; " + hint
	}
	return fmt.Sprintf("%s: %s", c.Host, text)
}

func isEnded(err error) bool {
	_, ok := errors.AsType[*endedError](err)
	return ok
}

func (c *Config) hint(err error) string {
	if r, ok := errors.AsType[*mqtt5.ReasonError](err); ok {
		return c.reasonHint(r)
	}
	if r, ok := errors.AsType[*upgradeError](err); ok {
		if r.code == 404 || r.path == "/" {
			return "write the broker's path behind the port, such as " + c.Host + "/mqtt"
		}
		return "check host, port and path, and whether the broker has a WebSocket listener there"
	}
	if errors.Is(err, mqtt5.ErrWithheld) {
		return "hubhop connects anew, and sends again what is not acknowledged; look whether the broker is overloaded or its disk is full"
	}
	if isEnded(err) {
		return fmt.Sprintf("if it goes on, read the broker's log, and look for another client with the client id %q: each process needs its own device id or clientIdPrefix", c.ClientID)
	}
	if brokenOff(err) && c.TLS == nil {
		return "a port with TLS does this to a client without: set tls.mode: Enabled, or use the broker's port without TLS"
	}
	if brokenOff(err) {
		return "a port without TLS does this to a client with TLS: set tls.mode: Disabled, or use the broker's TLS port"
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		return "nobody listens there: start the broker, or change host"
	}
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		return "check the name in host"
	}
	return credentials.Hint(err)
}

func (c *Config) reasonHint(r *mqtt5.ReasonError) string {
	switch r.Reason {
	case mqtt5.BadVersion:
		return "the broker does not speak MQTT 5"
	case mqtt5.BadClientID:
		return fmt.Sprintf("the broker does not take the client id %q: change clientIdPrefix", c.ClientID)
	case mqtt5.BadPassword, mqtt5.NotAuthorized:
		return fmt.Sprintf("check the credentials (method %s) and what the broker allows the client id %q", c.Auth.name(), c.ClientID)
	case mqtt5.BadAuthMethod:
		return fmt.Sprintf("the broker does not know the authentication method %s", c.Auth.name())
	case mqtt5.TakenOver:
		return fmt.Sprintf("another client has connected with the client id %q: give each process its own device id or clientIdPrefix", c.ClientID)
	case mqtt5.UseAnother, mqtt5.Moved:
		if r.Server != "" {
			return fmt.Sprintf("the broker names %q: change host", plain.Line(r.Server, 200))
		}
		return "ask for the broker's new address, and change host"
	case mqtt5.QuotaExceeded:
		return "the broker allows no more connections or sessions: raise its limit"
	case mqtt5.NoRetain:
		return "the broker keeps no retained messages: set retain: Never"
	case mqtt5.NoQoS:
		return "the broker has no QoS 1: set qos: 0"
	case mqtt5.NoShared:
		return "the broker has no shared subscriptions: write the filter without $shared/<group>/"
	case mqtt5.NoWildcards:
		return "the broker has no wildcards: name each topic"
	case mqtt5.Busy, mqtt5.Unavailable:
		return "nothing to do here: hubhop tries again"
	case mqtt5.KeepAliveTimeout:
		return "the broker has heard nothing for too long: check the network"
	default:
		return ""
	}
}

func (a *Auth) name() Method {
	if a.Method == "" {
		return Anonymous
	}
	return a.Method
}

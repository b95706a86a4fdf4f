// Package kafka is Apache Kafka as source and destination of a data flow graph (Microsoft's page
// "Configure Azure Event Hubs and Kafka data flow endpoints").
//
// A source is a member of a consumer group. It commits the offset below which every record is safe,
// so a crash repeats records and loses none. A destination produces in order, and a message is safe
// when the brokers have acknowledged it as kafkaAcks asks.
//
// Where to read: source.go and destination.go have the two sides, headers.go what becomes of
// properties and headers.
package kafka

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/oauth"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/hubhop-iot/hubhop/internal/flow/endpoint/credentials"
)

// Mechanism is a way to prove who we are.
type Mechanism string

// The mechanisms.
const (
	Anonymous Mechanism = ""
	Plain     Mechanism = "Plain"
	Scram256  Mechanism = "ScramSha256"
	Scram512  Mechanism = "ScramSha512"
	OAuth     Mechanism = "OAuthBearer" // with which Event Hubs takes the token of a managed identity
)

// Connection says where the brokers are, and who we are.
type Connection struct {
	Host     string // host:port of a bootstrap server
	ClientID string
	// TLS returns the configuration of a connection, and is called before each; nil: connections
	// are not encrypted.
	TLS func() (*tls.Config, error)
	// Secret returns user and password, or "" and a token. It is called at each authentication, so
	// that a new secret is taken up. It may be nil if Mechanism is Anonymous.
	Mechanism Mechanism
	Secret    func() (user, password string, err error)
	// Report, which may be nil, is told why nothing moves: at first, when more is known, and nil
	// when it moves again.
	Report func(err error)
}

// options returns the options of a client. What the client says of its troubles goes to s.
func (c *Connection) options(s *state) ([]kgo.Opt, error) {
	s.of = c
	o := []kgo.Opt{kgo.SeedBrokers(c.Host), kgo.ClientID(c.ClientID), kgo.Dialer(s.dial), kgo.WithLogger(s), kgo.WithHooks(s), kgo.MetadataMinAge(time.Second)}
	var m sasl.Mechanism
	switch c.Mechanism {
	case Anonymous:
		return o, nil
	case Plain:
		m = plain.Plain(func(context.Context) (plain.Auth, error) {
			user, password, err := c.Secret()
			return plain.Auth{User: user, Pass: password}, credentials.Local(err)
		})
	case Scram256, Scram512:
		auth := func(context.Context) (scram.Auth, error) {
			user, password, err := c.Secret()
			return scram.Auth{User: user, Pass: password}, credentials.Local(err)
		}
		if m = scram.Sha256(auth); c.Mechanism == Scram512 {
			m = scram.Sha512(auth)
		}
	case OAuth:
		m = oauth.Oauth(func(context.Context) (oauth.Auth, error) {
			_, token, err := c.Secret()
			return oauth.Auth{Token: token}, credentials.Local(err)
		})
	default:
		return nil, fmt.Errorf("%q is no way to authenticate with Kafka", c.Mechanism)
	}
	return append(o, kgo.SASL(m)), nil
}

// dial opens a connection to a broker.
func (s *state) dial(ctx context.Context, network, host string) (net.Conn, error) {
	d := net.Dialer{Timeout: 10 * time.Second}
	if s.of.TLS == nil {
		return d.DialContext(ctx, network, host)
	}
	config, err := s.of.TLS()
	if err != nil {
		return nil, credentials.Local(err)
	}
	s.shows.Store(len(config.Certificates) > 0)
	return (&tls.Dialer{NetDialer: &d, Config: config}).DialContext(ctx, network, host)
}

// state says that something fails, again when more is known, and once that it works again. It is
// the log of the client, too, because the client tries some failures again for ever, and only its
// log tells of them.
type state struct {
	of    *Connection
	shows atomic.Bool // a client certificate

	mu      sync.Mutex
	why     error               // nil: nothing fails
	said    string              // the next step that was told
	since   time.Time           // when why was heard last
	fetched time.Time           // the last answer to a fetch
	cut     map[int32]time.Time // brokers whose connection broke while they owed an answer to a fetch
}

// set says what is the matter; nil: nothing is. A partition that has stopped stays the matter until
// a person acts, whatever comes of others.
func (s *state) set(err error) {
	s.mu.Lock()
	if isTooLarge(s.why) {
		s.mu.Unlock()
		return
	}
	next, same := "", (s.why != nil) == (err != nil)
	if err != nil {
		next = s.next(err)
		same = same && (next == "" || next == s.said)
	}
	s.why, s.since = err, time.Now()
	if !same {
		s.said = next
	}
	s.mu.Unlock()
	if same || s.of.Report == nil {
		return
	}
	if err != nil {
		err = fmt.Errorf("kafka %s: %w; %s", s.of.Host, err, cmp.Or(next, "check that the brokers run, and that the listener they advertise is reachable from here"+credentials.Shown(s.shows.Load())))
	}
	s.of.Report(err)
}

// Level is how much the client tells.
func (*state) Level() kgo.LogLevel { return kgo.LogLevelWarn }

// Log takes a line of the client's log. One with an error is a trouble.
func (s *state) Log(_ kgo.LogLevel, _ string, keyvals ...any) {
	for i := 1; i < len(keyvals); i += 2 {
		if err, ok := keyvals[i].(error); ok && !errors.Is(err, context.Canceled) {
			s.set(err)
		}
	}
}

// OnBrokerRead sees what the client's log does not tell of: a broker that hangs up instead of an
// answer to the authentication, as brokers do with a wrong password, and how fetches go.
func (s *state) OnBrokerRead(b kgo.BrokerMetadata, key int16, _ int, _, _ time.Duration, err error) {
	switch {
	case err != nil && (key == saslHandshake || key == saslAuthenticate):
		s.set(fmt.Errorf("%w: the broker hung up: %w", kerr.SaslAuthenticationFailed, err))
	case key == fetch:
		s.answered(b.NodeID, err)
	}
}

// answered notes the answer to a fetch, or that the connection broke before it. Answers also end a
// trouble of the network: there may be no record to tell that it is over.
func (s *state) answered(broker int32, err error) {
	s.mu.Lock()
	if err != nil {
		if s.cut == nil {
			s.cut = map[int32]time.Time{}
		}
		s.cut[broker] = time.Now()
		s.mu.Unlock()
		return
	}
	delete(s.cut, broker)
	s.fetched = time.Now()
	_, refused := errors.AsType[*kerr.Error](s.why)
	over := s.why != nil && !refused && time.Since(s.since) > 2*fetchWait
	s.mu.Unlock()
	if over {
		s.set(nil)
	}
}

// fetches reports whether the brokers have answered fetches since a time, and no connection to one
// of them is broken. A broker that has not come back in a minute has lost its partitions to others.
func (s *state) fetches(since time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for broker, at := range s.cut {
		if time.Since(at) < time.Minute {
			return false
		}
		delete(s.cut, broker)
	}
	return s.fetched.After(since) && time.Since(s.fetched) < fetchWait+time.Second
}

// The keys of requests, as the Kafka protocol numbers them.
const (
	fetch            = 1
	saslHandshake    = 17
	saslAuthenticate = 36
)

// isTooLarge reports whether a batch would become too large in memory.
func isTooLarge(err error) bool {
	_, ok := errors.AsType[*kgo.ErrDecompressTooLarge](err)
	return ok || errors.Is(err, kgo.ErrMaxDecompress)
}

// next returns the next step after an error of the client; empty: it is not known.
func (s *state) next(err error) string {
	switch hint := credentials.Hint(err); {
	case credentials.IsLocal(err):
		return "nothing was sent"
	case hint != "":
		return hint
	case errors.Is(err, kerr.SaslAuthenticationFailed), errors.Is(err, kerr.UnsupportedSaslMechanism), errors.Is(err, kerr.IllegalSaslState):
		return "check the authentication of the endpoint"
	case errors.Is(err, kerr.TopicAuthorizationFailed), errors.Is(err, kerr.GroupAuthorizationFailed):
		return "give this user the right to the topic and the consumer group"
	case isTooLarge(err):
		return fmt.Sprintf("a batch of a partition becomes more than %d MiB in memory, so nothing more of that partition comes: "+
			"set the offset of the consumer group behind it with Kafka's tools while hubhop is stopped, and have its producer make smaller batches", batchBytes>>20)
	case errors.Is(err, kerr.UnknownTopicOrPartition):
		return "create the topic"
	default:
		return ""
	}
}

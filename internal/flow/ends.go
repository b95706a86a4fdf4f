package flow

import (
	"context"
	"crypto/tls"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/hubhop-iot/hubhop/internal/flow/endpoint/cloudevents"
	"github.com/hubhop-iot/hubhop/internal/flow/endpoint/credentials"
	"github.com/hubhop-iot/hubhop/internal/flow/endpoint/kafka"
	"github.com/hubhop-iot/hubhop/internal/flow/endpoint/mqtt"
	"github.com/hubhop-iot/hubhop/internal/flow/endpoint/otlp"
	"github.com/hubhop-iot/hubhop/internal/flow/identity"
	"github.com/hubhop-iot/hubhop/internal/flow/manifest"
)

// trouble is why an end does not move.
type trouble struct {
	m          *Manager
	flow, node string

	mu   sync.Mutex
	text string
}

// report logs a trouble, and keeps it until it is over, which nil says.
func (t *trouble) report(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	t.mu.Lock()
	t.text = text
	t.mu.Unlock()
	if text != "" {
		t.m.o.log(true, t.flow, "node "+t.node+": "+text)
	}
}

// say returns the trouble for a person; empty: there is none.
func (t *trouble) say() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.text
}

// tls returns what makes the configuration of a connection: with the roots of a config map, unless
// it is empty, and with the client certificate of the method X509Certificate.
func (m *Manager) tls(roots string, a *manifest.Authentication) func() (*tls.Config, error) {
	secret := ""
	if roots != "" {
		roots = manifest.ConfigMapPath(m.o.Dir, roots)
	}
	if a.Method == manifest.X509Certificate {
		secret = manifest.SecretPath(m.o.Dir, a.Secret())
	}
	return func() (*tls.Config, error) { return credentials.TLS(roots, secret) }
}

// password returns what reads user name and password of a method.
func (m *Manager) password(a *manifest.Authentication) func() (user, password string, err error) {
	dir := manifest.SecretPath(m.o.Dir, a.Secret())
	return func() (user, password string, err error) { return credentials.Password(dir) }
}

// serviceAccount reads the token of the service account.
func (m *Manager) serviceAccount() (string, error) {
	return credentials.Token(manifest.ServiceAccountTokenPath(m.o.Dir))
}

// kafka returns how a node reaches Kafka.
func (m *Manager) kafka(g *manifest.Graph, e *manifest.Endpoint, t *trouble) kafka.Connection {
	s := e.Kafka
	c := kafka.Connection{Host: s.Host, ClientID: mqtt.ClientID("", m.o.Device, g.Name, t.node), Report: t.report}
	if s.TLS.Enabled() {
		c.TLS = m.tls(s.TLS.CAsConfigMap, &s.Authentication)
	}
	switch a := &s.Authentication; a.Method {
	case manifest.Sasl:
		c.Mechanism, c.Secret = kafka.Mechanism(a.Sasl.SaslType), m.password(a)
	case manifest.SystemAssigned, manifest.UserAssigned:
		host, _, _ := strings.Cut(s.Host, ":")
		c.Mechanism, c.Secret = kafka.OAuth, func() (string, string, error) {
			token, err := m.token(context.Background(), a, "https://"+host)
			return "", token, err
		}
	default: // Anonymous, or a certificate
	}
	return c
}

func (m *Manager) kafkaSource(g *manifest.Graph, s *manifest.Source, t *trouble) (*kafka.Source, error) {
	o := kafka.SourceOptions{Connection: m.kafka(g, s.Settings, t), Group: s.Settings.Kafka.ConsumerGroupID}
	for _, topic := range s.Topics {
		o.Topics = append(o.Topics, topic.Filter)
	}
	return kafka.NewSource(o)
}

func (m *Manager) kafkaDestination(g *manifest.Graph, d *manifest.Destination, t *trouble) (*kafka.Destination, error) {
	s := d.Settings.Kafka
	o := kafka.DestinationOptions{Connection: m.kafka(g, d.Settings, t), Endpoint: d.Endpoint, Topic: d.To,
		Compression: map[string]kafka.Compression{"Gzip": kafka.Gzip, "Snappy": kafka.Snappy, "Lz4": kafka.Lz4}[s.Compression],
		Single:      s.Batching.Mode == "Disabled", Latency: time.Duration(s.Batching.LatencyMs) * time.Millisecond, MaxMessages: s.Batching.MaxMessages, MaxBytes: s.Batching.MaxBytes,
		Acks:         map[string]kafka.Acks{"One": kafka.AcksOne, "Zero": kafka.AcksZero, "None": kafka.AcksZero}[s.KafkaAcks],
		Partition:    map[string]kafka.Partition{"Static": kafka.Static, "Topic": kafka.ByTopic, "Property": kafka.ByProperty}[s.PartitionStrategy],
		PartitionKey: s.PartitionKeyProperty, CopyProperties: s.CopyMqttProperties != "Disabled",
		CloudEvents: map[string]cloudevents.Mode{"Propagate": cloudevents.Propagate, "CreateOrRemap": cloudevents.CreateOrRemap}[s.CloudEvents]}
	return kafka.NewDestination(o)
}

func (m *Manager) collector(g *manifest.Graph, d *manifest.Destination, t *trouble) (*otlp.Destination, error) {
	s := d.Settings.OpenTelemetry
	o := otlp.Options{Host: s.Host, Latency: time.Duration(s.Batching.LatencySeconds) * time.Second, MaxMessages: s.Batching.MaxMessages, Report: t.report,
		Log: func(text string) { m.o.log(true, g.Name, text) }}
	if s.UsesTLS() {
		o.TLS = m.tls(s.TLS.CAsConfigMap, &s.Authentication)
	}
	if s.Authentication.Method == manifest.ServiceAccountToken {
		o.Token = m.serviceAccount
	}
	return otlp.New(o)
}

// token returns an access token of a managed identity. audience is the one of an endpoint that says
// none.
func (m *Manager) token(ctx context.Context, a *manifest.Authentication, audience string) (string, error) {
	r := identity.Request{Audience: audience}
	if s := a.SystemAssigned; s != nil && s.Audience != "" {
		r.Audience = s.Audience
	}
	if u := a.UserAssigned; u != nil {
		r.ClientID, r.TenantID, r.Scope = u.ClientID, u.TenantID, u.Scope
	}
	if m.o.Token == nil {
		return "", fmt.Errorf("this machine gives no tokens of managed identities for %s", r.Audience)
	}
	token, err := m.o.Token(ctx, r)
	if err != nil {
		return "", fmt.Errorf("no token of the managed identity: %w", err)
	}
	return token, nil
}

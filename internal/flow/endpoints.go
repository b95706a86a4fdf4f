package flow

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/hubhop-iot/hubhop/internal/flow/endpoint/cloudevents"
	"github.com/hubhop-iot/hubhop/internal/flow/endpoint/file"
	"github.com/hubhop-iot/hubhop/internal/flow/endpoint/hub"
	"github.com/hubhop-iot/hubhop/internal/flow/endpoint/mqtt"
	"github.com/hubhop-iot/hubhop/internal/flow/graph"
	"github.com/hubhop-iot/hubhop/internal/flow/manifest"
)

// The broker of Azure IoT Operations, which an endpoint without a host means (Microsoft's page
// "Configure MQTT data flow endpoints").
const (
	localBroker      = "aio-broker:18883"
	localBrokerRoots = "azure-iot-operations-aio-ca-trust-bundle"
)

// defaultAudience is who the token of a managed identity is for unless a manifest says otherwise.
const defaultAudience = "https://eventgrid.azure.net"

// ends gives the sources and destinations of a plan their endpoints. It returns what each of them
// has to say, beside the troubles of its connection.
func (m *Manager) ends(b *builder, g *manifest.Graph, p *graph.Plan) (says []func() string) {
	for i := range g.Sources {
		s := &g.Sources[i]
		switch {
		case s.Settings == nil:
			b.fault(s.At("endpointRef"), manifest.Error, "the endpoint local is for assets, and this version of hubhop runs none; name an MQTT or Kafka endpoint")
		case s.Settings.Mqtt != nil:
			c := m.mqtt(g, s.Settings, s.Name)
			c.StateFile = subscriptionsOf(m.o.StateDir, g.Name, s.Name)
			source, err := mqtt.NewSource(c, filtersOf(s))
			if err != nil {
				b.fault(s.Pos(), manifest.Error, "%v", err)
				continue
			}
			p.Sources[i].Source = source
			b.unfit = append(b.unfit, func() uint64 { return source.Status().Dropped })
			b.gaps = append(b.gaps, func() uint64 { return source.Status().Gaps })
			b.troubles = append(b.troubles, func() string { return connection(source.Status()) })
			says = append(says, func() string { return beginning(source.Status()) },
				func() string { return unfit(source.Status().Dropped) })
		case s.Settings.Kafka != nil:
			t := &trouble{m: m, flow: g.Name, node: s.Name}
			source, err := m.kafkaSource(g, s, t)
			if err != nil {
				b.fault(s.Pos(), manifest.Error, "%v", err)
				continue
			}
			p.Sources[i].Source = source
			b.troubles = append(b.troubles, t.say)
		default:
			b.fault(s.At("endpointRef"), manifest.Error, "this version of hubhop has no source of the type %s; use an MQTT or Kafka endpoint", s.Settings.Type)
		}
	}
	for i := range g.Destinations {
		d := &g.Destinations[i]
		switch {
		case d.Settings == nil:
			if m.o.Hub == nil {
				b.fault(d.At("endpointRef"), manifest.Error, "the destination is iothub, and this process has no hub; run it without --hub=false, or name another endpoint")
				continue
			}
			to, err := hub.New(hub.Options{Intake: m.o.Hub, Twin: m.o.Hub, Place: d.To, Log: func(text string) { m.o.log(true, g.Name, text) }})
			if err != nil {
				b.fault(d.At("dataDestination"), manifest.Error, "%v", err)
				continue
			}
			p.Destinations[i].Destination = to
			says = append(says, func() string {
				if n := to.Lost(); n > 0 {
					return fmt.Sprintf("%d properties were left out, because a hub cannot carry them", n)
				}
				return ""
			})
		case d.Settings.Mqtt != nil:
			c := m.mqtt(g, d.Settings, d.Name)
			c.StampID = true
			to, err := mqtt.NewDestination(c)
			if err != nil {
				b.fault(d.Pos(), manifest.Error, "%v", err)
				continue
			}
			p.Destinations[i].Destination = to
			b.troubles = append(b.troubles, func() string { return connection(to.Status()) })
			says = append(says, func() string { return beginning(to.Status()) })
		case d.Settings.LocalStorage != nil:
			t := &trouble{m: m, flow: g.Name, node: d.Name}
			volume := manifest.VolumePath(m.o.Dir, d.Settings.LocalStorage.Claim)
			to, err := file.New(file.Options{Volume: volume, Folder: d.To, Name: g.Name, Report: t.report})
			if err != nil {
				b.fault(d.At("dataDestination"), manifest.Error, "%v", err)
				continue
			}
			p.Destinations[i].Destination = to
			b.lost, b.troubles = append(b.lost, to.Lost), append(b.troubles, t.say)
			says = append(says, func() string {
				if n := to.Lost(); n > 0 {
					return fmt.Sprintf("%d messages are lost with files that somebody removed or renamed while they were written", n)
				}
				return ""
			})
		case d.Settings.Kafka != nil:
			t := &trouble{m: m, flow: g.Name, node: d.Name}
			to, err := m.kafkaDestination(g, d, t)
			if err != nil {
				b.fault(d.Pos(), manifest.Error, "%v", err)
				continue
			}
			p.Destinations[i].Destination = to
			b.troubles = append(b.troubles, t.say)
		case d.Settings.OpenTelemetry != nil:
			t := &trouble{m: m, flow: g.Name, node: d.Name}
			to, err := m.collector(g, d, t)
			if err != nil {
				b.fault(d.Pos(), manifest.Error, "%v", err)
				continue
			}
			p.Destinations[i].Destination = to
			b.troubles = append(b.troubles, t.say)
		default:
			b.fault(d.At("endpointRef"), manifest.Error, "this version of hubhop has no destination of the type %s; use an MQTT endpoint, Kafka, OpenTelemetry, LocalStorage or iothub", d.Settings.Type)
		}
	}
	return says
}

// filtersOf returns the topic filters of a source as they were written.
func filtersOf(s *manifest.Source) (all []string) {
	for _, t := range s.Topics {
		if t.Group != "" {
			all = append(all, "$shared/"+t.Group+"/"+t.Filter)
			continue
		}
		all = append(all, t.Filter)
	}
	return all
}

// unfit says that a source has left out messages; empty: it has not.
func unfit(dropped uint64) string {
	if dropped == 0 {
		return ""
	}
	return fmt.Sprintf("%d messages were dropped before they came into the flow, because they are too large or no valid text; the log has the first of each kind", dropped)
}

// forgotten says that a broker has lost what it kept for a source; empty: it has not.
func forgotten(gaps uint64) string {
	if gaps == 0 {
		return ""
	}
	times := "once"
	if gaps > 1 {
		times = fmt.Sprintf("%d times", gaps)
	}
	return fmt.Sprintf("the broker has lost the session of a source %s: what was published while there was "+
		"no connection is missing; let the broker keep its sessions on disk, and longer than an outage", times)
}

// connection says what is wrong with a connection; empty: nothing.
func connection(s mqtt.Status) string {
	if s.State == mqtt.Connected || s.State == mqtt.Stopped {
		return ""
	}
	return s.Text
}

// beginning says that a broker is connected for the first time; empty: that is over, or has failed.
func beginning(s mqtt.Status) string {
	if s.State == mqtt.Connected || s.State == mqtt.Stopped || s.Text != "" {
		return ""
	}
	return "the broker is being connected"
}

// mqtt returns how a node reaches its broker.
func (m *Manager) mqtt(g *manifest.Graph, e *manifest.Endpoint, node string) mqtt.Config {
	c, s := mqtt.Defaults(), e.Mqtt
	c.Name, c.Host, c.WebSocket = e.Name, s.Host, s.Protocol == "WebSockets"
	roots := s.TLS.CAsConfigMap
	if c.Host == "" {
		c.Host, roots = localBroker, cmp.Or(roots, localBrokerRoots)
	}
	if s.TLS.Enabled() {
		c.TLS = m.tls(roots, &s.Authentication)
	}
	c.KeepAlive, c.SessionExpiry = time.Duration(s.KeepAliveSeconds)*time.Second, time.Duration(s.SessionExpirySeconds)*time.Second
	c.MaxInflight, c.QoS, c.NeverRetain = s.MaxInflightMessages, byte(s.QoS), s.Retain == "Never"
	c.ClientID = mqtt.ClientID(s.ClientIDPrefix, m.o.Device, g.Name, node)
	switch s.CloudEvents {
	case "Propagate":
		c.CloudEvents = cloudevents.Propagate
	case "CreateOrRemap":
		c.CloudEvents = cloudevents.CreateOrRemap
	}
	c.Auth = m.auth(&s.Authentication)
	c.DialContext = m.o.DialContext
	c.Log = func(warning bool, text string) { m.o.log(warning, g.Name, text) }
	return c
}

// clientIDs returns the client ids of a graph, in the order of its nodes.
func (m *Manager) clientIDs(g *manifest.Graph) (ids []string) {
	for _, name := range nodesOf(g) {
		if id := clientID(g, name, m.o.Device); id != "" {
			ids = append(ids, id)
		}
	}
	return ids
}

// clientID returns the client id of a node at its broker; empty: the node has none.
func clientID(g *manifest.Graph, node, device string) string {
	var e *manifest.Endpoint
	for i := range g.Sources {
		if g.Sources[i].Name == node {
			e = g.Sources[i].Settings
		}
	}
	for i := range g.Destinations {
		if g.Destinations[i].Name == node {
			e = g.Destinations[i].Settings
		}
	}
	if e == nil || e.Mqtt == nil {
		return ""
	}
	return mqtt.ClientID(e.Mqtt.ClientIDPrefix, device, g.Name, node)
}

// auth returns how a node proves who it is to a broker.
func (m *Manager) auth(a *manifest.Authentication) mqtt.Auth {
	switch a.Method {
	case manifest.X509Certificate:
		return mqtt.Auth{Method: mqtt.X509Certificate}
	case manifest.ServiceAccountToken:
		return mqtt.Auth{Method: mqtt.ServiceAccountToken, Token: func(context.Context) (string, error) { return m.serviceAccount() }}
	case manifest.UsernamePassword:
		return mqtt.Auth{Method: mqtt.UsernamePassword, Password: m.password(a)}
	case manifest.SystemAssigned, manifest.UserAssigned:
		return mqtt.Auth{Method: mqtt.ManagedIdentity, Token: func(ctx context.Context) (string, error) { return m.token(ctx, a, defaultAudience) }}
	default: // Anonymous; the others are of Kafka and of registries
		return mqtt.Auth{Method: mqtt.Anonymous}
	}
}

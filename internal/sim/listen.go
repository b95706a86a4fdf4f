package sim

import (
	"fmt"
	"net"
	"strconv"

	"github.com/hubhop-iot/hubhop/internal/sim/wire"
)

// listen takes all addresses before any of them is served: what clients are told must be known
// first.
func (s *Sim) listen() error {
	c := s.config
	bind := func(e *wire.Endpoint, name string, i, standard int) error {
		e.Host = c.Advertise
		if c.Layout == LayoutPorts {
			return s.bindFree(e, name, c.address(i).String())
		}
		return e.Bind(net.JoinHostPort(c.address(i).String(), strconv.Itoa(standard)))
	}
	// amqp lets refuse have the port of AMQP on address number i, if that is free: to refuse AMQP
	// clients is not essential.
	amqp := func(i int, name string, refuse func(addr string) error) {
		if err := refuse(net.JoinHostPort(c.address(i).String(), strconv.Itoa(wire.AMQPPort))); err != nil {
			c.Logger.Debug().Str("hub", name).Err(err).Msg("AMQP clients are refused by the operating system only")
		}
	}
	if err := bind(s.dps.MQTT, "dps/mqtt", 0, 8883); err != nil {
		return err
	}
	httpsPort := c.HTTPSPort
	if httpsPort == 0 {
		httpsPort = 443
		if c.Layout == LayoutLoopback {
			if err := bind(s.dps.Front.Endpoint, "dps/https", 0, 443); err != nil { // taken, or a port that this user may not bind
				httpsPort = 8443
				c.Logger.Info().Str("hub", "dps").Str("reason", err.Error()).
					Msg("HTTPS and WebSocket are on port 8443, because 443 cannot be bound; official SDKs know 443 only")
			}
		}
	}
	if s.dps.Front.Endpoint.Address() == "" {
		if err := bind(s.dps.Front.Endpoint, "dps/https", 0, httpsPort); err != nil {
			return err
		}
	}
	s.dps.SetHost(c.address(0).String())
	if c.Layout == LayoutPorts {
		s.dps.SetHost(s.dps.MQTT.Told())
	}
	if c.Layout == LayoutLoopback {
		amqp(0, "dps", s.dps.RefuseAMQP)
	}
	own := []*wire.Endpoint{s.control}
	for i, h := range s.hubs {
		if err := bind(h.MQTT, h.Name()+"/mqtt", i+1, 8883); err != nil {
			return err
		}
		if err := bind(h.HTTPS, h.Name()+"/https", i+1, httpsPort); err != nil {
			return err
		}
		host := c.address(i + 1).String()
		if c.Layout == LayoutPorts {
			host = h.MQTT.Told()
		}
		h.SetHost(host, c.told(i+1))
		if c.Layout == LayoutLoopback {
			amqp(i+1, h.Name(), h.RefuseAMQP)
		}
	}
	if err := s.registry.Start(); err != nil {
		return err
	}
	host, port, _ := net.SplitHostPort(c.ControlAddr)
	if port == "0" && s.bindFree(s.control, "control", host) == nil {
		port = ""
	}
	if port != "" {
		if taken := s.control.Bind(c.ControlAddr); taken != nil {
			if err := s.control.Bind(net.JoinHostPort(host, "0")); err != nil {
				return err
			}
			c.Logger.Warn().Str("address", s.control.Address()).Str("reason", taken.Error()).
				Msg("the control API is on a free port, because the one asked for cannot be bound; give its clients this address")
		}
	}
	if !isLoopbackHost(wire.HostIn(c.ControlAddr)) {
		s.control.Host = c.Advertise
	}
	if s.proxy != nil {
		if !isLoopbackHost(wire.HostIn(c.ConnectProxy)) {
			s.proxy.Host = c.Advertise
		}
		if err := s.proxy.Bind(c.ConnectProxy); err != nil {
			return err
		}
		own = append(own, s.proxy)
	}
	if err := s.store.Save(); err != nil {
		return err
	}
	s.dps.Open()
	for _, e := range own {
		e.Open()
	}
	for _, h := range s.hubs {
		h.Open()
	}
	return nil
}

// bindFree takes the port that the listener of that name had in an earlier life, because clients
// know it, or any free one.
func (s *Sim) bindFree(e *wire.Endpoint, name, host string) error {
	if known := s.store.Address(name); known != "" {
		if old, _, _ := net.SplitHostPort(known); old == host {
			if err := e.Bind(known); err != nil {
				return fmt.Errorf("the port of %s that clients of this state directory know cannot be taken again: %w; end what has it, or start with another state directory",
					name, err)
			}
			return nil
		}
	}
	if err := e.Bind(net.JoinHostPort(host, "0")); err != nil {
		return err
	}
	s.store.SetAddress(name, e.Address())
	return nil
}

package sim

import (
	"fmt"
	"net"
	"net/http"
	"strings"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/wire"
)

// connectProxy is an HTTP CONNECT proxy that leads Azure's names to this cloud, so that clients
// work with the names they were built with. It dials nothing: a tunnel is handed to the endpoint as
// if it had been accepted there, and so faults reach through it.
func (s *Sim) connectProxy(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodConnect {
		http.Error(w, "This is a CONNECT proxy for https and MQTT over TLS; it passes nothing on in the clear.", http.StatusMethodNotAllowed)
		return
	}
	e, status, reason := s.proxied(r.Host)
	if e == nil {
		http.Error(w, reason, status)
		return
	}
	l, resumed := e.Doorstep()
	if resumed != nil { // nobody answers the door: the client must find out by itself
		select {
		case <-resumed:
		case <-r.Context().Done():
			return
		}
		l, _ = e.Doorstep()
	}
	if l == nil {
		http.Error(w, r.Host+" refuses connections at the moment: it is under a fault.", http.StatusBadGateway)
		return
	}
	raw, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if _, err := raw.Write([]byte("HTTP/1.1 200 Connection established\r\n\r\n")); err != nil {
		_ = raw.Close()
		return
	}
	e.AdmitTunnel(l, raw, buffered.Reader)
}

// proxied finds the endpoint that a name and a port mean, or says why there is none. Beside Azure's
// names it takes the simulator's own: DPS assigns its hubs' addresses, and a client that has a
// proxy asks it for them too.
func (s *Sim) proxied(target string) (e *wire.Endpoint, status int, reason string) {
	name, port, err := net.SplitHostPort(strings.ToLower(target))
	if err != nil {
		return nil, http.StatusBadRequest, fmt.Sprintf("%q is not host:port.", target)
	}
	name = strings.TrimSuffix(name, ".")
	found := false
	try := func(named bool, https, mqtt, amqp *wire.Endpoint) *wire.Endpoint {
		own, httpsPort, _ := net.SplitHostPort(https.Address())
		if !named && name != own && name != strings.ToLower(wire.HostIn(https.Told())) {
			return nil
		}
		found = true
		standard := named || s.config.Layout == LayoutLoopback // where all share an address, it takes a port to tell them apart
		switch {
		case port == httpsPort, standard && port == "443":
			return https
		case port == portOf(mqtt.Address()), standard && port == "8883":
			return mqtt
		case amqp != nil && port == portOf(amqp.Address()):
			return amqp
		}
		return nil
	}
	dps := strings.HasSuffix(name, azure.DomainDPS) || strings.HasSuffix(name, azure.DomainCentral) || name == "dps.sim.local"
	if e := try(dps, s.dps.Front.Endpoint, s.dps.MQTT, s.dps.AMQP); e != nil {
		return e, 0, ""
	}
	for _, h := range s.hubs {
		if e := try(h.KnownAs(name), h.HTTPS, h.MQTT, h.AMQP); e != nil {
			return e, 0, ""
		}
	}
	switch {
	case found:
		return nil, http.StatusForbidden, fmt.Sprintf("%s has the ports 443 (HTTPS) and 8883 (MQTT) here, not %s.", name, port)
	case strings.HasSuffix(name, azure.DomainHubs):
		return nil, http.StatusBadGateway, fmt.Sprintf("There is no hub %s here: %s is one.", name, s.hubs[0].AzureName())
	}
	return nil, http.StatusForbidden, fmt.Sprintf("%s is refused: this proxy leads to the simulator only, by names that end in %s, %s or %s.",
		target, azure.DomainDPS, azure.DomainHubs, azure.DomainCentral)
}

func portOf(address string) string {
	_, port, _ := net.SplitHostPort(address)
	return port
}

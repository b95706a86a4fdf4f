package sim

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/wire"
)

// guard refuses requests that a foreign web page could have made. Such a page may let its own name
// point at this machine, so the Host of every request must be this machine. A request that changes
// something must not have a foreign Origin. A request that only reads may have one, because a
// browser does not show the answer to the page.
func (s *Sim) guard(r *http.Request) error {
	if !s.isOwnHost(r.Host) {
		return azure.Errorf(403, "", "requests must name this machine as their host, by address or as localhost, not as %q", r.Host)
	}
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		return nil
	}
	for _, origin := range r.Header.Values("Origin") {
		if u, err := url.Parse(origin); err != nil || u.Host != r.Host || u.Host == "" {
			return azure.Errorf(403, "", "requests from %q may not change anything", origin)
		}
	}
	return nil
}

// isOwnHost reports whether a Host header names this machine: loopback, the address that the
// control API listens on, or any address if the API listens on all of them.
func (s *Sim) isOwnHost(hostport string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	own, _, _ := net.SplitHostPort(s.control.Address())
	if isLoopbackHost(host) || host != "" && (host == own || strings.EqualFold(host, wire.HostIn(s.control.Told()))) {
		return true
	}
	named, err := netip.ParseAddr(host)
	at, ownErr := netip.ParseAddr(own)
	return err == nil && ownErr == nil && at.IsUnspecified() && named.IsValid()
}

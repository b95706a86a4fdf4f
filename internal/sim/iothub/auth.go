package iothub

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/wire"
)

// refusedError says why a CONNECT gets a CONNACK other than 0.
type refusedError struct {
	code byte
	err  error
}

func (e *refusedError) Error() string { return fmt.Sprintf("CONNACK %d: %v", e.code, e.err) }

func (e *refusedError) Unwrap() error { return e.err }

// authenticate finds out who connects. Its error is a refusedError. A zero time means that the
// credentials do not expire.
func (h *Hub) authenticate(c wire.ConnectPacket, chain []*x509.Certificate) (i *Identity, u azure.HubUserName, expires time.Time, err error) {
	refuse := func(code byte, err error) (*Identity, azure.HubUserName, time.Time, error) {
		return nil, u, time.Time{}, &refusedError{code, err}
	}
	if c.Level != 4 {
		return refuse(wire.ConnackBadProtocol, fmt.Errorf("protocol level %d", c.Level))
	}
	if u, err = azure.ParseHubUserName(c.Username); err != nil {
		return refuse(wire.ConnackUnavailable, err)
	}
	switch {
	case c.ClientID != nameOf(u.Device, u.Module):
		return refuse(wire.ConnackNotAuthorized, fmt.Errorf("client id %.200q is not that of the user name", c.ClientID))
	case !slices.ContainsFunc(h.hosts, func(host string) bool { return strings.EqualFold(host, u.Host) }):
		return refuse(wire.ConnackNotAuthorized, fmt.Errorf("user name is for host %.200q", u.Host))
	}
	if i = h.Identity(u.Device); i == nil {
		return refuse(wire.ConnackNotAuthorized, errors.New("device unknown"))
	}
	if u.Module != "" {
		if i = h.Module(u.Device, u.Module); i == nil {
			return refuse(wire.ConnackNotAuthorized, fmt.Errorf("module %.200q is unknown", u.Module))
		}
	}
	if expires, err = h.verify(i, c.Password, chain); err != nil {
		return refuse(wire.ConnackNotAuthorized, err)
	}
	return i, u, expires, nil
}

// verify checks how a device proves who it is: with a certificate, a token of its own key, or a
// token of a policy that may connect devices.
func (h *Hub) verify(i *Identity, password string, chain []*x509.Certificate) (expires time.Time, err error) {
	i.mu.Lock()
	auth := i.auth
	i.mu.Unlock()
	if auth.X509 {
		return time.Time{}, auth.Verify(chain, h.options.Devices, i.name(), h.now())
	}
	token, err := azure.ParseSAS(password)
	keys := auth.Keys
	known := true
	if token.Policy != "" {
		var p policy
		p, known = h.policy(token.Policy, deviceConnect)
		keys = p.keys[:]
	}
	switch {
	case err != nil:
	case !known:
		err = azure.ErrSASPolicy
	case !token.CoversPath(h.hosts, "/"+i.resource()):
		err = azure.ErrSASResource
	case !token.SignedBy(keys...):
		err = azure.ErrSASSignature
	case h.now().After(token.Expires.Add(h.options.Grace)):
		err = azure.ErrSASExpired
	}
	return token.Expires, err
}

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

// username is a hub's MQTT user name: {host}/{device}[/{module}]/[?]api-version=...
//
// A hub also accepts {host}/{device} and {host}/{device}/, which old samples, bridges and
// Node-RED's Azure node send. It then speaks the oldest version of the protocol: it has no methods,
// and answers twin requests with 400.
type username struct {
	host, device, module string
	modelID              string
	oldest               bool // it has no api-version
}

var errUsername = errors.New("malformed user name")

// parseUsername reads a user name. Its only error is errUsername.
func parseUsername(s string) (u username, err error) {
	parts := strings.Split(s, "/")
	query := ""
	if len(parts) == 2 || len(parts) == 3 && parts[2] == "" {
		u = username{host: parts[0], device: parts[1], oldest: true}
		if u.host == "" || !azure.ValidDeviceID(u.device) {
			return u, errUsername
		}
		return u, nil
	}
	switch len(parts) {
	case 3:
		u.host, u.device, query = parts[0], parts[1], parts[2]
	case 4:
		u.host, u.device, u.module, query = parts[0], parts[1], parts[2], parts[3]
		if !azure.ValidDeviceID(u.module) {
			return u, errUsername
		}
	default: // a slash within the query breaks it apart, too: values must be percent-encoded
		return u, errUsername
	}
	query = strings.TrimPrefix(query, "?")
	if version, _ := azure.QueryValue(query, "api-version"); version == "" || u.host == "" || !azure.ValidDeviceID(u.device) {
		return u, errUsername
	}
	u.modelID, _ = azure.QueryValue(query, "model-id")
	return u, nil
}

// refusedError says why a CONNECT gets a CONNACK other than 0.
type refusedError struct {
	code byte
	err  error
}

func (e *refusedError) Error() string { return fmt.Sprintf("CONNACK %d: %v", e.code, e.err) }

func (e *refusedError) Unwrap() error { return e.err }

// authenticate finds out who connects. Its error is a refusedError. A zero time means that the
// credentials do not expire.
func (h *Hub) authenticate(c wire.ConnectPacket, chain []*x509.Certificate) (i *Identity, u username, expires time.Time, err error) {
	refuse := func(code byte, err error) (*Identity, username, time.Time, error) {
		return nil, u, time.Time{}, &refusedError{code, err}
	}
	if c.Level != 4 {
		return refuse(wire.ConnackBadProtocol, fmt.Errorf("protocol level %d", c.Level))
	}
	if u, err = parseUsername(c.Username); err != nil {
		return refuse(wire.ConnackUnavailable, err)
	}
	switch {
	case c.ClientID != nameOf(u.device, u.module):
		return refuse(wire.ConnackNotAuthorized, fmt.Errorf("client id %.200q is not that of the user name", c.ClientID))
	case !slices.ContainsFunc(h.hosts, func(host string) bool { return strings.EqualFold(host, u.host) }):
		return refuse(wire.ConnackNotAuthorized, fmt.Errorf("user name is for host %.200q", u.host))
	}
	if i = h.Identity(u.device); i == nil {
		return refuse(wire.ConnackNotAuthorized, errors.New("device unknown"))
	}
	if u.module != "" {
		if i = h.Module(u.device, u.module); i == nil {
			return refuse(wire.ConnackNotAuthorized, fmt.Errorf("module %.200q is unknown", u.module))
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

package cli

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"github.com/hubhop-iot/hubhop/dps"
	"github.com/hubhop-iot/hubhop/internal/azname"
	"github.com/hubhop-iot/hubhop/internal/secret"
)

// idScope matches the ID scopes of Azure: 0ne in the public cloud, two other letters in other
// clouds, then letters and digits, 11 characters in all. Other lengths match too, because only DPS
// knows them.
var idScope = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^0[A-Za-z]{2}[0-9A-Za-z]{5,29}$`) })

// CheckIDScope returns an error for an impossible ID scope, before DPS is asked.
func CheckIDScope(scope string) error {
	const where = "IoT Central shows it under Device connection groups, DPS on its overview page, the simulator in sim.json"
	switch {
	case scope == "":
		return errors.New("is missing; " + where)
	case idScope().MatchString(scope):
		return nil
	case len(scope) > 1 && strings.ContainsAny(scope[:1], "oO") && idScope().MatchString("0"+scope[1:]):
		return fmt.Errorf("%s begins with the letter %s; an ID scope begins with the digit 0", secret.Quoted(scope), scope[:1])
	}
	return fmt.Errorf("%s is not an ID scope, which looks like 0ne00ABCDEF; %s", secret.Quoted(scope), where)
}

// CheckRegistrationID is dps.CheckRegistrationID for a user's text, which may be a pasted secret.
func CheckRegistrationID(id string) error {
	err := dps.CheckRegistrationID(id)
	if err != nil && secret.Looks(id) { // after the check, because a legal id may look like a key
		return errors.New("what was given looks like a secret; give the id alone")
	}
	return err
}

// CheckHost returns an error for an impossible address of a service, host or host:port.
func CheckHost(key, address string) error {
	if address == "" {
		return fmt.Errorf("%s is empty; give a host name, or leave it out", key)
	}
	if secret.Looks(address) {
		return fmt.Errorf("%s: what was given looks like a secret; give the host name alone", key)
	}
	if err := azname.CheckHost(address); err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	return nil
}

// CheckListen returns an error for an impossible address to listen at, host:port. Port 0 is any
// free port.
func CheckListen(key, address string) error {
	host, port, err := net.SplitHostPort(address)
	switch {
	case strings.Contains(address, "/"):
		return fmt.Errorf("%s is %s; it must be host:port, such as 127.0.0.1:8090, without a scheme or path", key, secret.QuotedAddress(address))
	case err != nil:
		return fmt.Errorf("%s is %s; it must be host:port, such as 127.0.0.1:8090", key, secret.QuotedAddress(address))
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil || port[0] == '+' {
		return fmt.Errorf("%s is %s; its port must be a number from 0 (any that is free) to 65535", key, secret.QuotedAddress(address))
	}
	if host == "" {
		return nil // all addresses; the listener decides whether that is allowed
	}
	if err := azname.CheckHost(net.JoinHostPort(host, "1")); err != nil {
		return fmt.Errorf("%s is %s; its host must be an address of this machine", key, secret.QuotedAddress(address))
	}
	return nil
}

// CheckBaseAddress returns an error for an impossible first address of the simulator.
func CheckBaseAddress(key, address string) error {
	if a, err := netip.ParseAddr(address); err != nil || !a.Is4() {
		return fmt.Errorf("%s is %s; it must be an IPv4 address without a port, such as 127.0.0.1", key, secret.QuotedAddress(address))
	}
	return nil
}

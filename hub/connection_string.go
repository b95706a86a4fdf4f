package hub

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/hubhop-iot/hubhop/internal/azname"
)

// ConnectionString holds the parts of a device's connection string.
type ConnectionString struct {
	HostName string // of the hub: host or host:port
	// GatewayHostName, host or host:port, which is dialled in the hub's place; may be empty.
	Gateway  string
	DeviceID string
	Key      string // SharedAccessKey, base64; empty if X509
	X509     bool   // x509=true: the device proves itself with a certificate
}

const connectionStringForm = "HostName=…;DeviceId=…;SharedAccessKey=…"

// ParseConnectionString reads a connection string as the Azure portal shows it and as people copy
// it: blanks around its parts, a line end after it and any letter case of the names are accepted.
// It never ignores a part: it uses it or returns an error. It also refuses values with which no
// connection can be made. Errors name the part and never quote the key.
func ParseConnectionString(s string) (ConnectionString, error) {
	parts := map[string]string{}
	for part := range strings.SplitSeq(strings.TrimPrefix(s, "\ufeff"), ";") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		name, value, ok := strings.Cut(part, "=")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		// The last case is a bare base64 key.
		if !ok || name == "" || strings.Trim(value, "=") == "" && value != "" {
			return ConnectionString{}, fmt.Errorf("a part of the connection string is not of the form name=value; the whole is of the form %s",
				connectionStringForm)
		}
		known, err := partName(name)
		if err != nil {
			return ConnectionString{}, err
		}
		if _, twice := parts[known]; twice {
			return ConnectionString{}, fmt.Errorf("the connection string has %s twice; leave one out", known)
		}
		parts[known] = value
	}
	c := ConnectionString{
		HostName: parts["HostName"], Gateway: parts["GatewayHostName"], DeviceID: parts["DeviceId"], Key: parts["SharedAccessKey"],
	}
	if x509, given := parts["x509"]; given {
		on, err := strconv.ParseBool(strings.ToLower(x509))
		if err != nil {
			return ConnectionString{}, errors.New("x509 in the connection string is neither true nor false")
		}
		c.X509 = on
	}
	return c, c.check(parts)
}

// partName returns the usual spelling of a part's name, or an error that says why hubhop cannot use
// the part.
func partName(name string) (string, error) {
	for _, known := range []string{"HostName", "DeviceId", "SharedAccessKey", "GatewayHostName", "x509"} {
		if strings.EqualFold(name, known) {
			return known, nil
		}
	}
	for unused, why := range map[string]string{
		"ModuleId":              "this is the connection string of a module, and hubhop connects devices; take the connection string of the device",
		"SharedAccessKeyName":   "this is the connection string of a service with a shared access policy; take the connection string of the device",
		"SharedAccessSignature": "it carries a token that cannot be renewed when it ends; take the connection string with SharedAccessKey",
	} {
		if strings.EqualFold(name, unused) {
			return "", fmt.Errorf("the connection string has %s: %s", unused, why)
		}
	}
	if len(name) > 32 || strings.ContainsFunc(name, func(r rune) bool { return !azname.IsAlphanumeric(r) }) {
		return "", fmt.Errorf("a part of the connection string has an impossible name; the whole is of the form %s", connectionStringForm)
	}
	return "", fmt.Errorf("the connection string has %s, which hubhop does not know; the whole is of the form %s", name, connectionStringForm)
}

func (c ConnectionString) check(parts map[string]string) error {
	for _, name := range []string{"HostName", "DeviceId"} {
		if parts[name] == "" {
			return fmt.Errorf("the connection string has no %s; it must be the connection string of a device, of the form %s", name, connectionStringForm)
		}
	}
	switch {
	case c.Key == "" && !c.X509:
		return fmt.Errorf("the connection string has no SharedAccessKey; it must be the connection string of a device, of the form %s", connectionStringForm)
	case c.Key != "" && c.X509:
		return errors.New("the connection string has both SharedAccessKey and x509=true; leave one out")
	}
	if err := azname.CheckHost(c.HostName); err != nil {
		return fmt.Errorf("HostName in the connection string: %w", err)
	}
	if _, given := parts["GatewayHostName"]; given {
		if err := azname.CheckHost(c.Gateway); err != nil {
			return fmt.Errorf("GatewayHostName in the connection string: %w", err)
		}
	}
	if err := azname.CheckDeviceID(c.DeviceID); err != nil {
		return fmt.Errorf("DeviceId in the connection string: %w", err)
	}
	return nil
}

package hub

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
)

// ConnectionString holds the parts of a device's connection string.
type ConnectionString struct {
	HostName string // of the hub: host or host:port
	Gateway  string // GatewayHostName, host or host:port, which is dialled in the hub's place; may be empty
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
		if !ok || name == "" || strings.Trim(value, "=") == "" && value != "" { // the last case is a bare base64 key
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
	if len(name) > 32 || strings.ContainsFunc(name, func(r rune) bool { return !isASCIILetter(r) && (r < '0' || r > '9') }) {
		return "", fmt.Errorf("a part of the connection string has an impossible name; the whole is of the form %s", connectionStringForm)
	}
	return "", fmt.Errorf("the connection string has %s, which hubhop does not know; the whole is of the form %s", name, connectionStringForm)
}

func isASCIILetter(r rune) bool { return 'a' <= r|0x20 && r|0x20 <= 'z' }

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
	if err := CheckHost(c.HostName); err != nil {
		return fmt.Errorf("HostName in the connection string: %w", err)
	}
	if _, given := parts["GatewayHostName"]; given {
		if err := CheckHost(c.Gateway); err != nil {
			return fmt.Errorf("GatewayHostName in the connection string: %w", err)
		}
	}
	if err := CheckDeviceID(c.DeviceID); err != nil {
		return fmt.Errorf("DeviceId in the connection string: %w", err)
	}
	return nil
}

// CheckHost returns an error of one line if s cannot be the address of a hub: a DNS name of at most
// 253 characters or an IP address, with or without a port from 1 to 65535.
func CheckHost(s string) error {
	host, port := s, ""
	switch {
	case strings.Contains(s, "://"):
		return fmt.Errorf("%s has a scheme; give the host name alone", quoteShort(s))
	case strings.ContainsAny(s, "/\\?"):
		return fmt.Errorf("%s has a path; give the host name alone", quoteShort(s))
	case strings.Count(s, ":") == 1 || strings.HasPrefix(s, "[") && !strings.HasSuffix(s, "]"):
		var err error
		if host, port, err = net.SplitHostPort(s); err != nil {
			return fmt.Errorf("%s is not a host name", quoteShort(s))
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || port[0] == '+' {
			return fmt.Errorf("%s has an impossible port: a port is a number from 1 to 65535", quoteShort(s))
		}
	case strings.HasPrefix(s, "["):
		host = s[1 : len(s)-1]
	}
	if a, err := netip.ParseAddr(host); err == nil {
		if a.Zone() != "" {
			return fmt.Errorf("%s has a zone, which no certificate names", quoteShort(s))
		}
		return nil
	}
	if len(host) > 253 {
		return fmt.Errorf("%s is not a host name: it has %d characters, and 253 are the most", quoteShort(s), len(host))
	}
	for label := range strings.SplitSeq(strings.TrimSuffix(host, "."), ".") {
		if label == "" || len(label) > 63 || strings.ContainsFunc(label, func(r rune) bool {
			return !isASCIILetter(r) && (r < '0' || r > '9') && r != '-' && r != '_'
		}) {
			return fmt.Errorf("%s is not a host name", quoteShort(s))
		}
	}
	return nil
}

// CheckDeviceID returns an error of one line if id cannot be a device id over MQTT. IoT Hub allows
// 1 to 128 letters, digits and - : . % _ * ? ! ( ) , = @ $ ' + #. CheckDeviceID refuses + and #,
// because no MQTT topic can carry them.
func CheckDeviceID(id string) error {
	switch {
	case id == "":
		return errors.New("it is empty")
	case len(id) > 128:
		return fmt.Errorf("%s has %d characters, and 128 are the most", quoteShort(id), len(id))
	case strings.ContainsAny(id, "+#"):
		return fmt.Errorf("%s has a + or #, which no MQTT topic can carry; give the device an id without them", quoteShort(id))
	}
	for _, r := range id {
		if !isASCIILetter(r) && (r < '0' || r > '9') && !strings.ContainsRune("-:.%_*?!(),=@$'", r) {
			return fmt.Errorf("%s has the character %q; an id has letters, digits and - : . %% _ * ? ! ( ) , = @ $ '", quoteShort(id), r)
		}
	}
	return nil
}

// keyLike matches a key in base64, or a long part of one.
var keyLike = regexp.MustCompile(`[A-Za-z0-9+/]{32,}`)

// quoteShort quotes text of any length and content for a message of one line. A key that was put in
// the wrong place is not quoted: it has small and capital letters and digits, and nothing between
// them.
func quoteShort(s string) string {
	const most = 80
	for _, run := range keyLike.FindAllString(s[:min(len(s), 4*most)], -1) {
		if strings.ContainsAny(run, "0123456789") && strings.ToLower(run) != run && strings.ToUpper(run) != run {
			return "what looks like a secret"
		}
	}
	if len(s) > most {
		return strconv.QuoteToASCII(strings.ToValidUTF8(s[:most], "")) + "…"
	}
	return strconv.QuoteToASCII(s)
}

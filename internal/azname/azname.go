// Package azname says what can be a name at Azure, and says in one line what is wrong with a text
// that cannot. The texts come from users, from files and from the service.
package azname

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"sync"
)

// CheckHost returns an error of one line if s cannot be the address of a hub or of another service:
// a DNS name of at most 253 characters or an IP address, with or without a port from 1 to 65535.
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
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || port[0] == '0' || port[0] == '+' {
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
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' || strings.ContainsFunc(label, func(r rune) bool {
			return !IsAlphanumeric(r) && r != '-' && r != '_'
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
		if !IsAlphanumeric(r) && !strings.ContainsRune("-:.%_*?!(),=@$'", r) {
			return fmt.Errorf("%s has the character %q; an id has letters, digits and - : . %% _ * ? ! ( ) , = @ $ '", quoteShort(id), r)
		}
	}
	return nil
}

// IsAlphanumeric reports whether r is an ASCII letter or digit.
func IsAlphanumeric(r rune) bool { return 'a' <= r|0x20 && r|0x20 <= 'z' || '0' <= r && r <= '9' }

// keyLike matches a key in base64, or a long part of one.
var keyLike = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`[A-Za-z0-9+/]{32,}`) })

// quoteShort quotes text of any length and content for a message of one line. A key that was put in
// the wrong place is not quoted: it has small and capital letters and digits, and nothing between
// them.
func quoteShort(s string) string {
	const most = 80
	for _, run := range keyLike().FindAllString(s[:min(len(s), 4*most)], -1) {
		if strings.ContainsAny(run, "0123456789") && strings.ToLower(run) != run && strings.ToUpper(run) != run {
			return "what looks like a secret"
		}
	}
	if len(s) > most {
		return strconv.QuoteToASCII(strings.ToValidUTF8(s[:most], "")) + "…"
	}
	return strconv.QuoteToASCII(s)
}

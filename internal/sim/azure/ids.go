package azure

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"strings"
	"time"
)

// RandomHex draws n bytes and writes them in 2n hexadecimal digits.
func RandomHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails since Go 1.24
	return hex.EncodeToString(b)
}

// NewPolicyKey draws a key of the size that hubs use, 32 bytes.
func NewPolicyKey() []byte { return RandomKey(32) }

// RandomKey draws a key of size bytes.
func RandomKey(size int) []byte {
	key := make([]byte, size)
	_, _ = rand.Read(key) // never fails since Go 1.24
	return key
}

// NewGUID draws a GUID.
func NewGUID() string {
	s := RandomHex(16)
	return s[:8] + "-" + s[8:12] + "-4" + s[13:16] + "-a" + s[17:20] + "-" + s[20:]
}

// UTC7 writes a time as DPS and hubs do, with seven fractional digits.
func UTC7(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.0000000Z") }

// NewDPSEtag draws an etag as DPS makes them: the base64 form of a quoted GUID.
func NewDPSEtag() string { return base64.StdEncoding.EncodeToString([]byte(`"` + NewGUID() + `"`)) }

// These are the domains that the services have in Azure.
const (
	DomainDPS     = ".azure-devices-provisioning.net"
	DomainHubs    = ".azure-devices.net"
	DomainCentral = ".azureiotcentral.com"
)

// IsDPSName reports whether the name that a client asked for in TLS is one of DPS in Azure.
func IsDPSName(serverName string) bool {
	return strings.HasSuffix(strings.ToLower(serverName), DomainDPS)
}

// ValidDeviceID reports whether an identity registry takes the id: at most 128 ASCII letters,
// digits and a set of signs.
func ValidDeviceID(id string) bool {
	for i := range len(id) {
		c := id[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && strings.IndexByte("-.+%_#*?!(),:=@$';", c) < 0 {
			return false
		}
	}
	return id != "" && len(id) <= 128
}

// ValidRegistrationID reports whether DPS takes the id: at most 128 letters, digits, and - . _ :,
// the last character a letter, a digit or a dash.
func ValidRegistrationID(id string) bool {
	for i := range len(id) {
		c := id[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-':
		case strings.IndexByte("._:", c) >= 0 && i < len(id)-1:
		default:
			return false
		}
	}
	return id != "" && len(id) <= 128
}

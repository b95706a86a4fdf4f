package sim

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// This file holds the shapes of the service's texts: ids, times, etags, error documents, percent-encoding.

// randomHex draws n bytes.
func randomHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails since Go 1.24
	return hex.EncodeToString(b)
}

// newPolicyKey draws a key as hubs make them.
func newPolicyKey() []byte { return randomKey(32) }

func randomKey(size int) []byte {
	key := make([]byte, size)
	_, _ = rand.Read(key) // never fails since Go 1.24
	return key
}

func newGUID() string {
	s := randomHex(16)
	return s[:8] + "-" + s[8:12] + "-4" + s[13:16] + "-a" + s[17:20] + "-" + s[20:]
}

// utc7 writes a time as DPS and hubs do, with seven fractional digits.
func utc7(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.0000000Z") }

// newDPSEtag is the base64 form of a quoted guid.
func newDPSEtag() string { return base64.StdEncoding.EncodeToString([]byte(`"` + newGUID() + `"`)) }

// These are the domains that the services have in Azure.
const (
	azureDPS     = ".azure-devices-provisioning.net"
	azureHubs    = ".azure-devices.net"
	azureCentral = ".azureiotcentral.com"
)

// isAzureDPS says whether a client knows DPS by Azure's name.
func isAzureDPS(serverName string) bool {
	return strings.HasSuffix(strings.ToLower(serverName), azureDPS)
}

// errorDocument is the body of a refused request at DPS and of a refused twin operation at a hub. Its code divided by 1000 is the
// HTTP status.
type errorDocument struct {
	ErrorCode    int    `json:"errorCode"`
	TrackingID   string `json:"trackingId"`
	Message      string `json:"message"`
	TimestampUTC string `json:"timestampUtc"`
}

func encodeJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil { // our own types and decoded JSON only
		return []byte(strconv.Quote(fmt.Sprintf("cannot encode %T: %v", v, err)))
	}
	return b
}

// unescape decodes percent-escapes once. A plus sign stays one, and what is no escape stays as it is, as at the service.
func unescape(s string) string {
	if strings.IndexByte(s, '%') < 0 {
		return s
	}
	return string(appendUnescaped(make([]byte, 0, len(s)), s))
}

func appendUnescaped[T string | []byte](dst []byte, s T) []byte {
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if hi, lo := unhex(s[i+1]), unhex(s[i+2]); hi < 16 && lo < 16 {
				dst = append(dst, hi<<4|lo)
				i += 2
				continue
			}
		}
		dst = append(dst, s[i])
	}
	return dst
}

func unhex(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10
	}
	return 16
}

// escape percent-encodes everything but RFC 3986's unreserved characters; a space becomes %20, never a plus sign.
func escape(s string) string {
	const hexDigits = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._~", c) >= 0 {
			b.WriteByte(c)
			continue
		}
		b.WriteByte('%')
		b.WriteByte(hexDigits[c>>4])
		b.WriteByte(hexDigits[c&15])
	}
	return b.String()
}

// queryRaw finds key in a topic's query ("$rid=1&retry-after=3"); the first one wins, and the value stays as it was sent, so that it
// can be echoed.
func queryRaw(query, key string) (value string, ok bool) {
	for pair := range strings.SplitSeq(query, "&") {
		if k, v, _ := strings.Cut(pair, "="); k == key || unescape(k) == key {
			return v, true
		}
	}
	return "", false
}

// queryValue is queryRaw, percent-decoded.
func queryValue(query, key string) (value string, ok bool) {
	value, ok = queryRaw(query, key)
	return unescape(value), ok
}

// Optional is a string that is null in JSON when it is empty.
type Optional string

// MarshalJSON writes null for the empty string.
func (o Optional) MarshalJSON() ([]byte, error) {
	if o == "" {
		return []byte("null"), nil
	}
	return json.Marshal(string(o))
}

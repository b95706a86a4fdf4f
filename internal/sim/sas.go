package sim

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"
)

// sasToken is a shared access signature as a client sent it. The signature covers the raw text of sr, whatever its escapes look
// like: the Node SDK signs it unescaped for DPS, the embedded C SDK with lower-case escapes.
type sasToken struct {
	rawSR   string
	sr      string // decoded
	sig     []byte
	se      string // as signed
	expires time.Time
	skn     string
}

var (
	errSASMalformed = errors.New("malformed shared access signature")
	errSASSignature = errors.New("wrong signature")
	errSASResource  = errors.New("token is for another resource")
	errSASExpired   = errors.New("token expired")
	errSASPolicy    = errors.New("unknown policy")
)

// parseSAS takes the fields in any order; the first of a doubled field counts.
func parseSAS(s string) (sasToken, error) {
	const scheme = "SharedAccessSignature "
	if len(s) < len(scheme) || !strings.EqualFold(s[:len(scheme)], scheme) || len(s) > 4096 {
		return sasToken{}, errSASMalformed
	}
	fields := map[string]string{}
	for pair := range strings.SplitSeq(s[len(scheme):], "&") {
		k, v, ok := strings.Cut(pair, "=")
		if !ok {
			return sasToken{}, errSASMalformed
		}
		if _, doubled := fields[k]; !doubled {
			fields[k] = v
		}
	}
	sig, err := base64.StdEncoding.DecodeString(unescape(fields["sig"]))
	if err != nil || len(sig) != sha256.Size || fields["sr"] == "" {
		return sasToken{}, errSASMalformed
	}
	se, err := strconv.ParseInt(fields["se"], 10, 64)
	if err != nil || se < 0 {
		return sasToken{}, errSASMalformed
	}
	const year9999 = 253402300799 // time.Unix and Duration arithmetic stay exact up to it
	se = min(se, year9999)        // Node's client of the DPS service API counts milliseconds, which is far ahead
	return sasToken{
		rawSR: fields["sr"], sr: unescape(fields["sr"]), sig: sig,
		se: fields["se"], expires: time.Unix(se, 0), skn: unescape(fields["skn"]),
	}, nil
}

// signedBy says whether one of the keys made the token.
func (t sasToken) signedBy(keys ...[]byte) bool {
	for _, key := range keys {
		if len(key) > 0 && hmac.Equal(t.sig, sign(key, t.rawSR+"\n"+t.se)) {
			return true
		}
	}
	return false
}

func sign(key []byte, text string) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}

// deriveKey is the device key of a group enrollment.
func deriveKey(groupKey []byte, registrationID string) []byte { return sign(groupKey, registrationID) }

// coversPath says whether the token is good for a resource of a hub, such as /devices/d: its sr is the resource or a prefix of it by
// whole segments. Host names are compared without case, the rest exactly.
func (t sasToken) coversPath(hosts []string, resource string) bool {
	for _, sr := range t.resources() {
		host, path, _ := strings.Cut(strings.TrimSuffix(sr, "/"), "/")
		if slices.ContainsFunc(hosts, func(h string) bool { return strings.EqualFold(h, host) }) &&
			(path == "" || resource == "/"+path || strings.HasPrefix(resource, "/"+path+"/")) {
			return true
		}
	}
	return false
}

// resources returns the possible readings of sr. The C# SDK escapes the device's id and then the
// whole text again, so a text that a device signed may be decoded twice. A token of a policy is
// decoded once only: its key serves many devices, and the id of one may be the escaped form of
// another's.
func (t sasToken) resources() []string {
	if twice := unescape(t.sr); twice != t.sr && (t.skn == "" || t.skn == "registration") {
		return []string{t.sr, twice}
	}
	return []string{t.sr}
}

// coversRegistration says whether the token is good for a registration at DPS.
func (t sasToken) coversRegistration(idScope, registrationID string) bool {
	return slices.ContainsFunc(t.resources(), func(sr string) bool {
		scope, rest, _ := strings.Cut(sr, "/")
		kind, id, _ := strings.Cut(rest, "/")
		return scope == idScope && kind == "registrations" && strings.EqualFold(id, registrationID)
	})
}

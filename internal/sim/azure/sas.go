package azure

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

// SAS is a shared access signature as a client sent it. The signature covers the raw text of sr
// with whatever escapes it has: the Node SDK signs it unescaped for DPS, the embedded C SDK signs
// it with lower-case escapes.
type SAS struct {
	rawSR     string
	Resource  string // sr, unescaped once
	signature []byte
	se        string // as signed
	Expires   time.Time
	Policy    string // skn: the policy whose key signed it; empty for the key of a device
}

// What can be wrong with a shared access signature.
var (
	ErrSASMalformed = errors.New("malformed shared access signature")
	ErrSASSignature = errors.New("wrong signature")
	ErrSASResource  = errors.New("token is for another resource")
	ErrSASExpired   = errors.New("token expired")
	ErrSASPolicy    = errors.New("unknown policy")
)

// ParseSAS takes the fields in any order; the first of a doubled field counts. Its only error is
// ErrSASMalformed.
func ParseSAS(s string) (SAS, error) {
	const scheme = "SharedAccessSignature "
	if len(s) < len(scheme) || !strings.EqualFold(s[:len(scheme)], scheme) || len(s) > 4096 {
		return SAS{}, ErrSASMalformed
	}
	fields := map[string]string{}
	for pair := range strings.SplitSeq(s[len(scheme):], "&") {
		k, v, ok := strings.Cut(pair, "=")
		if !ok {
			return SAS{}, ErrSASMalformed
		}
		if _, doubled := fields[k]; !doubled {
			fields[k] = v
		}
	}
	sig, err := base64.StdEncoding.DecodeString(Unescape(fields["sig"]))
	if err != nil || len(sig) != sha256.Size || fields["sr"] == "" {
		return SAS{}, ErrSASMalformed
	}
	se, err := strconv.ParseInt(fields["se"], 10, 64)
	if err != nil || se < 0 {
		return SAS{}, ErrSASMalformed
	}
	const year9999 = 253402300799 // time.Unix and Duration arithmetic stay exact up to it
	se = min(se, year9999)        // Node's client of the DPS service API counts milliseconds, which is far ahead
	return SAS{
		rawSR: fields["sr"], Resource: Unescape(fields["sr"]), signature: sig,
		se: fields["se"], Expires: time.Unix(se, 0), Policy: Unescape(fields["skn"]),
	}, nil
}

// SignedBy reports whether one of the keys made the token.
func (t SAS) SignedBy(keys ...[]byte) bool {
	for _, key := range keys {
		if len(key) > 0 && hmac.Equal(t.signature, sign(key, t.rawSR+"\n"+t.se)) {
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

// DeriveKey derives the key of a device from the key of its enrollment group.
func DeriveKey(groupKey []byte, registrationID string) []byte { return sign(groupKey, registrationID) }

// CoversPath reports whether the token is good for a resource of a hub, such as /devices/d, that
// goes by any of these host names: its sr must be the resource or a prefix of it by whole segments.
// Host names are compared without case, the rest exactly.
func (t SAS) CoversPath(hosts []string, resource string) bool {
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
func (t SAS) resources() []string {
	if twice := Unescape(t.Resource); twice != t.Resource && (t.Policy == "" || t.Policy == "registration") {
		return []string{t.Resource, twice}
	}
	return []string{t.Resource}
}

// CoversRegistration reports whether the token is good for a registration at DPS.
func (t SAS) CoversRegistration(idScope, registrationID string) bool {
	return slices.ContainsFunc(t.resources(), func(sr string) bool {
		scope, rest, _ := strings.Cut(sr, "/")
		kind, id, _ := strings.Cut(rest, "/")
		return scope == idScope && kind == "registrations" && strings.EqualFold(id, registrationID)
	})
}

package format

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"
)

// Identity says whose messages an outbox holds, and where they go. Keys, models and the hub that
// DPS assigns are not part of it, because they may change while messages wait.
type Identity struct {
	IDScope string   `json:"idScope,omitempty"` // of DPS; "" without DPS
	Device  string   `json:"device"`            // registration id; without DPS the device id
	Hubs    []string `json:"hubs,omitempty"`    // without DPS: the hubs that the messages may go to
}

// IsZero says that the identity names nobody.
func (id Identity) IsZero() bool { return id.Device == "" }

// String returns the identity in words.
func (id Identity) String() string {
	if id.IDScope != "" {
		return fmt.Sprintf("device %s in ID scope %s", id.Device, id.IDScope)
	}
	return fmt.Sprintf("device %s on %s", id.Device, strings.Join(id.Hubs, ", "))
}

// Matches says that messages for id may go to other. Letter case does not count, as in DPS and DNS.
func (id Identity) Matches(other Identity) bool {
	if id.IDScope != "" || other.IDScope != "" {
		return strings.EqualFold(id.IDScope, other.IDScope) && strings.EqualFold(id.Device, other.Device)
	}
	return id.Device == other.Device && slices.ContainsFunc(id.Hubs, other.hasHub)
}

func (id Identity) hasHub(host string) bool {
	return slices.ContainsFunc(id.Hubs, func(h string) bool { return strings.EqualFold(h, host) })
}

// maxHubs bounds how many hubs of a device are remembered.
const maxHubs = 64

// With returns id with the hubs of other added.
func (id Identity) With(other Identity) Identity {
	id.Hubs = slices.Clone(id.Hubs)
	for _, h := range other.Hubs {
		if !id.hasHub(h) && len(id.Hubs) < maxHubs {
			id.Hubs = append(id.Hubs, h)
		}
	}
	return id
}

// The format of the identity file is in docs/outbox.md, section 2.5.
const (
	identityStart = "hubhop outbox identity "
	// MaxIdentity is more than any identity file has, in bytes.
	MaxIdentity = 64 << 10
)

// ErrIdentity says that a file is no identity, or a damaged one.
var ErrIdentity = errors.New("the checksum is wrong")

// AppendTo appends the identity as its file has it.
func (id Identity) AppendTo(b []byte) []byte {
	text, _ := json.Marshal(id) // never fails for strings
	return fmt.Appendf(b, "%s%d %08x %s\n", identityStart, Version, crc32.Checksum(text, Castagnoli), text)
}

// ReadIdentity reads an identity file. It returns ErrNewer for that of a newer version, and
// ErrIdentity for anything else that is no identity.
func ReadIdentity(b []byte) (*Identity, error) {
	rest, isOurs := strings.CutPrefix(strings.TrimSuffix(string(b), "\n"), identityStart)
	number, rest, _ := strings.Cut(rest, " ")
	if isOurs && number > fmt.Sprint(Version) && len(number) < 10 {
		return nil, fmt.Errorf("%w: its format is %.9q, this program knows %d: use the program that wrote it, or a newer one", ErrNewer, number, Version)
	}
	sum, text, _ := strings.Cut(rest, " ")
	id := new(Identity)
	if !isOurs || sum != fmt.Sprintf("%08x", crc32.Checksum([]byte(text), Castagnoli)) || json.Unmarshal([]byte(text), id) != nil {
		return nil, ErrIdentity
	}
	return id, nil
}

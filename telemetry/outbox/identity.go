package outbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/format"
)

// Identity says whose messages an outbox holds, and where they go. Keys, models and the hub that
// DPS assigns are not part of it, because they may change while messages wait.
type Identity struct {
	IDScope string   `json:"idScope,omitempty"` // of DPS; "" without DPS
	Device  string   `json:"device"`            // registration id; without DPS the device id
	Hubs    []string `json:"hubs,omitempty"`    // without DPS: the hubs that the messages may go to
}

func (id Identity) isZero() bool { return id.Device == "" }

// String returns the identity in words.
func (id Identity) String() string {
	if id.IDScope != "" {
		return fmt.Sprintf("device %s in ID scope %s", id.Device, id.IDScope)
	}
	return fmt.Sprintf("device %s on %s", id.Device, strings.Join(id.Hubs, ", "))
}

// matches says that messages for id may go to other. Letter case does not count, as in DPS and DNS.
func (id Identity) matches(other Identity) bool {
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

// with returns id with the hubs of other added.
func (id Identity) with(other Identity) Identity {
	id.Hubs = slices.Clone(id.Hubs)
	for _, h := range other.Hubs {
		if !id.hasHub(h) && len(id.Hubs) < maxHubs {
			id.Hubs = append(id.Hubs, h)
		}
	}
	return id
}

// check returns ErrOther if the messages that wait in a directory must not be sent for this
// identity.
func (id Identity) check(l *layout, sendHere bool) error {
	n := l.queued()
	if id.isZero() || l.identity == nil || sendHere || n == 0 || id.matches(*l.identity) {
		return nil
	}
	return fmt.Errorf("outbox: %w: %d messages wait for %s, and this is %s", ErrOther, n, l.identity, id)
}

// queued returns how many records are in the line.
func (l *layout) queued() uint64 {
	a := l.acks()
	return l.next() - a.Cursor - a.Above
}

// The format of the identity file is in docs/outbox.md, section 2.5.
const (
	identityName  = "identity"
	identityStart = "hubhop outbox identity "
	maxIdentity   = 64 << 10
)

func (id Identity) appendTo(b []byte) []byte {
	text, _ := json.Marshal(id) // never fails for strings
	return fmt.Appendf(b, "%s%d %08x %s\n", identityStart, format.Version, crc32.Checksum(text, format.Castagnoli), text)
}

func readIdentity(b []byte) (*Identity, error) {
	rest, isOurs := strings.CutPrefix(strings.TrimSuffix(string(b), "\n"), identityStart)
	number, rest, _ := strings.Cut(rest, " ")
	if isOurs && number > fmt.Sprint(format.Version) && len(number) < 10 {
		return nil, fmt.Errorf("%w: its format is %.9q, this program knows %d: use the program that wrote it, or a newer one", ErrNewer, number, format.Version)
	}
	sum, text, _ := strings.Cut(rest, " ")
	id := new(Identity)
	if !isOurs || sum != fmt.Sprintf("%08x", crc32.Checksum([]byte(text), format.Castagnoli)) || json.Unmarshal([]byte(text), id) != nil {
		return nil, errDamaged
	}
	return id, nil
}

func (l *layout) loadIdentity(disk disk.FS, name string, listed bool) error {
	f, err := disk.Open(name, readOnly)
	if errors.Is(err, fs.ErrNotExist) && (l.as == looking || !listed) {
		return nil // the outbox is new, or older than identities
	}
	if err == nil {
		defer func() { _ = f.Close() }()
		b := make([]byte, maxIdentity)
		var n int
		if n, err = f.ReadAt(b, 0); err == nil {
			err = errDamaged // longer than any identity
		} else if errors.Is(err, io.EOF) {
			l.identity, err = readIdentity(b[:n])
		}
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errDamaged), l.isBelieved(err), l.as == looking && !format.IsVersion(err):
		l.badIdentity = fmt.Errorf("%s: %w", name, err)
		return nil
	}
	return fmt.Errorf("outbox: %s: %w", name, err)
}

// claim writes down whose outbox this is from now on. The caller leads, or nobody else knows the
// box yet.
func (b *Box) claim() error {
	if b.claimed || b.opt.For.isZero() {
		return nil
	}
	now := b.opt.For
	if was := b.identity; was != nil && now.matches(*was) {
		b.mu.Lock()
		waits := b.count() > 0
		b.mu.Unlock()
		if waits {
			now = now.with(*was)
		}
		if text := string(now.appendTo(nil)); text == string(was.appendTo(nil)) {
			b.claimed = true
			return nil
		}
	}
	name := filepath.Join(b.dir, identityName)
	if b.badIdentity {
		if err := b.fs.Rename(name, name+badSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		b.badIdentity = false
	}
	making := name + ".tmp"
	f, err := b.create(making, readWrite|truncate)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(now.appendTo(nil), 0)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = b.fs.Rename(making, name)
	}
	if err == nil {
		err = b.fs.SyncDir(b.dir)
	}
	if err == nil {
		b.claimed, b.identity = true, &now
	}
	return err
}

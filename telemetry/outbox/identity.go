package outbox

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"

	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/format"
)

// Identity says whose messages an outbox holds, and where they go.
type Identity = format.Identity

const identityName = "identity"

// isFor returns ErrOther if the messages that wait in a directory must not be sent for this
// identity.
func (l *layout) isFor(id Identity, sendHere bool) error {
	n := l.queued()
	if id.IsZero() || l.identity == nil || sendHere || n == 0 || id.Matches(*l.identity) {
		return nil
	}
	return fmt.Errorf("outbox: %w: %d messages wait for %s, and this is %s", ErrOther, n, l.identity, id)
}

// queued returns how many records are in the line.
func (l *layout) queued() uint64 {
	a := l.acks()
	return l.next() - a.Cursor - a.Above
}

func (l *layout) loadIdentity(disk disk.FS, name string, listed bool) error {
	f, err := disk.Open(name, readOnly)
	if errors.Is(err, fs.ErrNotExist) && (l.as == looking || !listed) {
		return nil // the outbox is new, or older than identities
	}
	if err == nil {
		defer func() { _ = f.Close() }()
		b := make([]byte, format.MaxIdentity)
		var n int
		if n, err = f.ReadAt(b, 0); err == nil {
			err = errDamaged // longer than any identity
		} else if errors.Is(err, io.EOF) {
			l.identity, err = format.ReadIdentity(b[:n])
		}
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errDamaged), errors.Is(err, format.ErrIdentity), l.isBelieved(err), l.as == looking && !format.IsVersion(err):
		l.badIdentity = fmt.Errorf("%s: %w", name, err)
		return nil
	}
	return fmt.Errorf("outbox: %s: %w", name, err)
}

// claim writes down whose outbox this is from now on. The caller leads, or nobody else knows the
// box yet.
func (b *Box) claim() error {
	if b.claimed || b.opt.For.IsZero() {
		return nil
	}
	now := b.opt.For
	if was := b.identity; was != nil && now.Matches(*was) {
		b.mu.Lock()
		waits := b.count() > 0
		b.mu.Unlock()
		if waits {
			now = now.With(*was)
		}
		if text := string(now.AppendTo(nil)); text == string(was.AppendTo(nil)) {
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
	_, err = f.WriteAt(now.AppendTo(nil), 0)
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

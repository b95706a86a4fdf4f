package device

import (
	"crypto/tls"
	"errors"

	"github.com/hubhop-iot/hubhop/dps"
	"github.com/hubhop-iot/hubhop/hub"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

// Identity is who one device is, how it proves that, and where it keeps its state.
type Identity struct {
	DeviceID    string           // registration id
	IDScope     string           // of the DPS
	Key         string           // the device's own key, base64; empty with a certificate
	Certificate *tls.Certificate // X.509 instead of a key
	PinnedHub   string           // one hub, no DPS
	Gateway     string           // dialled in the pinned hub's place; may be empty

	StateDir string // the device has a directory of its own in it

	// OpenOutbox opens the device's outbox, with dir as the place of its files if it has some. The
	// options are those of the Config, completed by the device. nil: outbox.Open.
	OpenOutbox func(dir string, o outbox.Options) (Outbox, error)
}

// ErrNoCertificate says that a connection string has x509=true, and that the identity has no
// certificate.
var ErrNoCertificate = errors.New("the connection string says x509=true; give the device's --cert and --key with it")

// UseConnectionString sets PinnedHub, Gateway, DeviceID and Key, so the device connects to one hub
// without DPS. For a string with x509=true set Certificate first; without it the other fields are
// set, and the error is [ErrNoCertificate]. Errors never quote the key.
func (id *Identity) UseConnectionString(s string) error {
	cs, err := hub.ParseConnectionString(s)
	if err != nil {
		return err
	}
	id.PinnedHub, id.Gateway, id.DeviceID, id.Key = cs.HostName, cs.Gateway, cs.DeviceID, cs.Key
	switch {
	case !cs.X509:
		return dps.CheckKey(cs.Key)
	case id.Certificate == nil:
		return ErrNoCertificate
	}
	return nil
}

// queuesFor returns for whom samples are queued. Under DPS it has no hub, because the hub may
// change.
func (id *Identity) queuesFor() outbox.Identity {
	if id.PinnedHub != "" {
		return outbox.Identity{Device: id.DeviceID, Hubs: []string{id.PinnedHub}}
	}
	return outbox.Identity{IDScope: id.IDScope, Device: id.DeviceID}
}

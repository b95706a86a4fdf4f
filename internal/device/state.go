package device

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hubhop-iot/hubhop/failover"
	"github.com/hubhop-iot/hubhop/internal/azname"
	"github.com/hubhop-iot/hubhop/internal/home"
)

// stateVersion is the version of the format of state.json.
const stateVersion = 1

const maxListed = 64 // known hubs in a file; a session keeps fewer

// loadState reads the cached hub of the device that who describes. It returns a fresh state if the
// file is missing or belongs to another device or other credentials, because the cache is only a
// hint. An error means that the disk could not be read.
func loadState(h *home.Home, who failover.State, horizon func(sealed bool) time.Time) (failover.State, error) {
	fresh := failover.State{Version: stateVersion, IDScope: who.IDScope, RegistrationID: who.RegistrationID, KeyFingerprint: who.KeyFingerprint}
	var s failover.State
	found, err := h.Load(home.StateFile, &s, func(sealed bool) error {
		if s.Version != stateVersion {
			return fmt.Errorf("it has format %d, this program knows %d", s.Version, stateVersion)
		}
		return credible(s, horizon(sealed))
	})
	if !found || !s.Same(who) {
		return fresh, err
	}
	return s, nil
}

// credible returns an error if a state has an impossible value, or a date after limit.
func credible(s failover.State, limit time.Time) error {
	hubs := append([]failover.KnownHub{{Host: s.AssignedHub, DeviceID: s.DeviceID, AssignedAt: s.AssignedAt}}, s.KnownHubs...)
	if len(hubs) > maxListed {
		return fmt.Errorf("it knows %d hubs", len(hubs)-1)
	}
	if s.RefusedSince.After(limit) {
		return fmt.Errorf("it says that the device has been refused since %s, and it can hardly be later than %s",
			s.RefusedSince.UTC().Format(time.RFC3339), limit.UTC().Format(time.RFC3339))
	}
	for i, k := range hubs {
		if k.AssignedAt.After(limit) {
			return fmt.Errorf("it says that a hub was assigned at %s, and it can hardly be later than %s",
				k.AssignedAt.UTC().Format(time.RFC3339), limit.UTC().Format(time.RFC3339))
		}
		if k.Host == "" && i == 0 {
			continue // no hub is assigned
		}
		if err := azname.CheckHost(k.Host); err != nil {
			return err
		}
		if k.DeviceID == "" {
			continue // the device id is the registration id
		}
		if err := azname.CheckDeviceID(k.DeviceID); err != nil {
			return fmt.Errorf("a device id: %w", err)
		}
	}
	return nil
}

// saveState replaces the cached hub. It writes only values that loadState would accept.
func saveState(h *home.Home, s failover.State) error {
	s.Version = stateVersion
	s.AssignedAt, s.KnownHubs = s.AssignedAt.UTC(), slices.Clone(s.KnownHubs)
	if !s.RefusedSince.IsZero() {
		s.RefusedSince = s.RefusedSince.UTC()
	}
	for i := range s.KnownHubs {
		s.KnownHubs[i].AssignedAt = s.KnownHubs[i].AssignedAt.UTC()
	}
	return h.Save(home.StateFile, s)
}

// keeper keeps the state of a session for the next run.
type keeper struct {
	home  *home.Home
	who   func() failover.State
	limit func(sealed bool) time.Time // the latest time that is believed in a file

	mu     sync.Mutex
	latest *failover.State // that was not written yet; nil: none
	unread bool            // the disk could not read the file yet, so it must not be overwritten
	// late are the known hubs of a file that was read after the session had begun. The session does
	// not know them, so each file that is written must get them from here.
	late []failover.KnownHub
}

// save writes the state. If the disk fails, home tries again later, with the state of that time.
func (k *keeper) save(s failover.State) {
	k.mu.Lock()
	k.latest = &s
	k.forgetLocked()
	k.mu.Unlock()
	k.home.Note(home.StateFile, k.write(), "cannot keep the assigned hub for the next start", k.write)
}

func (k *keeper) write() error {
	latest, s, unread := k.state()
	if latest == nil {
		return nil
	}
	if err := credible(s, k.limit(true)); err != nil {
		return err
	}
	if unread {
		old, err := loadState(k.home, k.who(), k.limit)
		if err != nil {
			return err
		}
		k.read(old)
		latest, s, _ = k.state()
	}
	err := saveState(k.home, s)
	k.mu.Lock()
	defer k.mu.Unlock()
	if err == nil && k.latest == latest {
		k.latest = nil
	}
	return err
}

// state returns what is to be written: the latest state, and behind its known hubs the late ones.
// latest is nil if there is nothing to be written.
func (k *keeper) state() (latest *failover.State, s failover.State, unread bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if latest = k.latest; latest == nil {
		return nil, s, false
	}
	s = *latest
	if room := failover.MaxKnownHubs - len(s.KnownHubs); room > 0 {
		s.KnownHubs = append(slices.Clip(s.KnownHubs), k.late[:min(room, len(k.late))]...)
	}
	return latest, s, k.unread
}

// read takes over what the file knew.
func (k *keeper) read(old failover.State) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.unread, k.late = false, old.KnownHubs
	k.forgetLocked()
}

// forgetLocked drops late hubs that the session knows by now. From then on the session alone
// decides whether such a hub is known, because it learns which hub refuses the device.
func (k *keeper) forgetLocked() {
	if k.latest == nil {
		return
	}
	k.late = slices.DeleteFunc(k.late, func(late failover.KnownHub) bool {
		return slices.ContainsFunc(k.latest.KnownHubs, func(known failover.KnownHub) bool { return known.Host == late.Host })
	})
}

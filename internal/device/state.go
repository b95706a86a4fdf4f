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
	latest failover.State
	unread bool // the disk could not read the file yet, so it must not be overwritten
}

// save writes the state. If the disk fails, home tries again later, with the state of that time.
func (k *keeper) save(s failover.State) {
	k.mu.Lock()
	k.latest = s
	k.mu.Unlock()
	k.home.Note(home.StateFile, k.write(), "cannot keep the assigned hub for the next start", k.write)
}

func (k *keeper) write() error {
	k.mu.Lock()
	s, unread := k.latest, k.unread
	k.mu.Unlock()
	if err := credible(s, k.limit(true)); err != nil {
		return err
	}
	if unread {
		old, err := loadState(k.home, k.who(), k.limit)
		if err != nil {
			return err
		}
		for _, known := range old.KnownHubs {
			if !slices.ContainsFunc(s.KnownHubs, func(k failover.KnownHub) bool { return k.Host == known.Host }) && len(s.KnownHubs) < failover.MaxKnownHubs {
				s.KnownHubs = append(slices.Clip(s.KnownHubs), known)
			}
		}
		k.mu.Lock()
		k.unread = false
		k.mu.Unlock()
	}
	return saveState(k.home, s)
}

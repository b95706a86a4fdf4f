package failover

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/hubhop-iot/hubhop/dps"
)

// stateVersion is the version of the state file's format.
const stateVersion = 1

// State is what survives a restart: which hub a device belongs to, as far as DPS has said. It holds no secret.
type State struct {
	Version        int        `json:"version"`
	IDScope        string     `json:"idScope"`
	RegistrationID string     `json:"registrationId"`
	KeyFingerprint string     `json:"keyFingerprint"`
	AssignedHub    string     `json:"assignedHub"`
	DeviceID       string     `json:"deviceId"`
	Substatus      string     `json:"substatus,omitempty"`
	AssignedAt     time.Time  `json:"assignedAt"`
	KnownHubs      []KnownHub `json:"knownHubs"` // newest assignment first, at most 8
	// RefusedSince is since when DPS has answered this device and assigned nothing; zero when its last word was an assignment.
	RefusedSince time.Time `json:"refusedSince,omitzero"`
}

// KnownHub is a hub that DPS has assigned to this device.
type KnownHub struct {
	Host       string    `json:"host"`
	DeviceID   string    `json:"deviceId"`
	AssignedAt time.Time `json:"assignedAt"`
	Refused    bool      `json:"refused,omitempty"`    // it answered CONNACK 5 since: not tried until DPS assigns it again
	Sequential bool      `json:"sequential,omitempty"` // it minds packets before its CONNACK
}

// Same reports whether both states speak of the same device under the same credentials.
func (s State) Same(t State) bool {
	return s.IDScope == t.IDScope && s.RegistrationID == t.RegistrationID && s.KeyFingerprint == t.KeyFingerprint
}

// WithAssignment is the state after DPS's decision a: its hub is the cached one, and a known one.
func (s State) WithAssignment(a dps.Assignment, now time.Time) State {
	m := NewMachine(Options{}, s)
	m.know(now, Assigned{Hub: a.Hub, DeviceID: a.DeviceID, Substatus: a.Substatus})
	m.home.host = a.Hub
	m.pardoned()
	m.keep(now)
	return m.State()
}

func (s State) deviceID(host string) string {
	for _, k := range s.KnownHubs {
		if k.Host == host && k.DeviceID != "" {
			return k.DeviceID
		}
	}
	if s.DeviceID != "" {
		return s.DeviceID
	}
	return s.RegistrationID
}

func (s State) sequential(host string) bool {
	for _, k := range s.KnownHubs {
		if k.Host == host {
			return k.Sequential
		}
	}
	return false
}

// LoadState reads the state file at path for the device that who describes. A file that is missing, or that speaks of another
// device or other credentials, gives a fresh state without error: the cache is a hint. A file that cannot be understood gives a
// fresh state and an error worth a warning.
func LoadState(path string, who State) (State, error) {
	fresh := State{Version: stateVersion, IDScope: who.IDScope, RegistrationID: who.RegistrationID, KeyFingerprint: who.KeyFingerprint}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fresh, nil
	}
	if err != nil {
		return fresh, err
	}
	var s State
	if err := json.Unmarshal(b, &s); err != nil {
		return fresh, fmt.Errorf("%s is damaged (%w); the device asks DPS again", path, err)
	}
	if s.Version != stateVersion {
		return fresh, fmt.Errorf("%s has format %d, this program knows %d; the device asks DPS again", path, s.Version, stateVersion)
	}
	if !s.Same(who) {
		return fresh, nil
	}
	return s, nil
}

// SaveState replaces the state file whole: a reader, or a crash, sees the old one or the new one.
func SaveState(path string, s State) error {
	s.AssignedAt, s.KnownHubs = s.AssignedAt.UTC(), slices.Clone(s.KnownHubs)
	if !s.RefusedSince.IsZero() {
		s.RefusedSince = s.RefusedSince.UTC()
	}
	for i := range s.KnownHubs {
		s.KnownHubs[i].AssignedAt = s.KnownHubs[i].AssignedAt.UTC()
	}
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return ReplaceFile(path, append(b, '\n'))
}

// ReplaceFile writes a small file so that it is there whole, or not at all, after a crash: a temporary file in the same directory,
// fsync, rename, fsync of the directory. Its mode is 0600.
func ReplaceFile(path string, content []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	if d, derr := os.Open(filepath.Dir(path)); derr == nil { // a system that cannot sync a directory does without
		_ = d.Sync()
		_ = d.Close()
	}
	return nil
}

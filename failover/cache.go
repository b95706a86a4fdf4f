package failover

import (
	"time"

	"github.com/hubhop-iot/hubhop/dps"
)

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
	// RefusedSince is the time of DPS's first answer without an assignment since its last
	// assignment or link; zero if there was none.
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

package failover

import (
	"slices"
	"time"

	"github.com/hubhop-iot/hubhop/dps"
)

// MaxKnownHubs is how many hubs a session knows at most, with the one that DPS has assigned.
const MaxKnownHubs = 8

const maxKnownAge = 30 * 24 * time.Hour // of an assignment

// State is what survives a restart: the hub that DPS has assigned to a device, and those that it
// had assigned before. It holds no secret.
type State struct {
	Version        int        `json:"version"`
	IDScope        string     `json:"idScope"`
	RegistrationID string     `json:"registrationId"`
	KeyFingerprint string     `json:"keyFingerprint"`
	AssignedHub    string     `json:"assignedHub"`
	DeviceID       string     `json:"deviceId"`
	Substatus      string     `json:"substatus,omitempty"`
	AssignedAt     time.Time  `json:"assignedAt"`
	KnownHubs      []KnownHub `json:"knownHubs"` // newest assignment first, at most MaxKnownHubs
	// RefusedSince is the time of DPS's first answer without an assignment since its last
	// assignment or link; zero if there was none.
	RefusedSince time.Time `json:"refusedSince,omitzero"`
}

// KnownHub is a hub that DPS has assigned to this device.
type KnownHub struct {
	Host       string    `json:"host"`
	DeviceID   string    `json:"deviceId"`
	AssignedAt time.Time `json:"assignedAt"`
	// Refused: the hub has answered CONNACK 5 since, so it is not tried until DPS assigns it again.
	Refused    bool `json:"refused,omitempty"`
	Sequential bool `json:"sequential,omitempty"` // the hub minds packets before its CONNACK
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

// know remembers that DPS assigned a hub.
func (m *Machine) know(now time.Time, e Assigned) {
	known := slices.DeleteFunc(m.state.KnownHubs, func(k KnownHub) bool { return k.Host == e.Hub })
	k := KnownHub{Host: e.Hub, DeviceID: e.DeviceID, AssignedAt: now, Sequential: m.state.sequential(e.Hub)}
	m.state.KnownHubs = append([]KnownHub{k}, known...)
	if len(m.state.KnownHubs) > MaxKnownHubs {
		m.state.KnownHubs = m.state.KnownHubs[:MaxKnownHubs]
	}
	m.state.Substatus = e.Substatus
	m.forgetOld(now)
}

func (m *Machine) forgetOld(now time.Time) {
	m.state.KnownHubs = slices.DeleteFunc(m.state.KnownHubs, func(k KnownHub) bool {
		return k.Host != m.home.host && now.Sub(k.AssignedAt) > maxKnownAge
	})
}

// refused takes note of a CONNACK 5. That hub is not tried as a known hub until DPS assigns it
// again.
func (m *Machine) refused(host string) {
	for i := range m.state.KnownHubs {
		if k := &m.state.KnownHubs[i]; k.Host == host && !k.Refused {
			k.Refused = true
			m.emit(Save{})
		}
	}
}

// keep makes the hub that works the cached one.
func (m *Machine) keep(now time.Time) {
	s := &m.state
	changed := m.unsaved
	if s.AssignedHub != m.home.host {
		changed = true
		s.AssignedHub, s.DeviceID, s.AssignedAt = m.home.host, s.deviceID(m.home.host), now
	}
	for i := range s.KnownHubs {
		if k := &s.KnownHubs[i]; k.Host == m.home.host {
			seq := m.hub(k.Host).sequential
			changed = changed || k.Refused || k.Sequential != seq
			k.Refused, k.Sequential = false, seq
		}
	}
	if changed {
		m.unsaved = false
		m.emit(Save{})
	}
}

// pardoned forgets since when DPS has refused the device. keep saves that with the next link.
func (m *Machine) pardoned() {
	if !m.state.RefusedSince.IsZero() {
		m.state.RefusedSince, m.unsaved = time.Time{}, true
	}
}

package iothub

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/wire"
)

// record is what a hub's registry notes of an identity beside its credentials and its documents; the identity's mutex guards it.
type record struct {
	revision     int64 // counts the changes of the identity, and makes its etag
	statusReason string
	statusAt     time.Time // of the last change of enabled; zero if there was none
	connectionAt time.Time // of the last connect or disconnect
	edge         bool
	scope        string
	tags         document // known to the service only
}

// setEnabled is called with mu held.
func (i *Identity) setEnabled(enabled bool, reason string) {
	if i.enabled != enabled {
		i.statusAt = i.hub.now()
	}
	i.enabled, i.statusReason = enabled, reason
	i.revision++
}

// etag is the version of the identity, in the form hubs have it: a number in base64; called with mu held.
func (i *Identity) etag() string {
	h := fnv.New32a()
	_, _ = h.Write([]byte(i.generation))
	return base64.StdEncoding.EncodeToString([]byte(strconv.FormatInt(int64(h.Sum32())+i.revision, 10)))
}

// twinVersion counts every change of the twin; called with mu held.
func (i *Identity) twinVersion() int64 { return i.tags.version + i.desired.version + i.report.version }

// twinEtag is the version of what the service may write of the twin; called with mu held.
func (i *Identity) twinEtag() string {
	return base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint64(nil, uint64(i.tags.version+i.desired.version)))
}

// Identity is one device in one hub, or one module of it: a module has a twin, methods, telemetry and a connection of its own, but no
// cloud-to-device messages, and it is of no use while its device is disabled.
type Identity struct {
	id         string // of the device
	module     string // "" for the device itself
	parent     *Identity
	modules    map[string]*Identity // of a device; guarded by the hub's mutex
	hub        *Hub
	generation string

	entry sync.Mutex // held by the session that is being let in; before mu

	mu      sync.Mutex
	gone    bool // deleted; a session that still holds it must not attach
	enabled bool
	auth    azure.Credentials
	modelID string
	desired document
	report  document
	mail    mailbox
	stored  *subscriptions // the persistent session
	session *session       // the live one
	arrival chan struct{}  // closed when the device begins to listen; made by the waiting goroutine

	injected atomic.Pointer[injection] // a fault the device has asked for, over or not
	record
	kept keptState
}

// ID is the id of the device.
func (i *Identity) ID() string { return i.id }

// Hub is the hub that has the identity.
func (i *Identity) Hub() *Hub { return i.hub }

// Standing is how an identity stands at the moment.
type Standing struct {
	Enabled bool
	Online  bool
	ModelID string // as announced at the last CONNECT that had one
}

// Standing tells how the identity stands at the moment.
func (i *Identity) Standing() Standing {
	i.mu.Lock()
	defer i.mu.Unlock()
	return Standing{Enabled: i.enabled, Online: i.session != nil, ModelID: i.modelID}
}

// Connection returns the number of the live session, which counts all sessions of the cloud, and the
// model that it announced. It is 0 for a device that is not connected.
func (i *Identity) Connection() (number int64, modelID string) {
	if s := i.online(); s != nil {
		return s.number, s.from.ModelID
	}
	return 0, ""
}

// Disconnect ends the live session for a reason. It returns false if there is none.
func (i *Identity) Disconnect(reason string) bool {
	s := i.online()
	if s != nil {
		s.wire.HangUp(reason)
	}
	return s != nil
}

// Trust replaces the credentials. It does so even if it returns an error, which says that a restart
// will not know of it.
func (i *Identity) Trust(auth azure.Credentials) error {
	i.mu.Lock()
	i.auth = auth
	return i.saveAndUnlock()
}

// Identity returns the identity of a device, nil if the hub has none.
func (h *Hub) Identity(id string) *Identity {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.identities[id]
}

// All returns the hub's identities in order of their ids.
func (h *Hub) All() []*Identity {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.SortedFunc(maps.Values(h.identities), func(a, b *Identity) int { return strings.Compare(a.id, b.id) })
}

// Admit creates the identity of a device, or puts an existing one back into service; a twin, unless
// nil, replaces the one it has. A new twin starts at version 1. An error says that the change was
// made but could not be written down.
func (h *Hub) Admit(id string, auth azure.Credentials, twin *TwinContent, enabled bool) (err error) {
	h.mu.Lock()
	i := h.identities[id]
	if i == nil {
		i = h.create(id, auth, twin)
		i.enabled = enabled
		twin = nil
	}
	h.mu.Unlock()
	i.mu.Lock()
	i.auth = auth
	i.setEnabled(enabled, "")
	if twin != nil {
		err = i.replaceTwin(twin)
	}
	return errors.Join(err, i.saveAndUnlock())
}

// create is called with mu held; the twin is empty for nil.
func (h *Hub) create(id string, auth azure.Credentials, twin *TwinContent) *Identity {
	now := h.now()
	i := &Identity{id: id, hub: h, auth: auth, generation: strconv.FormatInt(now.UnixNano()/100, 10)}
	if twin == nil {
		twin = &TwinContent{}
	}
	i.desired, i.report, i.edge = newDocument(twin.Desired, now), newDocument(twin.Reported, now), twin.Edge
	i.tags.props = twin.Tags
	h.identities[id] = i
	return i
}

// Disable makes the identity unusable and closes its connection, and those of its modules. It does
// so even if it returns an error, which says that a restart will not know of it.
func (i *Identity) Disable(reason string) error {
	i.mu.Lock()
	i.setEnabled(false, reason)
	s := i.session
	lost := i.saveAndUnlock()
	if s != nil {
		s.wire.HangUp(reason)
	}
	for _, m := range i.hub.ModulesOf(i) {
		if s := m.online(); s != nil {
			s.wire.HangUp(reason)
		}
	}
	return lost
}

// Enable undoes disable; its error means the same.
func (i *Identity) Enable() error {
	i.mu.Lock()
	i.setEnabled(true, "")
	return i.saveAndUnlock()
}

// Delete removes the identity with everything it has, and closes its connection. It does so even if
// it returns an error, which says that the identity may be back after a restart.
func (h *Hub) Delete(id, reason string) error {
	h.mu.Lock()
	i := h.identities[id]
	delete(h.identities, id)
	var live []*session
	var lost error
	if i != nil {
		buried := []*Identity{i}
		for _, m := range i.modules {
			buried = append(buried, m)
		}
		for _, b := range buried {
			s, err := b.bury()
			live, lost = append(live, s), errors.Join(lost, err)
		}
	}
	h.mu.Unlock()
	for _, s := range live {
		if s != nil {
			s.wire.HangUp(reason)
		}
	}
	return lost
}

// bury ends an identity that is no longer in the hub's table. It returns the session that the
// caller must end, nil if there is none. An error says that the identity could not be removed from
// the store. The hub's mutex is held, so that a new identity of the same name comes later.
func (i *Identity) bury() (live *session, err error) {
	i.mu.Lock()
	i.gone = true
	i.arrived()
	live = i.session
	return live, i.saveAndUnlock()
}

// online is the device's live session, nil without one.
func (i *Identity) online() *session {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.session
}

// usable is nil if the device may connect.
func (i *Identity) usable() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.usableLocked()
}

func (i *Identity) usableLocked() error {
	switch {
	case i.gone:
		return &refusedError{wire.ConnackNotAuthorized, errors.New("device unknown")}
	case !i.enabled:
		return &refusedError{i.hub.refusal, errors.New("device disabled")}
	case i.parent != nil:
		return i.parent.usable()
	}
	return nil
}

// Held returns how many bytes of memory the packets take that wait for the device.
func (i *Identity) Held() int {
	if s := i.online(); s != nil {
		return s.wire.Held()
	}
	return 0
}

// nameOf is how a device or a module of it is called in one text: as the MQTT client id, and in the common name of a certificate.
func nameOf(device, module string) string {
	if module == "" {
		return device
	}
	return device + "/" + module
}

func (i *Identity) name() string { return nameOf(i.id, i.module) }

// resource is the path of an identity in topics, in the resource of a token, and over HTTPS.
func (i *Identity) resource() string {
	if i.module == "" {
		return "devices/" + i.id
	}
	return "devices/" + i.id + "/modules/" + i.module
}

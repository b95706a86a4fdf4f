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

// record is what the identity registry of a hub notes of an identity beside its credentials and its
// documents. The identity's mutex guards it.
type record struct {
	revision     int64 // counts the changes of the identity, and makes its etag
	statusReason string
	statusAt     time.Time          // of the last change of enabled; zero if there was none
	connectionAt time.Time          // of the last connect or disconnect
	edge         bool               // its capability iotEdge
	scope        string             // its device scope
	tags         azure.TwinDocument // known to the service only
}

// setEnabled switches the identity on or off. mu is held.
func (i *Identity) setEnabled(enabled bool, reason string) {
	if i.enabled != enabled {
		i.statusAt = i.hub.now()
	}
	i.enabled, i.statusReason = enabled, reason
	i.revision++
}

// etag returns the version of the identity as hubs write it: a number in base64. mu is held.
func (i *Identity) etag() string {
	h := fnv.New32a()
	_, _ = h.Write([]byte(i.generation))
	return base64.StdEncoding.EncodeToString([]byte(strconv.FormatInt(int64(h.Sum32())+i.revision, 10)))
}

// twinVersion returns the number of changes of the twin. mu is held.
func (i *Identity) twinVersion() int64 { return i.tags.Version + i.desired.Version + i.report.Version }

// twinEtag returns the version of the parts of the twin that a service may write. mu is held.
func (i *Identity) twinEtag() string {
	return base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint64(nil, uint64(i.tags.Version+i.desired.Version)))
}

// Identity is one device in one hub, or one module of a device. A module has its own twin, methods,
// telemetry and connection, but no cloud-to-device messages. It cannot connect while its device is
// disabled.
type Identity struct {
	id         string // of the device
	module     string // "" for the device itself
	parent     *Identity
	modules    map[string]*Identity // of a device; guarded by the hub's mutex
	hub        *Hub
	generation string

	entry sync.Mutex // held by the session that is being let in; taken before mu

	mu      sync.Mutex // guards all below but injected, and what its session says that it guards
	gone    bool       // it is deleted, so a session that still holds it must not attach
	enabled bool
	auth    azure.Credentials
	modelID string
	desired azure.TwinDocument
	report  azure.TwinDocument
	mail    mailbox
	stored  *subscriptions // the persistent session
	session *session       // the live one
	arrival chan struct{}  // closed when the device begins to listen; nil if nobody waits

	injected atomic.Pointer[injection] // a fault that the device has asked for, which may be over
	record
	kept keptState
}

// ID returns the id of the device.
func (i *Identity) ID() string { return i.id }

// Hub returns the hub that has the identity.
func (i *Identity) Hub() *Hub { return i.hub }

// Standing is the state of an identity at one moment.
type Standing struct {
	Enabled bool
	Online  bool
	ModelID string // what the last CONNECT that had one announced
}

// Standing returns the state of the identity at this moment.
func (i *Identity) Standing() Standing {
	i.mu.Lock()
	defer i.mu.Unlock()
	return Standing{Enabled: i.enabled, Online: i.session != nil, ModelID: i.modelID}
}

// Connection returns the number of the live session and the model that it announced. The sessions
// of the whole cloud are numbered in order. The number is 0 if the device is not connected.
func (i *Identity) Connection() (number int64, modelID string) {
	if s := i.online(); s != nil {
		return s.number, s.from.ModelID
	}
	return 0, ""
}

// Disconnect ends the live session for a reason. It returns false if there is no session.
func (i *Identity) Disconnect(reason string) bool {
	s := i.online()
	if s != nil {
		s.wire.HangUp(reason)
	}
	return s != nil
}

// Trust replaces the credentials. An error says that this was done but not written down, so a
// restart undoes it.
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

// All returns the identities of devices in the order of their ids.
func (h *Hub) All() []*Identity {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.SortedFunc(maps.Values(h.identities), func(a, b *Identity) int { return strings.Compare(a.id, b.id) })
}

// Admit creates the identity of a device, or gives an existing one these credentials. A twin that
// is not nil replaces its twin; a new twin begins at version 1. An error says that this was done
// but not written down.
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

// create puts a new identity into the table. A nil twin is an empty one. mu is held.
func (h *Hub) create(id string, auth azure.Credentials, twin *TwinContent) *Identity {
	now := h.now()
	i := &Identity{id: id, hub: h, auth: auth, generation: strconv.FormatInt(now.UnixNano()/100, 10)}
	if twin == nil {
		twin = &TwinContent{}
	}
	i.desired, i.report, i.edge = azure.NewTwinDocument(twin.Desired, now), azure.NewTwinDocument(twin.Reported, now), twin.Edge
	i.tags.Values = twin.Tags
	h.identities[id] = i
	return i
}

// Disable makes the identity unusable, and closes its connection and those of its modules. An error
// says that this was done but not written down, so a restart undoes it.
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

// Enable undoes Disable. Its error means the same.
func (i *Identity) Enable() error {
	i.mu.Lock()
	i.setEnabled(true, "")
	return i.saveAndUnlock()
}

// Delete removes an identity with its modules and all that they have, and closes their connections.
// An error says that this was done but not written down, so a restart may bring the identity back.
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
// caller must end, nil if there is none. An error says that the identity is still in the store. The
// hub's mutex is held, so a new identity of the same name comes later.
func (i *Identity) bury() (live *session, err error) {
	i.mu.Lock()
	i.gone = true
	i.arrived()
	live = i.session
	return live, i.saveAndUnlock()
}

// online returns the live session, nil if there is none.
func (i *Identity) online() *session {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.session
}

// usable returns nil if the device may connect.
func (i *Identity) usable() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.usableLocked()
}

// usableLocked is usable with mu held.
func (i *Identity) usableLocked() error {
	switch {
	case i.gone:
		return &refusedError{wire.ConnackNotAuthorized, errors.New("device unknown")}
	case !i.enabled:
		return &refusedError{i.hub.options.DisabledRefusal, errors.New("device disabled")}
	case i.parent != nil:
		return i.parent.usable()
	}
	return nil
}

// Held returns how many bytes of memory the packets take that wait for the device. It is for tests.
func (i *Identity) Held() int {
	if s := i.online(); s != nil {
		return s.wire.Held()
	}
	return 0
}

// nameOf returns the name of a device or a module in one text. It is the MQTT client id, and the
// common name of a certificate.
func nameOf(device, module string) string {
	if module == "" {
		return device
	}
	return device + "/" + module
}

func (i *Identity) name() string { return nameOf(i.id, i.module) }

// resource returns the path of an identity in topics, in the resource of a token, and over HTTPS.
func (i *Identity) resource() string {
	if i.module == "" {
		return "devices/" + i.id
	}
	return "devices/" + i.id + "/modules/" + i.module
}

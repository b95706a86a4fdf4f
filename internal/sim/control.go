package sim

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/iothub"
	"github.com/hubhop-iot/hubhop/internal/sim/provisioning"
)

// State is the whole cloud at one moment.
type State struct {
	DPS     DPSState      `json:"dps"`
	Hubs    []HubState    `json:"hubs"`
	Devices []DeviceState `json:"devices"` // in order of their ids
	Totals  Totals        `json:"totals"`
}

// DPSState is the state of DPS.
type DPSState struct {
	Fault azure.Optional `json:"fault"` // the kind, null when healthy
}

// HubState is the state of one hub.
type HubState struct {
	Name        string         `json:"name"`
	Host        string         `json:"host"`
	Fault       azure.Optional `json:"fault"` // the kind, null when healthy
	Connections int            `json:"connections"`
}

// DeviceState is the state of one device. Hubs are given by name.
type DeviceState struct {
	ID           string         `json:"id"`
	AssignedHub  azure.Optional `json:"assignedHub"`  // what DPS would answer now, had no enrollment changed; null before the first assignment
	ConnectedHub azure.Optional `json:"connectedHub"` // null when offline
	Enabled      bool           `json:"enabled"`
	Blocked      bool           `json:"blocked"`
	Approved     bool           `json:"approved"`
	ModelID      string         `json:"modelId"`
}

// Totals count since the start.
type Totals struct {
	Connects      int64 `json:"connects"`      // CONNECTs accepted by hubs
	Registrations int64 `json:"registrations"` // register requests, whatever became of them
	Polls         int64 `json:"polls"`         // questions for an operation's status
	Messages      int64 `json:"messages"`      // device-to-cloud messages
}

// State looks at everything. It takes no snapshot: hubs and devices go on while it looks.
func (s *Sim) State() State {
	registrations, polls := s.dps.Totals()
	st := State{
		DPS:     DPSState{Fault: azure.Optional(s.dps.FaultKind())},
		Hubs:    []HubState{},
		Devices: s.devices(),
		Totals: Totals{
			Connects: s.connects.Load(), Registrations: registrations, Polls: polls,
			Messages: s.ledger.Total(),
		},
	}
	for _, h := range s.hubs {
		st.Hubs = append(st.Hubs, HubState{h.Name(), h.Host(), azure.Optional(h.FaultKind()), h.Connections()})
	}
	return st
}

// devices returns the states of all devices. Those that only a hub knows come from the hubs.
func (s *Sim) devices() []DeviceState {
	made := map[string]*iothub.Identity{}
	for _, h := range s.hubs {
		for _, i := range h.All() {
			if made[i.ID()] == nil {
				made[i.ID()] = i
			}
		}
	}
	records, _ := s.registry.Records("", 0)
	states := make([]DeviceState, 0, len(records))
	for _, d := range records {
		delete(made, d.ID)
		state := DeviceState{
			ID: d.ID, AssignedHub: azure.Optional(d.AssignedHub), Enabled: d.Usable, Blocked: d.Blocked, Approved: d.Approved, ModelID: d.ModelID,
		}
		if i, model := s.registry.Newest(d.ID); i != nil {
			state.ConnectedHub, state.ModelID = azure.Optional(i.Hub().Name()), cmp.Or(d.ModelID, model)
		}
		states = append(states, state)
	}
	for id, i := range made {
		now := i.Standing()
		state := DeviceState{ID: id, Enabled: now.Enabled, Approved: true, ModelID: now.ModelID}
		if now.Online {
			state.ConnectedHub = azure.Optional(i.Hub().Name())
		}
		states = append(states, state)
	}
	slices.SortFunc(states, func(a, b DeviceState) int { return cmp.Compare(a.ID, b.ID) })
	return states
}

func (s *Sim) hub(name string) (*iothub.Hub, error) {
	for _, h := range s.hubs {
		if h.Name() == name {
			return h, nil
		}
	}
	return nil, azure.Errorf(404, "HubNotFound", "there is no hub %q", name)
}

// FaultHub makes a hub misbehave; a fault that is already in force is replaced.
func (s *Sim) FaultHub(name string, f iothub.Fault) error {
	h, err := s.hub(name)
	if err != nil {
		return err
	}
	return h.Fault(f)
}

// HealHub ends a hub's fault; a healthy hub stays one. It fails if the hub's port has been taken
// meanwhile.
func (s *Sim) HealHub(name string) error {
	h, err := s.hub(name)
	if err != nil {
		return err
	}
	return h.Heal()
}

// FaultDPS makes DPS misbehave; a fault that is already in force is replaced.
func (s *Sim) FaultDPS(f provisioning.DPSFault) error { return s.dps.Fault(f) }

// HealDPS ends the fault of DPS, if it has one.
func (s *Sim) HealDPS() error { return s.dps.Heal() }

// Failover moves a device to another hub as IoT Central does, for ttl (0 means 30 minutes): the
// identity becomes unusable on the old hub, its connection is closed, DPS answers with the other
// hub.
func (s *Sim) Failover(id string, ttl time.Duration) error {
	_, _, err := s.registry.Failover(id, ttl)
	return err
}

// Failback returns a device to its first hub, whatever moved it away; a device that is there stays.
func (s *Sim) Failback(id string) error {
	_, err := s.registry.Failback(id)
	return err
}

// Disable disables a device's enrollment and identity: DPS answers "disabled", hubs refuse it.
func (s *Sim) Disable(id string) error { return s.registry.Disable(id) }

// DisableIdentity disables a device in its hub only: DPS knows nothing of it and goes on assigning
// the hub that refuses.
func (s *Sim) DisableIdentity(id string) error { return s.registry.DisableIdentity(id) }

// Enable undoes Disable and DisableIdentity.
func (s *Sim) Enable(id string) error { return s.registry.Enable(id) }

// Block is the operator's block: DPS answers failed 400209, hubs refuse the device.
func (s *Sim) Block(id string) error { return s.registry.Block(id) }

// Unblock undoes Block.
func (s *Sim) Unblock(id string) error { return s.registry.Unblock(id) }

// Approve lets in a device that waits for it, see Config.AutoApprove.
func (s *Sim) Approve(id string) error { return s.registry.Approve(id) }

// Delete removes a device from DPS and all hubs, with its twin and its messages. It comes back as a
// new one when it registers.
func (s *Sim) Delete(id string) error { return s.registry.Delete(id) }

// Disconnect closes a device's connection and nothing else.
func (s *Sim) Disconnect(id string) error {
	if err := s.registry.Known(id); err != nil {
		return err
	}
	if i, _ := s.registry.Newest(id); i == nil || !i.Disconnect("disconnected by the operator") {
		return azure.Errorf(404, "DeviceNotOnline", "device %s is not connected", id)
	}
	return nil
}

// Method invokes a direct method on the hub the device is connected to, and waits for the answer
// until ctx ends, 30 s if it has no deadline. The payload is any JSON value or empty.
func (s *Sim) Method(ctx context.Context, id, name string, payload json.RawMessage) (iothub.MethodResult, error) {
	if err := s.registry.Known(id); err != nil {
		return iothub.MethodResult{}, err
	}
	switch {
	case name == "":
		return iothub.MethodResult{}, azure.Errorf(400, "BadRequest", "a method needs a name")
	case len(payload) > 0 && !json.Valid(payload):
		return iothub.MethodResult{}, azure.Errorf(400, "BadRequest", "the payload is not JSON")
	case len(payload) > iothub.MethodMaxBytes:
		return iothub.MethodResult{}, azure.Errorf(413, "MessageTooLarge", "the payload has %d bytes, the limit is %d", len(payload), iothub.MethodMaxBytes)
	}
	i, _ := s.registry.Newest(id)
	if i == nil {
		return iothub.MethodResult{}, iothub.DeviceNotOnline(id)
	}
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, iothub.MethodTimeout)
		defer cancel()
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.running, cancel)()
	return i.Invoke(ctx, name, payload)
}

// PatchDesired merges a JSON object into a device's desired properties, in the hub DPS would assign
// now.
func (s *Sim) PatchDesired(id string, patch json.RawMessage) error {
	props, err := azure.ParseTwinPatch(patch)
	if err == nil {
		var i *iothub.Identity
		if i, err = s.registry.Placed(id); err == nil {
			err = i.PatchDesired(props)
		}
	}
	if t, ok := errors.AsType[*azure.TwinError](err); ok {
		return azure.Errorf(t.Status, "ArgumentInvalid", "%s", t.Text)
	}
	return err
}

// Twin is a device's twin in the hub DPS would assign now. Before the device has been there, that
// is what would travel along.
func (s *Sim) Twin(id string) (iothub.Twin, error) { return s.twin(id, false) }

func (s *Sim) twin(id string, metadata bool) (iothub.Twin, error) {
	i, err := s.registry.TwinIn(id)
	if err != nil {
		return iothub.Twin{}, err
	}
	return i.Twin(metadata), nil
}

// SendC2D queues a cloud-to-device message in the hub DPS would assign now, where it stays, and
// returns its message id.
func (s *Sim) SendC2D(id string, c iothub.C2D) (mid string, err error) {
	if err := c.Check(); err != nil {
		return "", err
	}
	i, err := s.registry.Placed(id)
	if err != nil {
		return "", err
	}
	return i.Post(c)
}

// C2DMessages is what became of a device's cloud-to-device messages in all hubs, the oldest of each
// hub first.
func (s *Sim) C2DMessages(id string) ([]iothub.C2DMessage, error) {
	if err := s.registry.Known(id); err != nil {
		return nil, err
	}
	all := []iothub.C2DMessage{}
	for _, h := range s.hubs {
		if i := h.Identity(id); i != nil {
			all = append(all, i.Messages()...)
		}
	}
	return all, nil
}

// Ledger is what the cloud received from a device, from all of them for "". Messages are added if
// asked for.
func (s *Sim) Ledger(device string, messages bool) Ledger {
	if !messages {
		l := s.ledger.Sum(device)
		l.Known = s.knows(device, l.Received)
		return l
	}
	l, kept := s.ledger.Read(device, 0)
	l.Known, l.Messages = s.knows(device, l.Received), kept.Messages()
	return l
}

// LedgerAfter is the ledger of a device with the messages behind the first so many that it has
// sent, as GET /api/ledger?messages=1&after=N returns it.
func (s *Sim) LedgerAfter(device string, after int64) Ledger {
	l, kept := s.ledger.Read(device, after)
	l.Known, l.Messages = s.knows(device, l.Received), kept.Messages()
	return l
}

// knows reports whether DPS, a hub or the ledger has ever known the device. It returns nil if
// device is "", which means all devices.
func (s *Sim) knows(device string, received int64) *bool {
	if device == "" {
		return nil
	}
	known := received > 0 || s.registry.Known(device) == nil
	return &known
}

// ResetLedger forgets what was received, on disk too. State's total goes on counting. An error
// means that nothing is forgotten.
func (s *Sim) ResetLedger() error {
	if err := s.ledger.Reset(); err != nil {
		return azure.Errorf(http.StatusServiceUnavailable, "", "the ledger cannot be cleared: %v", err)
	}
	return nil
}

// Watch returns events from now on, until cancel or Close closes the channel. A watcher that falls
// more than a thousand events behind misses some. It is for tests: other processes read GET
// /api/events.
func (s *Sim) Watch() (events <-chan iothub.Event, cancel func()) { return s.events.watch() }

// DeviceKey returns the primary key of a device of the default enrollment group.
func (s *Sim) DeviceKey(registrationID string) []byte { return s.registry.DeviceKey(registrationID) }

// Enroll adds or replaces an individual enrollment.
func (s *Sim) Enroll(e provisioning.Enrollment) error { return s.registry.Enroll(e) }

// EnrollDocument adds or replaces an enrollment or an enrollment group, given in the form of the
// DPS service API (JSON). It is for tests.
func (s *Sim) EnrollDocument(doc []byte) error { return s.registry.EnrollDocument(doc) }

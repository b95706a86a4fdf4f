package target

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/amenzhinsky/iothub/iotservice"

	"github.com/hubhop-iot/hubhop/internal/azname"
	"github.com/hubhop-iot/hubhop/internal/drill"
	"github.com/hubhop-iot/hubhop/internal/sim"
)

// Hubs is a DPS and its hubs, without IoT Central. A device moves because its enrollment names
// another hub, and because the hub where it is disables its identity. Azure cannot be told to break
// a hub, so moves and what an operator does are all that can be played here.
//
// An individual enrollment of the device is changed and put back. A device that came by a group
// gets an individual enrollment with its own key for the time of the drill, so that no other device
// of the group is touched.
type Hubs struct {
	DPS    string   // connection string of a policy that may write enrollments
	Hubs   []string // connection strings of policies that may write identities and call methods; the first is the device's home
	Key    string   // of the device, base64; "" if an individual enrollment attests it
	Client *http.Client
	Who    Who
	Site   Site
}

// Name is the target's name in reports.
func (*Hubs) Name() string { return "hubs" }

// Lacks says what the target cannot do.
func (h *Hubs) Lacks(n drill.Need) string {
	switch n {
	case drill.NeedHubFaults, drill.NeedDPSFaults:
		return "Azure breaks no hub and no DPS on request; play it against hubhop sim, or move the device"
	case drill.NeedMail:
		return "a hub takes cloud-to-device messages of services over AMQP only"
	case drill.NeedMoves, drill.NeedOperator, drill.NeedMethods, drill.NeedTwin:
		return ""
	default:
		return cmp.Or(unseen(n), elsewhere(n, h.Who))
	}
}

// Open finds the device and its enrollment. It changes nothing yet.
func (h *Hubs) Open(ctx context.Context, p drill.Plan) (*drill.World, error) {
	if len(h.Hubs) < 2 {
		return nil, errors.New("a move needs two hubs; name a connection string of each")
	}
	c := &hubsCloud{device: h.Site.DeviceID, key: h.Key}
	var err error
	if c.dps, err = newService(h.DPS, h.Client); err != nil {
		return nil, fmt.Errorf("the connection string of DPS: %w", err)
	}
	for i, text := range h.Hubs {
		s, err := newService(text, h.Client)
		if err != nil {
			return nil, fmt.Errorf("the connection string of hub %d: %w", i+1, err)
		}
		registry, err := s.registry()
		if err != nil {
			return nil, fmt.Errorf("the connection string of hub %d: %w", i+1, err)
		}
		c.hubs = append(c.hubs, &oneHub{service: s, registry: registry, host: hostOf(s.key.HostName)})
	}
	if err := c.find(ctx); err != nil {
		return nil, err
	}
	w := &drill.World{Cloud: c, Facts: map[string]string{"dps": c.dps.key.HostName}}
	for _, hub := range c.hubs {
		w.Hubs = append(w.Hubs, hub.host)
	}
	party, err := speaking(h.Who, p, h.Site, "Azure IoT Hub")
	if err != nil {
		return nil, err
	}
	w.Devices = []drill.Party{party}
	w.Close = func() error {
		within, cancel := afterwards(ctx)
		defer cancel()
		return errors.Join(party.close(), c.putBack(within))
	}
	return w, nil
}

// hostOf is the host by which DPS names a hub: without the port of its REST.
func hostOf(address string) string {
	if host, _, err := net.SplitHostPort(address); err == nil {
		return host
	}
	return address
}

// oneHub is one hub of the target.
type oneHub struct {
	*service
	registry *iotservice.Client
	host     string // as DPS names it
}

// hubsCloud is a DPS with its hubs.
type hubsCloud struct {
	lacking
	dps    *service
	hubs   []*oneHub
	device string
	key    string

	mu       sync.Mutex                 // guards all below, and that one move ends before the next begins
	original map[string]json.RawMessage // the individual enrollment before the drill; nil if there was none
	changed  bool                       // the enrollment
	blocked  bool
	disabled map[*oneHub]bool // where we have disabled the identity
	home     *oneHub
	last     *oneHub     // that was assigned, as far as this target has seen
	timer    *time.Timer // of the return by itself
	late     error       // of that return
	closed   bool

	stopFollowing context.CancelFunc // nil: no device was ever on its way
	following     sync.WaitGroup
}

// enrollmentPath is the path of the device's individual enrollment.
func (c *hubsCloud) enrollmentPath() string { return "/enrollments/" + url.PathEscape(c.device) }

// find reads what there is of the device before the drill.
func (c *hubsCloud) find(ctx context.Context) error {
	c.disabled = map[*oneHub]bool{}
	if err := azname.CheckDeviceID(c.device); err != nil {
		return fmt.Errorf("the device id: %w", err)
	}
	err := c.dps.ask(ctx, http.MethodGet, c.enrollmentPath(), dpsVersion, "", nil, &c.original)
	switch {
	case missing(err):
		c.original = nil
		if c.key == "" {
			return errors.New("a device that came by an enrollment group can be moved if it has a symmetric key, and this one has a certificate; give it an individual enrollment")
		}
	case err != nil:
		return err
	}
	if c.original != nil {
		// The keys of an enrollment are not in it. Written back without them, it would get new
		// ones.
		var attestation json.RawMessage
		if err := c.dps.ask(ctx, http.MethodPost, c.enrollmentPath()+"/attestationmechanism", dpsVersion, "", nil, &attestation); err != nil {
			return err
		}
		c.original["attestation"] = attestation
		for _, made := range []string{"etag", "registrationState", "createdDateTimeUtc", "lastUpdatedDateTimeUtc"} {
			delete(c.original, made)
		}
	}
	c.home = c.hubs[0]
	return nil
}

// assigned is the hub that DPS has assigned to the device. It is nil if there is none. While the
// enrollment is disabled, it is the hub before. mu is held.
func (c *hubsCloud) assigned(ctx context.Context) (*oneHub, error) {
	var record struct {
		AssignedHub string `json:"assignedHub"`
	}
	err := c.dps.ask(ctx, http.MethodGet, "/registrations/"+url.PathEscape(c.device), dpsVersion, "", nil, &record)
	if err == nil && record.AssignedHub == "" && c.blocked {
		return c.last, nil
	}
	if missing(err) || err == nil && record.AssignedHub == "" {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, h := range c.hubs {
		if strings.EqualFold(h.host, hostOf(record.AssignedHub)) {
			c.last = h
			return h, nil
		}
	}
	return nil, fmt.Errorf("DPS has assigned the device to %s, of which no connection string was given", record.AssignedHub)
}

// enrol writes the device's individual enrollment, so that DPS assigns a hub.
func (c *hubsCloud) enrol(ctx context.Context, hub *oneHub, status string) error {
	e := map[string]any{}
	for k, v := range c.original {
		e[k] = v
	}
	if c.original == nil {
		e["registrationId"] = c.device
		e["attestation"] = map[string]any{"type": "symmetricKey", "symmetricKey": map[string]string{"primaryKey": c.key, "secondaryKey": c.key}}
	}
	e["iotHubs"], e["allocationPolicy"] = []string{hub.host}, "static"
	delete(e, "iotHubHostName")
	delete(e, "customAllocationDefinition")
	e["provisioningStatus"] = status
	e["reprovisionPolicy"] = map[string]bool{"updateHubAssignment": true, "migrateDeviceData": true}
	match := "*"
	if c.original == nil && !c.changed {
		match = ""
	}
	c.changed = true // before the answer: if it gets lost, there may be something to put back
	return c.dps.ask(ctx, http.MethodPut, c.enrollmentPath(), dpsVersion, match, e, nil)
}

// setIdentity enables or disables the device's identity in a hub. A hub without it is left alone.
func (c *hubsCloud) setIdentity(ctx context.Context, h *oneHub, enabled bool) error {
	d, err := h.registry.GetDevice(ctx, c.device)
	if identityMissing(err) {
		delete(c.disabled, h)
		return nil
	}
	if err != nil {
		return plainly(h.host, err)
	}
	want := iotservice.Disabled
	if enabled {
		want = iotservice.Enabled
	}
	if d.Status == want {
		return nil
	}
	if !enabled {
		c.disabled[h] = true
	}
	d.Status, d.ETag = want, ""
	if _, err := h.registry.UpdateDevice(ctx, d); err != nil && !identityMissing(err) {
		return plainly(h.host, err)
	}
	if enabled {
		delete(c.disabled, h)
	}
	return nil
}

// move moves the device to a hub. mu is held.
func (c *hubsCloud) move(ctx context.Context, to *oneHub) error {
	from, err := c.assigned(ctx)
	if err != nil {
		return err
	}
	if err := c.enrol(ctx, to, "enabled"); err != nil {
		return err
	}
	if err := c.setIdentity(ctx, to, true); err != nil { // it was there before, and we have disabled it
		return err
	}
	if from == nil || from == to {
		return nil
	}
	if err := c.setIdentity(ctx, from, false); err != nil {
		return err
	}
	c.follow(ctx, to)
	return nil
}

// followEvery is the time between two looks at a device that is on its way. DPS and hubs tell
// nobody that a device has registered.
const followEvery = 250 * time.Millisecond

// follow enables the identity of the device in a hub as soon as DPS has assigned the hub. DPS makes
// the identity there from the one that was disabled, and Microsoft does not say whether it is
// disabled then, too. mu is held.
func (c *hubsCloud) follow(ctx context.Context, to *oneHub) {
	if c.stopFollowing != nil {
		c.stopFollowing()
	}
	ctx, c.stopFollowing = context.WithTimeout(context.WithoutCancel(ctx), 10*time.Minute)
	c.following.Go(func() {
		tick := time.NewTicker(followEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if c.arrived(ctx, to) {
				return
			}
		}
	})
}

// arrived says whether the device has got this hub, and its identity there is enabled. Errors are
// for the next try.
func (c *hubsCloud) arrived(ctx context.Context, to *oneHub) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	at, err := c.assigned(ctx)
	if err != nil || at != to || ctx.Err() != nil {
		return ctx.Err() != nil
	}
	d, err := to.registry.GetDevice(ctx, c.device)
	if err != nil {
		return false
	}
	return c.blocked || d.Status == iotservice.Enabled || c.setIdentity(ctx, to, true) == nil
}

// Failover moves the device to the next hub. It returns by itself after ttl; 0 means 30 minutes.
func (c *hubsCloud) Failover(ctx context.Context, device string, ttl time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.only(device); err != nil {
		return err
	}
	at, err := c.assigned(ctx)
	if err != nil {
		return err
	}
	at = cmp.Or(at, c.home)
	if err := c.move(ctx, c.hubs[(slices.Index(c.hubs, at)+1)%len(c.hubs)]); err != nil {
		return err
	}
	if c.timer != nil {
		c.timer.Stop()
	}
	back := context.WithoutCancel(ctx)
	c.timer = time.AfterFunc(cmp.Or(ttl, 30*time.Minute), func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if !c.closed {
			within, cancel := afterwards(back)
			defer cancel()
			c.late = errors.Join(c.late, c.move(within, c.home))
		}
	})
	return nil
}

// only refuses other devices: each has an enrollment of its own, and this target handles one.
func (c *hubsCloud) only(device string) error {
	if device != c.device {
		return fmt.Errorf("the target was opened for the device %s, and not for %s", c.device, device)
	}
	return nil
}

// Act does what an operator can do to the device.
func (c *hubsCloud) Act(ctx context.Context, device string, a drill.Act) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.only(device); err != nil {
		return err
	}
	if a == drill.Failback {
		if c.timer != nil {
			c.timer.Stop()
		}
		return c.move(ctx, c.home)
	}
	at, err := c.assigned(ctx)
	if err != nil {
		return err
	}
	if at == nil {
		return fmt.Errorf("DPS has not yet assigned a hub to %s", device)
	}
	switch a {
	case drill.Disconnect: // a hub closes the link of an identity that is disabled
		if err := c.setIdentity(ctx, at, false); err != nil {
			return err
		}
		return c.setIdentity(ctx, at, true)
	case drill.Delete:
		d, err := at.registry.GetDevice(ctx, device)
		if identityMissing(err) {
			return nil
		}
		if err == nil {
			d.ETag = ""
			err = at.registry.DeleteDevice(ctx, d)
		}
		if err != nil {
			return plainly(at.host, err)
		}
		return nil
	case drill.DisableIdentity:
		return c.setIdentity(ctx, at, false)
	case drill.Disable, drill.Block:
		c.blocked = true
		if err := c.enrol(ctx, at, "disabled"); err != nil {
			return err
		}
		return c.setIdentity(ctx, at, false)
	case drill.Enable, drill.Unblock:
		if c.blocked {
			if err := c.enrol(ctx, at, "enabled"); err != nil {
				return err
			}
			c.blocked = false
		}
		return c.setIdentity(ctx, at, true)
	default:
		return fmt.Errorf("there is no act %q", a)
	}
}

// State tells where the device is.
func (c *hubsCloud) State(ctx context.Context) (s sim.State, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	d := sim.DeviceState{ID: c.device, Enabled: true, Approved: true, Blocked: c.blocked}
	at, err := c.assigned(ctx)
	if err != nil {
		return s, err
	}
	for _, h := range c.hubs {
		state := sim.HubState{Name: h.host, Host: h.host}
		if h == at {
			d.AssignedHub = sim.Optional(h.host)
			identity, err := h.registry.GetDevice(ctx, c.device)
			switch {
			case identityMissing(err):
			case err != nil:
				return s, plainly(h.host, err)
			default:
				d.Enabled = identity.Status == iotservice.Enabled
				if identity.ConnectionState == iotservice.Connected {
					d.ConnectedHub, state.Connections = sim.Optional(h.host), 1
				}
			}
		}
		s.Hubs = append(s.Hubs, state)
	}
	s.Devices = []sim.DeviceState{d}
	return s, nil
}

// at is the hub of the device, for commands.
func (c *hubsCloud) at(ctx context.Context, device string) (*oneHub, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.only(device); err != nil {
		return nil, err
	}
	h, err := c.assigned(ctx)
	if err == nil && h == nil {
		err = fmt.Errorf("DPS has not yet assigned a hub to %s", device)
	}
	return h, err
}

// Method calls a direct method. The library's own call takes objects alone as payload, so the
// request is made here.
func (c *hubsCloud) Method(ctx context.Context, device, name string, payload json.RawMessage) (r sim.MethodResult, err error) {
	h, err := c.at(ctx, device)
	if err != nil {
		return r, err
	}
	body := map[string]any{"methodName": name, "responseTimeoutInSeconds": 30, "connectTimeoutInSeconds": 0}
	if len(payload) > 0 {
		body["payload"] = payload
	}
	return r, h.ask(ctx, http.MethodPost, "/twins/"+url.PathEscape(device)+"/methods", hubVersion, "", body, &r)
}

// Desire changes desired properties.
func (c *hubsCloud) Desire(ctx context.Context, device string, patch json.RawMessage) error {
	h, err := c.at(ctx, device)
	if err != nil {
		return err
	}
	body := map[string]any{"properties": map[string]any{"desired": patch}}
	return h.ask(ctx, http.MethodPatch, "/twins/"+url.PathEscape(device), hubVersion, `"*"`, body, nil)
}

// Twin reads the device's twin.
func (c *hubsCloud) Twin(ctx context.Context, device string) (t sim.Twin, err error) {
	h, err := c.at(ctx, device)
	if err != nil {
		return t, err
	}
	var twin struct {
		Properties sim.Twin `json:"properties"`
	}
	err = h.ask(ctx, http.MethodGet, "/twins/"+url.PathEscape(device), hubVersion, "", nil, &twin)
	return twin.Properties, err
}

// putBack restores the enrollment, and enables what was disabled.
func (c *hubsCloud) putBack(ctx context.Context) error {
	c.mu.Lock()
	c.closed = true
	if c.stopFollowing != nil {
		c.stopFollowing()
	}
	c.mu.Unlock()
	c.following.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timer != nil {
		c.timer.Stop()
	}
	err := c.late
	if c.changed {
		var restored error
		if c.original == nil {
			if restored = c.dps.ask(ctx, http.MethodDelete, c.enrollmentPath(), dpsVersion, "*", nil, nil); missing(restored) {
				restored = nil
			}
		} else {
			restored = c.dps.ask(ctx, http.MethodPut, c.enrollmentPath(), dpsVersion, "*", c.original, nil)
		}
		if restored != nil {
			err = errors.Join(err, fmt.Errorf("the enrollment of %s could not be put back, do it by hand: %w", c.device, restored))
		}
	}
	for h := range c.disabled {
		if enabled := c.setIdentity(ctx, h, true); enabled != nil {
			err = errors.Join(err, fmt.Errorf("the identity %s could not be enabled again in %s, do it by hand: %w", c.device, h.host, enabled))
		}
	}
	return err
}

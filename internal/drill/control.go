package drill

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim"
)

// Cloud is what a drill does to a simulated cloud, and what it asks it. [Control] is a cloud in
// another process, [Embedded] one in this process. Hubs are named as the simulator names them,
// hub-a, hub-b and so on. What the cloud refuses is an error with its sentence.
type Cloud interface {
	State(ctx context.Context) (sim.State, error)

	// Ledger returns what arrived from a device, and the messages behind the first so many. So a
	// reader who comes back in time gets each message once; otherwise Truncated is set.
	Ledger(ctx context.Context, device string, behind int64) (sim.Ledger, error)

	FaultHub(ctx context.Context, hub string, f sim.Fault) error
	HealHub(ctx context.Context, hub string) error
	FaultDPS(ctx context.Context, f sim.DPSFault) error
	HealDPS(ctx context.Context) error

	// Failover moves a device to another hub as an operator of IoT Central does. It returns by
	// itself after ttl; 0 means 30 minutes.
	Failover(ctx context.Context, device string, ttl time.Duration) error
	Act(ctx context.Context, device string, a Act) error

	Method(ctx context.Context, device, name string, payload json.RawMessage) (sim.MethodResult, error)
	Desire(ctx context.Context, device string, patch json.RawMessage) error
	Twin(ctx context.Context, device string) (sim.Twin, error)
	Send(ctx context.Context, device string, m sim.C2D) (mid string, err error)
	Mail(ctx context.Context, device string) ([]sim.C2DMessage, error)
}

// Act is what an operator can do to a device.
type Act string

// The acts. See the simulator's documentation for what each does.
const (
	Failback        Act = "failback"
	Disconnect      Act = "disconnect"
	Delete          Act = "delete"
	Disable         Act = "disable"
	DisableIdentity Act = "disable-identity" // in the hub only: DPS does not know
	Enable          Act = "enable"
	Block           Act = "block"
	Unblock         Act = "unblock"
)

// Heal ends the faults of all hubs and of DPS.
func Heal(ctx context.Context, c Cloud) error {
	s, err := c.State(ctx)
	if err != nil {
		return err
	}
	for _, h := range s.Hubs {
		if h.Fault != "" {
			err = errors.Join(err, c.HealHub(ctx, h.Name))
		}
	}
	if s.DPS.Fault != "" {
		err = errors.Join(err, c.HealDPS(ctx))
	}
	return err
}

// ErrAway says that the simulator does not answer. It may just have been killed.
var ErrAway = errors.New("the simulator does not answer")

// controlLimit is how long one request may take. A method has as long as its caller gives it.
const controlLimit = 10 * time.Second

// Control is a simulator in another process, asked over its control API.
type Control struct {
	URL    string // such as http://127.0.0.1:8090
	Client http.Client
}

// do sends one request. The body and the answer are JSON; nil for none.
func (c *Control) do(ctx context.Context, method, path string, body, answer any) error {
	var text []byte
	if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			return err
		}
	}
	r, err := http.NewRequestWithContext(ctx, method, c.URL+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	resp, err := c.Client.Do(r)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrAway, err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrAway, err)
	}
	switch {
	case resp.StatusCode >= 400:
		return refusal(method, path, b)
	case answer == nil:
		return nil
	}
	return json.Unmarshal(b, answer)
}

// refusal makes an error of what the control API says, {"error":"sentence"}.
func refusal(method, path string, answer []byte) error {
	var said struct {
		Error string `json:"error"`
	}
	if json.Unmarshal(answer, &said) != nil || said.Error == "" {
		said.Error = strings.TrimSpace(string(answer))
	}
	return fmt.Errorf("%s %s: %s", method, path, said.Error)
}

// ask is do within controlLimit.
func (c *Control) ask(ctx context.Context, method, path string, body, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, controlLimit)
	defer cancel()
	return c.do(ctx, method, path, body, answer)
}

func devicePath(device, what string) string {
	return "/api/devices/" + url.PathEscape(device) + "/" + what
}

// State asks for everything that the cloud shows of itself.
func (c *Control) State(ctx context.Context) (s sim.State, err error) {
	return s, c.ask(ctx, http.MethodGet, "/api/state", nil, &s)
}

// Ledger asks for what arrived from a device.
func (c *Control) Ledger(ctx context.Context, device string, behind int64) (l sim.Ledger, err error) {
	q := url.Values{"device": {device}, "messages": {"1"}, "after": {strconv.FormatInt(behind, 10)}}
	return l, c.ask(ctx, http.MethodGet, "/api/ledger?"+q.Encode(), nil, &l)
}

// FaultHub makes a hub misbehave.
func (c *Control) FaultHub(ctx context.Context, hub string, f sim.Fault) error {
	return c.ask(ctx, http.MethodPost, "/api/hubs/"+url.PathEscape(hub)+"/fault", f, nil)
}

// HealHub ends a hub's fault.
func (c *Control) HealHub(ctx context.Context, hub string) error {
	return c.ask(ctx, http.MethodDelete, "/api/hubs/"+url.PathEscape(hub)+"/fault", nil, nil)
}

// FaultDPS makes DPS misbehave.
func (c *Control) FaultDPS(ctx context.Context, f sim.DPSFault) error {
	return c.ask(ctx, http.MethodPost, "/api/dps/fault", f, nil)
}

// HealDPS ends the fault of DPS.
func (c *Control) HealDPS(ctx context.Context) error {
	return c.ask(ctx, http.MethodDelete, "/api/dps/fault", nil, nil)
}

// Failover moves a device to another hub.
func (c *Control) Failover(ctx context.Context, device string, ttl time.Duration) error {
	return c.ask(ctx, http.MethodPost, devicePath(device, "failover"), map[string]float64{"seconds": ttl.Seconds()}, nil)
}

// Act does what an operator can do to a device.
func (c *Control) Act(ctx context.Context, device string, a Act) error {
	if a == DisableIdentity {
		return c.ask(ctx, http.MethodPost, devicePath(device, string(Disable)), map[string]bool{"dpsKnows": false}, nil)
	}
	return c.ask(ctx, http.MethodPost, devicePath(device, string(a)), nil, nil)
}

// Method calls a direct method, and returns the device's answer. It waits for it as long as ctx
// lasts.
func (c *Control) Method(ctx context.Context, device, name string, payload json.RawMessage) (r sim.MethodResult, err error) {
	var body any // a json.RawMessage of nil would be null
	if len(payload) > 0 {
		body = payload
	}
	return r, c.do(ctx, http.MethodPost, devicePath(device, "methods/"+url.PathEscape(name)), body, &r)
}

// Desire changes desired properties.
func (c *Control) Desire(ctx context.Context, device string, patch json.RawMessage) error {
	return c.ask(ctx, http.MethodPatch, devicePath(device, "desired"), patch, nil)
}

// Twin asks for a device's twin.
func (c *Control) Twin(ctx context.Context, device string) (t sim.Twin, err error) {
	return t, c.ask(ctx, http.MethodGet, devicePath(device, "twin"), nil, &t)
}

// Send queues a cloud-to-device message, and returns its id.
func (c *Control) Send(ctx context.Context, device string, m sim.C2D) (mid string, err error) {
	var answer struct {
		Mid string `json:"mid"`
	}
	err = c.ask(ctx, http.MethodPost, devicePath(device, "c2d"), m, &answer)
	return answer.Mid, err
}

// Mail asks what became of a device's cloud-to-device messages.
func (c *Control) Mail(ctx context.Context, device string) ([]sim.C2DMessage, error) {
	var answer struct {
		Messages []sim.C2DMessage `json:"messages"`
	}
	err := c.ask(ctx, http.MethodGet, devicePath(device, "c2d"), nil, &answer)
	return answer.Messages, err
}

// Embedded returns a simulator of this process as a [Cloud]. It is asked without HTTP, so it costs
// no time, also on a network that is slow.
func Embedded(s *sim.Sim) Cloud { return embedded{s} }

type embedded struct{ sim *sim.Sim }

func (e embedded) State(context.Context) (sim.State, error) { return e.sim.State(), nil }

func (e embedded) Ledger(_ context.Context, device string, behind int64) (sim.Ledger, error) {
	l := e.sim.LedgerAfter(device, behind)
	return l, nil
}

func (e embedded) FaultHub(_ context.Context, hub string, f sim.Fault) error {
	return e.sim.FaultHub(hub, f)
}
func (e embedded) HealHub(_ context.Context, hub string) error         { return e.sim.HealHub(hub) }
func (e embedded) FaultDPS(_ context.Context, f sim.DPSFault) error    { return e.sim.FaultDPS(f) }
func (e embedded) HealDPS(context.Context) error                       { return e.sim.HealDPS() }
func (e embedded) Twin(_ context.Context, id string) (sim.Twin, error) { return e.sim.Twin(id) }

func (e embedded) Failover(_ context.Context, device string, ttl time.Duration) error {
	return e.sim.Failover(device, ttl)
}

func (e embedded) Act(_ context.Context, device string, a Act) error {
	switch a {
	case Failback:
		return e.sim.Failback(device)
	case Disconnect:
		return e.sim.Disconnect(device)
	case Delete:
		return e.sim.Delete(device)
	case Disable:
		return e.sim.Disable(device)
	case DisableIdentity:
		return e.sim.DisableIdentity(device)
	case Enable:
		return e.sim.Enable(device)
	case Block:
		return e.sim.Block(device)
	case Unblock:
		return e.sim.Unblock(device)
	}
	return fmt.Errorf("there is no act %q", a)
}

func (e embedded) Method(ctx context.Context, device, name string, payload json.RawMessage) (sim.MethodResult, error) {
	return e.sim.Method(ctx, device, name, payload)
}

func (e embedded) Desire(_ context.Context, device string, patch json.RawMessage) error {
	return e.sim.PatchDesired(device, patch)
}

func (e embedded) Send(_ context.Context, device string, m sim.C2D) (string, error) {
	return e.sim.SendC2D(device, m)
}

func (e embedded) Mail(_ context.Context, device string) ([]sim.C2DMessage, error) {
	return e.sim.C2DMessages(device)
}

package sim

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/iothub"
)

// hubNamed returns the hub that has this name or host name, nil if there is none.
func (r *registry) hubNamed(name string) *iothub.Hub {
	for _, h := range r.hubs {
		if strings.EqualFold(name, h.Name()) || h.KnownAs(name) {
			return h
		}
	}
	return nil
}

// hubsOf returns the hubs that an enrollment allows, in its order.
func (r *registry) hubsOf(e *enrollment) []*iothub.Hub {
	names := e.IotHubs
	if e.IotHubHostName != "" && (len(names) == 0 || e.AllocationPolicy == AllocateStatic) {
		names = []string{e.IotHubHostName}
	}
	var hubs []*iothub.Hub
	for _, name := range names {
		if h := r.hubNamed(name); h != nil {
			hubs = append(hubs, h)
		}
	}
	if len(hubs) == 0 {
		return r.hubs
	}
	return hubs
}

// choose returns the hub that the enrollment's policy gives to a device that is in none. For a
// custom policy, whose webhook decides, it is the first one.
func (r *registry) choose(e *enrollment, registrationID string) *iothub.Hub {
	hubs := r.hubsOf(e)
	policy := e.AllocationPolicy
	if policy == "" {
		policy = r.config.Allocation
	}
	switch policy {
	case AllocateHashed:
		return slices.MaxFunc(hubs, func(a, b *iothub.Hub) int {
			x, y := r.draw(a, registrationID), r.draw(b, registrationID)
			switch {
			case x < y:
				return -1
			case x > y:
				return 1
			}
			return 0
		})
	case AllocateGeoLatency: // the order given is the order of distance
		for _, h := range hubs {
			if !h.DeadForDPS() {
				return h
			}
		}
	}
	return hubs[0]
}

// draw returns a hub's lot for a device. It is larger on average for a hub of more weight, and the
// largest lot wins. So a hub that is added or removed moves no device between the others
// (rendezvous hashing).
func (r *registry) draw(h *iothub.Hub, registrationID string) float64 {
	weight := 1.0
	if i := slices.Index(r.hubs, h); i < len(r.config.HubWeights) {
		weight = float64(r.config.HubWeights[i])
	}
	sum := sha256.Sum256([]byte(h.Name() + "\n" + strings.ToLower(registrationID)))
	uniform := (float64(binary.BigEndian.Uint64(sum[:])>>11) + 0.5) / (1 << 53)
	return -weight / math.Log(uniform)
}

// otherThan returns the next hub behind h in the row that is not dead, nil if there is none. The
// row is a ring.
func otherThan(h *iothub.Hub, row []*iothub.Hub) *iothub.Hub {
	at := slices.Index(row, h)
	for i := range row {
		if other := row[(at+1+i)%len(row)]; other != h && !other.DeadForDPS() {
			return other
		}
	}
	return nil
}

// allocation is the answer of a webhook, or the reason why there is none.
type allocation struct {
	hub     *iothub.Hub
	twin    *iothub.TwinContent // nil if the answer had none
	payload json.RawMessage
	err     *dpsError
}

// webhookRequest is the body of the request to a webhook.
type webhookRequest struct {
	EnrollmentGroup      *enrollment    `json:"enrollmentGroup,omitempty"`
	IndividualEnrollment *enrollment    `json:"individualEnrollment,omitempty"`
	DeviceRuntimeContext runtimeContext `json:"deviceRuntimeContext"`
	LinkedHubs           []string       `json:"linkedHubs"`
}

type runtimeContext struct {
	RegistrationID        string          `json:"registrationId"`
	CurrentIotHubHostName string          `json:"currentIotHubHostName,omitempty"`
	CurrentDeviceID       string          `json:"currentDeviceId,omitempty"`
	SymmetricKey          *struct{}       `json:"symmetricKey,omitempty"`
	X509                  *runtimeX509    `json:"x509,omitempty"`
	Payload               json.RawMessage `json:"payload,omitempty"`
}

type runtimeX509 struct {
	ClientCertificates *certificatePair `json:"clientCertificates,omitempty"`
}

// webhookFor returns the webhook to ask before the device is placed, and what to ask. ask is nil if
// no webhook decides.
func (r *registry) webhookFor(d *device, c claim, payload json.RawMessage) (to string, ask *webhookRequest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.entry(d)
	if e == nil || e.AllocationPolicy != AllocateCustom || r.isDisabled(d) || d.blocked || !d.approved || d.failedOver != nil ||
		d.hub != nil && !e.reprovisions() {
		return "", nil
	}
	ask = &webhookRequest{DeviceRuntimeContext: runtimeContext{RegistrationID: d.registrationID, Payload: payload}}
	if e.group() {
		ask.EnrollmentGroup = e.public()
	} else {
		ask.IndividualEnrollment = e.public()
	}
	if d.hub != nil {
		ask.DeviceRuntimeContext.CurrentIotHubHostName, ask.DeviceRuntimeContext.CurrentDeviceID = d.hub.Host(), d.id
	}
	if d.auth.X509 && len(c.chain) > 0 {
		ask.DeviceRuntimeContext.X509 = &runtimeX509{&certificatePair{Primary: &certificateEntry{Info: describeCertificate(c.chain[0])}}}
	} else {
		ask.DeviceRuntimeContext.SymmetricKey = &struct{}{}
	}
	for _, h := range r.hubsOf(e) {
		ask.LinkedHubs = append(ask.LinkedHubs, h.Host())
	}
	return e.CustomAllocation.WebhookURL, ask
}

const (
	webhookTimeout = 30 * time.Second
	webhookLimit   = 128 << 10
)

// validWebhook reports whether the simulator can call a URL: it must be absolute, and of HTTP or
// HTTPS.
func validWebhook(text string) bool {
	u, err := url.Parse(text)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != ""
}

// callWebhook asks a webhook. A failure is an answer, too: the registration fails with it.
func (p *dps) callWebhook(ctx context.Context, to string, ask *webhookRequest) allocation {
	failed := func(code int, format string, args ...any) allocation {
		return allocation{err: &dpsError{code: code, text: fmt.Sprintf(format, args...)}}
	}
	ctx, cancel := context.WithTimeout(ctx, webhookTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to, bytes.NewReader(azure.EncodeJSON(ask))) //nolint:gosec // the enrollment names the address
	if err != nil {
		return failed(400207, "Custom allocation failed: %v", err)
	}
	req.Header.Set("Content-Type", "application/json; charset=utf-8")
	res, err := p.hooks.Do(req) //nolint:gosec // as above
	if err != nil {
		return failed(400207, "Custom allocation failed: %v", err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(res.Body, webhookLimit))
	switch {
	case res.StatusCode == http.StatusUnauthorized:
		return failed(400209, "Custom allocation failed with status code: 401")
	case res.StatusCode/100 != 2:
		return failed(400207, "Custom allocation failed with status code: %d", res.StatusCode)
	case err != nil:
		return failed(400207, "Custom allocation failed: %v", err)
	}
	var answer struct {
		IotHubHostName string          `json:"iotHubHostName"` // in upper or lower case, as all names in JSON here
		InitialTwin    *initialTwin    `json:"initialTwin"`
		Payload        json.RawMessage `json:"payload"`
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	if err := d.Decode(&answer); err != nil {
		return failed(400207, "Custom allocation failed: the answer is not what is expected: %s", azure.JSONFault(err, nil))
	}
	if answer.IotHubHostName == "" {
		return failed(400208, "Custom allocation did not specify an IoT hub.")
	}
	hub := p.registry.hubNamed(answer.IotHubHostName)
	if hub == nil || !slices.Contains(ask.LinkedHubs, hub.Host()) {
		return failed(400208, "Custom allocation specified an IoT hub that is not linked: %s", answer.IotHubHostName)
	}
	a := allocation{hub: hub, payload: answer.Payload}
	if t := answer.InitialTwin; t != nil {
		if iothub.CheckTwin(t.Tags) != nil || iothub.CheckTwin(t.Properties.Desired) != nil {
			return failed(400207, "Custom allocation failed: the initial twin is invalid")
		}
		a.twin = t.content()
		if e := cmp.Or(ask.EnrollmentGroup, ask.IndividualEnrollment); e != nil {
			a.twin.Edge = e.Capabilities.IotEdge
		}
	}
	return a
}

// twin returns the twin that a device of the enrollment begins with.
func (e *enrollment) twin() *iothub.TwinContent {
	t := e.InitialTwin.content()
	t.Edge = e.Capabilities.IotEdge
	return t
}

// content returns the twin as a device gets it. For nil it is empty.
func (t *initialTwin) content() *iothub.TwinContent {
	c := &iothub.TwinContent{Desired: map[string]any{}, Reported: map[string]any{}, Tags: map[string]any{}}
	if t != nil {
		c.Desired, c.Tags = iothub.WithoutNulls(t.Properties.Desired), iothub.WithoutNulls(t.Tags)
	}
	return c
}

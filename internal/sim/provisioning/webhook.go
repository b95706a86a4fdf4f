package provisioning

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/iothub"
)

const (
	webhookTimeout = 30 * time.Second
	webhookLimit   = 128 << 10 // bytes of an answer
)

// webhookAnswer is the answer of a webhook, or the reason why there is none.
type webhookAnswer struct {
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
func (r *Registry) webhookFor(d *device, c claim, payload json.RawMessage) (to string, ask *webhookRequest) {
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

// ValidWebhook reports whether the simulator can call a URL: it must be absolute, and of HTTP or
// HTTPS.
func ValidWebhook(text string) bool {
	u, err := url.Parse(text)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != ""
}

// callWebhook asks a webhook. A failure is an answer, too: the registration fails with it.
func (p *Service) callWebhook(ctx context.Context, to string, ask *webhookRequest) webhookAnswer {
	failed := func(code int, format string, args ...any) webhookAnswer {
		return webhookAnswer{err: &dpsError{code: code, text: fmt.Sprintf(format, args...)}}
	}
	ctx, cancel := context.WithTimeout(ctx, webhookTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to, bytes.NewReader(azure.EncodeJSON(ask))) //nolint:gosec // the enrollment names the address
	if err != nil {
		return failed(400207, "Custom allocation failed: %v", err)
	}
	req.Header.Set("Content-Type", "application/json; charset=utf-8")
	res, err := p.hooks.Do(req) //nolint:gosec // the enrollment names the address
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
	a := webhookAnswer{hub: hub, payload: answer.Payload}
	if t := answer.InitialTwin; t != nil {
		if azure.CheckTwin(t.Tags) != nil || azure.CheckTwin(t.Properties.Desired) != nil {
			return failed(400207, "Custom allocation failed: the initial twin is invalid")
		}
		a.twin = t.content()
		if e := cmp.Or(ask.EnrollmentGroup, ask.IndividualEnrollment); e != nil {
			a.twin.Edge = e.Capabilities.IotEdge
		}
	}
	return a
}

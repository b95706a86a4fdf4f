package central

import (
	"cmp"
	"encoding/base64"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/provisioning"
)

// shownDevice is a device as IoT Central shows it.
type shownDevice struct {
	ID            string   `json:"id"`
	Etag          string   `json:"etag"`
	DisplayName   string   `json:"displayName"`
	Simulated     bool     `json:"simulated"`
	Provisioned   bool     `json:"provisioned"`
	Template      string   `json:"template,omitempty"`
	Enabled       bool     `json:"enabled"`
	Organizations []string `json:"organizations"`
}

// shown returns a device in IoT Central's form.
func shown(d provisioning.Record) shownDevice {
	return shownDevice{
		ID: d.ID, Etag: d.Etag, DisplayName: cmp.Or(d.DisplayName, d.ID), Simulated: d.Simulated, Provisioned: d.Provisioned,
		Template: templateOf(d), Enabled: d.Approved && !d.Blocked && !d.Disabled, Organizations: append([]string{}, d.Organizations...),
	}
}

// templateOf returns the template of a device: the one that was set, or the model that the device
// announced.
func templateOf(d provisioning.Record) string { return cmp.Or(d.Template, d.ModelID) }

func (c *Application) showDevice(r *http.Request) (any, error) {
	d, err := c.registry.Record(r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	return shown(d), nil
}

// listDevices answers a page of devices in order of their ids, and where the next one is.
func (c *Application) listDevices(r *http.Request) (any, error) {
	q := r.URL.Query()
	page := struct {
		Value    []shownDevice `json:"value"`
		NextLink string        `json:"nextLink,omitempty"`
	}{Value: []shownDevice{}}
	size := centralPage
	for _, name := range []string{"maxpagesize", "$top"} {
		if text := q.Get(name); text != "" {
			n, err := strconv.Atoi(text)
			if err != nil || n < 1 || n > 100 {
				return nil, azure.Errorf(http.StatusBadRequest, "InvalidQueryParameter", "%s is %q, it must be 1 to 100.", name, text)
			}
			size = n
		}
	}
	if strings.Contains(q.Get("$filter"), "type eq") {
		return page, nil // gateways and edge devices: there are none
	}
	after, err := base64.RawURLEncoding.DecodeString(q.Get("$skiptoken"))
	if err != nil {
		return nil, azure.Errorf(http.StatusBadRequest, "InvalidQueryParameter", "$skiptoken is not from here.")
	}
	records, more := c.registry.Records(string(after), size)
	for _, d := range records {
		page.Value = append(page.Value, shown(d))
	}
	if more {
		q.Set("$skiptoken", base64.RawURLEncoding.EncodeToString([]byte(records[size-1].ID)))
		page.NextLink = (&url.URL{Scheme: "https", Host: r.Host, Path: r.URL.Path, RawQuery: q.Encode()}).String()
	}
	return page, nil
}

// wantedCentralDevice is what a request says of a device. What it does not say stays.
type wantedCentralDevice struct {
	ID            *string   `json:"id"`
	Etag          *string   `json:"etag"`
	DisplayName   *string   `json:"displayName"`
	Simulated     *bool     `json:"simulated"`
	Template      *string   `json:"template"`
	Enabled       *bool     `json:"enabled"`
	Organizations *[]string `json:"organizations"`
}

func (w wantedCentralDevice) check(id string) error {
	switch {
	case !azure.ValidRegistrationID(id):
		return azure.Errorf(http.StatusBadRequest, "InvalidDeviceId", "%q is no device id: at most 128 letters, digits and - . _ :, the last one a letter, digit or dash.", id)
	case w.ID != nil && *w.ID != id:
		return azure.Errorf(http.StatusBadRequest, "BadRequest", "The id of the body, %q, is not that of the path, %q.", *w.ID, id)
	case w.DisplayName != nil && len(*w.DisplayName) > 256:
		return azure.Errorf(http.StatusBadRequest, "BadRequest", "displayName is longer than 256 characters.")
	case w.Template != nil && *w.Template != "" && !strings.HasPrefix(*w.Template, "dtmi:"):
		return azure.Errorf(http.StatusBadRequest, "InvalidTemplate", "template is %q, it must be the dtmi of a device template.", *w.Template)
	}
	return nil
}

// change changes what the request names.
func (w wantedCentralDevice) change(a *provisioning.Attributes) {
	if w.DisplayName != nil {
		a.DisplayName = *w.DisplayName
	}
	if w.Simulated != nil {
		a.Simulated = *w.Simulated
	}
	if w.Template != nil {
		a.Template = *w.Template
	}
	if w.Organizations != nil {
		a.Organizations = *w.Organizations
	}
}

// createDevice makes the record of a device that has not been seen yet. The device is approved by
// that.
func (c *Application) createDevice(r *http.Request) (any, error) {
	var want wantedCentralDevice
	if err := decodeLenient(r, &want); err != nil {
		return nil, err
	}
	id := r.PathValue("id")
	if err := want.check(id); err != nil {
		return nil, err
	}
	var attributes provisioning.Attributes
	want.change(&attributes)
	d, err := c.registry.Create(id, want.Enabled == nil || *want.Enabled, attributes)
	if err != nil {
		return nil, err
	}
	return shown(d), nil
}

// updateDevice changes a record. To enable a device is to approve and to unblock it. To disable it
// is to block it.
func (c *Application) updateDevice(r *http.Request) (v any, err error) {
	var want wantedCentralDevice
	if err := decodeLenient(r, &want); err != nil {
		return nil, err
	}
	id := r.PathValue("id")
	if err := want.check(id); err != nil {
		return nil, err
	}
	matches := []azure.IfMatch{azure.ParseIfMatch(r.Header.Get("If-Match"))}
	if want.Etag != nil {
		matches = append(matches, azure.ParseIfMatch(*want.Etag))
	}
	err = c.registry.Annotate(id, func(etag string, attributes *provisioning.Attributes) error {
		for _, m := range matches {
			if err := m.Check(etag); err != nil {
				return err
			}
		}
		want.change(attributes)
		return nil
	})
	if err == nil && want.Enabled != nil {
		err = c.registry.SetEnabled(id, *want.Enabled)
	}
	if err != nil {
		return nil, err
	}
	return c.showDevice(r)
}

func (c *Application) deleteDevice(r *http.Request) (any, error) {
	return nil, c.registry.Delete(r.PathValue("id"))
}

// credentials answers the keys that the device may register with.
func (c *Application) credentials(r *http.Request) (any, error) {
	keys, err := c.registry.Keys(r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	return map[string]any{"idScope": c.registry.IDScope(), "symmetricKey": map[string]string{
		"primaryKey":   base64.StdEncoding.EncodeToString(keys[0]),
		"secondaryKey": base64.StdEncoding.EncodeToString(keys[1]),
	}}, nil
}

func (c *Application) showAttestation(r *http.Request) (any, error) {
	a, err := c.registry.OwnAttestation(r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	return a, nil
}

// writeAttestation gives a device an attestation of its own, or changes the one that it has.
func (c *Application) writeAttestation(r *http.Request, change bool) (any, error) {
	id := r.PathValue("id")
	var want provisioning.Attestation
	if change {
		old, err := c.registry.OwnAttestation(id)
		if err != nil {
			return nil, err
		}
		want.Type = old.Type
		if keys := old.SymmetricKey; keys != nil {
			own := *keys
			want.SymmetricKey = &own
		}
	} else if _, err := c.registry.Record(id); err != nil {
		return nil, err
	}
	if err := decodeLenient(r, &want); err != nil {
		return nil, err
	}
	if err := c.registry.Attest(id, want); err != nil {
		return nil, err
	}
	return c.showAttestation(r)
}

// deleteAttestation leaves a device to its group again.
func (c *Application) deleteAttestation(r *http.Request) (any, error) {
	if _, err := c.showAttestation(r); err != nil {
		return nil, err
	}
	return nil, c.registry.Unattest(r.PathValue("id"))
}

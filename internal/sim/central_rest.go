package sim

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/iothub"
)

// This file is IoT Central's public REST API and the part of its system API that the Azure CLI uses, beside the failover in
// central.go. A device's record is the registry's; its values come from its hub and from the ledger.

// centralDevice is what IoT Central's operators say of a device; the registry's mutex guards it.
type centralDevice struct {
	displayName   string // "" means the id
	template      string // "" means the model the device announced
	simulated     bool
	organizations []string
}

const (
	centralPage    = 25 // devices in one answer
	centralHistory = 25 // runs remembered of each command of each device
)

// routesREST adds the API; handle checks the token, and writes what comes back.
func (c *central) routesREST(handle func(pattern string, f func(r *http.Request) (any, error))) {
	api := func(pattern string, f func(r *http.Request) (any, error)) {
		handle(pattern, func(r *http.Request) (any, error) {
			if err := checkCentralVersion(r); err != nil {
				return nil, err
			}
			return f(r)
		})
	}
	api("GET /api/devices", c.listDevices)
	api("GET /api/devices/{id}", c.showDevice)
	api("PUT /api/devices/{id}", c.createDevice)
	api("PATCH /api/devices/{id}", c.updateDevice)
	api("DELETE /api/devices/{id}", c.deleteDevice)
	api("GET /api/devices/{id}/credentials", c.credentials)
	api("GET /api/devices/{id}/attestation", c.showAttestation)
	api("PUT /api/devices/{id}/attestation", func(r *http.Request) (any, error) { return c.writeAttestation(r, false) })
	api("PATCH /api/devices/{id}/attestation", func(r *http.Request) (any, error) { return c.writeAttestation(r, true) })
	api("DELETE /api/devices/{id}/attestation", c.deleteAttestation)
	api("GET /api/deviceTemplates", c.listTemplates)
	api("GET /api/deviceTemplates/{template}", c.showTemplate)
	api("POST /api/query", func(*http.Request) (any, error) {
		return nil, azure.Errorf(http.StatusUnprocessableEntity, "UnsupportedQuery",
			"This IoT Central is simulated and answers no telemetry queries: ask for the last value with GET /api/devices/{id}/telemetry/{name}, or the ledger of the control API for all of them.")
	})
	for _, base := range []string{"/api/devices/{id}", "/api/devices/{id}/components/{component}"} {
		api("GET "+base+"/properties", c.showProperties)
		api("PATCH "+base+"/properties", func(r *http.Request) (any, error) { return c.writeProperties(r, false) })
		api("PUT "+base+"/properties", func(r *http.Request) (any, error) { return c.writeProperties(r, true) })
		api("GET "+base+"/telemetry/{name}", c.lastTelemetry)
		api("POST "+base+"/commands/{name}", c.runCommand)
		api("GET "+base+"/commands/{name}", c.commandHistory)
	}
	handle("GET /system/iothub/devices/{id}/get-twin", c.systemTwin)
	handle("DELETE /system/iothub/devices/{id}/c2d", c.purgeC2D)
	handle("GET /system/iotedge/devices/{id}/modules", func(r *http.Request) (any, error) {
		_, err := c.registry.record(r.PathValue("id"))
		return map[string]any{"modules": []any{}}, err
	})
}

var centralVersion = regexp.MustCompile(`^(1\.\d|preview|20\d\d-\d\d-\d\d(-preview)?)$`)

func checkCentralVersion(r *http.Request) error {
	switch version := r.URL.Query().Get("api-version"); {
	case version == "":
		return azure.Errorf(http.StatusBadRequest, "MissingApiVersionParameter", "The api-version query parameter (?api-version=) is required for all requests.")
	case !centralVersion.MatchString(version):
		return azure.Errorf(http.StatusBadRequest, "UnsupportedApiVersion", "The api-version %q is not supported: 2022-07-31 is.", version)
	}
	return nil
}

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
func shown(d deviceRecord) shownDevice {
	return shownDevice{
		ID: d.ID, Etag: d.Etag, DisplayName: cmp.Or(d.displayName, d.ID), Simulated: d.simulated, Provisioned: d.Provisioned,
		Template: templateOf(d), Enabled: d.Enabled, Organizations: append([]string{}, d.organizations...),
	}
}

// templateOf returns the template of a device: the one that was set, or the model that the device
// announced.
func templateOf(d deviceRecord) string { return cmp.Or(d.template, d.ModelID) }

func (c *central) showDevice(r *http.Request) (any, error) {
	d, err := c.registry.record(r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	return shown(d), nil
}

// listDevices answers a page of devices in order of their ids, and where the next one is.
func (c *central) listDevices(r *http.Request) (any, error) {
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
	records, more := c.registry.records(string(after), size)
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
func (w wantedCentralDevice) change(a *centralDevice) {
	if w.DisplayName != nil {
		a.displayName = *w.DisplayName
	}
	if w.Simulated != nil {
		a.simulated = *w.Simulated
	}
	if w.Template != nil {
		a.template = *w.Template
	}
	if w.Organizations != nil {
		a.organizations = *w.Organizations
	}
}

// createDevice makes the record of a device that has not been seen yet. Who makes it by hand has approved it.
func (c *central) createDevice(r *http.Request) (any, error) {
	var want wantedCentralDevice
	if err := decodeLenient(r, &want); err != nil {
		return nil, err
	}
	id := r.PathValue("id")
	if err := want.check(id); err != nil {
		return nil, err
	}
	var attributes centralDevice
	want.change(&attributes)
	d, err := c.registry.create(id, want.Enabled == nil || *want.Enabled, attributes)
	if err != nil {
		return nil, err
	}
	return shown(d), nil
}

// updateDevice changes a record. To enable a device is to approve and to unblock it, to disable it is to block it.
func (c *central) updateDevice(r *http.Request) (v any, err error) {
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
	err = c.registry.annotate(id, func(etag string, attributes *centralDevice) error {
		for _, m := range matches {
			if err := m.Check(etag); err != nil {
				return err
			}
		}
		want.change(attributes)
		return nil
	})
	if err == nil && want.Enabled != nil {
		err = c.registry.setEnabled(id, *want.Enabled)
	}
	if err != nil {
		return nil, err
	}
	return c.showDevice(r)
}

func (c *central) deleteDevice(r *http.Request) (any, error) {
	return nil, c.registry.delete(r.PathValue("id"))
}

// credentials answers the keys that the device may register with.
func (c *central) credentials(r *http.Request) (any, error) {
	keys, err := c.registry.keys(r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	return map[string]any{"idScope": c.registry.config.IDScope, "symmetricKey": map[string]string{
		"primaryKey":   base64.StdEncoding.EncodeToString(keys[0]),
		"secondaryKey": base64.StdEncoding.EncodeToString(keys[1]),
	}}, nil
}

func (c *central) showAttestation(r *http.Request) (any, error) {
	a, err := c.registry.ownAttestation(r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	return a, nil
}

// writeAttestation gives a device an attestation of its own, or changes the one that it has.
func (c *central) writeAttestation(r *http.Request, change bool) (any, error) {
	id := r.PathValue("id")
	var want attestation
	if change {
		old, err := c.registry.ownAttestation(id)
		if err != nil {
			return nil, err
		}
		want.Type = old.Type
		if keys := old.SymmetricKey; keys != nil {
			own := *keys
			want.SymmetricKey = &own
		}
	} else if _, err := c.registry.record(id); err != nil {
		return nil, err
	}
	if err := decodeLenient(r, &want); err != nil {
		return nil, err
	}
	if err := c.registry.attest(id, want); err != nil {
		return nil, err
	}
	return c.showAttestation(r)
}

// deleteAttestation leaves a device to its group again.
func (c *central) deleteAttestation(r *http.Request) (any, error) {
	if _, err := c.showAttestation(r); err != nil {
		return nil, err
	}
	return nil, c.registry.unattest(r.PathValue("id"))
}

// propertyMetadata is what IoT Central knows of a property beside its value.
type propertyMetadata struct {
	DesiredValue   any    `json:"desiredValue,omitempty"`
	DesiredVersion any    `json:"desiredVersion,omitempty"`
	AckVersion     any    `json:"ackVersion,omitempty"`
	AckCode        any    `json:"ackCode,omitempty"`
	AckDescription any    `json:"ackDescription,omitempty"`
	LastUpdateTime string `json:"lastUpdateTime,omitempty"`
}

// properties joins the two halves of a twin, or of a component in it, in the form of IoT Central: each name with its value, what the
// device acknowledged or else what is desired, and the rest under $metadata.
func properties(desired, reported, desiredAt, reportedAt map[string]any) map[string]any {
	all, metadata := map[string]any{}, map[string]propertyMetadata{}
	sub := func(m map[string]any, name string) map[string]any { child, _ := m[name].(map[string]any); return child }
	names := maps.Clone(desired)
	if names == nil {
		names = map[string]any{}
	}
	maps.Copy(names, reported)
	for name := range names {
		if name == "__t" {
			continue
		}
		want, wanted := desired[name]
		have, had := reported[name]
		if sub(desired, name)["__t"] == "c" || sub(reported, name)["__t"] == "c" {
			all[name] = properties(sub(desired, name), sub(reported, name), sub(desiredAt, name), sub(reportedAt, name))
			continue
		}
		var m propertyMetadata
		if wanted {
			at := sub(desiredAt, name)
			m.DesiredValue, m.DesiredVersion = want, at["$lastUpdatedVersion"]
			m.LastUpdateTime, _ = at["$lastUpdated"].(string)
			all[name] = want
		}
		if had {
			at := sub(reportedAt, name)
			m.LastUpdateTime, _ = at["$lastUpdated"].(string)
			if ack, is := have.(map[string]any); is && ack["ac"] != nil {
				m.AckVersion, m.AckCode, m.AckDescription = ack["av"], ack["ac"], ack["ad"]
				have = ack["value"]
			}
			all[name] = have
		}
		metadata[name] = m
	}
	if len(metadata) > 0 {
		all["$metadata"] = metadata
	}
	return all
}

func (c *central) showProperties(r *http.Request) (any, error) {
	i, err := c.registry.placed(r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	twin := i.Values()
	all := properties(twin.Desired, twin.Reported, twin.DesiredAt, twin.ReportedAt)
	component := r.PathValue("component")
	if component == "" {
		return all, nil
	}
	part, ok := all[component].(map[string]any)
	if !ok {
		return nil, azure.Errorf(http.StatusNotFound, "NotFound", "Device %s has no values of a component %s.", r.PathValue("id"), component)
	}
	return part, nil
}

// writeProperties sets writable properties; with whole, those that are not named go.
func (c *central) writeProperties(r *http.Request, whole bool) (any, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, azure.Errorf(http.StatusBadRequest, "BadRequest", "The body cannot be read.")
	}
	patch, err := iothub.ParseServicePatch(body)
	if err == nil && patch == nil {
		err = azure.Errorf(http.StatusBadRequest, "BadRequest", "The body is not a JSON object.")
	}
	if err != nil {
		return nil, err
	}
	i, err := c.registry.placed(r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	if component := r.PathValue("component"); component != "" {
		delete(patch, "$metadata")
		patch["__t"] = "c"
		patch = map[string]any{component: patch}
	}
	switch {
	case whole:
		err = i.ReplaceDesired(patch, r.PathValue("component"))
	case len(patch) > 0:
		err = i.PatchDesired(patch)
	}
	if err = iothub.ServiceTwinError(err); err != nil {
		return nil, err
	}
	return c.showProperties(r)
}

// lastTelemetry answers the newest value of a name that any hub has received from the device.
func (c *central) lastTelemetry(r *http.Request) (any, error) {
	id, name := r.PathValue("id"), r.PathValue("name")
	if _, err := c.registry.record(id); err != nil {
		return nil, err
	}
	_, kept := c.ledger.Read(id, 0)
	for m := range kept.Backward() {
		component := ""
		if s := m.Properties["$.sub"]; s != nil {
			component = *s
		}
		var body map[string]json.RawMessage
		if component != r.PathValue("component") || json.Unmarshal(m.Body, &body) != nil {
			continue
		}
		value, ok := body[name]
		if !ok {
			continue
		}
		at := m.CreationTime
		if at == "" {
			at = azure.UTC7(m.At)
		}
		return map[string]any{"timestamp": at, "value": value}, nil
	}
	return nil, azure.Errorf(http.StatusNotFound, "NotFound", "Device %s has not sent %s.", id, name)
}

// commandRun is one run of a command, as its history shows it.
type commandRun struct {
	ID                string          `json:"id"`
	ConnectionTimeout *float64        `json:"connectionTimeout,omitempty"`
	ResponseTimeout   *float64        `json:"responseTimeout,omitempty"`
	Request           json.RawMessage `json:"request,omitempty"`
	Response          json.RawMessage `json:"response,omitempty"`
	ResponseCode      int             `json:"responseCode,omitempty"`
}

// commandBook remembers runs of commands.
type commandBook struct {
	mu   sync.Mutex
	runs map[string][]commandRun // the newest first, by device, component and name
}

func (b *commandBook) enter(key string, run commandRun) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.runs == nil {
		b.runs = map[string][]commandRun{}
	}
	runs := append([]commandRun{run}, b.runs[key]...)
	b.runs[key] = runs[:min(len(runs), centralHistory)]
}

func (b *commandBook) of(key string) []commandRun {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]commandRun{}, b.runs[key]...)
}

func commandKey(r *http.Request) string {
	return r.PathValue("id") + "\n" + methodOf(r)
}

// methodOf is the name of a command on the wire: that of its component comes first.
func methodOf(r *http.Request) string {
	if component := r.PathValue("component"); component != "" {
		return component + "*" + r.PathValue("name")
	}
	return r.PathValue("name")
}

func (c *central) commandHistory(r *http.Request) (any, error) {
	_, err := c.registry.record(r.PathValue("id"))
	return map[string]any{"value": c.commands.of(commandKey(r))}, err
}

// created is an answer with status 201.
type created struct{ body any }

// runCommand runs a command now, as a direct method; one that the device's template calls durable is queued instead, as a message
// that waits for the device. Who sends a bare value, as `az` does with whatever it is given, means the request.
func (c *central) runCommand(r *http.Request) (any, error) {
	body, err := io.ReadAll(r.Body)
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, azure.Errorf(http.StatusRequestEntityTooLarge, "RequestEntityTooLarge", "The body is larger than %d bytes.", tooLarge.Limit)
	}
	if err != nil || len(body) > 0 && !json.Valid(body) {
		return nil, azure.Errorf(http.StatusBadRequest, "BadRequest", "The body is not JSON.")
	}
	run, err := parseRun(body)
	if err != nil {
		return nil, err
	}
	id, name := r.PathValue("id"), methodOf(r)
	d, err := c.registry.record(id)
	if err != nil {
		return nil, err
	}
	i, err := c.registry.placed(id)
	if err != nil {
		return nil, err
	}
	if c.templates.durable(templateOf(d), r.PathValue("component"), r.PathValue("name")) {
		err = queueCommand(i, name, run.Request)
	} else {
		err = c.runMethod(r.Context(), i, name, &run)
	}
	if err != nil {
		return nil, err
	}
	c.commands.enter(commandKey(r), run)
	return created{run}, nil
}

func parseRun(body []byte) (commandRun, error) {
	run := commandRun{ID: azure.NewGUID()}
	var fields map[string]json.RawMessage
	if len(body) == 0 {
		return run, nil
	}
	if json.Unmarshal(body, &fields) != nil {
		run.Request = body
		return run, nil
	}
	known := 0
	for _, name := range []string{"request", "connectionTimeout", "responseTimeout"} {
		if fields[name] != nil {
			known++
		}
	}
	if len(fields) > 0 && known == 0 {
		run.Request = body
		return run, nil
	}
	run.Request = fields["request"]
	for name, into := range map[string]**float64{"connectionTimeout": &run.ConnectionTimeout, "responseTimeout": &run.ResponseTimeout} {
		var seconds azure.FlexibleSeconds
		if text := fields[name]; text != nil && json.Unmarshal(text, &seconds) != nil {
			return run, azure.Errorf(http.StatusBadRequest, "BadRequest", "%s is not a number of seconds.", name)
		}
		if *into = seconds.Value; seconds.Value != nil && !(*seconds.Value >= 0 && *seconds.Value <= 300) {
			return run, azure.Errorf(http.StatusBadRequest, "BadRequest", "%s is %v, it must be 0 to 300.", name, *seconds.Value)
		}
	}
	return run, nil
}

func (c *central) runMethod(ctx context.Context, i *iothub.Identity, name string, run *commandRun) error {
	timeout := iothub.MethodTimeout
	if t := run.ResponseTimeout; t != nil && *t > 0 {
		timeout = azure.Seconds(*t)
	}
	if len(run.Request) > iothub.MethodMaxBytes {
		return azure.Errorf(http.StatusRequestEntityTooLarge, "PayloadTooLarge", "The request has %d bytes, the limit is %d.", len(run.Request), iothub.MethodMaxBytes)
	}
	if t := run.ConnectionTimeout; t != nil && *t > 0 {
		connecting, cancel := context.WithTimeout(ctx, azure.Seconds(*t))
		i.Await(connecting)
		cancel()
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	result, err := i.Invoke(ctx, name, run.Request)
	run.Response, run.ResponseCode = result.Payload, result.Status
	if e, ok := errors.AsType[*azure.Error](err); ok && e.Code == "DeviceNotOnline" {
		return azure.Errorf(http.StatusNotFound, "NotFound",
			"Could not connect to device in order to send command: it is not online, or listens for no commands. A command is queued for later only if its device template says that it is durable.")
	}
	return err
}

// queueCommand leaves a command with the device's messages; "@" stands for no parameter.
func queueCommand(i *iothub.Identity, name string, request json.RawMessage) error {
	m := iothub.C2D{Body: request, Properties: map[string]string{"method-name": name}}
	if len(request) == 0 || string(request) == "null" {
		at := "@"
		m.Body, m.Text = nil, &at
	}
	_, err := i.Post(m)
	return err
}

func (c *central) systemTwin(r *http.Request) (any, error) {
	i, err := c.registry.placed(r.PathValue("id"))
	if err != nil {
		// The Azure CLI recognises this text, and takes an error object for something else.
		return nil, azure.Errorf(http.StatusNotFound, "NotFound", "Twin for device %s was not found", r.PathValue("id"))
	}
	return i.ServiceTwin(), nil
}

func (c *central) purgeC2D(r *http.Request) (any, error) {
	id := r.PathValue("id")
	i, err := c.registry.placed(id)
	if err != nil {
		return nil, err
	}
	n, err := i.Purge()
	if err != nil {
		return nil, err
	}
	return map[string]string{"message": "Cloud to device (C2D) message queue purged for device " + id + ". Total messages purged: " + strconv.Itoa(n) + "."}, nil
}

// templates are the device templates of an application: DTDL documents by their id.
type templates map[string]json.RawMessage

// parseTemplates reads a DTDL interface, a list of them, or a device template as IoT Central exports it.
func parseTemplates(doc []byte) (templates, error) {
	t := templates{}
	var list []json.RawMessage
	if json.Unmarshal(doc, &list) != nil {
		list = []json.RawMessage{doc}
	}
	for _, one := range list {
		var head struct {
			ID    string          `json:"@id"`
			Model json.RawMessage `json:"capabilityModel"`
		}
		if err := json.Unmarshal(one, &head); err != nil || !strings.HasPrefix(head.ID, "dtmi:") {
			return nil, errors.New("a device template is a DTDL interface, and its @id is a dtmi")
		}
		if head.Model != nil {
			one = head.Model
		}
		t[head.ID] = one
	}
	return t, nil
}

// dtdlContent is what matters here of an element of an interface.
type dtdlContent struct {
	Type    json.RawMessage `json:"@type"`
	Name    string          `json:"name"`
	Durable bool            `json:"durable"`
	Schema  json.RawMessage `json:"schema"`
}

func contentsOf(model json.RawMessage) []dtdlContent {
	var m struct {
		Contents []dtdlContent `json:"contents"`
	}
	_ = json.Unmarshal(model, &m) // a schema may be a mere id
	return m.Contents
}

// durable says whether a command waits for devices that are away.
func (t templates) durable(template, component, command string) bool {
	contents := contentsOf(t[template])
	if component != "" {
		at := slices.IndexFunc(contents, func(c dtdlContent) bool { return c.Name == component })
		if at < 0 {
			return false
		}
		var id string
		if json.Unmarshal(contents[at].Schema, &id) == nil {
			contents = contentsOf(t[id])
		} else {
			contents = contentsOf(contents[at].Schema)
		}
	}
	return slices.ContainsFunc(contents, func(c dtdlContent) bool { return c.Name == command && c.Durable })
}

// shown is a template in IoT Central's form; of a model that devices only announced, nothing but its id is known.
func (t templates) shown(id string) map[string]any {
	model := t[id]
	if model == nil {
		model = azure.EncodeJSON(map[string]any{"@id": id, "@type": "Interface", "displayName": id, "contents": []any{}})
	}
	var named struct {
		DisplayName json.RawMessage `json:"displayName"`
	}
	name := id
	if json.Unmarshal(model, &named) == nil && named.DisplayName != nil {
		var byLanguage map[string]string
		if json.Unmarshal(named.DisplayName, &name) != nil && json.Unmarshal(named.DisplayName, &byLanguage) == nil {
			name = cmp.Or(byLanguage["en"], id)
		}
	}
	return map[string]any{
		"@id": id, "@type": []string{"ModelDefinition", "DeviceModel"}, "@context": []string{"dtmi:iotcentral:context;2", "dtmi:dtdl:context;2"},
		"displayName": name, "etag": base64.StdEncoding.EncodeToString([]byte(id)), "capabilityModel": model,
	}
}

// templateIDs are those of the application's templates and of the models its devices announced.
func (c *central) templateIDs() []string {
	ids := maps.Clone(c.templates)
	if ids == nil {
		ids = templates{}
	}
	records, _ := c.registry.records("", 0)
	for _, d := range records {
		if id := templateOf(d); id != "" {
			ids[id] = nil
		}
	}
	return slices.Sorted(maps.Keys(ids))
}

func (c *central) listTemplates(*http.Request) (any, error) {
	value := []any{}
	for _, id := range c.templateIDs() {
		value = append(value, c.templates.shown(id))
	}
	return map[string]any{"value": value}, nil
}

func (c *central) showTemplate(r *http.Request) (any, error) {
	id := r.PathValue("template")
	if !slices.Contains(c.templateIDs(), id) {
		return nil, azure.Errorf(http.StatusNotFound, "NotFound", "There is no device template %s.", id)
	}
	return c.templates.shown(id), nil
}

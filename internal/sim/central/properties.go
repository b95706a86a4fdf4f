package central

import (
	"encoding/json"
	"io"
	"maps"
	"net/http"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
)

// propertyMetadata is what IoT Central knows of a property beside its value.
type propertyMetadata struct {
	DesiredValue   any    `json:"desiredValue,omitempty"`
	DesiredVersion any    `json:"desiredVersion,omitempty"`
	AckVersion     any    `json:"ackVersion,omitempty"`
	AckCode        any    `json:"ackCode,omitempty"`
	AckDescription any    `json:"ackDescription,omitempty"`
	LastUpdateTime string `json:"lastUpdateTime,omitempty"`
}

// properties joins the two halves of a twin, or of a component in it, in the form of IoT Central.
// Each name has the value that the device acknowledged, else the value that is desired; the rest is
// under $metadata.
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

func (c *Application) showProperties(r *http.Request) (any, error) {
	i, err := c.registry.Placed(r.PathValue("id"))
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

// writeProperties sets writable properties. With whole it removes the properties that the request
// does not name.
func (c *Application) writeProperties(r *http.Request, whole bool) (any, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, azure.Errorf(http.StatusBadRequest, "BadRequest", "The body cannot be read.")
	}
	patch, err := azure.ParseServicePatch(body)
	if err == nil && patch == nil {
		err = azure.Errorf(http.StatusBadRequest, "BadRequest", "The body is not a JSON object.")
	}
	if err != nil {
		return nil, err
	}
	i, err := c.registry.Placed(r.PathValue("id"))
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
	if err = azure.ServiceTwinError(err); err != nil {
		return nil, err
	}
	return c.showProperties(r)
}

// lastTelemetry answers the newest value of a name that any hub has received from the device.
func (c *Application) lastTelemetry(r *http.Request) (any, error) {
	id, name := r.PathValue("id"), r.PathValue("name")
	if _, err := c.registry.Record(id); err != nil {
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

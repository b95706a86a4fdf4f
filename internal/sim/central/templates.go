package central

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
)

// templates are the device templates of an application: DTDL documents by their id.
type templates map[string]json.RawMessage

// parseTemplates reads a DTDL interface, a list of them, or a device template as IoT Central
// exports it.
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

// durable reports whether a command waits for devices that are away.
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

// shown returns a template in IoT Central's form. A model that devices only announced has nothing
// but its id.
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
func (c *Application) templateIDs() []string {
	ids := maps.Clone(c.templates)
	if ids == nil {
		ids = templates{}
	}
	records, _ := c.registry.Records("", 0)
	for _, d := range records {
		if id := templateOf(d); id != "" {
			ids[id] = nil
		}
	}
	return slices.Sorted(maps.Keys(ids))
}

func (c *Application) listTemplates(*http.Request) (any, error) {
	value := []any{}
	for _, id := range c.templateIDs() {
		value = append(value, c.templates.shown(id))
	}
	return map[string]any{"value": value}, nil
}

func (c *Application) showTemplate(r *http.Request) (any, error) {
	id := r.PathValue("template")
	if !slices.Contains(c.templateIDs(), id) {
		return nil, azure.Errorf(http.StatusNotFound, "NotFound", "There is no device template %s.", id)
	}
	return c.templates.shown(id), nil
}

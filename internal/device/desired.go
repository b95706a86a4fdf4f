package device

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/hubhop-iot/hubhop/hub"
	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/internal/plain"
	"github.com/hubhop-iot/hubhop/model"
)

// applied is what became of a desired value.
type applied struct {
	value json.RawMessage // as the model gives it
	ack   Ack
	used  bool // a value of the property is in use, this one or one before
}

// ok says whether the value is in use.
func (a applied) ok() bool { return a.value != nil && a.ack.Code < http.StatusBadRequest }

// judge applies desired properties and adds their acknowledgements to patch. Each property is
// judged alone, so that a bad value does not hide a good one. If reported is not nil,
// acknowledgements that are in it already are left out.
func (t *twin) judge(ctx context.Context, l *hub.Link, patch map[string]any, desired map[string]json.RawMessage, version int64,
	reported map[string]json.RawMessage) {
	for _, name := range slices.Sorted(maps.Keys(desired)) {
		if strings.HasPrefix(name, "$") {
			continue
		}
		if inner, ok := t.component(name, desired[name]); ok {
			var known map[string]json.RawMessage
			if reported != nil {
				known = map[string]json.RawMessage{}
				_ = json.Unmarshal(reported[name], &known) // absent or foreign: nothing is known
			}
			put(&t.parts, name, true)
			acks := map[string]any{}
			for _, prop := range slices.Sorted(maps.Keys(inner)) {
				if prop != componentTag {
					t.judgeOne(ctx, l, acks, name, prop, inner[prop], version, known)
				}
			}
			if len(acks) > 0 {
				acks[componentTag] = "c"
				patch[name] = acks
			}
			continue
		}
		if name != "" && (t.parts[name] || t.d.app.hasComponent(name)) {
			// It is not acknowledged, because that would overwrite the component's reported
			// properties.
			if string(desired[name]) != "null" {
				t.d.floods.tell(ofDesired, 1, journal.Event{Kind: journal.DesiredChange, Hub: l.Host(), Name: plain.Name(name), Status: http.StatusBadRequest,
					Error: "not an object", Text: fmt.Sprintf("desired %s not applied: it is a component, so its value must be an object", plain.Quoted(name))})
			}
			continue
		}
		t.judgeOne(ctx, l, patch, "", name, desired[name], version, reported)
	}
}

// judgeOne applies one desired property and adds its acknowledgement to patch.
func (t *twin) judgeOne(ctx context.Context, l *hub.Link, patch map[string]any, component, name string, value json.RawMessage, version int64,
	reported map[string]json.RawMessage) {
	path := component + "/" + name
	if string(value) == "null" { // deleted: its acknowledgement goes with it
		delete(t.wanted, path)
		t.remove(ctx, l, component, name, version)
		if _, there := reported[name]; there || reported == nil {
			patch[name] = nil
		}
		return
	}
	put(&t.wanted, path, true)
	ack := model.Ack{Value: value, Version: version}
	fitting, err := t.d.app.desired(component, name, value)
	if err != nil {
		ack.Code, ack.Description = http.StatusBadRequest, err.Error()
		if ce, ok := errors.AsType[*model.CheckError](err); ok {
			ack.Code = ce.Code()
		}
	} else {
		a := t.apply(ctx, l, component, name, fitting, version)
		if ctx.Err() != nil {
			return // the link has ended, and the next one will see the value again
		}
		ack.Value, ack.Code, ack.Description = fitting, a.ack.Code, a.ack.Description
		if !a.ok() {
			err = errors.New(a.ack.Description)
		}
	}
	if reported != nil && acknowledged(reported[name], ack, t.older) {
		return
	}
	if err != nil {
		t.d.floods.tell(ofDesired, 1, journal.Event{Kind: journal.DesiredChange, Hub: l.Host(), Name: plain.Name(name), Status: ack.Code, Error: err.Error(),
			Text: fmt.Sprintf("desired %s not applied: %s", plain.Quoted(name), plain.Line(err.Error(), plain.Most))})
	}
	patch[name] = ack
}

// apply gives a value to the handler of its property, unless it was given this value last and need
// not get it again. It returns what became of the value.
func (t *twin) apply(ctx context.Context, l *hub.Link, component, name string, value json.RawMessage, version int64) applied {
	path := component + "/" + name
	a := t.applied[path]
	if sameJSON(a.value, value) && a.ack.Code < http.StatusInternalServerError {
		return a
	}
	a.value, a.ack = slices.Clone(value), t.handle(ctx, component, name, value, version)
	if ctx.Err() != nil {
		return a
	}
	if a.ok() {
		a.used = true
		t.d.floods.tell(ofDesired, 1, journal.Event{Kind: journal.DesiredChange, Hub: l.Host(), Name: plain.Name(name), Status: a.ack.Code,
			Text: fmt.Sprintf("desired %s set to %s", plain.Quoted(name), plain.Value(value))})
	}
	put(&t.applied, path, a)
	return a
}

// remove tells the handler of a property that the property is not desired any more, if the handler
// has had a value.
func (t *twin) remove(ctx context.Context, l *hub.Link, component, name string, version int64) {
	path := component + "/" + name
	a, known := t.applied[path]
	if !known {
		return
	}
	ack := t.handle(ctx, component, name, nil, version)
	if ctx.Err() != nil {
		return
	}
	delete(t.applied, path)
	e := journal.Event{Kind: journal.DesiredChange, Hub: l.Host(), Name: plain.Name(name), Text: fmt.Sprintf("desired %s removed", plain.Quoted(name))}
	if ack.Code >= http.StatusBadRequest {
		e.Status, e.Error = ack.Code, ack.Description
		e.Text += fmt.Sprintf(", but its handler failed: %s", plain.Line(ack.Description, plain.Most))
	}
	if a.used || e.Error != "" {
		t.d.floods.tell(ofDesired, 1, e)
	}
}

// handle gives a value to the handler of its property, nil for its removal. A property without a
// handler takes every value. The code of the Ack is not 0.
func (t *twin) handle(ctx context.Context, component, name string, value json.RawMessage, version int64) Ack {
	r := Request{Kind: KindDesired, Name: spelled(component, name), Device: t.d.id.DeviceID, Value: value, Version: version}
	ack := Ack{}
	if property := t.d.app.Desired[r.Name]; property.Apply != nil {
		var err error
		ack, err = repeated(ctx, &r, func() (Ack, error) {
			return invoke(ctx, t.d, "handler", func(ctx context.Context) (Ack, error) { return property.Apply(ctx, r) })
		})
		if err != nil {
			ack = Ack{statusOf(err), err.Error()}
		}
	}
	if ack.Code == 0 {
		ack = Ack{http.StatusOK, cmp.Or(ack.Description, "completed")}
	}
	// There always is a description, because a hub would keep the one before.
	ack.Description = plain.Line(cmp.Or(ack.Description, fmt.Sprintf("the handler of the property answered %d", ack.Code)), maxBugText)
	return ack
}

// acknowledged says whether a reported property is this acknowledgement already. With older, one of
// an older version is good enough.
func acknowledged(reported json.RawMessage, want model.Ack, older bool) bool {
	var have model.Ack
	return json.Unmarshal(reported, &have) == nil && have.Code == want.Code &&
		(have.Version == want.Version || older && have.Version < want.Version) && sameJSON(have.Value, want.Value)
}

// addRemoved adds null to a whole desired part for each property that was removed from it while the
// device was away. A change would have told that. A property was removed if it is applied, or
// acknowledged in the reported part, and not desired any more.
func (t *twin) addRemoved(component string, desired, reported map[string]json.RawMessage) {
	gone := func(name string) {
		if _, wanted := desired[name]; !wanted {
			desired[name] = json.RawMessage("null")
		}
	}
	for path := range t.applied {
		if of, name, _ := strings.Cut(path, "/"); of == component {
			gone(name)
		}
	}
	for name, value := range reported {
		var inner map[string]json.RawMessage
		var ack struct {
			Value   json.RawMessage `json:"value"`
			Code    int             `json:"ac"`
			Version int64           `json:"av"`
		}
		switch {
		case json.Unmarshal(value, &inner) != nil || inner == nil:
		case component == "" && string(inner[componentTag]) == `"c"`:
			wanted, _ := t.component(name, desired[name])
			if wanted == nil {
				wanted = map[string]json.RawMessage{}
			}
			before := len(wanted)
			t.addRemoved(name, wanted, inner)
			if len(wanted) > before {
				wanted[componentTag] = json.RawMessage(`"c"`)
				if b, err := json.Marshal(wanted); err == nil {
					desired[name] = b
				}
			}
		case json.Unmarshal(value, &ack) == nil && ack.Value != nil && ack.Code != 0 && ack.Version > 0: // 0: a default
			gone(name)
		}
	}
}

// expand replaces the removal of a whole component by the removal of each of its desired
// properties, so that the component's own reported properties stay.
func (t *twin) expand(props map[string]json.RawMessage) {
	for component, value := range props {
		if string(value) != "null" {
			continue
		}
		gone := map[string]json.RawMessage{}
		for path := range t.wanted {
			if of, name, _ := strings.Cut(path, "/"); of == component && of != "" {
				gone[name] = json.RawMessage("null")
			}
		}
		if len(gone) == 0 {
			continue
		}
		gone[componentTag] = json.RawMessage(`"c"`)
		if b, err := json.Marshal(gone); err == nil {
			props[component] = b
		}
	}
}

// tells says whether a change contains a property.
func (t *twin) tells(props map[string]json.RawMessage, path string) bool {
	component, name, _ := strings.Cut(path, "/")
	if component == "" {
		return props[name] != nil
	}
	inner, _ := t.component(component, props[component])
	return inner[name] != nil
}

// isTagged says whether a value has the mark of a component's object.
func isTagged(value json.RawMessage) bool {
	var inner map[string]json.RawMessage
	return json.Unmarshal(value, &inner) == nil && string(inner[componentTag]) == `"c"`
}

// component returns the members of a component's object. It goes by the object's mark and by the
// model, because the mark may be missing in changes.
func (t *twin) component(name string, value json.RawMessage) (map[string]json.RawMessage, bool) {
	var inner map[string]json.RawMessage
	if json.Unmarshal(value, &inner) != nil || inner == nil {
		return nil, false
	}
	if string(inner[componentTag]) == `"c"` || t.d.app.hasComponent(name) {
		return inner, true
	}
	return nil, false
}

// sameJSON says whether two values are the same, however they are spelled. nil is the same as nil
// only.
func sameJSON(a, b json.RawMessage) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	if bytes.Equal(a, b) {
		return true
	}
	x, y := canonical(a), canonical(b)
	return x != nil && bytes.Equal(x, y)
}

// canonical returns one spelling of a JSON value: keys sorted, no spaces, numbers as they are.
func canonical(raw json.RawMessage) []byte {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var v any
	if dec.Decode(&v) != nil {
		return nil
	}
	b, err := json.Marshal(v)
	if err != nil {
		return nil
	}
	return b
}

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
	"time"

	"github.com/hubhop-iot/hubhop/hub"
	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/model"
)

const (
	twinAnswer   = 30 * time.Second // a request is QoS 0: it may be lost
	twinRetryMin = time.Second
	twinRetryMax = 30 * time.Second
	maxReport    = 128 << 10 // bytes of a patch; IoT Hub refuses more than 32 KB, and closes the connection above its MQTT limit
	componentTag = "__t"     // IoT Central marks a component's object with "__t":"c"
)

// twin keeps the device's side of the twin. It remembers values over links and hubs, but no versions,
// because each hub counts its own. One goroutine at a time uses it, for the link that is served.
type twin struct {
	d       *Device
	applied map[string]applied // by component/name: what became of the value that was tried last
	wanted  map[string]bool    // component/name of each desired property that this link has seen
	parts   map[string]bool    // components that are desired or reported on this link
	older   bool               // acknowledgements of older versions are good enough
	readers []*reader          // of the reported properties, sorted by name
}

// applied is what became of a desired value.
type applied struct {
	value json.RawMessage // as the model gives it
	ack   Ack
	used  bool // a value of the property is in use, this one or one before
}

// ok says whether the value is in use.
func (a applied) ok() bool { return a.value != nil && a.ack.Code < http.StatusBadRequest }

// newTwin returns a twin that knows nothing yet.
func newTwin(d *Device) twin {
	t := twin{d: d, applied: map[string]applied{}, wanted: map[string]bool{}, parts: map[string]bool{}}
	for _, name := range slices.Sorted(maps.Keys(d.app.Reported)) {
		t.readers = append(t.readers, newReader(d, name, d.app.Reported[name]))
	}
	return t
}

// reconcile reads the document and sends, in one patch, what the reported part lacks: the
// acknowledgement of each desired property whose acknowledgement differs, and the device's own
// properties that differ. upTo is the version up to which every change has been acknowledged on
// this link, 0 if none has. If the document is not newer, acknowledgements of earlier versions are
// good enough.
func (t *twin) reconcile(ctx context.Context, l *hub.Link, upTo int64) (version int64, err error) {
	doc, err := t.read(ctx, l)
	if err != nil {
		return 0, err
	}
	t.older = upTo != 0 && doc.DesiredVersion == upTo
	patch := map[string]any{}
	clear(t.wanted)
	clear(t.parts)
	for name := range doc.Reported {
		t.parts[name] = isTagged(doc.Reported[name])
	}
	if !t.d.app.Off.Desired {
		t.addRemoved("", doc.Desired, doc.Reported)
		t.judge(ctx, l, patch, doc.Desired, doc.DesiredVersion, doc.Reported)
	}
	t.addReported(ctx, l, patch, doc.Reported)
	return doc.DesiredVersion, t.report(ctx, l, patch)
}

// change acknowledges every key of a change. ask says that the document must be read: if a service
// replaces all desired properties, the hub may send only the new ones and not name the removed
// ones. So a change that leaves out a known desired property may be such a replacement.
func (t *twin) change(ctx context.Context, l *hub.Link, c *hub.Desired) (ask bool, err error) {
	if t.d.app.Off.Desired {
		return false, nil
	}
	var props map[string]json.RawMessage
	if err := json.Unmarshal(c.Body, &props); err != nil || props == nil {
		t.d.warn(l.Host(), "a desired change that is not a JSON object was ignored; the twin is read instead")
		return true, nil
	}
	before := maps.Clone(t.wanted)
	patch := map[string]any{}
	t.expand(props)
	t.judge(ctx, l, patch, props, c.Version, nil)
	for path := range before {
		ask = ask || !t.tells(props, path)
	}
	return ask, t.report(ctx, l, patch)
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

// judge applies desired properties and collects their acknowledgements. Each is judged alone: a bad value does not hide a good
// one. With a reported part given, acknowledgements that stand there already are left out.
func (t *twin) judge(ctx context.Context, l *hub.Link, patch map[string]any, desired map[string]json.RawMessage, version int64, reported map[string]json.RawMessage) {
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
			t.parts[name] = true
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
			if string(desired[name]) != "null" { // an acknowledgement here would overwrite the component's reported properties
				t.d.desired.tell(1, journal.Event{Kind: journal.DesiredChange, Hub: l.Host(), Name: named(name), Status: http.StatusBadRequest,
					Error: "not an object", Text: fmt.Sprintf("desired %s not applied: it is a component, so its value must be an object", quoted(name))})
			}
			continue
		}
		t.judgeOne(ctx, l, patch, "", name, desired[name], version, reported)
	}
}

// addRemoved completes a whole desired part with null for what was removed from it while the device was away, as a change would have
// told: each property that is applied, or acknowledged in the reported part, and no longer wanted.
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
		case json.Unmarshal(value, &ack) == nil && ack.Value != nil && ack.Code != 0 && ack.Version > 0: // 0 is the device's own default
			gone(name)
		}
	}
}

// isTagged says whether a value has the mark of a component's object.
func isTagged(value json.RawMessage) bool {
	var inner map[string]json.RawMessage
	return json.Unmarshal(value, &inner) == nil && string(inner[componentTag]) == `"c"`
}

// component recognises a component's object, marked or known to the model (the mark may be missing in notifications).
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
	t.wanted[path] = true
	ack := model.Ack{Value: value, Version: version}
	plain, err := t.d.app.desired(component, name, value)
	if err != nil {
		ack.Code, ack.Description = http.StatusBadRequest, err.Error()
		if ce, ok := errors.AsType[*model.CheckError](err); ok {
			ack.Code = ce.Code()
		}
	} else {
		a := t.apply(ctx, l, component, name, plain, version)
		if ctx.Err() != nil {
			return // the link has ended, and the next one will see the value again
		}
		ack.Value, ack.Code, ack.Description = plain, a.ack.Code, a.ack.Description
		if !a.ok() {
			err = errors.New(a.ack.Description)
		}
	}
	if reported != nil && acknowledged(reported[name], ack, t.older) {
		return
	}
	if err != nil {
		t.d.desired.tell(1, journal.Event{Kind: journal.DesiredChange, Hub: l.Host(), Name: named(name), Status: ack.Code, Error: err.Error(),
			Text: fmt.Sprintf("desired %s not applied: %s", quoted(name), oneLine(err.Error(), maxShown))})
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
		t.d.desired.tell(1, journal.Event{Kind: journal.DesiredChange, Hub: l.Host(), Name: named(name), Status: a.ack.Code,
			Text: fmt.Sprintf("desired %s set to %s", quoted(name), shown(value))})
	}
	t.applied[path] = a
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
	e := journal.Event{Kind: journal.DesiredChange, Hub: l.Host(), Name: named(name), Text: fmt.Sprintf("desired %s removed", quoted(name))}
	if ack.Code >= http.StatusBadRequest {
		e.Status, e.Error = ack.Code, ack.Description
		e.Text += fmt.Sprintf(", but its handler failed: %s", oneLine(ack.Description, maxShown))
	}
	if a.used || e.Error != "" {
		t.d.desired.tell(1, e)
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
	ack.Description = oneLine(cmp.Or(ack.Description, fmt.Sprintf("the handler of the property answered %d", ack.Code)), maxBugText)
	return ack
}

// acknowledged reports whether the reported part holds this acknowledgement already.
func acknowledged(reported json.RawMessage, want model.Ack, older bool) bool {
	var have model.Ack
	return json.Unmarshal(reported, &have) == nil && have.Code == want.Code &&
		(have.Version == want.Version || older && have.Version < want.Version) && sameJSON(have.Value, want.Value)
}

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

// canonical spells a JSON value one way: keys sorted, no spaces, numbers as they are.
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

// read gets the document, however long the hub refuses it: telemetry does not depend on it.
func (t *twin) read(ctx context.Context, l *hub.Link) (doc hub.TwinDocument, err error) {
	err = t.persist(ctx, l, "reading the twin", func(error) bool { return true }, func(ctx context.Context) error {
		doc, err = l.Twin(ctx)
		return err
	})
	return doc, err
}

// report sends a patch. If the hub does not like it, its properties are sent one by one, so that a bad one does not hide the good.
func (t *twin) report(ctx context.Context, l *hub.Link, patch map[string]any) error {
	if len(patch) == 0 {
		return nil
	}
	body, err := json.Marshal(patch)
	if err == nil && len(body) > maxReport {
		err = fmt.Errorf("%d bytes; a hub takes %d", len(body), maxReport)
	}
	if err != nil {
		return t.reportEach(ctx, l, patch, err)
	}
	err = t.persist(ctx, l, "reporting properties", busy, func(ctx context.Context) error {
		_, err := l.Report(ctx, body)
		return err
	})
	if refusal, refused := errors.AsType[*hub.TwinError](err); refused {
		return t.reportEach(ctx, l, patch, refusal)
	}
	return err
}

// reportEach sends the properties of a patch one by one, because the hub refused the whole patch.
// It tells which property the hub refuses.
func (t *twin) reportEach(ctx context.Context, l *hub.Link, patch map[string]any, why error) error {
	if len(patch) == 1 {
		t.d.desired.tell(1, journal.Event{Kind: journal.Warning, Hub: l.Host(), Text: fmt.Sprintf("the hub refuses the reported property %s: %s",
			quoted(slices.Collect(maps.Keys(patch))[0]), oneLine(why.Error(), maxShown))})
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(patch)) {
		if err := t.report(ctx, l, map[string]any{name: patch[name]}); err != nil {
			return err
		}
	}
	return nil
}

// busy is a refusal that says nothing of the request.
func busy(err error) bool {
	refusal, refused := errors.AsType[*hub.TwinError](err)
	return refused && (refusal.Status == http.StatusTooManyRequests || refusal.Status >= 500)
}

// persist repeats a request of the twin while the hub does not answer, or refuses it with a status that calls for it; the link itself
// is not in doubt. It returns what the hub refused for good, or the end of the link.
func (t *twin) persist(ctx context.Context, l *hub.Link, what string, again func(error) bool, request func(context.Context) error) error {
	odd := false
	for wait := twinRetryMin; ; wait = min(2*wait, twinRetryMax) {
		short, cancel := context.WithTimeout(ctx, twinAnswer)
		err := request(short)
		unanswered := err != nil && short.Err() != nil && ctx.Err() == nil
		cancel()
		answered := errors.As(err, new(*hub.TwinError)) || errors.Is(err, hub.ErrTwin)
		if !unanswered && (!answered || !again(err)) {
			return err
		}
		if isOdd := errors.Is(err, hub.ErrTwin); !isOdd || !odd { // answers that are not twins are told once in a row
			odd = isOdd
			t.d.warn(l.Host(), fmt.Sprintf("%s: %s; trying again in %v; everything else goes on", what, oneLine(err.Error(), maxShown), wait))
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-l.Done():
			timer.Stop()
			return l.Err()
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
}

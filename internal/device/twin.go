package device

import (
	"bytes"
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
	componentTag = "__t" // IoT Central marks a component's object with "__t":"c"
)

// twin keeps the device's side of the twin. What it remembers outlives links and hubs: values, because versions do not. One
// goroutine at a time uses it, that of the served link.
type twin struct {
	d       *Device
	applied map[string]json.RawMessage // by component/name: the value that was applied last
}

// serve brings both sides together after a connect, then follows the changes of both.
func (t *twin) serve(ctx context.Context, l *hub.Link, changes *queue[*hub.Desired]) error {
	if !t.d.c.Desired && !t.d.c.Reported {
		return nil
	}
	version, err := t.reconcile(ctx, l)
	if err != nil {
		return err
	}
	var tick <-chan time.Time
	if t.d.c.Reported {
		ticker := time.NewTicker(t.d.c.ReportedInterval)
		defer ticker.Stop()
		tick = ticker.C
	}
	last := t.d.battery()
	for {
		select {
		case <-changes.ready:
			for _, c := range changes.take() {
				switch {
				case !c.Missed && c.Version != 0 && c.Version <= version: // the document had it already
				case c.Missed || c.Version != version+1: // one was missed, or the hub counts anew: the document knows
					if version, err = t.reconcile(ctx, l); err != nil {
						return err
					}
				default:
					version = c.Version
					if err := t.follow(ctx, l, c); err != nil {
						return err
					}
				}
			}
		case <-tick:
			if now := t.d.battery(); !bytes.Equal(now, last) {
				last = now
				if err := t.report(ctx, l, map[string]any{batteryProperty: now}); err != nil {
					return err
				}
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// reconcile reads the document and sends, in one patch, what the reported part lacks: the acknowledgement of each desired property
// whose acknowledgement differs, and the device's own properties that differ.
func (t *twin) reconcile(ctx context.Context, l *hub.Link) (version int64, err error) {
	doc, err := t.read(ctx, l)
	if err != nil {
		return 0, err
	}
	patch := map[string]any{}
	if t.d.c.Desired {
		t.addRemoved("", doc.Desired, doc.Reported)
		t.judge(l, patch, doc.Desired, doc.DesiredVersion, doc.Reported)
	}
	if t.d.c.Reported {
		if now := t.d.battery(); now != nil && !sameJSON(doc.Reported[batteryProperty], now) {
			patch[batteryProperty] = now
		}
	}
	return doc.DesiredVersion, t.report(ctx, l, patch)
}

// follow acknowledges every key of a change.
func (t *twin) follow(ctx context.Context, l *hub.Link, c *hub.Desired) error {
	if !t.d.c.Desired {
		return nil
	}
	var props map[string]json.RawMessage
	if err := json.Unmarshal(c.Body, &props); err != nil {
		t.d.warn(l.Host(), fmt.Sprintf("a desired change that is not a JSON object was ignored: %v", err))
		return nil
	}
	patch := map[string]any{}
	t.judge(l, patch, props, c.Version, nil)
	return t.report(ctx, l, patch)
}

// judge applies desired properties and collects their acknowledgements. Each is judged alone: a bad value does not hide a good
// one. With a reported part given, acknowledgements that stand there already are left out.
func (t *twin) judge(l *hub.Link, patch map[string]any, desired map[string]json.RawMessage, version int64, reported map[string]json.RawMessage) {
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
			acks := map[string]any{}
			for _, prop := range slices.Sorted(maps.Keys(inner)) {
				if prop != componentTag {
					t.judgeOne(l, acks, name, prop, inner[prop], version, known)
				}
			}
			if len(acks) > 0 {
				acks[componentTag] = "c"
				patch[name] = acks
			}
			continue
		}
		t.judgeOne(l, patch, "", name, desired[name], version, reported)
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

// component recognises a component's object, marked or known to the model (the mark may be missing in notifications).
func (t *twin) component(name string, value json.RawMessage) (map[string]json.RawMessage, bool) {
	var inner map[string]json.RawMessage
	if json.Unmarshal(value, &inner) != nil || inner == nil {
		return nil, false
	}
	if string(inner[componentTag]) == `"c"` || t.d.c.Model.HasComponent(name) {
		return inner, true
	}
	return nil, false
}

func (t *twin) judgeOne(l *hub.Link, patch map[string]any, component, name string, value json.RawMessage, version int64, reported map[string]json.RawMessage) {
	path := component + "/" + name
	if string(value) == "null" { // deleted: its acknowledgement goes with it
		if t.applied[path] != nil {
			delete(t.applied, path)
			t.d.emit(journal.Event{Kind: journal.DesiredChange, Hub: l.Host(), Name: name, Text: fmt.Sprintf("desired %s removed", name)})
		}
		if _, there := reported[name]; there || reported == nil {
			patch[name] = nil
		}
		return
	}
	ack := model.Ack{Value: value, Code: http.StatusOK, Version: version, Description: "completed"}
	plain, err := t.d.c.Model.Desired(component, name, value)
	if err != nil {
		ack.Code, ack.Description = http.StatusBadRequest, err.Error()
		if ce, ok := errors.AsType[*model.CheckError](err); ok {
			ack.Code = ce.Code()
		}
	} else {
		ack.Value = plain
	}
	if old := t.applied[path]; err == nil && !sameJSON(old, plain) {
		t.applied[path] = slices.Clone(plain)
		t.d.emit(journal.Event{Kind: journal.DesiredChange, Hub: l.Host(), Name: name, Status: ack.Code,
			Text: fmt.Sprintf("desired %s set to %s", name, plain)})
	}
	if err != nil {
		t.d.emit(journal.Event{Kind: journal.DesiredChange, Hub: l.Host(), Name: name, Status: ack.Code, Error: err.Error(),
			Text: fmt.Sprintf("desired %s not applied: %v", name, err)})
	}
	if reported != nil && acknowledged(reported[name], ack) {
		return
	}
	patch[name] = ack
}

// acknowledged reports whether the reported part holds this acknowledgement already.
func acknowledged(reported json.RawMessage, want model.Ack) bool {
	var have model.Ack
	return json.Unmarshal(reported, &have) == nil && have.Code == want.Code && have.Version == want.Version && sameJSON(have.Value, want.Value)
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
	err = t.persist(ctx, l, "reading the twin", func(int) bool { return true }, func(ctx context.Context) error {
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
	if err != nil {
		return err
	}
	err = t.persist(ctx, l, "reporting properties", busy, func(ctx context.Context) error {
		_, err := l.Report(ctx, body)
		return err
	})
	refusal, refused := errors.AsType[*hub.TwinError](err)
	switch {
	case !refused:
		return err
	case len(patch) == 1:
		t.d.warn(l.Host(), fmt.Sprintf("the hub refuses the reported property %s: %v", slices.Collect(maps.Keys(patch))[0], refusal))
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
func busy(status int) bool { return status == http.StatusTooManyRequests || status >= 500 }

// persist repeats a request of the twin while the hub does not answer, or refuses it with a status that calls for it; the link itself
// is not in doubt. It returns what the hub refused for good, or the end of the link.
func (t *twin) persist(ctx context.Context, l *hub.Link, what string, again func(status int) bool, request func(context.Context) error) error {
	for wait := twinRetryMin; ; wait = min(2*wait, twinRetryMax) {
		short, cancel := context.WithTimeout(ctx, twinAnswer)
		err := request(short)
		unanswered := err != nil && short.Err() != nil && ctx.Err() == nil
		cancel()
		refusal, refused := errors.AsType[*hub.TwinError](err)
		if !unanswered && (!refused || !again(refusal.Status)) {
			return err
		}
		t.d.warn(l.Host(), fmt.Sprintf("%s: %v; trying again in %v", what, err, wait))
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

package iothub

import (
	"errors"
	"fmt"
	"maps"
	"strings"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/wire"
)

// Twin is a device's twin as the control API shows it. Both documents have a "$version".
type Twin struct {
	Desired  map[string]any `json:"desired"` // numbers are json.Number
	Reported map[string]any `json:"reported"`
}

// getTwin answers a device's request for its twin. The mutex is held until the answer is queued, so
// the answer comes before notifications of later versions.
func (s *session) getTwin(rid string) {
	i := s.identity
	i.mu.Lock()
	defer i.mu.Unlock()
	if s.refusesTwin(rid) {
		return
	}
	s.twinResult(200, rid, "", azure.EncodeJSON(Twin{Desired: i.desired.View(false), Reported: i.report.View(false)}))
}

// patchReported merges a device's patch. Without a rid there is no answer.
func (s *session) patchReported(rid string, body []byte) {
	i := s.identity
	i.mu.Lock()
	defer i.mu.Unlock()
	if s.refusesTwin(rid) {
		return
	}
	before := i.report
	patch, err := azure.ParseTwinPatch(body)
	if err == nil {
		err = i.report.Apply(patch, s.hub.now())
	}
	if err == nil && i.keep() != nil {
		i.report = before
		s.twinResult(500, rid, "", s.twinErrorBody(500001, "The twin cannot be written."))
		return
	}
	if err != nil {
		status := 400
		if t, ok := errors.AsType[*azure.TwinError](err); ok {
			status = t.Status
		}
		s.twinResult(status, rid, "", s.twinErrorBody(twinErrorCode(status), err.Error()))
		return
	}
	s.twinResult(204, rid, fmt.Sprintf("&$version=%d", i.report.Version), nil)
}

// twinErrorCode returns the code of ArgumentInvalid or MessageTooLarge.
func twinErrorCode(status int) int {
	if status == 413 {
		return 413001
	}
	return status*1000 + 4
}

// refusesTwin answers a request for the twin if the session may not have it. It reports whether it
// did.
func (s *session) refusesTwin(rid string) bool {
	switch {
	case s.oldest:
		s.hub.tellRefused(s.identity.name(), "a twin request gets 400: the user name has no api-version")
		s.twinResult(400, rid, "", s.twinErrorBody(400001, "The user name of the connection has no api-version; twins need one."))
	case s.conduct().throttle > 0:
		s.hub.tellRefused(s.identity.name(), "a twin request gets 429: throttled")
		s.twinResult(429, rid, "", s.twinErrorBody(429001, "The request has been throttled. Wait 10 seconds and try again."))
	default:
		return false
	}
	return true
}

// twinErrorBody returns the body of a refused twin request.
func (s *session) twinErrorBody(code int, text string) []byte {
	now := s.hub.now()
	tracking := strings.ToUpper(azure.RandomHex(16)) + "-G:10-TimeStamp:" + now.UTC().Format("01/02/2006 15:04:05")
	return azure.EncodeJSON(azure.ErrorDocument{ErrorCode: code, TrackingID: tracking, Message: text, TimestampUTC: azure.UTC7(now)})
}

// twinResult answers a twin request, if the device listens. The identity's mutex is held.
func (s *session) twinResult(status int, rid, more string, body []byte) {
	if rid == "" || s.subs.twin == 0 {
		return
	}
	topic := fmt.Sprintf("$iothub/twin/res/%d/?$rid=%s%s", status, rid, more)
	s.wire.Add(wire.AppendPublish(nil, topic, body, 0, false), s.conduct().delay)
}

// PatchDesired merges a patch of a service, and notifies the device if it listens. If it returns an
// error nothing has changed: an [azure.TwinError], or an [azure.Error] if it could not be written
// down.
func (i *Identity) PatchDesired(patch map[string]any) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.writeDesired(patch, nil)
}

// ReplaceDesired is PatchDesired for a service that names all properties, or all of one component.
// The others are removed.
func (i *Identity) ReplaceDesired(whole map[string]any, component string) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	old := i.desired.Values
	if component != "" {
		old = map[string]any{component: old[component]}
	}
	if patch := azure.DiffProperties(old, azure.MergeProperties(nil, whole)); len(patch) > 0 {
		return i.writeDesired(patch, nil)
	}
	return nil
}

// TwinValues are the properties of a twin, and when each was written, in the form of $metadata.
// Nobody changes them in place.
type TwinValues struct {
	Desired, Reported     map[string]any
	DesiredAt, ReportedAt map[string]any
}

// Values returns the properties of the twin.
func (i *Identity) Values() TwinValues {
	i.mu.Lock()
	defer i.mu.Unlock()
	return TwinValues{Desired: i.desired.Values, Reported: i.report.Values, DesiredAt: i.desired.Metadata, ReportedAt: i.report.Metadata}
}

// writeDesired merges a patch of a service, and notifies the device if it listens. If the service
// replaced all properties, whole has them. A hub does not compare values then: the notification has
// all new properties, and null for each one that is gone. The identity's mutex is held.
func (i *Identity) writeDesired(patch, whole map[string]any) error {
	before := i.desired
	if err := i.desired.Apply(patch, i.hub.now()); err != nil {
		return err
	}
	if err := i.keep(); err != nil {
		i.desired = before
		return azure.Unconfirmed(err)
	}
	if s := i.session; s != nil && s.subs.desired != 0 && !s.oldest {
		note := maps.Clone(patch)
		if whole != nil {
			note = azure.WithRemoved(before.Values, whole)
		}
		note["$version"] = i.desired.Version
		topic := fmt.Sprintf("$iothub/twin/PATCH/properties/desired/?$version=%d", i.desired.Version)
		s.wire.Push(wire.AppendPublish(nil, topic, azure.EncodeJSON(note), 0, false), s.conduct().delay)
	}
	return nil
}

// replaceTwin makes the twin hold what another one held. Its versions go on. The identity's mutex
// is held.
func (i *Identity) replaceTwin(t *TwinContent) error {
	i.edge = t.Edge
	if patch := azure.DiffProperties(i.tags.Values, t.Tags); len(patch) > 0 {
		_ = i.tags.Apply(patch, i.hub.now()) // it was within the limits where it came from
	}
	if patch := azure.DiffProperties(i.report.Values, t.Reported); len(patch) > 0 {
		_ = i.report.Apply(patch, i.hub.now())
	}
	if patch := azure.DiffProperties(i.desired.Values, t.Desired); len(patch) > 0 {
		return i.writeDesired(patch, nil)
	}
	return nil
}

// Twin returns the twin, with $metadata if asked for.
func (i *Identity) Twin(metadata bool) Twin {
	i.mu.Lock()
	defer i.mu.Unlock()
	return Twin{Desired: i.desired.View(metadata), Reported: i.report.View(metadata)}
}

// TwinContent is what moves with a device to another hub: its twin without versions and times, and
// its capabilities.
type TwinContent struct {
	Desired, Reported, Tags map[string]any
	Edge                    bool
}

// Content returns what would move with the device. Nobody changes it in place, so it can be shared.
func (i *Identity) Content() *TwinContent {
	i.mu.Lock()
	defer i.mu.Unlock()
	return &TwinContent{i.desired.Values, i.report.Values, i.tags.Values, i.edge}
}

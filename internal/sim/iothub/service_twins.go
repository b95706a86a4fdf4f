package iothub

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
)

// twinDocument is a twin as services see it.
type twinDocument struct {
	DeviceID         string         `json:"deviceId"`
	ModuleID         string         `json:"moduleId,omitempty"`
	Etag             string         `json:"etag"`
	DeviceEtag       string         `json:"deviceEtag"`
	Status           string         `json:"status"`
	StatusReason     string         `json:"statusReason,omitempty"`
	StatusUpdateTime string         `json:"statusUpdateTime"`
	ConnectionState  string         `json:"connectionState"`
	LastActivityTime string         `json:"lastActivityTime"`
	CommandCount     int            `json:"cloudToDeviceMessageCount"`
	AuthType         string         `json:"authenticationType"`
	Thumbprint       thumbprint     `json:"x509Thumbprint"`
	ModelID          string         `json:"modelId"`
	Version          int64          `json:"version"`
	Tags             map[string]any `json:"tags"`
	Properties       twinProperties `json:"properties"`
	Capabilities     Capabilities   `json:"capabilities"`
	DeviceScope      string         `json:"deviceScope,omitempty"`
}

type twinProperties struct {
	Desired  map[string]any `json:"desired"`
	Reported map[string]any `json:"reported"`
}

// ServiceTwin returns the twin in the form of the REST for services, to be encoded as JSON.
func (i *Identity) ServiceTwin() any {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.twinDocument()
}

// twinDocument is ServiceTwin with mu held.
func (i *Identity) twinDocument() twinDocument {
	tags := i.tags.props
	if tags == nil {
		tags = map[string]any{}
	}
	auth := authenticationOf(i.auth)
	return twinDocument{
		DeviceID: i.id, ModuleID: i.module, Etag: i.twinEtag(), DeviceEtag: i.etag(), Status: i.status(), StatusReason: i.statusReason,
		StatusUpdateTime: timeOr(i.statusAt), ConnectionState: i.connectionState(), LastActivityTime: timeOr(i.connectionAt),
		CommandCount: i.mail.waiting(i.hub.now()), AuthType: auth.Type, Thumbprint: auth.Thumbprint, ModelID: i.modelID,
		Version: i.twinVersion(), Tags: tags,
		Properties:   twinProperties{i.desired.view(true), i.report.view(true)},
		Capabilities: Capabilities{i.edge}, DeviceScope: i.scope,
	}
}

func (s *hubService) getTwin(w http.ResponseWriter, r *http.Request) (any, error) {
	return s.device(r, func(i *Identity) (any, error) { return i.twinAnswer(w), nil })
}

func (i *Identity) twinAnswer(w http.ResponseWriter) twinDocument {
	t := i.twinDocument()
	w.Header().Set("ETag", strconv.Quote(t.Etag))
	return t
}

// wantedTwin is the part of a twin that a service may write. The rest of a twin that is sent back
// is ignored.
type wantedTwin struct {
	Tags       json.RawMessage `json:"tags"`
	Properties struct {
		Desired json.RawMessage `json:"desired"`
	} `json:"properties"`
}

func (s *hubService) patchTwin(w http.ResponseWriter, r *http.Request) (any, error) {
	return s.changeTwin(w, r, false)
}

func (s *hubService) replaceTwin(w http.ResponseWriter, r *http.Request) (any, error) {
	return s.changeTwin(w, r, true)
}

func (s *hubService) changeTwin(w http.ResponseWriter, r *http.Request, replace bool) (any, error) {
	var wanted wantedTwin
	if err := decodeBody(r, &wanted); err != nil {
		return nil, err
	}
	return s.device(r, func(i *Identity) (any, error) {
		if err := i.writeTwin(wanted, azure.ParseIfMatch(r.Header.Get("If-Match")), replace); err != nil {
			return nil, err
		}
		return i.twinAnswer(w), nil
	})
}

// writeTwin changes tags and desired properties, after it has checked both. mu is held.
func (i *Identity) writeTwin(wanted wantedTwin, match azure.IfMatch, replace bool) error {
	if err := match.Check(i.twinEtag()); err != nil {
		return err
	}
	tags, err := ParseServicePatch(wanted.Tags)
	if err != nil {
		return err
	}
	desired, err := ParseServicePatch(wanted.Properties.Desired)
	if err != nil {
		return err
	}
	full := map[string]any(nil)
	if replace {
		if holdsNull(tags) || holdsNull(desired) {
			return badArgument("A twin that is replaced must not hold null: leave the property out.")
		}
		full = mergeProps(nil, desired)
		tags, desired = diffProps(i.tags.props, mergeProps(nil, tags)), diffProps(i.desired.props, full)
	}
	if next := mergeProps(i.tags.props, tags); twinSize(next) > tagsMaxBytes || len(azure.EncodeJSON(next)) > 4*tagsMaxBytes {
		return azure.Errorf(http.StatusRequestEntityTooLarge, "MessageTooLarge", "The tags would have %d bytes, the limit is %d.", twinSize(next), tagsMaxBytes)
	}
	if len(desired) > 0 || replace {
		if err := i.writeDesired(desired, full); err != nil {
			return ServiceTwinError(err)
		}
	}
	if len(tags) > 0 {
		before := i.tags
		if err = i.tags.apply(tags, i.hub.now()); err == nil {
			if err = i.keep(); err != nil {
				i.tags, err = before, azure.Unconfirmed(err)
			}
		}
	}
	return ServiceTwinError(err)
}

// holdsNull reports whether any property is null, at any depth of objects.
func holdsNull(props map[string]any) bool {
	for _, v := range props {
		child, _ := v.(map[string]any)
		if v == nil || holdsNull(child) {
			return true
		}
	}
	return false
}

// ParseServicePatch reads a part of a twin from a service, which may send back versions and
// metadata. Its error is an [azure.Error].
func ParseServicePatch(raw json.RawMessage) (map[string]any, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil
	}
	props, err := decodeObject(raw)
	if err != nil {
		return nil, badArgument("A part of the twin is not a JSON object: %s", azure.JSONFault(err, nil))
	}
	delete(props, "$metadata")
	delete(props, "$version")
	return props, ServiceTwinError(CheckTwin(props))
}

// ServiceTwinError turns a [TwinError] into an [azure.Error]. Other errors stay as they are.
func ServiceTwinError(err error) error {
	if t, ok := errors.AsType[*TwinError](err); ok {
		code := "ArgumentInvalid"
		if t.Status == http.StatusRequestEntityTooLarge {
			code = "MessageTooLarge"
		}
		return azure.Errorf(t.Status, code, "%s", t.Text)
	}
	return err
}

package iothub

import (
	"encoding/json"
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
	tags := i.tags.Values
	if tags == nil {
		tags = map[string]any{}
	}
	auth := authenticationOf(i.auth)
	return twinDocument{
		DeviceID: i.id, ModuleID: i.module, Etag: i.twinEtag(), DeviceEtag: i.etag(), Status: i.status(), StatusReason: i.statusReason,
		StatusUpdateTime: timeOr(i.statusAt), ConnectionState: i.connectionState(), LastActivityTime: timeOr(i.connectionAt),
		CommandCount: i.mail.waiting(i.hub.now()), AuthType: auth.Type, Thumbprint: auth.Thumbprint, ModelID: i.modelID,
		Version: i.twinVersion(), Tags: tags,
		Properties:   twinProperties{i.desired.View(true), i.report.View(true)},
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
	tags, err := azure.ParseServicePatch(wanted.Tags)
	if err != nil {
		return err
	}
	desired, err := azure.ParseServicePatch(wanted.Properties.Desired)
	if err != nil {
		return err
	}
	full := map[string]any(nil)
	if replace {
		if azure.HoldsNull(tags) || azure.HoldsNull(desired) {
			return badArgument("A twin that is replaced must not hold null: leave the property out.")
		}
		full = azure.MergeProperties(nil, desired)
		tags, desired = azure.DiffProperties(i.tags.Values, azure.MergeProperties(nil, tags)), azure.DiffProperties(i.desired.Values, full)
	}
	if next := azure.MergeProperties(i.tags.Values, tags); azure.TwinSize(next) > tagsMaxBytes || len(azure.EncodeJSON(next)) > 4*tagsMaxBytes {
		return azure.Errorf(http.StatusRequestEntityTooLarge, "MessageTooLarge", "The tags would have %d bytes, the limit is %d.", azure.TwinSize(next), tagsMaxBytes)
	}
	if len(desired) > 0 || replace {
		if err := i.writeDesired(desired, full); err != nil {
			return azure.ServiceTwinError(err)
		}
	}
	if len(tags) > 0 {
		before := i.tags
		if err = i.tags.Apply(tags, i.hub.now()); err == nil {
			if err = i.keep(); err != nil {
				i.tags, err = before, azure.Unconfirmed(err)
			}
		}
	}
	return azure.ServiceTwinError(err)
}

package iothub

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
)

// hubService is a hub's REST surface for the cloud's own side: its identity registry, twins, methods and queries, as
// `az iot hub` and the service SDKs speak it. Who may do what is decided by the hub's shared access policies.
type hubService struct{ *Hub }

const (
	serviceBodyLimit = 1 << 20
	bulkLimit        = 100  // devices in one bulk request
	pageLimit        = 1000 // results in one page
	pageDefault      = 100
	tagsMaxBytes     = 8 << 10
	// callerPatience is how long before the time of a method is over its caller is told so. The Azure CLI reads no longer than that
	// time, and would see nothing but its own end.
	callerPatience = 250 * time.Millisecond
)

// routes adds the service's surface to that of devices.
func (s *hubService) routes(mux *http.ServeMux) {
	handle := func(pattern string, need rights, f func(w http.ResponseWriter, r *http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			r.Body = http.MaxBytesReader(w, r.Body, serviceBodyLimit)
			if err := s.allow(r, need); err != nil {
				s.refuseHTTP(w, err)
				return
			}
			v, err := f(w, r)
			switch {
			case err != nil:
				s.refuseHTTP(w, err)
			case v == nil:
				w.WriteHeader(http.StatusNoContent)
			default:
				w.Header().Set("Content-Type", "application/json; charset=utf-8")
				_, _ = w.Write(azure.EncodeJSON(v))
			}
		})
	}
	for _, list := range []string{"/devices", "/devices/{$}"} { // the Node.js SDK has the slash
		handle("GET "+list, registryRead, s.listDevices)
		handle("POST "+list, registryWrite, s.bulk)
	}
	handle("POST /devices/query", serviceConnect, s.query)
	handle("GET /devices/{id}", registryRead, s.getDevice)
	handle("PUT /devices/{id}", registryWrite, s.putDevice)
	handle("DELETE /devices/{id}", registryWrite, s.deleteDevice)
	handle("DELETE /devices/{id}/commands", serviceConnect, s.purgeCommands)
	handle("GET /statistics/devices", registryRead, s.deviceStatistics)
	handle("GET /statistics/service", registryRead, s.serviceStatistics)
	handle("GET /twins/{id}", serviceConnect, s.getTwin)
	handle("PATCH /twins/{id}", serviceConnect, s.patchTwin)
	handle("PUT /twins/{id}", serviceConnect, s.replaceTwin)
	handle("POST /twins/{id}/methods", serviceConnect, s.invokeMethod)
	handle("GET /devices/{id}/modules", registryRead, s.listModules)
	handle("GET /devices/{id}/modules/{module}", registryRead, s.getDevice)
	handle("PUT /devices/{id}/modules/{module}", registryWrite, s.putDevice)
	handle("DELETE /devices/{id}/modules/{module}", registryWrite, s.deleteDevice)
	handle("GET /twins/{id}/modules/{module}", serviceConnect, s.getTwin)
	handle("PATCH /twins/{id}/modules/{module}", serviceConnect, s.patchTwin)
	handle("PUT /twins/{id}/modules/{module}", serviceConnect, s.replaceTwin)
	handle("POST /twins/{id}/modules/{module}/methods", serviceConnect, s.invokeMethod)
}

// allow checks a request's token: of a policy that has the right, for the hub or a part of it that the request is in.
func (s *hubService) allow(r *http.Request, need rights) error {
	unauthorized := func(err error) error {
		return azure.Errorf(http.StatusUnauthorized, "IotHubUnauthorizedAccess", "Unauthorized: %v", err)
	}
	token, err := azure.ParseSAS(strings.TrimSpace(r.Header.Get("Authorization")))
	if err != nil {
		return unauthorized(err)
	}
	p, able := s.policy(token.Policy, need)
	switch {
	case p.name == "":
		return unauthorized(azure.ErrSASPolicy)
	case !token.CoversPath(s.hosts, r.URL.Path):
		return unauthorized(azure.ErrSASResource)
	case !token.Expires.After(s.now()):
		return unauthorized(azure.ErrSASExpired)
	case !token.SignedBy(p.keys[:]...):
		return unauthorized(azure.ErrSASSignature)
	case !able:
		return unauthorized(fmt.Errorf("policy %s has no right to this", token.Policy))
	}
	if !r.URL.Query().Has("api-version") {
		return azure.Errorf(http.StatusBadRequest, "InvalidProtocolVersion", "The request has no api-version.")
	}
	return nil
}

func badArgument(format string, args ...any) error {
	return azure.Errorf(http.StatusBadRequest, "ArgumentInvalid", format, args...)
}

func noSuchDevice(id string) error {
	return azure.Errorf(http.StatusNotFound, "DeviceNotFound", "Device %s not registered.", id)
}

// decodeBody reads one JSON document; fields that are not known are ignored, as at the service.
func decodeBody(r *http.Request, into any) error {
	b, err := io.ReadAll(r.Body)
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return azure.Errorf(http.StatusRequestEntityTooLarge, "MessageTooLarge", "The body is larger than %d bytes.", tooLarge.Limit)
	}
	if err != nil {
		return badArgument("The body cannot be read: %v", err)
	}
	if err := json.Unmarshal(b, into); err != nil {
		return badArgument("The body is malformed: %s", azure.JSONFault(err, nil))
	}
	return nil
}

// deviceDocument is an identity as the registry shows and takes it.
type deviceDocument struct {
	DeviceID              string          `json:"deviceId"`
	GenerationID          string          `json:"generationId"`
	Etag                  string          `json:"etag"`
	ConnectionState       string          `json:"connectionState"`
	Status                string          `json:"status"`
	StatusReason          *string         `json:"statusReason"`
	ConnectionUpdatedTime string          `json:"connectionStateUpdatedTime"`
	StatusUpdatedTime     string          `json:"statusUpdatedTime"`
	LastActivityTime      string          `json:"lastActivityTime"`
	CommandCount          int             `json:"cloudToDeviceMessageCount"`
	Authentication        *authentication `json:"authentication"`
	Capabilities          Capabilities    `json:"capabilities"`
	DeviceScope           string          `json:"deviceScope,omitempty"`
}

type authentication struct {
	SymmetricKey symmetricKey `json:"symmetricKey"`
	Thumbprint   thumbprint   `json:"x509Thumbprint"`
	Type         string       `json:"type"`
}

type symmetricKey struct {
	PrimaryKey   *string `json:"primaryKey"`
	SecondaryKey *string `json:"secondaryKey"`
}

type thumbprint struct {
	Primary   *string `json:"primaryThumbprint"`
	Secondary *string `json:"secondaryThumbprint"`
}

// Capabilities says what a device is for.
type Capabilities struct {
	IotEdge bool `json:"iotEdge"`
}

// authenticationOf shows credentials as the registry of a hub does.
func authenticationOf(c azure.Credentials) *authentication {
	a := &authentication{Type: c.Kind()}
	nth := func(n int) *string {
		switch {
		case n < len(c.Thumbprints) && c.Thumbprints[n] != "":
			return &c.Thumbprints[n]
		case n < len(c.Keys):
			key := base64.StdEncoding.EncodeToString(c.Keys[n])
			return &key
		}
		return nil
	}
	switch a.Type {
	case azure.AuthSAS:
		a.SymmetricKey = symmetricKey{nth(0), nth(1)}
	case azure.AuthSelfSigned:
		a.Thumbprint = thumbprint{nth(0), nth(1)}
	}
	return a
}

// never is how the service writes a time that has not come.
const never = "0001-01-01T00:00:00Z"

func timeOr(t time.Time) string {
	if t.IsZero() {
		return never
	}
	return azure.UTC7(t)
}

// status is how the registry writes it; called with mu held.
func (i *Identity) status() string {
	if i.enabled {
		return "enabled"
	}
	return "disabled"
}

func (i *Identity) connectionState() string {
	if i.session != nil {
		return "Connected"
	}
	return "Disconnected"
}

// document is called with mu held.
func (i *Identity) document() deviceDocument {
	d := deviceDocument{
		DeviceID: i.id, GenerationID: i.generation, Etag: i.etag(), ConnectionState: i.connectionState(), Status: i.status(),
		ConnectionUpdatedTime: timeOr(i.connectionAt), StatusUpdatedTime: timeOr(i.statusAt), LastActivityTime: timeOr(i.connectionAt),
		CommandCount: i.mail.waiting(i.hub.now()), Authentication: authenticationOf(i.auth),
		Capabilities: Capabilities{i.edge}, DeviceScope: i.scope,
	}
	if reason := i.statusReason; reason != "" {
		d.StatusReason = &reason
	}
	return d
}

// device runs f on the device or module a request names, with its mutex held.
func (s *hubService) device(r *http.Request, f func(i *Identity) (any, error)) (any, error) {
	i, err := s.find(r)
	if err != nil {
		return nil, err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	return f(i)
}

func (s *hubService) getDevice(w http.ResponseWriter, r *http.Request) (any, error) {
	return s.device(r, func(i *Identity) (any, error) {
		d, etag := i.shown()
		w.Header().Set("ETag", strconv.Quote(etag))
		return d, nil
	})
}

func (s *hubService) listDevices(_ http.ResponseWriter, r *http.Request) (any, error) {
	top := pageLimit
	if text := r.URL.Query().Get("top"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return nil, badArgument("top is %q, it must be a positive number.", text)
		}
		top = min(n, pageLimit)
	}
	devices := []deviceDocument{}
	for _, i := range s.All() {
		if len(devices) == top {
			break
		}
		i.mu.Lock()
		devices = append(devices, i.document())
		i.mu.Unlock()
	}
	return devices, nil
}

// wantedDevice is what a request wants an identity to be. What it does not say stays, or is the default.
type wantedDevice struct {
	DeviceID       *string         `json:"deviceId"`
	ModuleID       *string         `json:"moduleId"`
	Status         *string         `json:"status"`
	StatusReason   *string         `json:"statusReason"`
	Authentication *authentication `json:"authentication"`
	Capabilities   *Capabilities   `json:"capabilities"`
	DeviceScope    *string         `json:"deviceScope"`
}

func (d *wantedDevice) check(id string) error {
	switch {
	case d.DeviceID != nil && *d.DeviceID != id:
		return badArgument("The device id of the body, %q, is not that of the path, %q.", *d.DeviceID, id)
	case !azure.ValidDeviceID(id):
		return badArgument("%q is no device id: at most 128 letters, digits, and signs of -.+%%_#*?!(),:=@$';", id)
	case d.Status != nil && *d.Status != "enabled" && *d.Status != "disabled":
		return badArgument("status is %q, it must be enabled or disabled.", *d.Status)
	case d.StatusReason != nil && len(*d.StatusReason) > 128:
		return badArgument("statusReason is longer than 128 characters.")
	}
	return nil
}

// credentials are what the identity will prove itself with; before is what it had. Keys that nobody gave are made here.
func (a *authentication) credentials(before azure.Credentials) (azure.Credentials, error) {
	if a == nil {
		a = &authentication{}
		if before.Kind() != azure.AuthNone {
			return before, nil
		}
	}
	given := func(texts ...*string) (all []string) {
		for _, t := range texts {
			if t != nil && *t != "" {
				all = append(all, *t)
			}
		}
		return all
	}
	keys, thumbs := given(a.SymmetricKey.PrimaryKey, a.SymmetricKey.SecondaryKey), given(a.Thumbprint.Primary, a.Thumbprint.Secondary)
	kind := a.Type
	if kind == "" {
		kind = azure.AuthSAS
		if len(thumbs) > 0 {
			kind = azure.AuthSelfSigned
		}
	}
	switch kind {
	case azure.AuthSAS:
		if len(keys) == 0 && len(before.Keys) == 2 {
			return before, nil
		}
		if len(keys) == 0 {
			return azure.Credentials{Keys: [][]byte{azure.NewPolicyKey(), azure.NewPolicyKey()}}, nil
		}
		var c azure.Credentials
		for _, text := range keys {
			key, err := base64.StdEncoding.DecodeString(text)
			if err != nil || len(key) < 16 || len(key) > 64 {
				return c, badArgument("A key is not base64 of 16 to 64 bytes.")
			}
			c.Keys = append(c.Keys, key)
		}
		if len(keys) != 2 {
			return c, badArgument("An identity has a primary and a secondary key, or neither is given.")
		}
		return c, nil
	case azure.AuthSelfSigned:
		for _, t := range thumbs {
			if strings.Trim(strings.ToLower(t), "0123456789abcdef") != "" || len(t) != 40 && len(t) != 64 {
				return azure.Credentials{}, badArgument("A thumbprint is not 40 or 64 hexadecimal digits.")
			}
		}
		if len(thumbs) == 0 {
			return azure.Credentials{}, badArgument("A self-signed identity needs a thumbprint.")
		}
		return azure.Credentials{X509: true, Thumbprints: thumbs}, nil
	case azure.AuthCA:
		return azure.Credentials{X509: true}, nil
	case azure.AuthNone:
		return azure.Credentials{}, nil
	}
	return azure.Credentials{}, badArgument("authentication.type is %q, it must be %s, %s, %s or %s.", kind, azure.AuthSAS, azure.AuthSelfSigned, azure.AuthCA, azure.AuthNone)
}

// put creates or updates an identity. With match an existing one is updated, without it a new one is made.
func (s *hubService) put(id string, d wantedDevice, match azure.IfMatch) (*Identity, error) {
	if err := d.check(id); err != nil {
		return nil, err
	}
	if !match.Given {
		auth, err := d.Authentication.credentials(azure.Credentials{})
		if err != nil {
			return nil, err
		}
		s.mu.Lock()
		if s.identities[id] != nil {
			s.mu.Unlock()
			return nil, azure.Errorf(http.StatusConflict, "DeviceAlreadyExists", "A device with ID '%s' is already registered.", id)
		}
		i := s.create(id, auth, nil)
		i.enabled = true // nobody else knows the identity yet
		s.mu.Unlock()
		return i, s.update(i, d, match)
	}
	i := s.Identity(id)
	if i == nil {
		return nil, noSuchDevice(id)
	}
	return i, s.update(i, d, match)
}

// update makes an identity what d says. Who loses its credentials or its permission loses the connection too.
func (s *hubService) update(i *Identity, d wantedDevice, match azure.IfMatch) error {
	i.mu.Lock()
	err := match.Check(i.etag())
	auth := i.auth
	if err == nil {
		auth, err = d.Authentication.credentials(i.auth)
	}
	if err != nil {
		i.mu.Unlock()
		return err
	}
	changed := authenticationOf(i.auth).Type != authenticationOf(auth).Type || string(azure.EncodeJSON(authenticationOf(i.auth))) != string(azure.EncodeJSON(authenticationOf(auth)))
	i.auth = auth
	enabled, reason := i.enabled, i.statusReason
	if d.Status != nil {
		enabled = *d.Status == "enabled"
	}
	if d.StatusReason != nil {
		reason = *d.StatusReason
	}
	i.setEnabled(enabled, reason)
	if d.Capabilities != nil {
		i.edge = d.Capabilities.IotEdge
	}
	if i.scope == "" && i.edge {
		i.scope = "ms-azure-iot-edge://" + i.id + "-" + i.generation
	}
	if d.DeviceScope != nil && *d.DeviceScope != "" {
		i.scope = *d.DeviceScope
	}
	live := i.session
	lost := i.keep()
	i.mu.Unlock()
	if lost != nil {
		return azure.Unconfirmed(lost)
	}
	if live != nil && !enabled {
		live.wire.HangUp("device disabled")
	} else if live != nil && changed {
		live.wire.HangUp("credentials replaced")
	}
	if i.module == "" {
		s.switched(s.Hub, i.id, enabled)
	}
	return nil
}

func (s *hubService) putDevice(w http.ResponseWriter, r *http.Request) (any, error) {
	var d wantedDevice
	if err := decodeBody(r, &d); err != nil {
		return nil, err
	}
	match := azure.ParseIfMatch(r.Header.Get("If-Match"))
	var i *Identity
	var err error
	if module := r.PathValue("module"); module != "" {
		i, err = s.putModule(r.PathValue("id"), module, d, match)
	} else {
		i, err = s.put(r.PathValue("id"), d, match)
	}
	if err != nil {
		return nil, err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	shown, etag := i.shown()
	w.Header().Set("ETag", strconv.Quote(etag))
	return shown, nil
}

func (s *hubService) deleteDevice(_ http.ResponseWriter, r *http.Request) (any, error) {
	match := azure.ParseIfMatch(r.Header.Get("If-Match"))
	if module := r.PathValue("module"); module != "" {
		return nil, s.removeModule(r.PathValue("id"), module, match)
	}
	return nil, s.remove(r.PathValue("id"), match)
}

func (s *hubService) remove(id string, match azure.IfMatch) error {
	i := s.Identity(id)
	if i == nil {
		return noSuchDevice(id)
	}
	i.mu.Lock()
	err := match.Check(i.etag())
	i.mu.Unlock()
	if err == nil {
		err = azure.Unconfirmed(s.Delete(id, "device deleted"))
	}
	return err
}

// bulkDevice is one line of a bulk request.
type bulkDevice struct {
	wantedDevice
	ID         string          `json:"id"`
	ImportMode string          `json:"importMode"`
	Etag       string          `json:"eTag"`
	TwinEtag   string          `json:"twinETag"`
	Tags       json.RawMessage `json:"tags"`
	Properties *struct {
		Desired json.RawMessage `json:"desired"`
	} `json:"properties"`
}

type bulkError struct {
	DeviceID    string `json:"deviceId"`
	ErrorCode   string `json:"errorCode"`
	ErrorStatus string `json:"errorStatus"`
}

type bulkResult struct {
	IsSuccessful bool        `json:"isSuccessful"`
	Errors       []bulkError `json:"errors"`
	Warnings     []string    `json:"warnings"`
}

// bulk creates, updates and deletes up to a hundred identities. What can be done is done; if something could not, the answer is a 400
// that says what.
func (s *hubService) bulk(w http.ResponseWriter, r *http.Request) (any, error) {
	var devices []bulkDevice
	if err := decodeBody(r, &devices); err != nil {
		return nil, err
	}
	if len(devices) == 0 || len(devices) > bulkLimit {
		return nil, azure.Errorf(http.StatusBadRequest, "TooManyDevices", "%d devices, a request may have 1 to %d.", len(devices), bulkLimit)
	}
	result := bulkResult{IsSuccessful: true, Errors: []bulkError{}, Warnings: []string{}}
	for _, d := range devices {
		err := s.bulkOne(d)
		if err == nil {
			continue
		}
		result.IsSuccessful = false
		failed := bulkError{DeviceID: d.ID, ErrorCode: "ServerError", ErrorStatus: err.Error()}
		if e, ok := errors.AsType[*azure.Error](err); ok {
			failed.ErrorCode = e.Code
		}
		result.Errors = append(result.Errors, failed)
	}
	if !result.IsSuccessful {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		w.WriteHeader(http.StatusBadRequest)
	}
	return result, nil
}

func (s *hubService) bulkOne(d bulkDevice) error {
	exists := s.Identity(d.ID) != nil
	anyVersion := azure.IfMatch{Given: true}
	put := func(match azure.IfMatch) error {
		i, err := s.put(d.ID, d.wantedDevice, match)
		if err != nil || d.Tags == nil && d.Properties == nil {
			return err
		}
		return s.bulkTwin(i, d, azure.IfMatch{})
	}
	switch strings.ToLower(d.ImportMode) {
	case "create":
		return put(azure.IfMatch{})
	case "update":
		return put(anyVersion)
	case "updateifmatchetag":
		return put(azure.IfMatch{Given: true, Etag: d.Etag})
	case "createorupdate", "createorupdateifmatchetag", "":
		match := azure.IfMatch{Given: exists}
		if strings.HasSuffix(strings.ToLower(d.ImportMode), "etag") {
			match.Etag = d.Etag
		}
		return put(match)
	case "delete":
		return s.remove(d.ID, anyVersion)
	case "deleteifmatchetag":
		return s.remove(d.ID, azure.IfMatch{Given: true, Etag: d.Etag})
	case "updatetwin", "updatetwinifmatchetag":
		i := s.Identity(d.ID)
		if i == nil {
			return noSuchDevice(d.ID)
		}
		match := anyVersion
		if strings.HasSuffix(strings.ToLower(d.ImportMode), "etag") {
			match.Etag = d.TwinEtag
		}
		return s.bulkTwin(i, d, match)
	}
	return badArgument("importMode is %q.", d.ImportMode)
}

func (s *hubService) bulkTwin(i *Identity, d bulkDevice, match azure.IfMatch) error {
	wanted := wantedTwin{Tags: d.Tags}
	if d.Properties != nil {
		wanted.Properties.Desired = d.Properties.Desired
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.writeTwin(wanted, match, false)
}

// twinDocument is a twin as the service sees it.
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

// ServiceTwin is the twin in the form of the service's REST, to be encoded as JSON.
func (i *Identity) ServiceTwin() any {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.twinDocument()
}

// twinDocument is called with mu held.
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

// wantedTwin is the part of a twin the service may write; the rest of a twin that is sent back is ignored.
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

// writeTwin changes tags and desired properties, both or neither; called with mu held.
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

// holdsNull says whether any property is null, at any depth of objects.
func holdsNull(props map[string]any) bool {
	for _, v := range props {
		child, _ := v.(map[string]any)
		if v == nil || holdsNull(child) {
			return true
		}
	}
	return false
}

// ParseServicePatch reads a part of a twin that may have come back as it was sent, with its versions and metadata.
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

// ServiceTwinError gives the refusal of a twin the form of the service.
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

// between returns the seconds if they are within bounds.
func between(f azure.FlexibleSeconds, name string, low, high, otherwise float64) (time.Duration, error) {
	if f.Value == nil {
		return azure.Seconds(otherwise), nil
	}
	if n := *f.Value; !(n >= low && n <= high) {
		return 0, badArgument("%s is %v, it must be %v to %v.", name, n, low, high)
	}
	return azure.Seconds(*f.Value), nil
}

func (s *hubService) invokeMethod(_ http.ResponseWriter, r *http.Request) (any, error) {
	var call struct {
		MethodName      string                `json:"methodName"`
		Payload         json.RawMessage       `json:"payload"`
		ResponseTimeout azure.FlexibleSeconds `json:"responseTimeoutInSeconds"`
		ConnectTimeout  azure.FlexibleSeconds `json:"connectTimeoutInSeconds"`
	}
	if err := decodeBody(r, &call); err != nil {
		return nil, err
	}
	response, err := between(call.ResponseTimeout, "responseTimeoutInSeconds", 5, 300, MethodTimeout.Seconds())
	if err != nil {
		return nil, err
	}
	connect, err := between(call.ConnectTimeout, "connectTimeoutInSeconds", 0, 300, 0)
	if err != nil {
		return nil, err
	}
	switch {
	case call.MethodName == "" || len(call.MethodName) > 100:
		return nil, badArgument("methodName has %d characters, it must have 1 to 100.", len(call.MethodName))
	case len(call.Payload) > MethodMaxBytes:
		return nil, azure.Errorf(http.StatusRequestEntityTooLarge, "MessageTooLarge", "The payload has %d bytes, the limit is %d.", len(call.Payload), MethodMaxBytes)
	}
	i, err := s.find(r)
	if err != nil {
		return nil, err
	}
	if connect > 0 {
		ctx, cancel := context.WithTimeout(r.Context(), max(connect-callerPatience, 0))
		i.Await(ctx)
		cancel()
	}
	ctx, cancel := context.WithTimeout(r.Context(), response-callerPatience)
	defer cancel()
	result, err := i.Invoke(ctx, call.MethodName, call.Payload)
	return result, s.methodError(err)
}

// methodError puts a failed call in the form of the gateway that makes it: a document within the document.
func (s *hubService) methodError(err error) error {
	e, ok := errors.AsType[*azure.Error](err)
	if !ok {
		return err
	}
	code, text := 0, ""
	switch e.Code {
	case "DeviceNotOnline":
		code, text = 404103, "The operation failed because the requested device isn't online or hasn't registered the direct method callback. To learn more, see https://aka.ms/iothub404103"
	case "GatewayTimeout":
		code, text = 504101, "Timed out waiting for the response from device."
	default:
		return err
	}
	return &azure.Error{Status: e.Status, Code: e.Code, Message: e.Message, Document: azure.EncodeJSON(map[string]any{
		"errorCode": code, "trackingId": s.trackingID(), "message": text,
		"info": map[string]string{"timeout": "00:00:00"}, "timestampUtc": azure.UTC7(s.now()),
	})}
}

func (s *hubService) purgeCommands(_ http.ResponseWriter, r *http.Request) (any, error) {
	i, err := s.find(r)
	if err != nil {
		return nil, err
	}
	n, err := i.Purge()
	return struct {
		Purged   int     `json:"totalMessagesPurged"`
		DeviceID string  `json:"deviceId"`
		ModuleID *string `json:"moduleId"`
	}{n, i.id, nil}, err
}

func (s *hubService) deviceStatistics(http.ResponseWriter, *http.Request) (any, error) {
	var count struct {
		Total    int `json:"totalDeviceCount"`
		Enabled  int `json:"enabledDeviceCount"`
		Disabled int `json:"disabledDeviceCount"`
	}
	for _, i := range s.All() {
		count.Total++
		if i.mu.Lock(); i.enabled {
			count.Enabled++
		}
		i.mu.Unlock()
	}
	count.Disabled = count.Total - count.Enabled
	return count, nil
}

func (s *hubService) serviceStatistics(http.ResponseWriter, *http.Request) (any, error) {
	return map[string]int64{"connectedDeviceCount": s.live.Load()}, nil
}

package iothub

import (
	"encoding/base64"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
)

// deviceDocument is a device's identity as the identity registry shows it.
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

// Capabilities say what a device is for.
type Capabilities struct {
	IotEdge bool `json:"iotEdge"`
}

// authenticationOf returns credentials in the form of the identity registry.
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

// never is how the service writes a time that has not come yet.
const never = "0001-01-01T00:00:00Z"

func timeOr(t time.Time) string {
	if t.IsZero() {
		return never
	}
	return azure.UTC7(t)
}

// status returns the status in the words of the identity registry. mu is held.
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

// document returns the identity as the identity registry shows it. mu is held.
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

// device runs f on the device or module of a request, with its mutex held.
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

// wantedDevice is what a request wants of an identity. What it does not say stays, or is the
// default.
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

// credentials returns the new credentials of an identity that had the ones before. Keys that the
// request does not give are drawn.
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

// put updates an existing identity if the request has an If-Match, else it creates a new one.
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
		i.enabled = true // without its mutex: nobody else knows it yet
		s.mu.Unlock()
		return i, s.update(i, d, match)
	}
	i := s.Identity(id)
	if i == nil {
		return nil, noSuchDevice(id)
	}
	return i, s.update(i, d, match)
}

// update changes an identity. A device whose credentials change, or that is disabled, loses its
// connection.
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
	changed := !reflect.DeepEqual(authenticationOf(i.auth), authenticationOf(auth))
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
		s.options.Switched(s.Hub, i.id, enabled)
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

package provisioning

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/iothub"
	"github.com/hubhop-iot/hubhop/internal/sim/store"
)

// keptDevice is the registry's record of a device as a document. Hubs go by their names.
type keptDevice struct {
	ID             string            `json:"id"`
	RegistrationID string            `json:"registrationId"`
	Group          string            `json:"group,omitempty"`
	Auth           azure.Credentials `json:"auth"`
	ModelID        string            `json:"modelId,omitempty"`
	Registered     bool              `json:"registered,omitempty"`
	Approved       bool              `json:"approved,omitempty"`
	Blocked        bool              `json:"blocked,omitempty"`
	Disabled       bool              `json:"disabled,omitempty"`
	Unusable       bool              `json:"unusable,omitempty"`
	Hub            string            `json:"hub,omitempty"`
	First          string            `json:"first,omitempty"`
	Visited        []string          `json:"visited,omitempty"`
	Rule           string            `json:"rule,omitempty"`
	Substatus      string            `json:"substatus,omitempty"`
	Payload        json.RawMessage   `json:"payload,omitempty"`
	RefusedCode    int               `json:"refusedCode,omitempty"`
	RefusedText    string            `json:"refusedText,omitempty"`
	Etag           string            `json:"etag,omitempty"`
	Created        time.Time         `json:"created,omitzero"`
	Updated        time.Time         `json:"updated,omitzero"`
	FailedOverFrom string            `json:"failedOverFrom,omitempty"`
	FailedOverTill time.Time         `json:"failedOverUntil,omitzero"`
	CentralEtag    string            `json:"centralEtag,omitempty"`
	DisplayName    string            `json:"displayName,omitempty"`
	Template       string            `json:"template,omitempty"`
	Simulated      bool              `json:"simulated,omitempty"`
	Organizations  []string          `json:"organizations,omitempty"`
}

// keep writes down a device that may have changed, or deletes it if it is no longer in the
// registry. Its error includes what hubs could not write down since the last keep. mu is held.
func (r *Registry) keep(d *device) error {
	if r.store == nil {
		return nil
	}
	lost := r.lost
	r.lost = nil
	return errors.Join(lost, r.keepRecord(d))
}

func (r *Registry) keepRecord(d *device) error {
	key := "device/" + d.id
	switch r.byID[d.id] {
	case d:
	case nil:
		d.kept = nil
		return r.store.Delete(key)
	default:
		return nil // the id is another device's now
	}
	k := keptDevice{
		ID: d.id, RegistrationID: d.registrationID, Group: d.group, Auth: d.auth, ModelID: d.modelID, Registered: d.registered,
		Approved: d.approved, Blocked: d.blocked, Disabled: d.disabled, Unusable: d.unusable, Hub: nameOfHub(d.hub), First: nameOfHub(d.first),
		Rule: d.rule, Substatus: d.substatus, Payload: d.payload, Etag: d.etag, Created: d.created, Updated: d.updated, CentralEtag: d.attributesEtag,
		DisplayName: d.attributes.DisplayName, Template: d.attributes.Template, Simulated: d.attributes.Simulated, Organizations: d.attributes.Organizations,
	}
	for _, h := range d.visited {
		k.Visited = append(k.Visited, h.Name())
	}
	if e := d.refused; e != nil {
		k.RefusedCode, k.RefusedText = e.code, e.text
	}
	if f := d.failedOver; f != nil {
		k.FailedOverFrom, k.FailedOverTill = f.from.Name(), f.until
	}
	text := azure.EncodeJSON(k)
	if bytes.Equal(text, d.kept) {
		return nil
	}
	err := r.store.Put(key, json.RawMessage(text))
	if err == nil {
		d.kept = text
	}
	return err
}

// nameOfHub returns the name of a hub, "" for none.
func nameOfHub(h *iothub.Hub) string {
	if h == nil {
		return ""
	}
	return h.Name()
}

// keptEnrollment is an enrollment as a document. It has the certificates, which the form of the
// service API only describes.
type keptEnrollment struct {
	*enrollment
	Leaves [][]byte `json:"hubhopLeaves,omitempty"` // DER
	Roots  [][]byte `json:"hubhopRoots,omitempty"`
}

// enrollmentPrefix returns what the keys of a list's entries begin with.
func enrollmentPrefix(group bool) string {
	if group {
		return "enrollment/group/"
	}
	return "enrollment/single/"
}

// keepEnrollment writes down the entry of a list, or that there is none any more. mu is held.
func (r *Registry) keepEnrollment(group bool, id string) error {
	key := enrollmentPrefix(group) + id
	e := r.list(group)[id]
	if e == nil {
		return r.store.Delete(key)
	}
	return r.store.Put(key, keptEnrollment{e, azure.RawCertificates(e.leaves), azure.RawCertificates(e.roots)})
}

// Restore brings back the enrollments and the devices. Timers run from Start on.
func (r *Registry) Restore() error {
	for _, group := range []bool{true, false} {
		err := r.store.Take(enrollmentPrefix(group), func(id string, document []byte) (err error) {
			k := keptEnrollment{enrollment: &enrollment{}}
			if err := store.Decode(document, &k); err != nil {
				return err
			}
			e := k.enrollment
			if keys := e.Attestation.SymmetricKey; keys != nil {
				for _, text := range []string{keys.PrimaryKey, keys.SecondaryKey} {
					key, err := base64.StdEncoding.DecodeString(text)
					if err != nil {
						return err
					}
					e.keys = append(e.keys, key)
				}
			}
			if e.leaves, err = azure.ParseCertificates(k.Leaves); err == nil {
				e.roots, err = azure.ParseCertificates(k.Roots)
			}
			r.list(group)[id] = e
			return err
		})
		if err != nil {
			return err
		}
	}
	err := r.store.Take("device/", func(_ string, document []byte) error {
		var k keptDevice
		err := store.Decode(document, &k)
		if err != nil {
			return err
		}
		d := &device{
			id: k.ID, registrationID: k.RegistrationID, group: k.Group, auth: k.Auth, modelID: k.ModelID, registered: k.Registered, approved: k.Approved,
			blocked: k.Blocked, disabled: k.Disabled, unusable: k.Unusable, rule: k.Rule, substatus: k.Substatus, payload: k.Payload,
			etag: k.Etag, created: k.Created, updated: k.Updated, attributesEtag: k.CentralEtag, kept: document,
			attributes: Attributes{DisplayName: k.DisplayName, Template: k.Template, Simulated: k.Simulated, Organizations: k.Organizations},
		}
		if k.RefusedCode != 0 {
			d.refused = &dpsError{code: k.RefusedCode, text: k.RefusedText}
		}
		if d.hub, err = r.restoredHub(k.Hub); err != nil {
			return err
		}
		if d.first, err = r.restoredHub(k.First); err != nil {
			return err
		}
		for _, name := range k.Visited {
			h, err := r.restoredHub(name)
			if err != nil {
				return err
			}
			d.visited = append(d.visited, h)
		}
		if k.FailedOverFrom != "" {
			from, err := r.restoredHub(k.FailedOverFrom)
			if err != nil {
				return err
			}
			d.failedOver = &failover{from: from, until: k.FailedOverTill}
		}
		r.byID[d.id] = d
		r.byRegistration[strings.ToLower(d.registrationID)] = d
		return nil
	})
	return err
}

func (r *Registry) restoredHub(name string) (*iothub.Hub, error) {
	if name == "" {
		return nil, nil
	}
	for _, h := range r.hubs {
		if h.Name() == name {
			return h, nil
		}
	}
	return nil, &FewHubsError{name, len(r.hubs)}
}

// FewHubsError says that a state directory has devices in a hub that the cloud no longer has,
// because it was started with fewer hubs.
type FewHubsError struct {
	Hub  string // its name
	Hubs int    // how many there are now
}

func (e *FewHubsError) Error() string {
	return fmt.Sprintf("the state directory has devices in %s, but there are to be %d hubs only: start with --hubs %d or more", e.Hub, e.Hubs, int(e.Hub[len(e.Hub)-1]-'a')+1)
}

// Lasting returns everything of the registry that a restart must bring back, to be encoded as JSON.
// It is for tests, which compare it before and after a restart.
func (r *Registry) Lasting() (all []any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, group := range []bool{true, false} {
		list := r.list(group)
		for _, id := range slices.Sorted(maps.Keys(list)) {
			e := list[id]
			all = append(all, e, e.keys, azure.RawCertificates(e.leaves), azure.RawCertificates(e.roots))
		}
	}
	for _, id := range slices.Sorted(maps.Keys(r.byID)) {
		d := r.byID[id]
		record := r.recordOf(d)
		record.AssignedHub = "" // it depends on the faults of the moment
		all = append(all, r.stateOf(d), record, d.auth, d.disabled, d.unusable, nameOfHub(d.first), len(d.visited), d.rule)
		if f := d.failedOver; f != nil {
			all = append(all, f.from.Name(), f.until.UTC())
		}
	}
	return all
}

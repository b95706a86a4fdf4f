package sim

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/store"
)

// This file writes the state of the hubs and of the registry to the state directory, and reads it
// back. The keys of its records are
//
//	device/{device}                         the registry's record of a device
//	enrollment/{group or single}/{id}       an entry of DPS's enrollment list
//	identity/{hub}/{device}[/{module}]      credentials and subscriptions
//	twin/{hub}/{half}/{device}[/{module}]   desired, reported, tags
//	mail/{hub}/{device}/{number}            a cloud-to-device message
//	ledger/segments                         numbers of the ledger's oldest and newest file
//
// All other state starts anew: faults, connections, registrations under way, the history of IoT
// Central's commands.

// saveAndUnlock writes down the changes of an identity before anybody can see them, and unlocks its
// mutex. Without a state directory it only unlocks. The store has logged the error that it returns;
// the next change writes again what could not be written. Code that has changed nothing calls
// mu.Unlock instead.
func (i *identity) saveAndUnlock() error {
	defer i.mu.Unlock()
	return i.keep()
}

// keptIdentity is an identity as a document, without its twin and its messages.
type keptIdentity struct {
	Generation   string             `json:"generation"`
	Enabled      bool               `json:"enabled"`
	Auth         azure.Credentials  `json:"auth"`
	ModelID      string             `json:"modelId,omitempty"`
	Session      *keptSubscriptions `json:"session,omitempty"` // the persistent one
	Revision     int64              `json:"revision"`
	StatusReason string             `json:"statusReason,omitempty"`
	StatusAt     time.Time          `json:"statusAt,omitzero"`
	ConnectionAt time.Time          `json:"connectionAt,omitzero"`
	Edge         bool               `json:"edge,omitempty"`
	Scope        string             `json:"scope,omitempty"`
}

type keptSubscriptions struct {
	C2D      byte      `json:"c2d,omitempty"`
	C2DSince time.Time `json:"c2dSince,omitzero"`
	Methods  byte      `json:"methods,omitempty"`
	Twin     byte      `json:"twin,omitempty"`
	Desired  byte      `json:"desired,omitempty"`
	Others   []string  `json:"others,omitempty"`
}

// keptDocument is one part of a twin.
type keptDocument struct {
	Props   map[string]any `json:"props"`
	Written map[string]any `json:"written"`
	Version int64          `json:"version"`
}

// keptLetter is a message to a device; one that is settled has lost its body.
type keptLetter struct {
	Mid           string    `json:"mid"`
	Topic         string    `json:"topic"`
	Body          []byte    `json:"body,omitempty"`
	Seq           int       `json:"seq"`
	Ack           string    `json:"ack,omitempty"`
	Enqueued      time.Time `json:"enqueued"`
	Expires       time.Time `json:"expires"`
	State         string    `json:"state"`
	DeliveryCount int       `json:"deliveryCount"`
	Feedback      string    `json:"feedback,omitempty"`
	Token         string    `json:"token,omitempty"`
	LockedUntil   time.Time `json:"lockedUntil,omitzero"`
}

// keptState is what the store has of an identity, so that only changes are written.
type keptState struct {
	buried   bool
	identity []byte
	versions [3]int64 // of desired, reported, tags, each plus one
	letters  map[int]letterState
}

// letterState is what changes in a message.
type letterState struct {
	state, feedback, token string
	deliveryCount          int
}

// halves are the documents of a twin by their names in the store.
func (i *identity) halves() [3]struct {
	name string
	*document
} {
	return [3]struct {
		name string
		*document
	}{{"desired", &i.desired}, {"reported", &i.report}, {"tags", &i.tags}}
}

func (i *identity) keys() (identity string, half func(name string) string, letter func(seq int) string) {
	return "identity/" + i.hub.name + "/" + i.name(),
		func(name string) string { return "twin/" + i.hub.name + "/" + name + "/" + i.name() },
		func(seq int) string { return fmt.Sprintf("mail/%s/%s/%012d", i.hub.name, i.name(), seq) }
}

// keep writes down what has changed since the last time; called with the identity's mutex held. After an error the rest is still to be
// written, and will be with the next change.
func (i *identity) keep() error {
	s, k := i.hub.store, &i.kept
	if s == nil || k.buried {
		return nil
	}
	identityKey, half, letter := i.keys()
	if i.gone {
		k.buried = true
		err := s.Delete(identityKey)
		for _, d := range i.halves() {
			err = errors.Join(err, s.Delete(half(d.name)))
		}
		for seq := range k.letters {
			err = errors.Join(err, s.Delete(letter(seq)))
		}
		return err
	}
	for n, d := range i.halves() {
		if k.versions[n] == d.version+1 {
			continue
		}
		if err := s.Put(half(d.name), keptDocument{d.props, d.written, d.version}); err != nil {
			return err
		}
		k.versions[n] = d.version + 1
	}
	if err := i.keepMail(letter); err != nil {
		return err
	}
	now := keptIdentity{
		Generation: i.generation, Enabled: i.enabled, Auth: i.auth, ModelID: i.modelID, Revision: i.revision,
		StatusReason: i.statusReason, StatusAt: i.statusAt, ConnectionAt: i.connectionAt, Edge: i.edge, Scope: i.scope,
	}
	if u := i.stored; u != nil {
		now.Session = &keptSubscriptions{u.c2d, u.c2dSince, u.methods, u.twin, u.desired, u.others}
	}
	text := azure.EncodeJSON(now)
	if bytes.Equal(text, k.identity) {
		return nil
	}
	err := s.Put(identityKey, json.RawMessage(text))
	if err == nil {
		k.identity = text
	}
	return err
}

func (i *identity) keepMail(key func(seq int) string) error {
	s, k := i.hub.store, &i.kept
	for _, m := range i.mail.messages {
		now := letterState{m.state, m.feedback, m.token, m.deliveryCount}
		if k.letters[m.seq] == now {
			continue
		}
		body := m.body
		if !m.pending() {
			body = nil
		}
		err := s.Put(key(m.seq), keptLetter{
			m.mid, m.topic, body, m.seq, m.ack, m.enqueued, m.expires, m.state, m.deliveryCount, m.feedback, m.token, m.lockedUntil,
		})
		if err != nil {
			return err
		}
		if k.letters == nil {
			k.letters = map[int]letterState{}
		}
		k.letters[m.seq] = now
	}
	if len(k.letters) == len(i.mail.messages) {
		return nil
	}
	for seq := range k.letters { // some were forgotten
		if !slices.ContainsFunc(i.mail.messages, func(m *letter) bool { return m.seq == seq }) {
			if err := s.Delete(key(seq)); err != nil {
				return err
			}
			delete(k.letters, seq)
		}
	}
	return nil
}

// decodeKept reads a document; numbers in it stay as they were written.
func decodeKept(document []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(document))
	d.UseNumber()
	return d.Decode(into)
}

// restore brings back the hub's identities from the store.
func (h *hub) restore() error {
	s := h.store
	find := func(name string) *identity {
		device, module, isModule := strings.Cut(name, "/")
		i := h.identities[device]
		if i != nil && isModule {
			i = i.modules[module]
		}
		return i
	}
	err := s.Take("identity/"+h.name+"/", func(name string, document []byte) error { // a device comes before its modules
		var k keptIdentity
		if err := decodeKept(document, &k); err != nil {
			return err
		}
		device, module, isModule := strings.Cut(name, "/")
		i := &identity{id: device, module: module, parent: h.identities[device], hub: h, generation: k.Generation, enabled: k.Enabled,
			auth: k.Auth, modelID: k.ModelID}
		i.record = record{revision: k.Revision, statusReason: k.StatusReason, statusAt: k.StatusAt, connectionAt: k.ConnectionAt,
			edge: k.Edge, scope: k.Scope}
		if u := k.Session; u != nil {
			i.stored = &subscriptions{c2d: u.C2D, c2dSince: u.C2DSince, methods: u.Methods, twin: u.Twin, desired: u.Desired, others: u.Others}
		}
		switch {
		case !isModule:
			i.parent, h.identities[device] = nil, i
		case i.parent == nil:
			return errors.New("its device is unknown")
		default:
			if i.parent.modules == nil {
				i.parent.modules = map[string]*identity{}
			}
			i.parent.modules[module] = i
		}
		i.desired.version, i.report.version = 1, 1
		i.kept.identity = document
		return nil
	})
	if err != nil {
		return err
	}
	for n, half := range []string{"desired", "reported", "tags"} {
		err := s.Take("twin/"+h.name+"/"+half+"/", func(name string, document []byte) error {
			var k keptDocument
			if err := decodeKept(document, &k); err != nil {
				return err
			}
			if i := find(name); i != nil { // else its identity was still to be written
				*i.halves()[n].document = documentOf(k)
				i.kept.versions[n] = k.Version + 1
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	now := h.now()
	err = s.Take("mail/"+h.name+"/", func(name string, document []byte) error {
		var k keptLetter
		if err := decodeKept(document, &k); err != nil {
			return err
		}
		i := find(name[:max(strings.LastIndexByte(name, '/'), 0)])
		if i == nil {
			return nil
		}
		i.mail.messages = append(i.mail.messages, &letter{
			mid: k.Mid, topic: k.Topic, body: k.Body, seq: k.Seq, ack: k.Ack, enqueued: k.Enqueued, expires: k.Expires, state: k.State,
			deliveryCount: k.DeliveryCount, feedback: k.Feedback, token: k.Token, lockedUntil: k.LockedUntil,
		})
		i.mail.lastSeq = max(i.mail.lastSeq, k.Seq)
		if i.kept.letters == nil {
			i.kept.letters = map[int]letterState{}
		}
		i.kept.letters[k.Seq] = letterState{k.State, k.Feedback, k.Token, k.DeliveryCount}
		return nil
	})
	for _, i := range h.identities {
		i.mu.Lock()
		i.mail.giveBack(now) // no connection has survived
		i.mu.Unlock()
	}
	return err
}

func documentOf(k keptDocument) document {
	return document{props: k.Props, written: k.Written, version: k.Version}
}

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
func (r *registry) keep(d *device) error {
	if r.store == nil {
		return nil
	}
	lost := r.lost
	r.lost = nil
	return errors.Join(lost, r.keepRecord(d))
}

func (r *registry) keepRecord(d *device) error {
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
		Rule: d.rule, Substatus: d.substatus, Payload: d.payload, Etag: d.etag, Created: d.created, Updated: d.updated, CentralEtag: d.centralEtag,
		DisplayName: d.central.displayName, Template: d.central.template, Simulated: d.central.simulated, Organizations: d.central.organizations,
	}
	for _, h := range d.visited {
		k.Visited = append(k.Visited, h.name)
	}
	if e := d.refused; e != nil {
		k.RefusedCode, k.RefusedText = e.code, e.text
	}
	if f := d.failedOver; f != nil {
		k.FailedOverFrom, k.FailedOverTill = f.from.name, f.until
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

func nameOfHub(h *hub) string {
	if h == nil {
		return ""
	}
	return h.name
}

// keptEnrollment is an enrollment as a document: in the service API's form a certificate is but a description.
type keptEnrollment struct {
	*enrollment
	Leaves [][]byte `json:"hubhopLeaves,omitempty"` // DER
	Roots  [][]byte `json:"hubhopRoots,omitempty"`
}

// keepEnrollment writes down the entry of a list, or that there is none any more; called with mu held.
func (r *registry) keepEnrollment(group bool, id string) error {
	key := "enrollment/single/" + id
	if group {
		key = "enrollment/group/" + id
	}
	e := r.list(group)[id]
	if e == nil {
		return r.store.Delete(key)
	}
	return r.store.Put(key, keptEnrollment{e, azure.RawCertificates(e.leaves), azure.RawCertificates(e.roots)})
}

// restore brings back the enrollments and the devices. Timers run from start on.
func (r *registry) restore() error {
	for _, group := range []bool{true, false} {
		prefix := map[bool]string{true: "enrollment/group/", false: "enrollment/single/"}[group]
		err := r.store.Take(prefix, func(id string, document []byte) (err error) {
			k := keptEnrollment{enrollment: &enrollment{}}
			if err := decodeKept(document, &k); err != nil {
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
		err := decodeKept(document, &k)
		if err != nil {
			return err
		}
		d := &device{
			id: k.ID, registrationID: k.RegistrationID, group: k.Group, auth: k.Auth, modelID: k.ModelID, registered: k.Registered, approved: k.Approved,
			blocked: k.Blocked, disabled: k.Disabled, unusable: k.Unusable, rule: k.Rule, substatus: k.Substatus, payload: k.Payload,
			etag: k.Etag, created: k.Created, updated: k.Updated, centralEtag: k.CentralEtag, kept: document,
			central: centralDevice{displayName: k.DisplayName, template: k.Template, simulated: k.Simulated, organizations: k.Organizations},
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

func (r *registry) restoredHub(name string) (*hub, error) {
	if name == "" {
		return nil, nil
	}
	for _, h := range r.hubs {
		if h.name == name {
			return h, nil
		}
	}
	return nil, &fewHubsError{name, len(r.hubs)}
}

// fewHubsError is a state directory that knows more hubs than there are to be.
type fewHubsError struct {
	hub  string
	hubs int
}

func (e *fewHubsError) Error() string {
	return fmt.Sprintf("the state directory has devices in %s, but there are to be %d hubs only: start with --hubs %d or more", e.hub, e.hubs, int(e.hub[len(e.hub)-1]-'a')+1)
}

// resume lets failovers of an earlier life end when they would have; called with mu held.
func (r *registry) resume() {
	for _, d := range r.byID {
		if f := d.failedOver; f != nil && f.timer == nil {
			f.timer = time.AfterFunc(max(0, f.until.Sub(r.now())), func() { r.returnHome(d, f) })
		}
	}
}

// restore brings back all that the state directory holds beside the ledger.
func (s *Sim) restore() error {
	kept := s.store
	if kept == nil {
		return s.registry.enrolDefaults()
	}
	err := s.registry.restore()
	for _, h := range s.hubs {
		if err == nil {
			err = h.restore()
		}
	}
	if err == nil { // whose identities are left?
		err = kept.Take("identity/", func(name string, _ []byte) error {
			hub, _, _ := strings.Cut(name, "/")
			return &fewHubsError{hub, len(s.hubs)}
		})
	}
	if few, ok := errors.AsType[*fewHubsError](err); ok {
		return few
	}
	if err != nil {
		return err
	}
	// What the configuration says of enrollments counts when it is new: later changes of the list are not undone by a restart.
	c := s.config
	wanted := string(azure.EncodeJSON([]any{c.Allocation, c.Reprovision, c.Webhook, c.GroupKey, c.SecondaryGroupKey, c.EnrollmentDocuments}))
	if kept.Secret("enrollments") == wanted {
		return nil
	}
	err = s.registry.enrolDefaults()
	kept.SetSecret("enrollments", wanted)
	return err
}

// keptAuthority returns the certificate authority that the store has under this name, or a new one.
func keptAuthority(s *store.Store, name, commonName string, now time.Time) (*azure.Authority, error) {
	if text := s.Secret(name); text != "" {
		a, err := azure.ParseAuthority([]byte(text), now)
		if err != nil {
			err = s.SecretError(name, err)
		}
		return a, err
	}
	a, err := azure.NewAuthority(commonName, now)
	if err != nil {
		return nil, err
	}
	key, err := a.KeyPEM()
	if err != nil {
		return nil, err
	}
	s.SetSecret(name, string(a.CertificatePEM())+string(key))
	return a, nil
}

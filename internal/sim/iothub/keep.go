package iothub

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/store"
)

// saveAndUnlock writes down the changes of an identity before anybody can see them, and unlocks its
// mutex. Without a state directory it only unlocks. The store has logged the error that it returns,
// and the next change writes what could not be written. Code that has changed nothing calls
// mu.Unlock.
func (i *Identity) saveAndUnlock() error {
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

// keptLetter is a message to a device as a document. A settled message has no body.
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

// keptState is what the store has of an identity. With it only changes are written.
type keptState struct {
	buried   bool // all of it is deleted
	identity []byte
	versions [3]int64 // of desired, reported and tags, each plus one
	letters  map[int]letterState
}

// letterState is the part of a message that changes.
type letterState struct {
	state, feedback, token string
	deliveryCount          int
}

// parts returns the documents of a twin by their names in the store.
func (i *Identity) parts() [3]struct {
	name string
	*azure.TwinDocument
} {
	return [3]struct {
		name string
		*azure.TwinDocument
	}{{"desired", &i.desired}, {"reported", &i.report}, {"tags", &i.tags}}
}

// keys returns the key of the identity's record, and functions for those of its documents and
// messages.
func (i *Identity) keys() (identity string, part func(name string) string, letter func(seq int) string) {
	return "identity/" + i.hub.name + "/" + i.name(),
		func(name string) string { return "twin/" + i.hub.name + "/" + name + "/" + i.name() },
		func(seq int) string { return fmt.Sprintf("mail/%s/%s/%012d", i.hub.name, i.name(), seq) }
}

// keep writes down what has changed since the last call. After an error the next call writes the
// rest. The identity's mutex is held.
func (i *Identity) keep() error {
	s, k := i.hub.store, &i.kept
	if s == nil || k.buried {
		return nil
	}
	identityKey, part, letter := i.keys()
	if i.gone {
		k.buried = true
		err := s.Delete(identityKey)
		for _, d := range i.parts() {
			err = errors.Join(err, s.Delete(part(d.name)))
		}
		for seq := range k.letters {
			err = errors.Join(err, s.Delete(letter(seq)))
		}
		return err
	}
	for n, d := range i.parts() {
		if k.versions[n] == d.Version+1 {
			continue
		}
		if err := s.Put(part(d.name), keptDocument{d.Values, d.Metadata, d.Version}); err != nil {
			return err
		}
		k.versions[n] = d.Version + 1
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

func (i *Identity) keepMail(key func(seq int) string) error {
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
	for seq := range k.letters { // the mailbox has forgotten some
		if !slices.ContainsFunc(i.mail.messages, func(m *letter) bool { return m.seq == seq }) {
			if err := s.Delete(key(seq)); err != nil {
				return err
			}
			delete(k.letters, seq)
		}
	}
	return nil
}

// Restore brings the hub's identities back from the store. It is called before the hub listens.
func (h *Hub) Restore() error {
	s := h.store
	find := func(name string) *Identity {
		device, module, isModule := strings.Cut(name, "/")
		i := h.identities[device]
		if i != nil && isModule {
			i = i.modules[module]
		}
		return i
	}
	err := s.Take("identity/"+h.name+"/", func(name string, document []byte) error { // a device comes before its modules
		var k keptIdentity
		if err := store.Decode(document, &k); err != nil {
			return err
		}
		device, module, isModule := strings.Cut(name, "/")
		i := &Identity{id: device, module: module, parent: h.identities[device], hub: h, generation: k.Generation, enabled: k.Enabled,
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
				i.parent.modules = map[string]*Identity{}
			}
			i.parent.modules[module] = i
		}
		i.desired.Version, i.report.Version = 1, 1
		i.kept.identity = document
		return nil
	})
	if err != nil {
		return err
	}
	for n, part := range (&Identity{}).parts() {
		err := s.Take("twin/"+h.name+"/"+part.name+"/", func(name string, document []byte) error {
			var k keptDocument
			if err := store.Decode(document, &k); err != nil {
				return err
			}
			if i := find(name); i != nil { // else its identity was still to be written
				*i.parts()[n].TwinDocument = documentOf(k)
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
		if err := store.Decode(document, &k); err != nil {
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

func documentOf(k keptDocument) azure.TwinDocument {
	return azure.TwinDocument{Values: k.Props, Metadata: k.Written, Version: k.Version}
}

// Lasting returns everything of an identity that a restart must bring back, to be encoded as JSON.
// It is for tests, which compare it before and after a restart.
func (i *Identity) Lasting() (all []any) {
	i.mu.Lock()
	defer i.mu.Unlock()
	d, twin := i.document(), i.twinDocument()
	d.ConnectionState, twin.ConnectionState = "", ""
	all = append(all, i.name(), i.auth, d, twin, i.mail.lastSeq)
	for _, m := range i.mail.messages {
		state, body := m.state, m.body
		if m.token == "" && state == C2DDelivered { // the connection is lost with the process
			state = C2DEnqueued
		}
		if !m.pending() {
			body = nil
		}
		all = append(all, m.mid, m.topic, string(body), m.ack, m.enqueued.UTC(), m.expires.UTC(), state, m.deliveryCount, m.feedback, m.token, m.lockedUntil.UTC())
	}
	return all
}

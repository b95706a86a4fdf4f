package iothub

import (
	"slices"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/wire"
)

// subscriptions are the four things that a device can listen to, and the filters that were granted
// but mean nothing here. A level is 0 without a subscription, else the QoS plus one.
type subscriptions struct {
	c2d, methods, twin, desired byte
	c2dSince                    time.Time // when c2d began, by the cloud's clock
	others                      []string  // the other filters; the slice is replaced, never changed
}

// maxSubscriptions is the number of subscriptions that a hub allows a device.
const maxSubscriptions = 5

// subscribe serves a SUBSCRIBE. The subscription is written down before the SUBACK.
func (s *session) subscribe(first byte, body []byte) error {
	id, filters, err := wire.ParseFilters(first, body, true)
	if err != nil {
		return err
	}
	i := s.identity
	i.mu.Lock()
	defer func() { _ = i.saveAndUnlock() }() // only which messages are under way changed; a restart would deliver them again
	for _, f := range filters {
		if !s.subs.set(i, f.Name, min(f.QoS, 1)+1) {
			return wire.Closing("subscription to %.200q, which is no topic of this device", f.Name)
		}
	}
	if s.subs.c2d != 0 && s.subs.c2dSince.IsZero() {
		s.subs.c2dSince = s.hub.now()
	}
	if n := s.subs.count(); n > maxSubscriptions {
		return wire.Closing("%d subscriptions, a hub allows %d", n, maxSubscriptions)
	}
	s.storeSubscriptions()
	if err := i.keep(); err != nil { // before the answer
		return wire.Closing("the subscription is not confirmed: %v", err)
	}
	i.arrived()
	s.wire.Add(wire.AppendSuback(nil, id, filters), s.conduct().delay)
	s.deliverMail()
	return nil
}

func (s *session) unsubscribe(first byte, body []byte) error {
	id, filters, err := wire.ParseFilters(first, body, false)
	if err != nil {
		return err
	}
	i := s.identity
	i.mu.Lock()
	for _, f := range filters {
		s.subs.set(i, f.Name, 0)
	}
	if s.subs.c2d == 0 {
		s.subs.c2dSince = time.Time{}
	}
	s.storeSubscriptions()
	if err := i.saveAndUnlock(); err != nil {
		return wire.Closing("the end of a subscription is not confirmed: %v", err)
	}
	s.wire.Add(wire.AppendUnsuback(nil, id), s.conduct().delay)
	return nil
}

// set subscribes to a filter, or ends its subscription if level is 0. It reports whether the filter
// covers a topic of the device; if not, a hub closes the connection. Other wildcards than the
// documented ones match as in MQTT, because published samples use them. Topics that the simulator
// never uses, such as the inputs of a module, are granted.
func (u *subscriptions) set(i *Identity, filter string, level byte) (known bool) {
	match := func(topic string, what *byte) {
		if filter == topic || filterMatches(filter, topic) {
			*what, known = level, true
		}
	}
	if i.module == "" {
		match("devices/"+i.id+"/messages/devicebound/#", &u.c2d)
	}
	match("$iothub/methods/POST/#", &u.methods)
	match("$iothub/twin/res/#", &u.twin)
	match("$iothub/twin/PATCH/properties/desired/#", &u.desired)
	if known {
		return true
	}
	if !isIdleFilter(i, filter) {
		return false
	}
	others := slices.DeleteFunc(slices.Clone(u.others), func(f string) bool { return f == filter })
	if level != 0 {
		others = append(others, filter)
	}
	u.others = others
	return true
}

// isIdleFilter reports whether a filter covers topics of a hub that the simulator never sends to.
func isIdleFilter(i *Identity, filter string) bool {
	for _, topics := range []string{"$iothub/credentials/", "$iothub/credential/", "$iothub/streams/"} {
		if strings.HasPrefix(filter, topics) {
			return true
		}
	}
	return i.module != "" && (strings.HasPrefix(filter, i.resource()+"/") || filter == "devices/"+i.id+"/messages/devicebound/#")
}

// count returns the number of subscriptions.
func (u *subscriptions) count() int {
	n := len(u.others)
	for _, level := range []byte{u.c2d, u.methods, u.twin, u.desired} {
		if level != 0 {
			n++
		}
	}
	return n
}

// filterMatches reports whether an MQTT filter covers everything that the filter topic covers.
func filterMatches(filter, topic string) bool {
	if strings.HasPrefix(topic, "$") && !strings.HasPrefix(filter, "$") {
		return false
	}
	want, have := strings.Split(filter, "/"), strings.Split(topic, "/")
	for i, part := range want {
		if part == "#" {
			return i == len(want)-1
		}
		if i >= len(have) || part != have[i] && (part != "+" || have[i] == "#") {
			return false
		}
	}
	return false // topic ends in #, so only # covers it
}

// storeSubscriptions copies the subscriptions to the persistent session. The identity's mutex is
// held.
func (s *session) storeSubscriptions() {
	if !s.clean {
		kept := s.subs
		s.identity.stored = &kept
	}
}

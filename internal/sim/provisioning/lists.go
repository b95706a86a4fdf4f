package provisioning

import "strings"

// withState returns an individual enrollment with the state of its registration. mu is held.
func (r *Registry) withState(e *enrollment) *enrollment {
	d := r.byRegistration[strings.ToLower(e.RegistrationID)]
	if e.group() || d == nil || !d.registered {
		return e
	}
	with, state := *e, r.stateOf(d)
	with.RegistrationState = &state
	return &with
}

// enrolled returns all groups, or all individual enrollments, without their keys.
func (r *Registry) enrolled(group bool) []*enrollment {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := []*enrollment{}
	for _, e := range r.list(group) {
		all = append(all, r.withState(e).public())
	}
	return all
}

// registrationsOf returns the registrations that a group has made.
func (r *Registry) registrationsOf(group string) ([]registrationState, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.groups[strings.ToLower(group)]
	if e == nil {
		return nil, errNoEnrollment
	}
	states := []registrationState{}
	for _, d := range r.byRegistration {
		if d.registered && d.enrolledBy(e) {
			states = append(states, r.stateOf(d))
		}
	}
	return states, nil
}

// deleteRegistration forgets that a device has registered. The device stays in its hub.
func (r *Registry) deleteRegistration(registrationID, ifMatch string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := r.byRegistration[strings.ToLower(registrationID)]
	switch {
	case d == nil || !d.registered:
		return errNoRegistration
	case ifMatch != "" && !etagMatches(ifMatch, d.etag):
		return errEtag
	}
	r.forget(d)
	if r.keep(d) != nil {
		return errNotKept
	}
	return nil
}

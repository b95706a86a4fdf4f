package provisioning

import (
	"slices"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/iothub"
)

// place puts a device that registers into its hub. mu is held.
func (r *Registry) place(d *device, e *enrollment, custom *webhookAnswer) {
	d.refused, d.payload = nil, nil
	var twin *iothub.TwinContent // nil means the policy decides
	if custom != nil {
		if d.refused = custom.err; d.refused != nil {
			d.updated, d.etag = r.now(), azure.NewDPSEtag()
			return
		}
		twin, d.payload = custom.twin, custom.payload
	}
	target := r.decide(d, e, custom)
	first, moved := d.hub == nil, d.hub != nil && d.hub != target
	if twin == nil && (first || e.resets()) {
		twin = e.twin()
	}
	if rule := e.rule(); d.rule != rule {
		d.rule = rule
		d.stayAway() // where the failover would have ended counts no more
	}
	switch {
	case first:
		d.first = target
		r.assign(d, target, substatusInitial)
		if target.Identity(d.id) != nil {
			twin = nil // somebody made the device in the hub before: DPS takes it over as it is
		}
		r.unsaved(target.Admit(d.id, d.auth, twin, !d.unusable))
	case moved:
		r.move(d, target, twin)
	default: // credentials may have changed, and the identity may have been deleted from the hub
		if e.resets() {
			r.assign(d, target, substatusReset)
		} else if target.Identity(d.id) == nil && twin == nil {
			twin = e.twin()
		}
		r.unsaved(target.Admit(d.id, d.auth, twin, !d.unusable))
	}
}

// assign notes the hub of a device. mu is held.
func (r *Registry) assign(d *device, to *iothub.Hub, substatus string) {
	d.hub, d.substatus, d.updated, d.etag = to, substatus, r.now(), azure.NewDPSEtag()
	if !slices.Contains(d.visited, to) {
		d.visited = append(d.visited, to)
	}
}

// move takes a device to another hub. The identity there is made first: with the twin that is
// given, else with the first twin of the enrollment if that resets, else with the whole twin of the
// old identity. Then the old identity becomes unusable in the way configured, unless nobody could
// reach its hub. mu is held.
func (r *Registry) move(d *device, to *iothub.Hub, twin *iothub.TwinContent) {
	from, substatus := d.hub, substatusMigrated
	if e := r.entry(d); e != nil && e.resets() {
		substatus = substatusReset
		if twin == nil {
			twin = e.twin()
		}
	}
	if twin == nil {
		twin = &iothub.TwinContent{}
		if old := from.Identity(d.id); old != nil {
			twin = old.Content()
		}
	}
	r.unsaved(to.Admit(d.id, d.auth, twin, !d.unusable && !d.blocked && !d.disabled))
	if slices.Contains(d.visited, to) {
		substatus = substatusReturned
	}
	r.assign(d, to, substatus)
	if d.failedOver != nil && d.failedOver.from == to {
		d.stayAway()
	}
	r.config.Tell(iothub.Event{Kind: iothub.EventMove, Hub: to.Name(), Device: d.id})
	r.log.Info().Str("hub", to.Name()).Str("device", d.id).Str("kind", iothub.EventMove).Str("from", from.Name()).Msg("device moved")
	switch {
	case !from.Reachable():
	case r.config.Move == MoveDelete:
		r.unsaved(from.Delete(d.id, "device moved to "+to.Name()))
	default:
		if old := from.Identity(d.id); old != nil {
			r.unsaved(old.Disable("device moved to " + to.Name()))
		}
	}
}

// Placed returns the identity that an order to a device goes to: the one in the hub that DPS would
// assign now. It makes that assignment, so that the order waits where the device will be sent.
func (r *Registry) Placed(id string) (i *iothub.Identity, err error) {
	if i := r.made(id); i != nil {
		return i, nil
	}
	err = r.with(id, func(d *device) error {
		if d.hub == nil {
			return notProvisioned(d)
		}
		if target := r.answer(d); target != d.hub {
			r.move(d, target, nil)
		}
		if i = d.hub.Identity(d.id); i == nil { // the hub has lost it
			return azure.Errorf(404, "DeviceNotFound", "%s does not know device %s any more, until it registers again", d.hub.Name(), id)
		}
		return nil
	})
	return i, err
}

// linked returns the hubs that a device can be in. mu is held.
func (r *Registry) linked(d *device) []*iothub.Hub {
	if e := r.entry(d); e != nil {
		return r.hubsOf(e)
	}
	return r.hubs
}

// TwinIn returns the identity whose twin a service sees: the one in the hub that DPS would assign
// now, else the one where the device is, whose twin would travel along. It assigns nothing.
func (r *Registry) TwinIn(id string) (i *iothub.Identity, err error) {
	if i := r.made(id); i != nil {
		return i, nil
	}
	err = r.with(id, func(d *device) error {
		if d.hub == nil {
			return notProvisioned(d)
		}
		if i = r.answer(d).Identity(d.id); i == nil {
			i = d.hub.Identity(d.id)
		}
		if i == nil {
			return azure.Errorf(404, "DeviceNotFound", "device %s has no twin", id)
		}
		return nil
	})
	return i, err
}

// notProvisioned is the refusal of an order to a device that is in no hub yet.
func notProvisioned(d *device) error {
	return azure.Errorf(409, "DeviceNotProvisioned", "device %s has never been assigned to a hub", d.id)
}

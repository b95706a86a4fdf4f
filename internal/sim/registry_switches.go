package sim

import (
	"strings"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/iothub"
)

// This file is how an operator switches devices on and off, beside DPS's own API.

// change changes what stands between a device and its hub. set sets the flags.
func (r *registry) change(id, reason string, set func(*device)) error {
	return r.with(id, func(d *device) error {
		set(d)
		d.updated = r.now()
		if d.blocked || d.disabled || d.unusable {
			for _, h := range r.hubs {
				if i := h.Identity(d.id); i != nil {
					r.unsaved(i.Disable(reason))
				}
			}
		} else if d.hub != nil {
			if i := d.hub.Identity(d.id); i != nil {
				r.unsaved(i.Enable())
			}
		}
		return nil
	})
}

// disable disables a device's enrollment and identity: DPS answers "disabled", hubs refuse it.
func (r *registry) disable(id string) error {
	if i := r.made(id); i != nil {
		return azure.Unconfirmed(i.Disable("device disabled"))
	}
	return r.change(id, "device disabled", func(d *device) { d.disabled = true })
}

// disableIdentity disables a device in its hub only. DPS does not know, and goes on assigning the hub
// that refuses the device.
func (r *registry) disableIdentity(id string) error {
	return r.change(id, "device disabled", func(d *device) { d.unusable = true })
}

// enable undoes disable and disableIdentity, and enables an individual enrollment that is disabled.
func (r *registry) enable(id string) error {
	if i := r.made(id); i != nil {
		return azure.Unconfirmed(i.Enable())
	}
	return r.change(id, "", func(d *device) {
		d.disabled, d.unusable = false, false
		if e := r.entry(d); e != nil && !e.group() && e.disabled() {
			enabled := *e
			enabled.ProvisioningStatus = enabledStatus
			r.enrollments[strings.ToLower(e.RegistrationID)] = &enabled
		}
	})
}

// block is the block of an operator: DPS answers failed 400209, hubs refuse the device.
func (r *registry) block(id string) error {
	return r.change(id, "device blocked", func(d *device) { d.blocked = true })
}

// unblock undoes block.
func (r *registry) unblock(id string) error {
	return r.change(id, "", func(d *device) { d.blocked = false })
}

// approve lets in a device that waits for it.
func (r *registry) approve(id string) error {
	return r.change(id, "", func(d *device) { d.approved = true })
}

// setEnabled blocks a device, or approves and unblocks it and undoes what else keeps it out.
func (r *registry) setEnabled(id string, enabled bool) error {
	return r.change(id, "device blocked", func(d *device) {
		if d.blocked = !enabled; enabled {
			d.approved, d.disabled, d.unusable = true, false, false
		}
	})
}

// switched notes that a service has switched the identity of a device on or off in a hub, so that the
// next registration does not undo it.
func (r *registry) switched(h *iothub.Hub, id string, enabled bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if d := r.byID[id]; d != nil && d.hub == h {
		d.unusable = !enabled
		_ = r.keep(d) // the hub has answered for it
	}
}

package provisioning

import (
	"strings"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/iothub"
)

// This file is how an operator switches devices on and off, beside DPS's own API.

// change changes what keeps a device out of its hub. The function set sets the flags; the
// identities follow.
func (r *Registry) change(id, reason string, set func(*device)) error {
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

// Disable disables a device's enrollment and identity: DPS answers "disabled", hubs refuse it.
func (r *Registry) Disable(id string) error {
	if i := r.made(id); i != nil {
		return azure.Unconfirmed(i.Disable("device disabled"))
	}
	return r.change(id, "device disabled", func(d *device) { d.disabled = true })
}

// DisableIdentity disables a device in its hub only. DPS does not know, and goes on assigning the
// hub that refuses the device.
func (r *Registry) DisableIdentity(id string) error {
	return r.change(id, "device disabled", func(d *device) { d.unusable = true })
}

// Enable undoes Disable and DisableIdentity, and enables an individual enrollment that is disabled.
func (r *Registry) Enable(id string) error {
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

// Block is the block of an operator: DPS answers failed 400209, hubs refuse the device.
func (r *Registry) Block(id string) error {
	return r.change(id, "device blocked", func(d *device) { d.blocked = true })
}

// Unblock undoes Block.
func (r *Registry) Unblock(id string) error {
	return r.change(id, "", func(d *device) { d.blocked = false })
}

// Approve lets in a device that waits for it.
func (r *Registry) Approve(id string) error {
	return r.change(id, "", func(d *device) { d.approved = true })
}

// SetEnabled blocks a device, or approves and unblocks it and undoes what else keeps it out.
func (r *Registry) SetEnabled(id string, enabled bool) error {
	return r.change(id, "device blocked", func(d *device) {
		if d.blocked = !enabled; enabled {
			d.approved, d.disabled, d.unusable = true, false, false
		}
	})
}

// Switched notes that a service has switched the identity of a device on or off in a hub, so that
// the next registration does not undo it.
func (r *Registry) Switched(h *iothub.Hub, id string, enabled bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if d := r.byID[id]; d != nil && d.hub == h {
		d.unusable = !enabled
		_ = r.keep(d) // the hub has answered for it
	}
}

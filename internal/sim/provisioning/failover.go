package provisioning

import (
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/iothub"
)

// failover is a move that ends by itself.
type failover struct {
	from  *iothub.Hub
	until time.Time
	timer *time.Timer
}

// DefaultFailover is how long a failover lasts if nobody says.
const DefaultFailover = 30 * time.Minute

// Failover moves a device to the next living hub, until ttl is over; 0 means DefaultFailover. It
// returns the hub that the device has left.
func (r *Registry) Failover(id string, ttl time.Duration) (left *iothub.Hub, until time.Time, err error) {
	if ttl == 0 {
		ttl = DefaultFailover
	}
	err = r.with(id, func(d *device) error {
		switch {
		case ttl < 0:
			return azure.Errorf(400, "BadRequest", "the time until the return is negative")
		case len(r.linked(d)) == 1:
			return azure.Errorf(400, "SingleHub", "there is a single hub, so no device can be failed over")
		case d.hub == nil:
			return notProvisioned(d)
		case d.failedOver != nil:
			return azure.Errorf(409, "DeviceAlreadyFailedOver", "device %s is failed over already, until %s", id, d.failedOver.until.UTC().Format(time.RFC3339))
		case r.closed:
			return azure.Errorf(409, "", "the simulator has stopped")
		}
		left = d.hub
		to := otherThan(left, r.linked(d))
		if to == nil {
			return azure.Errorf(409, "NoHealthyHub", "no other hub is alive")
		}
		r.move(d, to, nil)
		until = r.now().Add(ttl)
		f := &failover{from: left, until: until}
		f.timer = time.AfterFunc(ttl, func() { r.returnHome(d, f) })
		d.failedOver = f
		return nil
	})
	return left, until, err
}

// stayAway ends a failover without a return. The registry's mutex is held.
func (d *device) stayAway() {
	if d.failedOver != nil {
		if d.failedOver.timer != nil { // it has none before the start
			d.failedOver.timer.Stop()
		}
		d.failedOver = nil
	}
}

// returnHome ends a failover whose time is up. The device stays where it is if its hub is dead by
// then.
func (r *Registry) returnHome(d *device, f *failover) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || d.failedOver != f {
		return
	}
	d.failedOver = nil
	if d.hub != f.from && !f.from.DeadForDPS() {
		r.move(d, f.from, nil)
	}
	_ = r.keep(d) // nobody has asked for it
}

// Failback returns a device to its first hub, whatever moved it. It returns the hub that the device
// has left, nil if the device was in its first hub.
func (r *Registry) Failback(id string) (left *iothub.Hub, err error) {
	err = r.with(id, func(d *device) error {
		if d.hub == nil {
			return notProvisioned(d)
		}
		if d.hub == d.first {
			return nil
		}
		if d.first.DeadForDPS() {
			return azure.Errorf(409, "NoHealthyHub", "%s is under fault %s", d.first.Name(), d.first.FaultKind())
		}
		left = d.hub
		d.stayAway()
		r.move(d, d.first, nil)
		return nil
	})
	return left, err
}

// resume lets failovers from before a restart end when they would have. mu is held.
func (r *Registry) resume() {
	for _, d := range r.byID {
		if f := d.failedOver; f != nil && f.timer == nil {
			f.timer = time.AfterFunc(max(0, f.until.Sub(r.now())), func() { r.returnHome(d, f) })
		}
	}
}

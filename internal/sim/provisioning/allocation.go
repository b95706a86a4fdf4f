package provisioning

import (
	"crypto/sha256"
	"encoding/binary"
	"math"
	"slices"
	"strings"

	"github.com/hubhop-iot/hubhop/internal/sim/iothub"
)

// decide returns the hub for a registration: the one where the device is, unless its enrollment has
// changed since the last time. mu is held.
func (r *Registry) decide(d *device, e *enrollment, custom *webhookAnswer) *iothub.Hub {
	if d.hub != nil && !e.reprovisions() {
		return d.hub
	}
	target := d.hub
	switch {
	case custom != nil:
		target = custom.hub
	case d.hub == nil || d.rule != e.rule():
		target = r.choose(e, d.registrationID)
	}
	return r.alive(target, e)
}

// alive returns the target, or another hub if DPS knows that the target is dead and there is
// another.
func (r *Registry) alive(target *iothub.Hub, e *enrollment) *iothub.Hub {
	if target.DeadForDPS() {
		if other := otherThan(target, r.hubsOf(e)); other != nil {
			return other
		}
	}
	return target
}

// answer returns the hub that DPS would name now if nothing but the hubs had changed since the
// device registered. mu is held.
func (r *Registry) answer(d *device) *iothub.Hub {
	if e := r.entry(d); e != nil && e.reprovisions() {
		return r.alive(d.hub, e)
	}
	return d.hub
}

// hubNamed returns the hub that has this name or host name, nil if there is none.
func (r *Registry) hubNamed(name string) *iothub.Hub {
	for _, h := range r.hubs {
		if strings.EqualFold(name, h.Name()) || h.KnownAs(name) {
			return h
		}
	}
	return nil
}

// hubsOf returns the hubs that an enrollment allows, in its order.
func (r *Registry) hubsOf(e *enrollment) []*iothub.Hub {
	names := e.IotHubs
	if e.IotHubHostName != "" && (len(names) == 0 || e.AllocationPolicy == AllocateStatic) {
		names = []string{e.IotHubHostName}
	}
	var hubs []*iothub.Hub
	for _, name := range names {
		if h := r.hubNamed(name); h != nil {
			hubs = append(hubs, h)
		}
	}
	if len(hubs) == 0 {
		return r.hubs
	}
	return hubs
}

// choose returns the hub that the enrollment's policy gives to a device that is in none. For a
// custom policy, whose webhook decides, it is the first one.
func (r *Registry) choose(e *enrollment, registrationID string) *iothub.Hub {
	hubs := r.hubsOf(e)
	policy := e.AllocationPolicy
	if policy == "" {
		policy = r.config.Allocation
	}
	switch policy {
	case AllocateHashed:
		return slices.MaxFunc(hubs, func(a, b *iothub.Hub) int {
			x, y := r.draw(a, registrationID), r.draw(b, registrationID)
			switch {
			case x < y:
				return -1
			case x > y:
				return 1
			}
			return 0
		})
	case AllocateGeoLatency: // the order given is the order of distance
		for _, h := range hubs {
			if !h.DeadForDPS() {
				return h
			}
		}
	}
	return hubs[0]
}

// draw returns a hub's lot for a device. It is larger on average for a hub of more weight, and the
// largest lot wins. So a hub that is added or removed moves no device between the others
// (rendezvous hashing).
func (r *Registry) draw(h *iothub.Hub, registrationID string) float64 {
	weight := 1.0
	if i := slices.Index(r.hubs, h); i < len(r.config.HubWeights) {
		weight = float64(r.config.HubWeights[i])
	}
	sum := sha256.Sum256([]byte(h.Name() + "\n" + strings.ToLower(registrationID)))
	uniform := (float64(binary.BigEndian.Uint64(sum[:])>>11) + 0.5) / (1 << 53)
	return -weight / math.Log(uniform)
}

// otherThan returns the next hub behind h in the row that is not dead, nil if there is none. The
// row is a ring.
func otherThan(h *iothub.Hub, row []*iothub.Hub) *iothub.Hub {
	at := slices.Index(row, h)
	for i := range row {
		if other := row[(at+1+i)%len(row)]; other != h && !other.DeadForDPS() {
			return other
		}
	}
	return nil
}

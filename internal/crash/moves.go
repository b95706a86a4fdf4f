package main

import (
	"context"
	"errors"
	"time"

	"github.com/hubhop-iot/hubhop/internal/drill"
	"github.com/hubhop-iot/hubhop/internal/sim"
)

// late is how much later than they could hubs acknowledge, as if they were far away. Then something
// is in flight most of the time, and a backlog takes its time.
const late = 6 * time.Millisecond

// distance brings the hubs that are well near, or far away.
func distance(ctx context.Context, cloud drill.Cloud, far bool) error {
	s, err := cloud.State(ctx)
	for _, h := range s.Hubs {
		switch {
		case far && h.Fault == "":
			err = errors.Join(err, cloud.FaultHub(ctx, h.Name, sim.Fault{Kind: sim.FaultThrottle, DelayMs: int(late.Milliseconds())}))
		case !far && h.Fault == sim.FaultThrottle:
			err = errors.Join(err, cloud.HealHub(ctx, h.Name))
		}
	}
	return err
}

// ways are how a device is moved from a hub that is well: by its operator, or by a fault of the
// hub.
var ways = []string{"failover", sim.FaultKill, sim.FaultBlackhole, sim.FaultConnack3, sim.FaultKill}

// moveAway brings the device to another hub, and says what it has done. A device that is away from
// its first hub returns; way chooses among the ways to leave it.
func moveAway(ctx context.Context, cloud drill.Cloud, device string, way int) (what string, err error) {
	s, err := cloud.State(ctx)
	if err != nil {
		return "", err
	}
	home, at := s.Hubs[0].Name, s.Hubs[0].Name
	for _, d := range s.Devices {
		if d.ID == device && d.AssignedHub != "" {
			at = string(d.AssignedHub)
		}
	}
	if at != home {
		if err := drill.Heal(ctx, cloud); err != nil {
			return "", err
		}
		return at + " is left for " + home + ", which is well again", cloud.Act(ctx, device, drill.Failback)
	}
	if way %= len(ways); way == 0 {
		return "the device is moved away from " + at, cloud.Failover(ctx, device, 0)
	}
	return at + ": " + ways[way], cloud.FaultHub(ctx, at, sim.Fault{Kind: ways[way]})
}

package target

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/hubhop-iot/hubhop/internal/central"
	"github.com/hubhop-iot/hubhop/internal/drill"
	"github.com/hubhop-iot/hubhop/internal/sim"
)

// Mover asks IoT Central to move a device: [central.Application] over REST, [central.CLI] by the
// Azure CLI.
type Mover interface {
	Failover(ctx context.Context, device string, ttl time.Duration) (central.Answer, error)
	Failback(ctx context.Context, device string) (central.Answer, error)
}

// Central is an IoT Central application. It moves devices and does nothing else, and it tells
// nobody what has arrived. So a drill is judged by the device's outbox, and by what its hubs have
// acknowledged.
type Central struct {
	Mover Mover
	Host  string // of the application, for the report
	Who   Who
	Site  Site
}

// Name is the target's name in reports.
func (*Central) Name() string { return "central" }

// Lacks says what the target cannot do.
func (t *Central) Lacks(n drill.Need) string {
	switch n {
	case drill.NeedMoves:
		return ""
	case drill.NeedHubFaults, drill.NeedDPSFaults:
		return "IoT Central breaks no hub and no DPS on request; play it against hubhop sim, or move the device"
	case drill.NeedOperator, drill.NeedMethods, drill.NeedMail, drill.NeedTwin:
		return "of IoT Central a drill uses moves only"
	default:
		return cmp.Or(unseen(n), elsewhere(n, t.Who))
	}
}

// Open sets up the device.
func (t *Central) Open(ctx context.Context, p drill.Plan) (*drill.World, error) {
	party, err := speaking(t.Who, p, t.Site, "IoT Central")
	if err != nil {
		return nil, err
	}
	c := &centralCloud{mover: t.Mover}
	return &drill.World{
		Devices: []drill.Party{party}, Cloud: c, Facts: map[string]string{"application": t.Host},
		Close: func() error {
			within, cancel := afterwards(ctx)
			defer cancel()
			return errors.Join(party.close(), c.putBack(within))
		},
	}, nil
}

// centralCloud is an IoT Central application.
type centralCloud struct {
	lacking
	mover Mover

	mu   sync.Mutex
	away map[string]time.Time // devices that were moved, and when they return by themselves
}

// State knows nothing of devices and hubs: IoT Central tells nobody.
func (*centralCloud) State(context.Context) (sim.State, error) { return sim.State{}, nil }

// Failover moves a device to another hub. IoT Central takes whole minutes, so ttl is rounded up.
func (c *centralCloud) Failover(ctx context.Context, device string, ttl time.Duration) error {
	if ttl > central.MaxFailover {
		return fmt.Errorf("IoT Central moves a device for %v at most, and not for %v", central.MaxFailover, ttl)
	}
	ttl = (ttl + time.Minute - 1).Truncate(time.Minute)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.away == nil {
		c.away = map[string]time.Time{}
	}
	until := time.Now().Add(central.MaxFailover)
	if ttl > 0 {
		until = time.Now().Add(ttl)
	}
	c.away[device] = until // before the answer, which may get lost
	_, err := c.mover.Failover(ctx, device, ttl)
	return err
}

// Act moves a device back. It can do nothing else.
func (c *centralCloud) Act(ctx context.Context, device string, a drill.Act) error {
	if a != drill.Failback {
		return errLacking
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err := c.mover.Failback(ctx, device)
	if err == nil {
		delete(c.away, device)
	}
	return err
}

// putBack moves back what is still away.
func (c *centralCloud) putBack(ctx context.Context) (err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for device, until := range c.away {
		if !time.Now().Before(until) {
			continue
		}
		_, failed := c.mover.Failback(ctx, device)
		if said, ok := errors.AsType[*central.Error](failed); ok && said.Status == http.StatusConflict {
			continue // it is on its first hub
		}
		if failed != nil {
			err = errors.Join(err, fmt.Errorf("%s could not be moved back, use hubhop failback: %w", device, failed))
		}
	}
	return err
}

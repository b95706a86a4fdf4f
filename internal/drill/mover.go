package drill

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/internal/central"
	"github.com/hubhop-iot/hubhop/internal/journal"
)

// Mover moves a device of a simulator in another process, and watches it move. It does what
// [central.Application] does with IoT Central.
type Mover struct {
	Control *Control

	events io.ReadCloser // nil until somebody watches
	lines  *bufio.Scanner
}

// Failover moves the device to another hub. It returns by itself after ttl; 0 means 30 minutes.
func (m *Mover) Failover(ctx context.Context, device string, ttl time.Duration) (central.Answer, error) {
	if err := m.Control.Failover(ctx, device, ttl); err != nil {
		return central.Answer{}, m.explain(err)
	}
	if ttl == 0 {
		ttl = central.MaxFailover
	}
	return central.Answer{Message: "the simulator moves it, and moves it back after " + journal.Duration(ttl)}, nil
}

// Failback moves the device back to its first hub.
func (m *Mover) Failback(ctx context.Context, device string) (central.Answer, error) {
	if err := m.Control.Act(ctx, device, Failback); err != nil {
		return central.Answer{}, m.explain(err)
	}
	return central.Answer{Message: "the simulator moves it back to its first hub"}, nil
}

// explain adds what to do if the simulator does not answer.
func (m *Mover) explain(err error) error {
	if errors.Is(err, ErrAway) {
		return fmt.Errorf("%w; does hubhop sim run, and is %s its control address?", err, m.Control.URL)
	}
	return err
}

// Where says which hub the device is linked to, or else which one it is assigned to.
func (m *Mover) Where(ctx context.Context, device string) (central.Place, error) {
	if m.events == nil { // before the state is read, so that no change is missed between the two
		if err := m.listen(ctx); err != nil {
			return central.Place{}, m.explain(err)
		}
	}
	state, err := m.Control.State(ctx)
	if err != nil {
		return central.Place{}, m.explain(err)
	}
	for _, d := range state.Devices {
		if d.ID != device {
			continue
		}
		if d.ConnectedHub != "" {
			return central.Place{Hub: string(d.ConnectedHub), Connected: true}, nil
		}
		return central.Place{Hub: string(d.AssignedHub)}, nil
	}
	return central.Place{}, fmt.Errorf("the simulator knows no device %s; has it ever connected?", device)
}

// listen begins to read the simulator's events.
func (m *Mover) listen(ctx context.Context) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, m.Control.URL+"/api/events", nil)
	if err != nil {
		return err
	}
	resp, err := m.Control.Client.Do(r) //nolint:bodyclose // Changed closes it, or the end of ctx
	if err != nil {
		return fmt.Errorf("%w: %w", ErrAway, err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("GET /api/events: %s", resp.Status)
	}
	m.events, m.lines = resp.Body, bufio.NewScanner(resp.Body)
	return nil
}

// Changed returns after the next event of the simulator. Where must have been called before.
func (m *Mover) Changed(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { _ = m.events.Close() })()
	for m.lines.Scan() {
		if strings.HasPrefix(m.lines.Text(), "data:") {
			return nil
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return errors.New("the simulator has ended")
}

package drill

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim"
)

const (
	stepLimit   = 25 * time.Second // for telemetry to flow again
	answerLimit = 5 * time.Second  // for a command, once the device is up
	calm        = 700 * time.Millisecond
	shortStay   = 3 * time.Second // of the failover that ends by itself
	pollEvery   = 10 * time.Millisecond
)

// play is the story itself. It ends with the first thing that did not happen. One of these is that
// the device has ended, and why.
func (s *story) play(ctx context.Context, ended <-chan struct{}, why func() error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	over := make(chan struct{})
	defer close(over)
	go func() { // a device that ends in the middle ends the story
		select {
		case <-ended:
			cancel(errors.Join(errors.New("the device ended by itself"), why()))
		case <-over:
		}
	}()
	a, b := s.hubs[0], s.hubs[1]
	none := func() error { return nil }

	s.scene("a DPS and two hubs are up; a device makes ten samples a second and asks DPS where to go")
	if err := s.step(ctx, move{"provision", "", a, none}); err != nil {
		return err
	}
	if err := s.method(ctx, "hello"); err != nil {
		return err
	}
	s.scene("the giant lizard kills " + a + ": connections are reset, new ones refused")
	err := s.step(ctx, move{"hub killed", a, b, func() error {
		if err := s.cloud.FaultHub(ctx, a, sim.Fault{Kind: sim.FaultKill}); err != nil {
			return err
		}
		s.scene("meanwhile the operator wants fanSpeed 1200 and sends the command setAlarm")
		return s.command(ctx, 1200, "07:30:00")
	}})
	if err != nil {
		return err
	}
	if err := s.answered(ctx, 1200); err != nil {
		return err
	}
	s.scene(a + " is back, and the device is moved home")
	if err := s.step(ctx, move{"failback", b, a, func() error { return s.home(ctx, a) }}); err != nil {
		return err
	}
	s.scene(a + " goes silent: nothing is closed, nothing is answered")
	err = s.step(ctx, move{"hub silent", a, b, func() error { return s.cloud.FaultHub(ctx, a, sim.Fault{Kind: sim.FaultBlackhole}) }})
	if err != nil {
		return err
	}
	s.scene(a + " is back, and the device is moved home")
	if err := s.step(ctx, move{"failback", b, a, func() error { return s.home(ctx, a) }}); err != nil {
		return err
	}
	s.scene(fmt.Sprintf("the operator moves the device away for %v; it is to return by itself", shortStay))
	err = s.step(ctx, move{"failover", a, b, func() error { return s.cloud.Failover(ctx, demoDevice, shortStay) }})
	if err != nil {
		return err
	}
	if err := s.step(ctx, move{"automatic return", b, a, none}); err != nil {
		return err
	}
	return s.method(ctx, "still here")
}

// move is one move of the device, and what brings it about.
type move struct {
	name, from, to string
	cause          func() error
}

// step brings a move about, and measures in the ledger how long no telemetry came.
func (s *story) step(ctx context.Context, m move) error {
	cause := time.Now()
	if err := m.cause(); err != nil {
		return fmt.Errorf("%s: %w", m.name, err)
	}
	var at time.Time
	err := until(ctx, stepLimit, func() (bool, error) {
		err := s.read(ctx)
		at = s.firstOn(m.to, cause)
		return !at.IsZero(), err
	})
	if errors.Is(err, errTooLate) {
		return fmt.Errorf("%s: no telemetry on %s within %v", m.name, m.to, stepLimit)
	}
	if err != nil {
		return err
	}
	if m.name == "automatic return" {
		cause = s.lastOn(m.from, at) // the time to live ends at an unknown moment, so the gap in the ledger counts
	}
	s.report.Steps = append(s.report.Steps, Recovery{m.name, m.from, m.to, at.Sub(cause).Milliseconds()})
	end := time.Now().Add(calm) // the device works undisturbed for a moment, so that there is something to see
	return until(ctx, 2*calm, func() (bool, error) { return !time.Now().Before(end), nil })
}

// firstOn returns when the first message came to a hub after a time. The message may have been made
// earlier, and have waited: the hub has it all the same.
func (s *story) firstOn(hub string, after time.Time) time.Time {
	for _, m := range s.seen {
		if m.Hub == hub && m.At.After(after) {
			return m.At
		}
	}
	return time.Time{}
}

// lastOn returns when the last message came to a hub before a time.
func (s *story) lastOn(hub string, before time.Time) time.Time {
	for _, m := range slices.Backward(s.seen) {
		if m.Hub == hub && m.At.Before(before) {
			return m.At
		}
	}
	return before
}

// errTooLate says that something has not come about within its limit.
var errTooLate = errors.New("it has not come about in time")

// until asks again and again whether something holds. It returns errTooLate after the limit, or the
// error of holds, or the cause of ctx's end.
func until(ctx context.Context, limit time.Duration, holds func() (bool, error)) error {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		if yes, err := holds(); yes || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-timer.C:
			return errTooLate
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// home heals a hub, and returns the device to it.
func (s *story) home(ctx context.Context, hub string) error {
	if err := s.cloud.HealHub(ctx, hub); err != nil {
		return err
	}
	return s.cloud.Act(ctx, demoDevice, Failback)
}

// method calls the direct method echo, and wants its payload back.
func (s *story) method(ctx context.Context, text string) error {
	s.report.Commands.Sent++
	payload, err := json.Marshal(text)
	if err != nil {
		return err
	}
	within, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	r, err := s.cloud.Method(within, demoDevice, "echo", payload)
	if err != nil {
		return fmt.Errorf("method echo: %w", err)
	}
	if r.Status != 200 || string(r.Payload) != string(payload) {
		return fmt.Errorf("method echo: answered %d %s", r.Status, r.Payload)
	}
	s.report.Commands.Answered++
	return nil
}

// command sends a desired change and a queued command. At this time no device is there to take
// them.
func (s *story) command(ctx context.Context, fanSpeed int, alarm string) error {
	s.report.Commands.Sent += 2
	if err := s.cloud.Desire(ctx, demoDevice, fmt.Appendf(nil, `{"fanSpeed":%d}`, fanSpeed)); err != nil {
		return err
	}
	body, err := json.Marshal(alarm)
	if err != nil {
		return err
	}
	_, err = s.cloud.Send(ctx, demoDevice, sim.C2D{Body: body, Properties: map[string]string{"method-name": "setAlarm"}})
	return err
}

// answered waits until the desired change is acknowledged and the queued command is completed.
func (s *story) answered(ctx context.Context, fanSpeed int) error {
	err := until(ctx, answerLimit, func() (bool, error) {
		twin, err := s.cloud.Twin(ctx, demoDevice)
		if err != nil {
			return false, nil //nolint:nilerr // while its hub changes, a device may have no twin
		}
		value, code := acknowledged(twin, "fanSpeed")
		return value == fmt.Sprint(fanSpeed) && code == "200", nil
	})
	if errors.Is(err, errTooLate) {
		return errors.New("the desired change was not acknowledged")
	}
	if err != nil {
		return err
	}
	s.report.Commands.Answered++
	err = until(ctx, answerLimit, func() (bool, error) {
		messages, err := s.cloud.Mail(ctx, demoDevice)
		return err == nil && len(messages) > 0 && !slices.ContainsFunc(messages, func(m sim.C2DMessage) bool { return m.State != sim.C2DCompleted }), nil
	})
	if errors.Is(err, errTooLate) {
		return errors.New("the command setAlarm was not completed")
	}
	if err != nil {
		return err
	}
	s.report.Commands.Answered++
	return nil
}

// acknowledged returns what a device has reported for a desired property: its value and its code,
// as texts, "" if there is none.
func acknowledged(t sim.Twin, name string) (value, code string) {
	ack, _ := t.Reported[name].(map[string]any)
	word := func(v any) string {
		if v == nil {
			return ""
		}
		return fmt.Sprint(v)
	}
	return word(ack["value"]), word(ack["ac"])
}

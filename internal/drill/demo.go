// Package drill attacks a hub on purpose and judges what came of it: a story, a report, a verdict. What it counts is what the
// simulator's hubs have received, never what the device believes.
package drill

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/hubhop-iot/hubhop/internal/device"
	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/internal/sim"
)

const (
	demoDevice  = "demo-1"
	stepLimit   = 25 * time.Second // for telemetry to flow again
	answerLimit = 5 * time.Second  // for a command, once the device is up
	calm        = 700 * time.Millisecond
	shortStay   = 3 * time.Second // of the failover that ends by itself
)

// DemoInterval is the time between two samples of a device for a [Demo].
const DemoInterval = 100 * time.Millisecond

// Demo is the story that hubhop tells about itself: a device on a simulated cloud whose hubs are killed, silenced, healed.
type Demo struct {
	Shared device.Shared // how the device behaves; where it connects, and to whom it tells what happens, is the demo's
	App    device.App    // has samples every DemoInterval, the commands echo and setAlarm, the desired property fanSpeed
	Tell   func(Line)    // hears of everything as it happens, from several goroutines
	Keep   bool          // go on running after the verdict, until ctx ends
}

// Line is one line of the story.
type Line struct {
	At    time.Duration // since the start
	Scene bool          // what is done to the cloud, not what the device makes of it
	Text  string
}

// Run tells the story and gives the report to done as soon as there is a verdict. It returns an error that is ErrVerdict if the
// verdict is failed.
func (d *Demo) Run(ctx context.Context, done func(Report) error) error {
	conf := sim.DefaultConfig()
	conf.Layout = sim.LayoutPorts
	conf.ControlAddr = "127.0.0.1:0"
	conf.RetryAfter = time.Second
	cloud, err := sim.New(conf)
	if err != nil {
		return err
	}
	if err := cloud.Start(); err != nil {
		return err
	}
	defer func() { _ = cloud.Close() }()
	state, err := os.MkdirTemp("", "hubhop-demo-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(state) }()

	s := &story{cloud: cloud, began: time.Now(), tell: d.Tell, names: map[string]string{}}
	for _, h := range cloud.Info().Hubs {
		s.names[h.Host] = h.Name
	}
	s.report.Device, s.report.Control = demoDevice, cloud.Info().Control
	dev := s.device(d.Shared, d.App, state)
	life, stop := context.WithCancel(ctx)
	defer stop()
	var running sync.WaitGroup
	defer running.Wait()
	var end error
	ended := make(chan struct{}) // closed behind end
	running.Go(func() {
		defer close(ended)
		end = dev.Run(life)
	})

	failure := s.play(life, ended, func() error { return end })
	if failure == nil && !d.Keep {
		s.scene("the device is stopped: it sends what it still has")
		stop()
		<-ended
		failure = end
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	s.judge(ctx, dev.Status().Made, failure)
	if err := done(s.report); err != nil {
		return err
	}
	if d.Keep {
		<-ctx.Done()
	}
	if s.report.Verdict != Passed {
		return fmt.Errorf("%w: %s", ErrVerdict, s.report.Reason)
	}
	return nil
}

// story is a demo under way.
type story struct {
	cloud  *sim.Sim
	began  time.Time
	tell   func(Line)
	names  map[string]string // hub hosts by their short names
	report Report
}

func (s *story) device(shared device.Shared, app device.App, state string) *device.Device {
	info := s.cloud.Info()
	id := device.Identity{DeviceID: demoDevice, IDScope: info.IDScope, StateDir: state,
		Key: base64.StdEncoding.EncodeToString(s.cloud.DeviceKey(demoDevice))}
	shared.Config.ProvisioningHost, shared.Roots = info.ProvisioningHost, s.cloud.CAPool()
	shared.Journal = new(journal.Journal)
	shared.Journal.Sink(func(e journal.Event) {
		switch e.Kind {
		case journal.Connected, journal.Lost, journal.Assigned, journal.AssignedAgain, journal.MethodCall, journal.CloudMessage, journal.DesiredChange,
			journal.Confirmed, journal.Warning, journal.OutboxProblem, journal.ClockWrong, journal.Resumed:
			s.line(false, s.short(e.Text))
		case journal.Decision:
			if e.Error != "" {
				s.line(false, s.short(e.Text)+" ["+e.Rule+"]")
			}
		default: // the steps in between are for logs
		}
	})
	return device.New(&shared, id, app)
}

// play is the story itself. It ends with the first thing that did not happen; that the device has ended, and why, is one of them.
func (s *story) play(ctx context.Context, ended <-chan struct{}, why func() error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch, unwatch := s.cloud.Watch()
	defer unwatch()
	over := make(chan struct{})
	defer close(over)
	go func() { // a device that ends in the middle ends the story
		select {
		case <-ended:
			cancel(errors.Join(errors.New("the device ended by itself"), why()))
		case <-over:
		}
	}()
	a, b := s.cloud.Info().Hubs[0].Name, s.cloud.Info().Hubs[1].Name
	move := func(name, from, to string, what func() error) step { return step{name, from, to, what} }
	none := func() error { return nil }
	act := &scenes{s, ctx, watch}

	s.scene("a DPS and two hubs are up; a device makes ten samples a second and asks DPS where to go")
	if err := act.step(move("provision", "", a, none)); err != nil {
		return err
	}
	if err := act.method("hello"); err != nil {
		return err
	}
	s.scene("the giant lizard kills " + a + ": connections are reset, new ones refused")
	err := act.step(move("hub killed", a, b, func() error {
		if err := s.cloud.FaultHub(a, sim.Fault{Kind: sim.FaultKill}); err != nil {
			return err
		}
		s.scene("meanwhile the operator wants fanSpeed 1200 and sends the command setAlarm")
		return act.command(1200, "07:30:00")
	}))
	if err != nil {
		return err
	}
	if err := act.answered(1200); err != nil {
		return err
	}
	s.scene(a + " is back, and the device is moved home")
	if err := act.step(move("failback", b, a, func() error { return act.home(a) })); err != nil {
		return err
	}
	s.scene(a + " goes silent: nothing is closed, nothing is answered")
	err = act.step(move("hub silent", a, b, func() error { return s.cloud.FaultHub(a, sim.Fault{Kind: sim.FaultBlackhole}) }))
	if err != nil {
		return err
	}
	s.scene(a + " is back, and the device is moved home")
	if err := act.step(move("failback", b, a, func() error { return act.home(a) })); err != nil {
		return err
	}
	s.scene(fmt.Sprintf("the operator moves the device away for %v; it is to return by itself", shortStay))
	err = act.step(move("failover", a, b, func() error { return s.cloud.Failover(demoDevice, shortStay) }))
	if err != nil {
		return err
	}
	if err := act.step(move("automatic return", b, a, none)); err != nil {
		return err
	}
	return act.method("still here")
}

// step is one move of the device and what brings it about.
type step struct {
	name, from, to string
	cause          func() error
}

// scenes are the parts that a story is made of.
type scenes struct {
	*story
	ctx   context.Context // of the one call of play that this value lives in
	watch <-chan sim.Event
}

// step brings a move about and measures, in the ledger, how long no telemetry came.
func (s *scenes) step(p step) error {
	cause := time.Now()
	if err := p.cause(); err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	var at time.Time
	err := s.until(stepLimit, fmt.Sprintf("%s: no telemetry on %s within %v", p.name, p.to, stepLimit), func() bool {
		at = s.firstOn(p.to, cause)
		return !at.IsZero()
	})
	if err != nil {
		return err
	}
	if p.name == "automatic return" {
		cause = s.lastOn(p.from, at) // it is the time to live that ends, so the gap in the ledger is what counts
	}
	s.report.Steps = append(s.report.Steps, Recovery{p.name, p.from, p.to, at.Sub(cause).Milliseconds()})
	return s.pause(calm)
}

// firstOn is when the first message that was made after cause came to a hub. A message that was made before and only waited does
// not show that the device is well, but it does show that the hub has it: both count as telemetry there.
func (s *scenes) firstOn(hub string, after time.Time) time.Time {
	for _, m := range s.cloud.Ledger(demoDevice, true).Messages {
		if m.Hub == hub && m.At.After(after) {
			return m.At
		}
	}
	return time.Time{}
}

func (s *scenes) lastOn(hub string, before time.Time) time.Time {
	messages := s.cloud.Ledger(demoDevice, true).Messages
	for _, m := range slices.Backward(messages) {
		if m.Hub == hub && m.At.Before(before) {
			return m.At
		}
	}
	return before
}

// until waits for something that shows with the events of the cloud.
func (s *scenes) until(limit time.Duration, failure string, holds func() bool) error {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for !holds() {
		select {
		case <-s.watch:
		case <-timer.C:
			return errors.New(failure)
		case <-s.ctx.Done():
			return context.Cause(s.ctx)
		}
	}
	return nil
}

// pause lets the device work undisturbed for a moment, so that there is something to see.
func (s *scenes) pause(d time.Duration) error {
	end := time.Now().Add(d)
	return s.until(2*d, "the events of the cloud have stopped", func() bool { return !time.Now().Before(end) })
}

func (s *scenes) home(hub string) error {
	if err := s.cloud.HealHub(hub); err != nil {
		return err
	}
	return s.cloud.Failback(demoDevice)
}

// method calls the direct method echo and wants its payload back.
func (s *scenes) method(text string) error {
	s.report.Commands.Sent++
	payload, err := json.Marshal(text)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(s.ctx, answerLimit)
	defer cancel()
	r, err := s.cloud.Method(ctx, demoDevice, "echo", payload)
	if err != nil {
		return fmt.Errorf("method echo: %w", err)
	}
	if r.Status != 200 || string(r.Payload) != string(payload) {
		return fmt.Errorf("method echo: answered %d %s", r.Status, r.Payload)
	}
	s.report.Commands.Answered++
	return nil
}

// command sends a desired change and a queued command; nobody is there to take them yet.
func (s *scenes) command(fanSpeed int, alarm string) error {
	s.report.Commands.Sent += 2
	if err := s.cloud.PatchDesired(demoDevice, json.RawMessage(fmt.Sprintf(`{"fanSpeed":%d}`, fanSpeed))); err != nil {
		return err
	}
	body, err := json.Marshal(alarm)
	if err != nil {
		return err
	}
	_, err = s.cloud.SendC2D(demoDevice, sim.C2D{Body: body, Properties: map[string]string{"method-name": "setAlarm"}})
	return err
}

// answered waits for the acknowledgement of the desired change and for the end of the queued command.
func (s *scenes) answered(fanSpeed int) error {
	err := s.until(answerLimit, "the desired change was not acknowledged", func() bool {
		twin, err := s.cloud.Twin(demoDevice)
		if err != nil {
			return false
		}
		doc, err := json.Marshal(twin)
		if err != nil {
			return false
		}
		var t struct {
			Reported struct {
				FanSpeed struct {
					Value int `json:"value"`
					Code  int `json:"ac"`
				} `json:"fanSpeed"`
			} `json:"reported"`
		}
		return json.Unmarshal(doc, &t) == nil && t.Reported.FanSpeed.Value == fanSpeed && t.Reported.FanSpeed.Code == 200
	})
	if err != nil {
		return err
	}
	s.report.Commands.Answered++
	err = s.until(answerLimit, "the command setAlarm was not completed", func() bool {
		messages, err := s.cloud.C2DMessages(demoDevice)
		return err == nil && len(messages) > 0 && !slices.ContainsFunc(messages, func(m sim.C2DMessage) bool { return m.State != sim.C2DCompleted })
	})
	if err != nil {
		return err
	}
	s.report.Commands.Answered++
	return nil
}

func (s *story) scene(text string) { s.line(true, text) }

func (s *story) line(scene bool, text string) {
	if s.tell != nil {
		s.tell(Line{At: time.Since(s.began), Scene: scene, Text: text})
	}
}

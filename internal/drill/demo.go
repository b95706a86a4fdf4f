// Package drill attacks a hub on purpose and judges what came of it. What it counts is what the
// hubs have received, never what the device believes.
//
// A [Schedule] says what is broken, and when; it is played on a [Stage]. So far only the soak plays
// schedules, which is a test of this package. A [Judge] compares what arrived with what an outbox
// promised, and gives a [Verdict]. A [Cloud] is the simulator, in this process or behind its
// control API.
package drill

import (
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/hubhop-iot/hubhop/internal/device"
	"github.com/hubhop-iot/hubhop/internal/home"
	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/internal/sim"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/audit"
)

// demoDevice is the id of the demo's device.
const demoDevice = "demo-1"

// DemoInterval is the time between two samples of a device for a [Demo].
const DemoInterval = 100 * time.Millisecond

// arrivalLimit is how long the last samples may take to arrive, once the story is over.
const arrivalLimit = 10 * time.Second

// Demo is the story that hubhop tells of itself: a device on a simulated cloud whose hubs are
// killed, silenced, and healed. The story needs an App with a sample every DemoInterval, the
// commands echo and setAlarm, and the desired property fanSpeed.
type Demo struct {
	Shared device.Shared   // how it behaves; the demo sets where it connects, and the journal
	App    device.App      // what the device does
	Tell   func(StoryLine) // hears of everything as it happens, from several goroutines; may be nil
	Keep   bool            // go on running after the verdict, until ctx ends
	Page   http.Handler    // what the simulator serves to browsers; may be nil

	// OpenOutbox opens the device's outbox; nil: as every device does it. A test puts one here that
	// breaks its promise, because a demo that cannot fail proves nothing.
	OpenOutbox func(dir string, o outbox.Options) (device.Outbox, error)

	simulate func(*sim.Config) // changes the simulator, for tests in virtual time
}

// StoryLine is one line of the story.
type StoryLine struct {
	At    time.Duration // since the start
	Scene bool          // it tells what is done to the cloud, and not what the device does
	Text  string
}

// Run tells the story, and gives the report to done as soon as there is a verdict. It returns an
// error that wraps ErrVerdict if the verdict is Failed. Another error means that there is no
// verdict.
func (d *Demo) Run(ctx context.Context, done func(Report) error) error {
	conf := sim.DefaultConfig()
	conf.Layout = sim.LayoutPorts
	conf.ControlAddr = "127.0.0.1:0"
	conf.RetryAfter = time.Second
	conf.Page = d.Page
	if d.simulate != nil {
		d.simulate(&conf)
	}
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

	s := &story{cloud: Embedded(cloud), began: time.Now(), tell: d.Tell, names: map[string]string{}}
	for _, h := range cloud.Info().Hubs {
		s.names[h.Host] = h.Name
		s.hubs = append(s.hubs, h.Name)
	}
	s.report.Device, s.report.Control = demoDevice, cloud.Info().Control
	info := cloud.Info()
	id := device.Identity{DeviceID: demoDevice, IDScope: info.IDScope, StateDir: state, OpenOutbox: d.OpenOutbox,
		Key: base64.StdEncoding.EncodeToString(cloud.DeviceKey(demoDevice))}
	shared := d.Shared
	shared.Config.ProvisioningHost, shared.Roots, shared.Journal = info.ProvisioningHost, cloud.CAPool(), s.journal()
	dev := device.New(&shared, id, d.App)
	life, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer func() {
		stop()
		running.Wait()
	}()
	var end error
	ended := make(chan struct{}) // closed when the device has ended; end is set before
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
	v := s.judge(ctx, dev.Status().Made, home.OutboxDir(state, demoDevice), failure)
	if err := done(s.report); err != nil {
		return err
	}
	if d.Keep {
		<-ctx.Done()
	}
	return v.Err()
}

// story is a demo under way.
type story struct {
	cloud  Cloud
	began  time.Time
	tell   func(StoryLine)
	hubs   []string          // their names, the device's home first
	names  map[string]string // of the hubs, by host
	books  Judge
	seen   []sim.Message // that have arrived
	first  uint64        // messages that arrived for the first time
	report Report
}

// journal returns a journal that tells what is worth telling.
func (s *story) journal() *journal.Journal {
	j := new(journal.Journal)
	j.Sink(func(e journal.Event) {
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
	return j
}

// read takes in what has arrived since the last call.
func (s *story) read(ctx context.Context) error {
	l, err := s.cloud.Ledger(ctx, demoDevice, int64(len(s.seen)))
	if err == nil && l.Truncated {
		err = errors.New("the simulator has forgotten messages that nobody had read")
	}
	if err != nil {
		return err
	}
	for _, m := range l.Messages {
		s.seen = append(s.seen, m)
		if _, seen := s.books.Arrived(ArrivalOf(m)); seen != audit.Again {
			s.first++
		}
	}
	return nil
}

// judge fills in the report. It waits until the made samples have arrived, unless the story has
// failed. Samples may still wait in the outbox only if they were made later.
func (s *story) judge(ctx context.Context, made uint64, dir string, failure error) Verdict {
	if failure != nil {
		s.books.Object(Misconduct, "%v", failure)
	} else { // the verdict says what is missing, so an error does not matter
		_ = until(ctx, arrivalLimit, func() (bool, error) { return s.first >= made, s.read(ctx) })
	}
	s.books.Allow.Waiting = s.first >= made
	err := errors.Join(s.books.Holds(dir), s.read(ctx))
	if err != nil {
		s.books.Object(Misconduct, "what the outbox holds and what has arrived cannot be compared: %v", err)
	}
	s.books.Made(made)
	v := s.books.Verdict(false)
	if c := s.report.Commands; c.Answered < c.Sent {
		v.Object(Unanswered, "%d of %d commands were answered", c.Answered, c.Sent)
		v.Close("")
	}
	s.report.Verdict, s.report.Reason = v.Outcome, v.Reason
	s.report.Samples = Samples{Made: made, Received: v.Messages, Lost: v.Lost, Duplicated: v.Repeats}
	if !s.books.Allow.Waiting {
		s.report.Samples.Lost += v.Queued
	}
	return v
}

func (s *story) scene(text string) { s.line(true, text) }

func (s *story) line(scene bool, text string) {
	if s.tell != nil {
		s.tell(StoryLine{At: time.Since(s.began), Scene: scene, Text: text})
	}
}

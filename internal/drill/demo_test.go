package drill

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/dps"
	"github.com/hubhop-iot/hubhop/hub"
	"github.com/hubhop-iot/hubhop/internal/device"
	"github.com/hubhop-iot/hubhop/internal/memnet"
	"github.com/hubhop-iot/hubhop/internal/sample"
	"github.com/hubhop-iot/hubhop/internal/sim"
	"github.com/hubhop-iot/hubhop/internal/virtual"
	"github.com/hubhop-iot/hubhop/telemetry"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

// told is what a demo has said.
type told struct {
	report Report
	err    error
	lines  string
	took   time.Duration
}

// tellDemo runs a demo in virtual time. change, which may be nil, breaks it.
func tellDemo(t *testing.T, change func(d *Demo, stop context.CancelFunc)) (out told) {
	t.Helper()
	m := virtual.Model(t)
	t.Setenv("TMPDIR", virtual.Dir(t))
	synctest.Test(t, func(t *testing.T) {
		wire := memnet.New()
		var mu sync.Mutex
		var text strings.Builder
		d := &Demo{
			Shared: device.Shared{
				Agent: "test", DialContext: wire.DialContext, Rand: rand.New(rand.NewPCG(7, 7)),
				Config: device.Config{
					ProvisioningTransport: dps.MQTT, MethodTimeout: 25 * time.Second, DrainTimeout: 5 * time.Second,
					Link:  hub.Options{KeepAlive: 20 * time.Second, TokenLife: time.Hour},
					Drain: telemetry.DrainOptions{Window: 64},
				},
			},
			App: sample.App(sample.Options{Model: m, Interval: DemoInterval, ReportedInterval: time.Minute}),
			Tell: func(l StoryLine) {
				mu.Lock()
				defer mu.Unlock()
				fmt.Fprintln(&text, l.Text)
			},
			simulate: func(c *sim.Config) { c.Listen = wire.Listen },
		}
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		if change != nil {
			change(d, stop)
		}
		began := time.Now()
		out.err = d.Run(ctx, func(r Report) error {
			out.report, out.took = r, time.Since(began)
			if d.Keep {
				time.AfterFunc(time.Minute, stop)
			}
			return nil
		})
		time.Sleep(d.Shared.Config.MethodTimeout) // for handlers that do not answer
		mu.Lock()
		defer mu.Unlock()
		out.lines = text.String()
	})
	return out
}

// TestDemoPasses tells the story to its good end: all moves are measured, and every command is
// answered.
func TestDemoPasses(t *testing.T) {
	for _, keep := range []bool{false, true} {
		got := tellDemo(t, func(d *Demo, _ context.CancelFunc) { d.Keep = keep })
		r := got.report
		if r.Verdict != Passed || got.err != nil || r.Samples.Lost != 0 || r.Samples.Made == 0 || r.Samples.Received < r.Samples.Made ||
			r.Commands != (Commands{4, 4}) || r.Device != demoDevice || !strings.HasPrefix(r.Control, "http://127.0.0.1:") {
			t.Errorf("keep %v: %+v, %v", keep, r, got.err)
		}
		var names []string
		for _, step := range r.Steps {
			names = append(names, fmt.Sprintf("%s %s-%s", step.Name, step.From, step.To))
			if step.RecoveryMs < 0 || step.RecoveryMs > 10_000 {
				t.Errorf("%s took %d ms", step.Name, step.RecoveryMs)
			}
		}
		if got := strings.Join(names, ", "); got != "provision -hub-a, hub killed hub-a-hub-b, failback hub-b-hub-a, hub silent hub-a-hub-b, "+
			"failback hub-b-hub-a, failover hub-a-hub-b, automatic return hub-b-hub-a" {
			t.Error(got)
		}
		for _, want := range []string{"the giant lizard kills hub-a", "up again on hub-b", "the command setAlarm", "[H"} {
			if !strings.Contains(got.lines, want) {
				t.Errorf("nobody says %q:\n%s", want, got.lines)
			}
		}
	}
}

// TestDemoFails breaks the device, or what it promises, in each way that the demo can notice. Each
// time the verdict must be failed, with the reason.
func TestDemoFails(t *testing.T) {
	hasty := func(dir string, o outbox.Options) (device.Outbox, error) { return virtual.OpenHasty(dir, o) }
	answer := func(payload string, status int) device.Command {
		return device.Command{AnyPayload: true, Handle: func(context.Context, device.Request) (device.Answer, error) {
			return device.Answer{Status: status, Payload: json.RawMessage(payload)}, nil
		}}
	}
	for name, v := range map[string]struct {
		change func(d *Demo)
		says   string
	}{
		"it acknowledges too early":         {func(d *Demo) { d.OpenOutbox = hasty }, "samples never arrived at any hub"},
		"and is kept":                       {func(d *Demo) { d.OpenOutbox, d.Keep = hasty, true }, "samples never arrived at any hub"},
		"it sends the newest samples first": {func(d *Demo) { d.Shared.Config.Drain.Order = telemetry.FreshFirst }, "arrived behind samples that are newer"},
		"it drops what waits":               {func(d *Demo) { d.Shared.Config.Outbox.MaxAge = time.Millisecond }, "were given up"},
		"it never sends":                    {func(d *Demo) { d.App.Off.Telemetry = true }, "provision: no telemetry on hub-a within 25s"},
		"it answers with another payload":   {func(d *Demo) { d.App.Commands = map[string]device.Command{"echo": answer(`"what?"`, 0)} }, `method echo: answered 200 "what?"`},
		"it answers with another status":    {func(d *Demo) { d.App.Commands = map[string]device.Command{"echo": answer(`"hello"`, 418)} }, `method echo: answered 418`},
		"it never answers": {func(d *Demo) {
			d.App.Commands = map[string]device.Command{"echo": {AnyPayload: true, Handle: func(ctx context.Context, _ device.Request) (device.Answer, error) {
				<-ctx.Done()
				return device.Answer{}, ctx.Err()
			}}}
		}, "method echo: device demo-1 did not answer in time"},
		"it has no methods":                    {func(d *Demo) { d.App.Off.Methods = true }, "method echo: "},
		"it ignores desired properties":        {func(d *Demo) { d.App.Off.Desired = true }, "the desired change was not acknowledged"},
		"it refuses a desired property":        {func(d *Demo) { d.App.Desired = map[string]device.Desired{"fanSpeed": {Apply: refuse}} }, "the desired change was not acknowledged"},
		"it ignores queued commands":           {func(d *Demo) { d.App.Off.C2D = true }, "the command setAlarm was not completed"},
		"its outbox cannot be opened":          {func(d *Demo) { d.OpenOutbox = noBox }, "the device ended by itself"},
		"samples still wait when it has ended": {hoarding, "samples still wait in the outbox"},
	} {
		t.Run(name, func(t *testing.T) {
			got := tellDemo(t, func(d *Demo, _ context.CancelFunc) { v.change(d) })
			if got.report.Verdict != Failed || !errors.Is(got.err, ErrVerdict) || !strings.Contains(got.report.Reason, v.says) ||
				!strings.Contains(got.err.Error(), got.report.Reason) {
				t.Errorf("%s: %s; %v", got.report.Verdict, got.report.Reason, got.err)
			}
			if missing := strings.Contains(v.says, "never arrived") || strings.Contains(v.says, "still wait"); missing && got.report.Samples.Lost == 0 {
				t.Error("the report counts no sample as lost")
			}
			if c := got.report.Commands; strings.Contains(v.says, "method") && c.Answered >= c.Sent {
				t.Errorf("%+v", c)
			}
		})
	}
}

func refuse(context.Context, device.Request) (device.Ack, error) { return device.Ack{Code: 500}, nil }

func noBox(string, outbox.Options) (device.Outbox, error) { return nil, errors.New("no disk") }

// hoarding gives a device an outbox that keeps all samples to itself from the last call of echo on.
func hoarding(d *Demo) {
	h := &hoard{}
	d.OpenOutbox = func(dir string, o outbox.Options) (device.Outbox, error) {
		var err error
		h.Box, err = outbox.Open(dir, o)
		return h, err
	}
	d.App.Commands = maps.Clone(d.App.Commands)
	d.App.Commands["echo"] = device.Command{Handle: func(_ context.Context, r device.Request) (device.Answer, error) {
		if string(r.Value) == `"still here"` {
			h.full.Store(true)
			time.Sleep(3 * DemoInterval)
		}
		return device.Answer{Payload: r.Value}, nil
	}, AnyPayload: true}
}

type hoard struct {
	*outbox.Box
	full atomic.Bool
}

func (h *hoard) Watch(w *outbox.Watch, parts ...outbox.Part) {
	if !h.full.Load() {
		h.Box.Watch(w, parts...)
	}
}

func (h *hoard) Read(into *outbox.Batch, limit, bytes int, parts ...outbox.Part) ([]outbox.Record, error) {
	if h.full.Load() {
		return nil, nil
	}
	return h.Box.Read(into, limit, bytes, parts...)
}

// TestDemoThatIsStoppedHasNoVerdict interrupts the story.
func TestDemoThatIsStoppedHasNoVerdict(t *testing.T) {
	got := tellDemo(t, func(_ *Demo, stop context.CancelFunc) { time.AfterFunc(3*time.Second, stop) })
	if !errors.Is(got.err, context.Canceled) || got.report.Verdict != "" {
		t.Errorf("%+v, %v", got.report, got.err)
	}
}

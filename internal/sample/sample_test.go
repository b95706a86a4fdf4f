package sample

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/device"
	"github.com/hubhop-iot/hubhop/internal/virtual"
	"github.com/hubhop-iot/hubhop/telemetry"
)

// TestTheModelKnowsTheSample: every command and property of the sample is in failover.json, and its
// values fit.
func TestTheModelKnowsTheSample(t *testing.T) {
	m := virtual.Model(t)
	app := App(Options{Model: m, Interval: time.Second, ReportedInterval: time.Minute, Off: device.Paths{C2D: true}, Rand: rand.New(rand.NewPCG(1, 2))})
	if app.Model != m || app.Off != (device.Paths{C2D: true}) {
		t.Errorf("%+v", app)
	}
	for name := range app.Commands {
		if _, ok := m.Command(name); !ok {
			t.Errorf("the command %s is not in the model", name)
		}
	}
	for name := range app.Desired {
		if _, err := m.Desired("", name, json.RawMessage(`1200`)); err != nil {
			t.Error(err)
		}
	}
	for name, property := range app.Reported {
		value, err := property.Read(t.Context(), device.Request{})
		b, _ := json.Marshal(value)
		if err := errors.Join(err, m.CheckProperty("", name, b)); err != nil || property.Every != time.Minute {
			t.Errorf("%s: %v, each %v", name, err, property.Every)
		}
	}
	body, err := app.Sources[0].Read(time.Now())
	if found := m.CheckTelemetry("", body); err != nil || len(found) > 0 {
		t.Errorf("%v %+v", err, found)
	}
}

func TestHandlersOfTheSample(t *testing.T) {
	app := App(Options{Interval: time.Second})
	for _, value := range []string{`"hello"`, `{"a":[1,null]}`, ``} {
		answer, err := app.Commands["echo"].Handle(t.Context(), device.Request{Value: json.RawMessage(value)})
		if err != nil || answer.Status != 0 || string(answer.Payload) != value {
			t.Errorf("echo of %s: %d %s %v", value, answer.Status, answer.Payload, err)
		}
	}
	if !app.Commands["echo"].AnyPayload || app.Commands["setAlarm"].AnyPayload {
		t.Error("echo takes what it gets, and setAlarm a time of day")
	}
	if answer, err := app.Commands["setAlarm"].Handle(t.Context(), device.Request{}); err != nil || answer.Status != 0 || answer.Payload != nil {
		t.Errorf("%+v %v", answer, err)
	}
	if ack, err := app.Desired["fanSpeed"].Apply(t.Context(), device.Request{}); err != nil || ack != (device.Ack{}) {
		t.Errorf("%+v %v", ack, err)
	}
}

func TestSourcesOfTheSample(t *testing.T) {
	for name, want := range map[string]struct {
		full telemetry.Full
		ends bool
	}{Simulated: {telemetry.Skip, false}, Host: {telemetry.Skip, false}, Stdin: {telemetry.Wait, true}} {
		src := App(Options{Source: name, Input: strings.NewReader("{}"), Interval: 7 * time.Second, Unmodelled: true}).Sources[0]
		if src.Full != want.full || src.Ends != want.ends || !src.Unmodelled {
			t.Errorf("%s: %+v", name, src)
		}
		if !want.ends && src.Interval != 7*time.Second {
			t.Errorf("%s: each %v", name, src.Interval)
		}
	}
}

// A battery that cannot be read is no value, and no error that anybody must hear of.
func TestABatteryThatCannotBeRead(t *testing.T) {
	broken := charge(func(time.Time) (float64, error) { return 0, io.ErrUnexpectedEOF })
	if value, err := broken(context.Background(), device.Request{}); value != nil || err != nil {
		t.Error(value, err)
	}
}

// TestIntervalsMustBePositive: the options of a user who has chosen nothing are valid, and an
// interval that is not positive is named.
func TestIntervalsMustBePositive(t *testing.T) {
	if err := DefaultOptions().Validate(); err != nil {
		t.Error(err)
	}
	o := DefaultOptions()
	o.Interval, o.ReportedInterval = 0, -time.Second
	if err := o.Validate(); err == nil || err.Error() != "telemetry-interval must be more than 0, it is 0s\nreported-interval must be more than 0, it is -1s" {
		t.Error(err)
	}
}

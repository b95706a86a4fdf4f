package device

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	mathrand "math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/model"
	"github.com/hubhop-iot/hubhop/telemetry"
)

// does is what the device of a test does. It has the names of failover.json.
type does struct {
	Model                                      *model.Model
	Telemetry, Reported, Desired, Methods, C2D bool

	Source            string    // "stdin": the lines of Input; else a room that is read
	Input             io.Reader // of the source stdin
	TelemetryInterval time.Duration
	ReportedInterval  time.Duration

	also func(*App) // changes the App before the device has it; may be nil
}

// app returns an App that no other device has.
func (a does) app(chance *mathrand.Rand) App {
	n := 0
	source := telemetry.Every(a.TelemetryInterval, func(time.Time) ([]byte, error) {
		n++
		return fmt.Appendf(nil, `{"temp":%d.53,"humidity":40.17}`, 20+n%80), nil
	})
	if a.Source == "stdin" {
		source = telemetry.Lines(a.Input)
	}
	sources := []telemetry.Source{source}
	if !a.Telemetry {
		sources = nil // it may have no interval
	}
	full := 80 + 20*mathrand.Float64()
	if chance = split(chance); chance != nil {
		full = 80 + 20*chance.Float64()
	}
	began := time.Now()
	app := App{
		Model:   a.Model,
		Sources: sources,
		Commands: map[string]Command{
			"echo":     {AnyPayload: true, Handle: func(_ context.Context, r Request) (Answer, error) { return Answer{Payload: r.Value}, nil }},
			"setAlarm": {Handle: func(context.Context, Request) (Answer, error) { return Answer{}, nil }},
		},
		Reported: map[string]Reported{"battery": {Every: a.ReportedInterval, Read: func(context.Context, Request) (any, error) {
			return math.Round(100*max(0, full-time.Since(began).Minutes())) / 100, nil
		}}},
		Off: Paths{Telemetry: !a.Telemetry, Reported: !a.Reported, Desired: !a.Desired, Methods: !a.Methods, C2D: !a.C2D},
	}
	if a.also != nil {
		a.also(&app)
	}
	return app
}

// handle gives a running device a handler of one more command, which takes any payload. It waits
// until the device has checked its App, because a device expects no change of it.
func (d *Device) handle(name string, f func(context.Context, json.RawMessage) (json.RawMessage, error)) {
	synctest.Wait()
	d.app.Commands[name] = Command{AnyPayload: true, Handle: func(ctx context.Context, r Request) (Answer, error) {
		payload, err := f(ctx, r.Value)
		return Answer{Payload: payload}, err
	}}
}

// withCommands returns a model with the commands that tests handle beside its own.
func withCommands(t testing.TB, text []byte) *model.Model {
	t.Helper()
	for _, name := range []string{"slow", "crash", "fail", "hang"} {
		text = bytes.Replace(text, []byte(`"contents": [`), fmt.Appendf(nil, `"contents": [ {"@type":"Command","name":%q},`, name), 1)
	}
	m, err := model.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// Package sample is the application that hubhop runs when it is given no other one. It is made for
// the model in failover.json, and built like any application of package device: telemetry temp and
// humidity, the reported property battery, the desired property fanSpeed, the commands echo and
// setAlarm. A further command must also be in the model, else calls of it are answered 404.
// docs/app.md says how to build another application.
package sample

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"github.com/hubhop-iot/hubhop/internal/device"
	"github.com/hubhop-iot/hubhop/model"
	"github.com/hubhop-iot/hubhop/telemetry"
)

// The values of Options.Source.
const (
	Simulated = "simulated" // a room that does not exist
	Host      = "host"      // this machine
	Stdin     = "stdin"     // JSON lines of Input
	None      = "none"      // there are no samples
)

// Options say where the values of the sample come from.
type Options struct {
	Source     string        // Simulated, Host, Stdin or None
	Input      io.Reader     // of Stdin
	Interval   time.Duration // between two samples of Simulated and Host; positive
	Unmodelled bool          // the samples are not described by the model, so they are not checked

	ReportedInterval time.Duration // between two readings of the battery

	Model *model.Model // what the device is checked against and announces
	Off   device.Paths // the paths that are turned off

	Rand *rand.Rand // of simulated values; nil: real chance. It is only used before App returns
}

// DefaultOptions returns the options of a user who has chosen none.
func DefaultOptions() Options {
	return Options{Source: Simulated, Interval: 5 * time.Second, ReportedInterval: 15 * time.Second}
}

// Validate returns an error for each option that is out of its bounds. Each text begins with the
// option's name as it is spelled on the command line.
func (o Options) Validate() error {
	var faults []error
	if o.Interval <= 0 {
		faults = append(faults, fmt.Errorf("telemetry-interval must be more than 0, it is %v", o.Interval))
	}
	if o.ReportedInterval <= 0 {
		faults = append(faults, fmt.Errorf("reported-interval must be more than 0, it is %v", o.ReportedInterval))
	}
	return errors.Join(faults...)
}

// App returns the sample application of one device.
func App(o Options) device.App {
	battery := NewSimulatedBattery(o.Rand)
	var source telemetry.Source
	switch o.Source {
	case Host:
		battery = NewHostBattery()
		source = telemetry.Every(o.Interval, NewHost())
	case Stdin:
		source = telemetry.Lines(o.Input)
	default:
		source = telemetry.Every(o.Interval, NewRoom(o.Rand))
	}
	source.Unmodelled = o.Unmodelled
	sources := []telemetry.Source{source}
	if o.Source == None {
		sources = nil
	}
	return device.App{
		Model:    o.Model,
		Sources:  sources,
		Commands: commands,
		Desired:  desired,
		Reported: map[string]device.Reported{"battery": {Read: charge(battery), Every: o.ReportedInterval}},
		Off:      o.Off,
	}
}

// All devices share these, because their handlers keep nothing.
var (
	commands = map[string]device.Command{
		"echo":     {Handle: echo, AnyPayload: true},
		"setAlarm": {Handle: setAlarm},
	}
	desired = map[string]device.Desired{"fanSpeed": {Apply: setFanSpeed}}
)

// echo gives back what it gets.
func echo(_ context.Context, r device.Request) (device.Answer, error) {
	return device.Answer{Payload: r.Value}, nil
}

// setAlarm takes a time of day, which the model has checked. Nothing rings.
func setAlarm(context.Context, device.Request) (device.Answer, error) { return device.Answer{}, nil }

// setFanSpeed takes a speed, which the model has checked. Nothing turns.
func setFanSpeed(context.Context, device.Request) (device.Ack, error) { return device.Ack{}, nil }

// charge makes a battery a reported property. A battery that cannot be read is not reported: many
// machines have none, and that is no trouble.
func charge(read Battery) func(context.Context, device.Request) (any, error) {
	return func(context.Context, device.Request) (any, error) {
		level, err := read(time.Now())
		if err != nil {
			return nil, nil //nolint:nilerr // a machine without a battery is no trouble
		}
		return level, nil
	}
}

package device

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/internal/plain"
	"github.com/hubhop-iot/hubhop/model"
	"github.com/hubhop-iot/hubhop/telemetry"
)

// App is what a device does: what it sends, and what the cloud can ask of it. The device only reads
// an App, so many devices may be given the same one if its functions bear that.
//
// Commands and properties have the names of the model. What belongs to a component is spelled
// "component*name", as the cloud spells a component's command.
type App struct {
	// Model says what exists, checks the values, and is announced to the cloud. Without a model
	// nothing is checked, and what exists is what the App handles.
	Model *model.Model

	Sources  []telemetry.Source  // they run at once; the device ends when each of them has ended
	Commands map[string]Command  // direct methods and queued commands
	Desired  map[string]Desired  // properties that the cloud sets
	Reported map[string]Reported // properties that the device sets

	Off Paths // the paths that are turned off, for debugging
}

// Paths are the five ways between a device and its cloud.
type Paths struct{ Telemetry, Reported, Desired, Methods, C2D bool }

// Kind is the way on which a request has come.
type Kind string

// The kinds.
const (
	KindMethod   Kind = "method"   // a direct method: somebody waits for the answer
	KindC2D      Kind = "c2d"      // a queued command, which is a cloud-to-device message
	KindDesired  Kind = "desired"  // a desired property
	KindReported Kind = "reported" // a reported property is to be read
)

// Request is what a handler is asked.
type Request struct {
	Kind      Kind
	Name      string          // of the command or property, as the App spells it
	Device    string          // registration id of the device that is asked
	MessageID string          // of a queued command, or of a call of a method; else empty
	Attempt   int             // 1 for the first
	Value     json.RawMessage // payload or desired value; nil: none, or the property was removed
	Version   int64           // $version of the desired properties; 0 for other kinds
}

// Answer is what a command gives back. The zero value is success without a payload.
type Answer struct {
	Status  int             // as in HTTP; 0 is 200
	Payload json.RawMessage // any JSON value; nil: none
}

// Command does what a command asks.
//
// Handle may run in several goroutines at once. Its context ends after Config.MethodTimeout; a
// method is then answered with 504, even if Handle goes on. An error of [Invalid] is answered with
// 400, one that is or wraps [context.DeadlineExceeded] with 504, another with 500. A queued command
// has no answer. It is repeated, up to three attempts in all, after an error that is not of
// [Invalid], and after a status of 500 or more.
type Command struct {
	Handle     func(ctx context.Context, r Request) (Answer, error)
	AnyPayload bool // Handle takes payloads that do not fit the model
}

// Ack is what the device says of a desired property. The zero value is success.
type Ack struct {
	Code        int    // as in HTTP, such as model.AckCompleted; 0 is 200
	Description string // for a person; empty with Code 0: "completed"
}

// Desired takes over the values of a desired property.
//
// The device calls Apply with each value that differs from the last one that was applied, once
// after a start even if nothing has changed, and with the value nil when the property is removed.
// Values of one device come one after the other. The context ends after Config.MethodTimeout. An
// error becomes the code 400, 500 or 504, as for a [Command], and Apply is called again as often as
// for a queued command. A value with a code of 400 to 499 is not applied again until it changes.
// One with a code of 500 or more is applied again when the device next reads its twin.
//
// Without a Desired in the App, a value that fits the model is acknowledged with 200.
type Desired struct {
	Apply func(ctx context.Context, r Request) (Ack, error)
}

// Reported reads a property that the device sets.
//
// The device calls Read when it has read its twin, and then once per Every. It reports a value that
// differs from the last one. Read returns a value that encoding/json can write. If it returns nil
// or an error in between, the device takes the property out of the twin. The context ends after
// Config.MethodTimeout.
type Reported struct {
	Read  func(ctx context.Context, r Request) (any, error)
	Every time.Duration // 0 or less: the value is read with the twin only
}

// invalid is an error of Invalid.
type invalid struct{ error }

func (e invalid) Unwrap() error { return e.error }

// Invalid marks an error as one that no repetition makes better, because the request is at fault.
// The text stays as it is.
func Invalid(err error) error { return invalid{err} }

// statusOf returns the status of an error of a handler.
func statusOf(err error) int {
	var answered *answerError
	switch {
	case err == nil:
		return http.StatusOK
	case errors.As(err, &answered):
		return answered.status
	case errors.As(err, new(invalid)):
		return http.StatusBadRequest
	case errors.Is(err, errNoResult), errors.Is(err, context.DeadlineExceeded):
		return http.StatusGatewayTimeout
	default:
		return http.StatusInternalServerError
	}
}

// modelID returns the id of the model, which the device announces; empty without one.
func (a *App) modelID() string {
	if a.Model == nil {
		return ""
	}
	return a.Model.ID()
}

// ending returns the sources that end, if telemetry is on.
func (a *App) ending() (all []telemetry.Source) {
	for _, src := range a.Sources {
		if src.Ends && !a.Off.Telemetry {
			all = append(all, src)
		}
	}
	return all
}

// command returns the handler of a command, with the status 200. For a command that does not exist
// the status is 404, for one that the model has and nobody handles 501; text then says why. what is
// the word for a command in the text.
func (a *App) command(what, name string) (c Command, status int, text string) {
	c = a.Commands[name]
	exists := c.Handle != nil
	if a.Model != nil {
		_, exists = a.Model.Command(name)
	}
	switch {
	case !exists:
		return c, http.StatusNotFound, fmt.Sprintf("this device has no %s %q", what, plain.Name(name))
	case c.Handle == nil:
		return c, http.StatusNotImplemented, fmt.Sprintf("the model has the command %q, but this device does not handle it; %s", plain.Name(name), a.handledText())
	}
	return c, http.StatusOK, ""
}

// maxNames bounds the names in a hint.
const maxNames = 20

// handledText says which commands of the model are handled.
func (a *App) handledText() string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(a.Commands)) {
		if _, exists := a.Model.Command(name); exists {
			names = append(names, name)
		}
	}
	more := ""
	if n := len(names) - maxNames; n > 0 {
		names, more = names[:maxNames], fmt.Sprintf(" and %d more", n)
	}
	if len(names) == 0 {
		return "it handles no command of the model"
	}
	return "it handles " + strings.Join(names, ", ") + more
}

// check checks the payload of a command.
func (a *App) check(name string, c Command, payload json.RawMessage) error {
	if a.Model == nil || c.AnyPayload {
		return nil
	}
	if err := a.Model.CheckCommand(name, payload); err != nil {
		return Invalid(err)
	}
	return nil
}

// Validate returns all faults of the App: a source without exactly one of Read and Run, or without
// a positive interval for Read; a handler or a reader that is nil. Names that the model does not
// have are no fault.
func (a *App) Validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	for i, src := range a.Sources {
		name := cmp.Or(src.Name, fmt.Sprintf("number %d", i+1))
		if (src.Read == nil) == (src.Run == nil) {
			fault("the source %s must have either Read or Run", name)
		}
		if src.Read != nil && src.Interval <= 0 {
			fault("the interval of the source %s must be more than 0, it is %v", name, src.Interval)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(a.Commands)) {
		if a.Commands[name].Handle == nil {
			fault("the command %s has no handler", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(a.Desired)) {
		if a.Desired[name].Apply == nil {
			fault("the desired property %s has no handler", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(a.Reported)) {
		if a.Reported[name].Read == nil {
			fault("the reported property %s has no reader", name)
		}
	}
	return errors.Join(faults...)
}

// spelled returns the App's name of a property.
func spelled(component, name string) string {
	if component == "" {
		return name
	}
	return component + "*" + name
}

// hasComponent says whether the device has a component.
func (a *App) hasComponent(name string) bool {
	if a.Model != nil {
		return a.Model.HasComponent(name)
	}
	for property := range a.Desired {
		if component, _, found := strings.Cut(property, "*"); found && component == name {
			return true
		}
	}
	return false
}

// desired checks a desired value, and returns it as it is to be applied. The error is a
// [*model.CheckError].
func (a *App) desired(component, name string, value json.RawMessage) (json.RawMessage, error) {
	if a.Model != nil {
		return a.Model.Desired(component, name, value)
	}
	if a.Desired[spelled(component, name)].Apply == nil {
		return nil, &model.CheckError{Component: component, Name: name, Kind: model.Unknown, Text: "this device has no such property"}
	}
	return value, nil
}

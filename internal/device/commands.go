package device

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/hub"
	"github.com/hubhop-iot/hubhop/internal/journal"
)

const (
	maxMethods   = 64      // running at a time; more are answered 503
	maxPayloads  = 2 << 20 // bytes of their payloads; a hub accepts 128 KB for one
	c2dAttempts  = 3
	methodName   = "method-name" // IoT Central's property for the name of a queued command
	noParameter  = "@"           // IoT Central's body for a queued command without one
	retryHandler = time.Second   // between two attempts at one message
)

// command is one thing a device can be told to do. The payload is any JSON value, or nil.
type command func(ctx context.Context, payload json.RawMessage) (json.RawMessage, error)

// invalid is a payload that no repetition makes better.
type invalid struct{ error }

func (e invalid) Unwrap() error { return e.error }

// commands lists what this device does. A direct method and a queued command find the same handler.
func (d *Device) commandList() map[string]command {
	return map[string]command{
		"echo":     func(_ context.Context, payload json.RawMessage) (json.RawMessage, error) { return payload, nil },
		"setAlarm": d.setAlarm,
	}
}

// setAlarm notes a time of day.
func (d *Device) setAlarm(_ context.Context, payload json.RawMessage) (json.RawMessage, error) {
	if err := d.app.Model.CheckCommand("setAlarm", payload); err != nil {
		return nil, invalid{err}
	}
	d.mu.Lock()
	d.alarm = strings.Trim(string(payload), `"`)
	d.mu.Unlock()
	return nil, nil
}

// method answers one direct method.
func (d *Device) method(ctx context.Context, l *hub.Link, m *hub.Method) {
	status, body := http.StatusInternalServerError, explain("a bug stopped the method")
	_ = d.run("methods", func() error {
		status, body = d.callMethod(ctx, m)
		return nil
	})
	e := journal.Event{Kind: journal.MethodCall, Hub: l.Host(), Name: named(m.Name), Status: status,
		Text: fmt.Sprintf("method %s answered %d", quoted(m.Name), status)}
	if err := l.Respond(m, status, body); err != nil {
		e.Error = err.Error()
		e.Text = fmt.Sprintf("method %s: the link ended before the answer", quoted(m.Name))
	}
	d.calls.tell(1, e)
}

func (d *Device) callMethod(ctx context.Context, m *hub.Method) (status int, body []byte) {
	payload := bytes.TrimSpace(m.Payload)
	run := d.commands[m.Name]
	switch {
	case d.stopping.Load():
		return http.StatusServiceUnavailable, explain("the device is stopping")
	case run == nil:
		return http.StatusNotFound, explain(fmt.Sprintf("this device has no method %q", named(m.Name)))
	case len(payload) > 0 && !json.Valid(payload):
		return http.StatusBadRequest, explain("the payload is not JSON")
	}
	answer, err := d.invoke(ctx, run, payload)
	switch {
	case err == nil:
		return http.StatusOK, answer
	case errors.Is(err, errNoResult):
		return http.StatusGatewayTimeout, explain(err.Error())
	case errors.As(err, new(invalid)):
		return http.StatusBadRequest, explain(err.Error())
	default:
		return http.StatusInternalServerError, explain(err.Error())
	}
}

var errNoResult = errors.New("no result")

// invoke runs a handler for as long as the method timeout allows. One that goes on beyond it, or beyond the end of ctx, is left to
// itself: it must not keep a link, and with it the device, from its next step.
func (d *Device) invoke(ctx context.Context, run command, payload json.RawMessage) (json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, d.c.MethodTimeout)
	type outcome struct {
		answer json.RawMessage
		err    error
	}
	done := make(chan outcome, 1)
	d.handlers.run(func() {
		defer cancel()
		var o outcome
		o.err = d.run("handler", func() (err error) {
			o.answer, err = run(ctx, payload)
			return err
		})
		done <- o
	})
	select {
	case o := <-done:
		return o.answer, o.err
	case <-ctx.Done():
		select {
		case o := <-done: // both at once
			return o.answer, o.err
		default:
			return nil, fmt.Errorf("%w in %v", errNoResult, d.c.MethodTimeout)
		}
	}
}

// explain is the body of an answer that says what went wrong.
func explain(text string) []byte {
	b, _ := json.Marshal(map[string]string{"message": text}) // a string: it cannot fail
	return b
}

// messages deals with cloud-to-device messages, one after the other: they are commands, and their order may matter.
func (d *Device) messages(ctx context.Context, l *hub.Link, in *queue[*hub.Message]) error {
	for {
		for _, m := range in.take() {
			err := d.run("messages", func() error { return d.message(ctx, l, m) })
			if _, isBug := errors.AsType[*bug](err); isBug {
				_, err = l.Complete(m), nil // else the hub sends it again, and it stops this path again
			}
			if err != nil {
				return err
			}
		}
		select {
		case <-in.ready:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// message handles one and completes it. MQTT cannot reject, so what nobody handles, or whose handler keeps failing, is completed
// too, with its reason in the journal: it must not block those behind it.
func (d *Device) message(ctx context.Context, l *hub.Link, m *hub.Message) error {
	name, mid := m.Properties.Name(methodName), m.Properties.ID()
	e := journal.Event{Kind: journal.CloudMessage, Hub: l.Host(), Name: named(name), Status: http.StatusOK}
	key := handledKey(l.Host(), mid, m.Body)
	if m.Duplicate && mid != "" && d.handled.has(key) {
		e.Text = fmt.Sprintf("C2D %s: delivered again, was handled before", describe(name, mid))
	} else {
		err := d.runMessage(ctx, name, m.Body)
		if ctx.Err() != nil {
			return ctx.Err() // not handled and not acknowledged: it will come again
		}
		e.Text = fmt.Sprintf("C2D %s handled", describe(name, mid))
		if err != nil {
			e.Status, e.Error = http.StatusBadRequest, err.Error()
			e.Text = fmt.Sprintf("C2D %s completed without effect: %s", describe(name, mid), oneLine(err.Error(), maxShown))
		}
		if mid != "" {
			d.handled.add(key, time.Now())
		}
	}
	if err := l.Complete(m); err != nil {
		return err
	}
	d.mail.tell(1, e)
	return nil
}

func describe(name, mid string) string {
	switch {
	case name != "":
		return quoted(name)
	case mid != "":
		return quoted(mid)
	}
	return "message without name"
}

func (d *Device) runMessage(ctx context.Context, name string, body []byte) error {
	run := d.commands[name]
	switch {
	case name == "":
		return fmt.Errorf("it has no property %s, so nobody handles it", methodName)
	case run == nil:
		return fmt.Errorf("this device has no command %q", named(name))
	}
	payload := bytes.TrimSpace(body)
	switch {
	case string(payload) == noParameter:
		payload = nil
	case !json.Valid(payload): // some senders put the bare text of a string
		payload, _ = json.Marshal(string(payload))
	}
	for attempt := 1; ; attempt++ {
		_, err := d.invoke(ctx, run, payload)
		if err == nil || ctx.Err() != nil || attempt == c2dAttempts || errors.As(err, new(invalid)) {
			return err
		}
		t := time.NewTimer(retryHandler)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
	}
}

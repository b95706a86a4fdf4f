package device

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/hubhop-iot/hubhop/hub"
	"github.com/hubhop-iot/hubhop/internal/home"
	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/internal/plain"
)

const (
	methodName  = "method-name" // IoT Central's property for the name of a queued command
	noParameter = "@"           // IoT Central's body for a queued command without one
)

// messages handles the cloud-to-device messages that wait, one after the other, because they are
// commands and their order may matter.
func (d *Device) messages(ctx context.Context, l *hub.Link) error {
	for {
		all := l.TakeMessages()
		if all == nil {
			return nil
		}
		for _, m := range all {
			err := d.run("messages", func() error { return d.message(ctx, l, m) })
			if _, isBug := errors.AsType[*bug](err); isBug {
				_, err = l.Complete(m), nil // else the hub sends it again, and it stops this path again
			}
			if err != nil {
				return err
			}
		}
	}
}

// message handles one message and completes it. One that nobody handles, or whose handler keeps
// failing, is completed too, and the journal has the reason: it must not block those behind it.
func (d *Device) message(ctx context.Context, l *hub.Link, m *hub.Message) error {
	name, mid := m.Properties.Name(methodName), m.Properties.ID()
	e := journal.Event{Kind: journal.CloudMessage, Hub: l.Host(), Name: plain.Name(name), Status: http.StatusOK}
	key := home.HandledKey(l.Host(), mid, m.Body)
	if m.Duplicate && mid != "" && d.handled.Has(key) {
		e.Unchanged = true
		e.Text = fmt.Sprintf("C2D %s: delivered again, was handled before", describe(name, mid))
	} else {
		status, err := d.runMessage(ctx, Request{Kind: KindC2D, Name: name, MessageID: mid}, m.Body)
		if ctx.Err() != nil {
			return ctx.Err() // not handled and not acknowledged: it will come again
		}
		e.Status = status
		e.Text = fmt.Sprintf("C2D %s handled", describe(name, mid))
		if err != nil {
			e.Error = err.Error()
			e.Text = fmt.Sprintf("C2D %s completed without effect: %s", describe(name, mid), plain.Line(err.Error(), plain.Most))
		}
		if mid != "" {
			d.handled.Add(key, time.Now())
		}
	}
	if err := l.Complete(m); err != nil {
		return err
	}
	d.floods.tell(ofMail, 1, e)
	return nil
}

func describe(name, mid string) string {
	switch {
	case name != "":
		return plain.Quoted(name)
	case mid != "":
		return plain.Quoted(mid)
	}
	return "message without name"
}

// runMessage runs the handler of a queued command, up to three times if it fails. If err is not
// nil, the command had no effect, and status is what the journal says of it.
func (d *Device) runMessage(ctx context.Context, r Request, body []byte) (status int, err error) {
	if r.Name == "" {
		return http.StatusBadRequest, fmt.Errorf("it has no property %s, so nobody handles it", methodName)
	}
	c, status, text := d.app.command("command", r.Name)
	if status != http.StatusOK {
		return http.StatusBadRequest, errors.New(text)
	}
	r.Value = bytes.TrimSpace(body)
	switch {
	case string(r.Value) == noParameter:
		r.Value = nil
	case !json.Valid(r.Value): // some senders put the bare text of a string
		r.Value, _ = json.Marshal(string(r.Value))
	}
	answer, err := repeated(ctx, &r, func() (Answer, error) {
		answer, err := d.command(ctx, c, r)
		if err == nil && answer.Status >= http.StatusBadRequest {
			err = &answerError{answer.Status, answer.Payload}
		}
		return answer, err
	})
	var answered *answerError
	switch {
	case err == nil:
		return answer.Status, nil
	case errors.As(err, &answered):
		return answered.status, err
	default:
		return http.StatusBadRequest, err
	}
}

// answerError is the error for a handler that answers a queued command with a status of 400 or
// more.
type answerError struct {
	status  int
	payload json.RawMessage
}

func (e *answerError) Error() string {
	if len(e.payload) == 0 {
		return fmt.Sprintf("its handler answered %d", e.status)
	}
	return fmt.Sprintf("its handler answered %d: %s", e.status, plain.Value(e.payload))
}

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
	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/internal/plain"
)

const (
	maxMethods   = 64          // running at a time; more are answered 503
	maxPayloads  = 2 << 20     // bytes of their payloads; a hub accepts 128 KB for one
	attempts     = 3           // at one queued command, or at one desired property
	retryHandler = time.Second // between two attempts
)

// method answers one direct method.
func (d *Device) method(ctx context.Context, l *hub.Link, m *hub.Method) {
	began := time.Now()
	status, body := http.StatusInternalServerError, explain("a bug stopped the method")
	_ = d.run("methods", func() error {
		status, body = d.callMethod(ctx, m)
		return nil
	})
	e := journal.Event{Kind: journal.MethodCall, Hub: l.Host(), Name: plain.Name(m.Name), Status: status,
		Text: fmt.Sprintf("method %s answered %d", plain.Quoted(m.Name), status)}
	if err := l.Respond(m, status, body); err != nil {
		e.Error = err.Error()
		e.Text = fmt.Sprintf("method %s: the link ended before the answer", plain.Quoted(m.Name))
		status = 0
	}
	d.answered(m, status, time.Since(began))
	d.floods.tell(ofCalls, 1, e)
}

// answered tells how long a direct method took. status is 0 if nobody has got the answer.
func (d *Device) answered(m *hub.Method, status int, took time.Duration) {
	if told := d.shared.Timings.Answered; told != nil {
		told(m.Name, status, took)
	}
}

// callMethod returns the answer to one direct method.
func (d *Device) callMethod(ctx context.Context, m *hub.Method) (status int, body []byte) {
	payload := bytes.TrimSpace(m.Payload)
	if d.stopping.Load() {
		return http.StatusServiceUnavailable, explain("the device is stopping")
	}
	c, status, text := d.app.command("method", m.Name)
	if status != http.StatusOK {
		return status, explain(text)
	}
	if len(payload) > 0 && !json.Valid(payload) {
		return http.StatusBadRequest, explain("the payload is not JSON")
	}
	answer, err := d.command(ctx, c, Request{Kind: KindMethod, Name: m.Name, MessageID: m.ID(), Attempt: 1, Value: payload})
	if err != nil {
		return statusOf(err), explain(err.Error())
	}
	return answer.Status, answer.Payload
}

// command checks the payload of a command and runs its handler. The status of the answer is not 0.
func (d *Device) command(ctx context.Context, c Command, r Request) (Answer, error) {
	if err := d.app.check(r.Name, c, r.Value); err != nil {
		return Answer{}, err
	}
	r.Device = d.id.DeviceID
	answer, err := invoke(ctx, d, "handler", func(ctx context.Context) (Answer, error) { return c.Handle(ctx, r) })
	switch {
	case err != nil:
		return Answer{}, err
	case len(answer.Payload) > 0 && !json.Valid(answer.Payload):
		return Answer{}, errNotJSON
	case answer.Status == 0:
		answer.Status = http.StatusOK
	}
	return answer, nil
}

var (
	errNoResult = errors.New("no result")
	errNotJSON  = errors.New("the answer of its handler is not JSON")
)

// invoke runs a handler for as long as the method timeout allows. A handler that goes on after
// that, or after the end of ctx, is left behind: the link, and so the device, must not wait for it.
// path is the name of what a panic stops.
func invoke[T any](ctx context.Context, d *Device, path string, handle func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, d.c.MethodTimeout)
	type outcome struct {
		result T
		err    error
	}
	done := make(chan outcome, 1)
	d.handlers.run(d.bulkheads, func() {
		defer cancel()
		var o outcome
		o.err = d.run(path, func() (err error) {
			o.result, err = handle(ctx)
			return err
		})
		done <- o
	})
	late := func() error { return fmt.Errorf("%w in %v", errNoResult, d.c.MethodTimeout) }
	var o outcome
	select {
	case o = <-done:
	case <-ctx.Done():
		select {
		case o = <-done: // both at once
		default:
			o.err = late()
		}
	}
	if errors.Is(o.err, context.DeadlineExceeded) && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		o.err = late() // the handler noticed the end of its time
	}
	return o.result, o.err
}

func explain(text string) []byte {
	b, _ := json.Marshal(map[string]string{"message": text}) // a string: it cannot fail
	return b
}

// repeated runs a handler until it succeeds, up to three attempts, with pauses. It returns at once
// if no repetition makes the result better, or if ctx ends.
func repeated[T any](ctx context.Context, r *Request, handle func() (T, error)) (T, error) {
	for r.Attempt = 1; ; r.Attempt++ {
		result, err := handle()
		if err == nil || ctx.Err() != nil || r.Attempt == attempts || statusOf(err) < http.StatusInternalServerError {
			return result, err
		}
		if err := pause(ctx, retryHandler); err != nil {
			return result, err
		}
	}
}

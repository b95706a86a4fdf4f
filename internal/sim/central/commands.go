package central

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"sync"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/iothub"
)

// commandRun is one run of a command, as its history shows it.
type commandRun struct {
	ID                string          `json:"id"`
	ConnectionTimeout *float64        `json:"connectionTimeout,omitempty"`
	ResponseTimeout   *float64        `json:"responseTimeout,omitempty"`
	Request           json.RawMessage `json:"request,omitempty"`
	Response          json.RawMessage `json:"response,omitempty"`
	ResponseCode      int             `json:"responseCode,omitempty"`
}

// commandBook remembers runs of commands.
type commandBook struct {
	mu   sync.Mutex
	runs map[string][]commandRun // the newest first, by device, component and name
}

func (b *commandBook) enter(key string, run commandRun) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.runs == nil {
		b.runs = map[string][]commandRun{}
	}
	runs := append([]commandRun{run}, b.runs[key]...)
	b.runs[key] = runs[:min(len(runs), centralHistory)]
}

func (b *commandBook) of(key string) []commandRun {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]commandRun{}, b.runs[key]...)
}

func commandKey(r *http.Request) string {
	return r.PathValue("id") + "\n" + methodOf(r)
}

// methodOf is the name of a command on the wire: that of its component comes first.
func methodOf(r *http.Request) string {
	if component := r.PathValue("component"); component != "" {
		return component + "*" + r.PathValue("name")
	}
	return r.PathValue("name")
}

func (c *Application) commandHistory(r *http.Request) (any, error) {
	_, err := c.registry.Record(r.PathValue("id"))
	return map[string]any{"value": c.commands.of(commandKey(r))}, err
}

// created is an answer with status 201.
type created struct{ body any }

// runCommand runs a command now, as a direct method. A command that the device's template calls
// durable is queued instead, as a message that waits for the device. A bare value as body is the
// request of the command: the Azure CLI sends what it is given.
func (c *Application) runCommand(r *http.Request) (any, error) {
	body, err := io.ReadAll(r.Body)
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, azure.Errorf(http.StatusRequestEntityTooLarge, "RequestEntityTooLarge", "The body is larger than %d bytes.", tooLarge.Limit)
	}
	if err != nil || len(body) > 0 && !json.Valid(body) {
		return nil, azure.Errorf(http.StatusBadRequest, "BadRequest", "The body is not JSON.")
	}
	run, err := parseRun(body)
	if err != nil {
		return nil, err
	}
	id, name := r.PathValue("id"), methodOf(r)
	d, err := c.registry.Record(id)
	if err != nil {
		return nil, err
	}
	i, err := c.registry.Placed(id)
	if err != nil {
		return nil, err
	}
	if c.templates.durable(templateOf(d), r.PathValue("component"), r.PathValue("name")) {
		err = queueCommand(i, name, run.Request)
	} else {
		err = c.runMethod(r.Context(), i, name, &run)
	}
	if err != nil {
		return nil, err
	}
	c.commands.enter(commandKey(r), run)
	return created{run}, nil
}

func parseRun(body []byte) (commandRun, error) {
	run := commandRun{ID: azure.NewGUID()}
	var fields map[string]json.RawMessage
	if len(body) == 0 {
		return run, nil
	}
	if json.Unmarshal(body, &fields) != nil {
		run.Request = body
		return run, nil
	}
	known := 0
	for _, name := range []string{"request", "connectionTimeout", "responseTimeout"} {
		if fields[name] != nil {
			known++
		}
	}
	if len(fields) > 0 && known == 0 {
		run.Request = body
		return run, nil
	}
	run.Request = fields["request"]
	for name, into := range map[string]**float64{"connectionTimeout": &run.ConnectionTimeout, "responseTimeout": &run.ResponseTimeout} {
		var seconds azure.FlexibleSeconds
		if text := fields[name]; text != nil && json.Unmarshal(text, &seconds) != nil {
			return run, azure.Errorf(http.StatusBadRequest, "BadRequest", "%s is not a number of seconds.", name)
		}
		if *into = seconds.Value; seconds.Value != nil && !(*seconds.Value >= 0 && *seconds.Value <= 300) {
			return run, azure.Errorf(http.StatusBadRequest, "BadRequest", "%s is %v, it must be 0 to 300.", name, *seconds.Value)
		}
	}
	return run, nil
}

func (c *Application) runMethod(ctx context.Context, i *iothub.Identity, name string, run *commandRun) error {
	timeout := iothub.MethodTimeout
	if t := run.ResponseTimeout; t != nil && *t > 0 {
		timeout = azure.Seconds(*t)
	}
	if len(run.Request) > iothub.MethodMaxBytes {
		return azure.Errorf(http.StatusRequestEntityTooLarge, "PayloadTooLarge", "The request has %d bytes, the limit is %d.", len(run.Request), iothub.MethodMaxBytes)
	}
	if t := run.ConnectionTimeout; t != nil && *t > 0 {
		connecting, cancel := context.WithTimeout(ctx, azure.Seconds(*t))
		i.Await(connecting)
		cancel()
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	result, err := i.Invoke(ctx, name, run.Request)
	run.Response, run.ResponseCode = result.Payload, result.Status
	if e, ok := errors.AsType[*azure.Error](err); ok && e.Code == "DeviceNotOnline" {
		return azure.Errorf(http.StatusNotFound, "NotFound",
			"Could not connect to device in order to send command: it is not online, or listens for no commands. A command is queued for later only if its device template says that it is durable.")
	}
	return err
}

// queueCommand leaves a command with the device's messages; "@" stands for no parameter.
func queueCommand(i *iothub.Identity, name string, request json.RawMessage) error {
	m := iothub.C2D{Body: request, Properties: map[string]string{"method-name": name}}
	if len(request) == 0 || string(request) == "null" {
		at := "@"
		m.Body, m.Text = nil, &at
	}
	_, err := i.Post(m)
	return err
}

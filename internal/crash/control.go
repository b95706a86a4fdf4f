package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// control is the simulator's control API, seen from outside.
type control struct {
	client http.Client
	url    string
}

// info is what is needed of the simulator's sim.json.
type info struct {
	IDScope          string `json:"idScope"`
	GroupKey         string `json:"groupKey"`
	ProvisioningHost string `json:"provisioningHost"`
	Control          string `json:"control"`
}

func readInfo(out string) (i info, err error) {
	b, err := os.ReadFile(filepath.Join(out, "sim.json"))
	if err != nil {
		return i, err
	}
	return i, json.Unmarshal(b, &i)
}

// errAway is a simulator that does not answer: it may just have been killed.
var errAway = errors.New("the simulator does not answer")

func (c *control) do(ctx context.Context, method, path string, body, into any) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var text []byte
	if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			return err
		}
	}
	r, err := http.NewRequestWithContext(ctx, method, c.url+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	answer, err := c.client.Do(r)
	if err != nil {
		return fmt.Errorf("%w: %w", errAway, err)
	}
	defer func() { _ = answer.Body.Close() }()
	b, err := io.ReadAll(answer.Body)
	if err != nil {
		return fmt.Errorf("%w: %w", errAway, err)
	}
	if answer.StatusCode >= 400 {
		return fmt.Errorf("%s %s: %s", method, path, strings.TrimSpace(string(b)))
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(b, into)
}

// ledger is what the simulator says it has received.
type ledger struct {
	Received   int64     `json:"received"`
	Distinct   int64     `json:"distinct"`
	Duplicates int64     `json:"duplicates"`
	Reordered  int64     `json:"reordered"`
	Truncated  bool      `json:"truncated"`
	Messages   []arrival `json:"messages"`
}

// ledger asks for what came behind the first after messages.
func (c *control) ledger(ctx context.Context, device string, after int64) (l ledger, err error) {
	return l, c.do(ctx, http.MethodGet, fmt.Sprintf("/api/ledger?device=%s&messages=1&after=%d", device, after), nil, &l)
}

// state is what is needed of the simulator's state.
type state struct {
	Hubs []struct {
		Name  string  `json:"name"`
		Fault *string `json:"fault"`
	} `json:"hubs"`
	Devices []struct {
		ID          string  `json:"id"`
		AssignedHub *string `json:"assignedHub"`
	} `json:"devices"`
}

func (c *control) state(ctx context.Context) (s state, err error) {
	return s, c.do(ctx, http.MethodGet, "/api/state", nil, &s)
}

// heal ends all faults of hubs.
func (c *control) heal(ctx context.Context) error {
	s, err := c.state(ctx)
	for _, h := range s.Hubs {
		if h.Fault != nil {
			err = errors.Join(err, c.do(ctx, http.MethodDelete, "/api/hubs/"+h.Name+"/fault", nil, nil))
		}
	}
	return err
}

// late is how much later than they could the hubs acknowledge, as if they were far away: so there is mostly something in flight, and a
// backlog takes its time.
const late = 6 * time.Millisecond

// distance brings the hubs that are well near, or far away.
func (c *control) distance(ctx context.Context, far bool) error {
	s, err := c.state(ctx)
	for _, h := range s.Hubs {
		switch path := "/api/hubs/" + h.Name + "/fault"; {
		case far && h.Fault == nil:
			err = errors.Join(err, c.do(ctx, http.MethodPost, path, map[string]any{"kind": "throttle", "delayMs": late.Milliseconds()}, nil))
		case !far && h.Fault != nil && *h.Fault == "throttle":
			err = errors.Join(err, c.do(ctx, http.MethodDelete, path, nil, nil))
		}
	}
	return err
}

// move brings the device to another hub, in one of the ways that there are, and says what it has done.
func (c *control) move(ctx context.Context, device string, way int) (what string, err error) {
	s, err := c.state(ctx)
	if err != nil {
		return "", err
	}
	home, at := s.Hubs[0].Name, s.Hubs[0].Name
	for _, d := range s.Devices {
		if d.ID == device && d.AssignedHub != nil {
			at = *d.AssignedHub
		}
	}
	if at != home {
		if err := c.heal(ctx); err != nil {
			return "", err
		}
		return at + " is left for " + home + ", which is well again", c.do(ctx, http.MethodPost, "/api/devices/"+device+"/failback", nil, nil)
	}
	if way %= len(ways); way == 0 {
		return "the device is moved away from " + at, c.do(ctx, http.MethodPost, "/api/devices/"+device+"/failover", map[string]int{"seconds": 0}, nil)
	}
	return at + ": " + ways[way], c.do(ctx, http.MethodPost, "/api/hubs/"+at+"/fault", map[string]string{"kind": ways[way]}, nil)
}

// ways are the kinds of failover from a hub that is well.
var ways = []string{"failover", "kill", "blackhole", "connack3", "kill"}

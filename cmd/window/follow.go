package window

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/internal/home"
	"github.com/hubhop-iot/hubhop/internal/secret"
	"github.com/hubhop-iot/hubhop/internal/status"
)

// watchEvery is the shortest time between two looks of a Follower.
const watchEvery = time.Second

// Ask asks the device in a directory. raw is the JSON as it came.
func Ask(ctx context.Context, dir string) (v status.View, raw []byte, err error) {
	path, err := status.FindSocket(dir)
	if err != nil {
		return v, nil, err
	}
	c := status.NewClient(path)
	defer c.Close()
	return c.Status(ctx)
}

// ErrSeveral says that several devices run, and none was named.
var ErrSeveral = errors.New("several devices run")

// Find returns the device to ask in a state directory: the one with the id that was given or, if
// that is only a guess and does not answer, the only one that does.
func Find(ctx context.Context, stateDir, id string, guessed bool) (device string, err error) {
	if !guessed || id != "" && answers(ctx, home.Dir(stateDir, id)) {
		return id, nil
	}
	var running []string
	for _, other := range home.OutboxDevices(stateDir) {
		if answers(ctx, home.Dir(stateDir, other)) {
			running = append(running, other)
		}
	}
	switch {
	case len(running) == 1:
		return running[0], nil
	case len(running) > 1:
		const most = 20
		more := ""
		if len(running) > most {
			running, more = running[:most], ", …"
		}
		return "", fmt.Errorf("%w with the state directory %s: %s%s; give --device-id", ErrSeveral, secret.Quotable(stateDir), strings.Join(running, ", "), more)
	}
	return id, nil
}

func answers(ctx context.Context, dir string) bool {
	_, _, err := Ask(ctx, dir)
	return err == nil
}

// Follower shows the status of a device again and again.
type Follower struct {
	Dir     string // of the device
	Out     io.Writer
	Err     io.Writer // told if nobody answers
	Redraw  bool      // Out is a terminal: the status is drawn anew in place
	JSON    bool      // a line is the JSON
	Clean   func(string) string
	Spawn   func(func()) // starts a goroutine
	written string       // what the last line was about
}

const clearScreen = "\x1b[H\x1b[2J"

// Run shows the status until ctx ends. It waits for a device that does not answer. An error is one
// of Out.
func (f *Follower) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		err := f.follow(ctx)
		if broken, is := errors.AsType[*outError](err); is {
			return broken.error
		}
		if err != nil && ctx.Err() == nil && f.written != err.Error() {
			f.written = err.Error()
			if f.Redraw {
				_, _ = fmt.Fprint(f.Out, clearScreen)
			}
			_, _ = fmt.Fprintf(f.Err, "hubhop: nobody answers (%s); waiting\n", f.Clean(f.written))
		}
		rest(ctx)
	}
	return nil
}

// outError is an error of the output.
type outError struct{ error }

// follow shows the status until the device goes away.
func (f *Follower) follow(ctx context.Context) error {
	path, err := status.FindSocket(f.Dir)
	if err != nil {
		return err
	}
	c := status.NewClient(path)
	defer c.Close()
	ctx, stop := context.WithCancel(ctx)
	news, gone := make(chan struct{}, 1), make(chan struct{})
	var why error
	f.Spawn(func() {
		defer close(gone)
		why = c.Watch(ctx, func() {
			select {
			case news <- struct{}{}:
			default:
			}
		})
	})
	defer func() { stop(); <-gone }()
	for {
		v, raw, err := c.Status(ctx)
		if err != nil {
			return err
		}
		if err := f.tell(v, raw); err != nil {
			return &outError{err}
		}
		rest(ctx)
		if f.Redraw && ctx.Err() == nil { // ages and counts go on without news
			continue
		}
		select {
		case <-news:
		case <-gone:
			return why
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// tell draws the status on a terminal, and else writes a line if it has changed.
func (f *Follower) tell(v status.View, raw []byte) error {
	if f.Redraw {
		var b bytes.Buffer
		b.WriteString(clearScreen)
		if err := v.Print(&b, time.Now(), f.Clean); err != nil {
			return err
		}
		_, err := b.WriteTo(f.Out)
		return err
	}
	look := v.Look()
	if look == f.written {
		return nil
	}
	f.written = look
	if f.JSON {
		_, err := fmt.Fprintf(f.Out, "%s\n", bytes.TrimSpace(raw))
		return err
	}
	_, err := fmt.Fprintln(f.Out, v.Line(time.Now(), f.Clean))
	return err
}

// rest waits for watchEvery, or for the end of ctx.
func rest(ctx context.Context) {
	timer := time.NewTimer(watchEvery)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

package central

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Watch tells where a device is.
type Watch interface {
	Where(ctx context.Context, device string) (Place, error)

	// Changed returns when the place may have changed, or with the error of ctx.
	Changed(ctx context.Context) error
}

// ErrNotSeen says that the device has not come to another hub in the given time.
var ErrNotSeen = errors.New("the device was not seen on another hub")

// Follow waits until a device has a link to another hub than before, and returns that hub. Errors
// of single questions do not end it: a service may be out of reach for a moment while hubs fail.
// When ctx ends, the error is ErrNotSeen and the last error of a question, if there was one.
func Follow(ctx context.Context, w Watch, device, before string) (hub string, err error) {
	var last error
	for {
		at, err := w.Where(ctx, device)
		if err == nil && at.Connected && at.Hub != before {
			return at.Hub, nil
		}
		if ctx.Err() == nil {
			last = err
		}
		if err := w.Changed(ctx); err != nil {
			if ctx.Err() == nil { // the watch is broken
				return "", err
			}
			if last != nil {
				return "", fmt.Errorf("%w; the last question failed: %w", ErrNotSeen, last)
			}
			return "", ErrNotSeen
		}
	}
}

// askEvery is the time between two questions to IoT Central, which tells nobody when a device has
// moved. An application answers 20 requests a second to all its users.
const askEvery = 2 * time.Second

// Changed returns after a moment.
func (a *Application) Changed(ctx context.Context) error { return pause(ctx, askEvery) }

package window

import (
	"context"
	"time"

	"github.com/hubhop-iot/hubhop/internal/central"
	"github.com/hubhop-iot/hubhop/internal/status"
)

// Place tells on which hub a device of this machine is, as its status says. It is a
// [central.Watch].
type Place struct {
	dir     string
	changed chan struct{} // has an element after an event of the device
}

// Locate returns the place of the device in a directory, and false if no device answers there. It
// follows the device until ctx ends.
func Locate(ctx context.Context, dir string) (*Place, bool) {
	path, err := status.FindSocket(dir)
	if err != nil {
		return nil, false
	}
	c := status.NewClient(path)
	if _, _, err := c.Status(ctx); err != nil {
		c.Close()
		return nil, false
	}
	p := &Place{dir: dir, changed: make(chan struct{}, 1)}
	go func() {
		defer c.Close()
		_ = c.Watch(ctx, func() {
			select {
			case p.changed <- struct{}{}:
			default:
			}
		})
	}()
	return p, true
}

// Where asks the device. A provisional link does not count, because DPS has not confirmed it.
func (p *Place) Where(ctx context.Context, _ string) (central.Place, error) {
	v, _, err := Ask(ctx, p.dir)
	if err != nil {
		return central.Place{}, err
	}
	return central.Place{Hub: v.Hub, Connected: v.State == status.Connected}, nil
}

// Changed returns after an event of the device, and after watchEvery at the latest: an event may
// have come before the events were followed.
func (p *Place) Changed(ctx context.Context) error {
	late := time.NewTimer(watchEvery)
	defer late.Stop()
	select {
	case <-p.changed:
	case <-late.C:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}

package state

import (
	"math"
	"time"

	"github.com/hubhop-iot/hubhop/internal/flow/node"
)

// clock makes versions: hybrid logical times of which each is greater than the one before, and
// greater than the time of the request that it answers. The one commit at a time owns it.
type clock struct {
	node string
	last node.Time
}

// next returns a version above every one before and above at.
func (c *clock) next(now time.Time, at node.Time) node.Time {
	t := node.Time{Nanos: now.Truncate(time.Millisecond).UnixNano(), Node: c.node} // __ts has milliseconds
	for _, o := range []node.Time{c.last, at} {
		if o.Nanos > t.Nanos {
			t.Nanos, t.Counter = o.Nanos, o.Counter+1
		} else if o.Nanos == t.Nanos && o.Counter >= t.Counter && o != (node.Time{}) {
			t.Counter = o.Counter + 1
		}
		if o.Counter == math.MaxUint64 && t.Counter == 0 && o.Nanos == t.Nanos { // the counter has run over
			t.Nanos += int64(time.Millisecond)
		}
	}
	c.last = t
	return t
}

// saw makes sure that later versions are above t.
func (c *clock) saw(t node.Time) {
	if c.last.Before(t) {
		c.last = t
	}
}

package inside

import (
	"context"
	"sync"
	"time"

	"github.com/hubhop-iot/hubhop/telemetry"
)

// pace makes a source faster or slower while it runs.
type pace struct {
	mu      sync.Mutex
	given   bool
	every   time.Duration // 0: no samples
	changed chan struct{} // closed when every changes
}

// set changes the rate.
func (p *pace) set(perSecond float64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.given, p.every = true, 0
	if perSecond > 0 {
		p.every = time.Duration(float64(time.Second) / perSecond)
	}
	if p.changed != nil {
		close(p.changed)
		p.changed = nil
	}
}

// now returns the time between two samples, and a channel that is closed when that changes.
func (p *pace) now(otherwise time.Duration) (every time.Duration, changed <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.changed == nil {
		p.changed = make(chan struct{})
	}
	if !p.given {
		return otherwise, p.changed
	}
	return p.every, p.changed
}

// source returns a source that asks src for its samples at this pace.
func (p *pace) source(src telemetry.Source) telemetry.Source {
	read, interval := src.Read, src.Interval
	src.Read, src.Interval = nil, 0
	src.Run = func(ctx context.Context, emit func(...telemetry.Sample), bad func(error)) error {
		timer := time.NewTimer(0)
		defer timer.Stop()
		due := time.Now()
		for {
			every, changed := p.now(interval)
			var tick <-chan time.Time
			if every > 0 {
				timer.Reset(time.Until(due))
				tick = timer.C
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-changed:
				due = time.Now()
			case now := <-tick:
				if due = due.Add(every); due.Before(now) {
					due = now.Add(every) // ticks that were missed are left out
				}
				body, err := read(now)
				if err != nil {
					bad(err)
					continue
				}
				emit(telemetry.Sample{Body: body, Created: now})
			}
		}
	}
	return src
}

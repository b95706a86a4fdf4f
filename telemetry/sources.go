package telemetry

import (
	"context"
	"fmt"
	"time"
)

// Every is a source that asks read once at the start and then once per interval, which must be
// positive. If the outbox is full, its newest samples are skipped.
func Every(interval time.Duration, read Read) Source {
	return Source{Read: read, Interval: interval, Full: Skip}
}

// poll runs the schedule of a source until ctx ends. It calls missed with the number of ticks that
// were skipped because a read took too long or the process stood still.
func (p *Source) poll(ctx context.Context, emit func(...Sample), bad func(error), missed func(int)) error {
	if p.Interval <= 0 {
		return fmt.Errorf("a sampling interval must be positive, this is %v", p.Interval)
	}
	start := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for next := time.Duration(0); ; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		}
		if err := ctx.Err(); err != nil { // both were ready
			return err
		}
		now := time.Now()
		if body, err := p.Read(now); err != nil {
			bad(err)
		} else {
			emit(Sample{Body: body, Created: now})
		}
		elapsed := time.Since(start)
		if late := elapsed.Truncate(p.Interval) - next; late > 0 {
			missed(int(late / p.Interval))
			next += late
		}
		next += p.Interval
		timer.Reset(next - elapsed)
	}
}

package virtual

import (
	"context"

	"github.com/hubhop-iot/hubhop/telemetry"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

// RunDrain starts a drain, and stops it when ctx ends or the drain does. It returns the error of
// ctx, or what the drain ended with.
func RunDrain(ctx context.Context, d *telemetry.Drain) error {
	ended := make(chan error, 1)
	d.Start(func(err error) { ended <- err })
	defer d.Stop()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Next returns the oldest records of an outbox behind a position, up to limit of them. It waits for
// one. The records are valid until the next call with the same batch, which the caller releases.
func Next(ctx context.Context, b *outbox.Box, into *outbox.Batch, after uint64, limit int) ([]outbox.Record, error) {
	for {
		if err := b.Wait(ctx, outbox.Part{After: after}); err != nil {
			return nil, err
		}
		records, err := b.Read(into, limit, 512<<10, outbox.Part{After: after})
		if len(records) > 0 || err != nil {
			return records, err
		}
	}
}

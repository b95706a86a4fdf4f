package device

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/model"
	"github.com/hubhop-iot/hubhop/telemetry"
)

// produce begins the input, and returns at once. When the input has ended and nothing is queued any
// more, or when ctx ends, it calls conclude with a function that waits for the rest. An input of
// scheduled sources costs no goroutine.
func (d *Device) produce(ctx context.Context, conclude func(wait func() error)) {
	switch {
	case d.c.Once:
		conclude(func() error { return d.once(ctx) })
	case d.app.Off.Telemetry || len(d.app.Sources) == 0:
		d.when(ctx, "input", func() { conclude(ctx.Err) })
	default:
		d.feedAll(ctx, d.app.Sources, func(err error) {
			conclude(func() error {
				if err != nil {
					return err
				}
				return d.box.WaitEmpty(ctx)
			})
		})
	}
}

// feedOutbox puts the samples of sources into the outbox, all at once. It returns when each source
// has ended, or with the error of the first that has failed.
func (d *Device) feedOutbox(ctx context.Context, sources []telemetry.Source) error {
	if len(sources) == 0 {
		return nil
	}
	ended := make(chan error, 1)
	d.feedAll(ctx, sources, func(err error) { ended <- err })
	return <-ended
}

// feeding is the input of several sources at once.
type feeding struct {
	d     *Device
	ctx   context.Context
	stop  context.CancelFunc
	ended func(error)

	mu   sync.Mutex
	left int   // sources that have not ended
	err  error // of the first that has failed
}

// feedAll begins what feedOutbox does, and calls ended when that is done. ended must not block.
func (d *Device) feedAll(ctx context.Context, sources []telemetry.Source, ended func(error)) {
	f := &feeding{d: d, ctx: ctx, stop: func() {}, ended: ended, left: len(sources)}
	if len(sources) > 1 { // a source alone stops no other one
		f.ctx, f.stop = context.WithCancel(ctx)
	}
	for i := range sources {
		f.start(&sources[i], bugPauseMin)
	}
}

// start begins one source. If a bug stops it, it begins again after a pause.
func (f *feeding) start(src *telemetry.Source, wait time.Duration) {
	telemetry.StartFeed(f.ctx, *src, f.d.box, f.d.feedOptions(src.Name), func(err error) {
		if _, isBug := errors.AsType[*bug](err); !isBug || f.ctx.Err() != nil {
			if err != nil && src.Name != "" && f.ctx.Err() == nil {
				err = fmt.Errorf("source %s: %w", src.Name, err)
			}
			f.end(err)
			return
		}
		f.d.spawn("samples", func() {
			if err := pause(f.ctx, wait); err != nil {
				f.end(err)
				return
			}
			f.start(src, min(2*wait, bugPauseMax))
		})
	})
}

// end notes that one source has ended. The first that fails ends the others.
func (f *feeding) end(err error) {
	f.mu.Lock()
	if f.err == nil {
		f.err = err
	}
	f.left--
	last, failed := f.left == 0, f.err
	f.mu.Unlock()
	if last || err != nil {
		f.stop()
	}
	if last {
		f.ended(failed)
	}
}

// feedOptions returns how a source is fed. Events about a source that has a name say it.
func (d *Device) feedOptions(source string) telemetry.FeedOptions {
	prefix := ""
	if source != "" {
		prefix = "source " + source + ": "
	}
	return telemetry.FeedOptions{
		Warned:  &d.warned,
		Model:   d.app.Model,
		Sampler: d.shared.start().sampler,
		Warn: func(f model.Finding) {
			d.emit(journal.Event{Kind: journal.Warning, Name: f.Name, Text: prefix + f.Text})
		},
		Bad: func(err error) {
			d.floods.tell(ofBadLines, 1, journal.Event{Kind: journal.BadLine, Error: err.Error(), Text: prefix + err.Error() + "; skipped"})
		},
		Skipped:  func(n int, why telemetry.SkipReason) { d.skipped(prefix, n, why) },
		Counters: &d.counters,
		Contain:  func(f func() error) error { return d.run("samples", f) },
	}
}

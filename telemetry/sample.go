// Package telemetry is the road of the data, in two halves that meet in the outbox and never wait for each other.
//
// [Feed] runs a [Source] into the outbox: a reader asked on a schedule ([Every]), or lines that come when they come ([Lines]). What
// the model does not expect is warned of and sent all the same. A sample is safe once the outbox has it, link or no link.
//
// [Drain] moves what the outbox holds to the cloud, a window of messages ahead, and lives exactly as long as one link. A record
// leaves the outbox on the real acknowledgement of the hub and on nothing else.
package telemetry

import (
	"context"
	"time"
)

// Sample is one message on its way into the outbox.
type Sample struct {
	Body            []byte            // goes out byte for byte; a source does not touch it again
	ContentType     string            // empty: application/json
	ContentEncoding string            // empty: utf-8 when the content type is empty too
	Properties      map[string]string // application properties; may be nil
	Created         time.Time         // zero: when Feed gets it
	Component       string            // empty: the default component
	// Done, which may be nil, is called once: with nil when the outbox has the sample for good, or with the reason it has not.
	Done func(error)
}

// Source makes samples until its input ends.
type Source interface {
	// Run returns nil at the end of the input, ctx.Err() when it was stopped, or the error of its
	// input. It gives samples to emit, in order and from one goroutine. emit returns when the
	// outbox has accepted or refused them; so a slow outbox slows a source down, except one of
	// Every. Run calls bad for each input that is no sample, and goes on.
	Run(ctx context.Context, emit func(...Sample), bad func(error)) error
}

// Read makes the body of one sample, a JSON object, at a time of Every's choosing.
type Read func(now time.Time) ([]byte, error)

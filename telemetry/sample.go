// Package telemetry carries samples to the cloud, in two halves that meet in the outbox and never
// wait for each other.
//
// [Feed] puts the samples of a [Source] into the outbox. A source is asked on a schedule ([Every]),
// or has a pace of its own ([Lines]). What the model does not expect is warned of and sent all the
// same. A sample is safe once the outbox has it, with or without a link.
//
// [Drain] sends what is in the outbox to the cloud, a window of messages at a time. It lives as
// long as one link. A record leaves the outbox only after the hub has acknowledged it.
package telemetry

import (
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
	// Done is called once: with nil when the outbox has the sample for good, else with the reason.
	// It may be nil.
	Done func(error)
}

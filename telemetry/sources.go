package telemetry

import "time"

// Every is a source that asks read once at the start and then once per interval, which must be
// positive. If the outbox is full, its newest samples are skipped.
func Every(interval time.Duration, read Read) Source {
	return Source{Read: read, Interval: interval, Full: Skip}
}

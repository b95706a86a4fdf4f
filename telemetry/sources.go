package telemetry

import (
	"context"
	"time"
)

// Source is one place that samples come from, and how they enter the outbox. It has either a
// schedule, Read and Interval ([Every]), or a pace of its own, Run ([Lines]).
type Source struct {
	Name string // for people, if there are several sources; may be empty

	// Read is asked once at the start and then once per Interval, which must be positive. A slow
	// Read or a slow outbox does not move later ticks: ticks missed meanwhile are skipped and
	// counted. A failed Read is reported and costs its tick.
	Read     Read
	Interval time.Duration

	// Run makes samples until its input ends. It returns nil at the end of the input, ctx.Err()
	// when it was stopped, or the error of its input. It may call emit from several goroutines;
	// the samples of one call stay together and in order. emit returns when the outbox has
	// accepted or refused them, so a slow outbox slows the source down, unless Full is Skip. Run
	// calls bad for each input that is no sample, and goes on.
	Run func(ctx context.Context, emit func(...Sample), bad func(error)) error

	Component  string            // of each sample that names none; empty: the default component
	Properties map[string]string // application properties of each sample; a sample's own value wins
	Full       Full              // what a full outbox means for the source
	Unmodelled bool              // the model does not describe the samples, so they are not checked
	Ends       bool              // the input ends; a device that runs once reads it to its end
}

// Full says what a full outbox means for a source, if the outbox keeps what it has.
type Full int

const (
	// Wait makes the source wait for room. When it is stopped, the samples that it has already
	// read go in above the bound, because its input cannot take them back.
	Wait Full = iota
	// Skip drops the newest samples, and counts them. The source does not wait for a slow disk
	// either: at most 1,024 of its samples and 1 MiB wait and go in together, and more are
	// dropped.
	Skip
)

// Read makes the body of one sample, a JSON object. now is the time of its tick.
type Read func(now time.Time) ([]byte, error)

// Every is a source that asks read once at the start and then once per interval, which must be
// positive. If the outbox is full, its newest samples are skipped.
func Every(interval time.Duration, read Read) Source {
	return Source{Read: read, Interval: interval, Full: Skip}
}

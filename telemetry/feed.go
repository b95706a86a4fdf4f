package telemetry

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hubhop-iot/hubhop/model"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

// Intake is the end of the outbox that Feed puts samples into.
type Intake interface {
	// Append returns when the messages are durable. Under the policy Block it waits for room until ctx ends, and then fails with
	// outbox.ErrFull, having taken nothing; ctx has no other influence.
	Append(ctx context.Context, messages ...outbox.Message) error
	// TryAppend is Append that does not wait.
	TryAppend(messages ...outbox.Message) error
	// AppendOver is Append that goes over the bound instead of waiting.
	AppendOver(messages ...outbox.Message) error
}

// FeedOptions are what a feed may be given; the zero value checks nothing and tells nobody.
type FeedOptions struct {
	Model    *model.Model        // telemetry is checked against it; nil: not at all
	Warn     func(model.Finding) // once per name; the sample is sent unchanged
	Bad      func(error)         // each input that cannot be a sample, and samples the outbox has refused for what they are
	Warned   *Warned             // shared by the feeds of a process, so that a name is warned of once in its life; nil: this feed's own
	Counters *Counters           // may be nil
}

// Counters is what feeds have done, to be read at any time.
type Counters struct {
	Made    atomic.Uint64 // samples the outbox has taken
	Skipped atomic.Uint64 // ticks of a schedule that found the outbox full; they used no sequence number
	Bad     atomic.Uint64 // failed readings, bad lines, bodies that are not what their content type says
}

// Warned remembers what was warned of. It is bounded, since the names come from outside; past the bound there is one last warning.
type Warned struct {
	mu   sync.Mutex
	seen map[warning]bool
}

type warning struct {
	component, name string
	kind            model.Kind
}

const maxWarned = 1000

// first reports whether f is new, and what to say of it.
func (w *Warned) first(component string, f model.Finding) (model.Finding, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	key := warning{component, f.Name, f.Kind}
	if w.seen[key] || len(w.seen) > maxWarned {
		return f, false
	}
	if w.seen == nil {
		w.seen = map[warning]bool{}
	}
	w.seen[key] = true
	if len(w.seen) > maxWarned {
		f = model.Finding{Kind: f.Kind, Text: "more than 1000 different names do not fit the model, further ones are not reported"}
	}
	return f, true
}

// Feed runs a source into the outbox until the source ends or ctx does, and returns the source's error, or the outbox's when that
// can take nothing more. Every sample is stamped with its time and content type, and checked against the model: what the model does
// not expect is warned of once per name and goes out unchanged. Only a body that is not a JSON object although it says so is bad.
//
// When the outbox is full and keeps what it has, a source of Every skips its tick, and any other source waits. A stop ends the waiting:
// what such a source has already taken from its input goes in over the bound, since the input cannot take it back.
func Feed(ctx context.Context, src Source, box Intake, o FeedOptions) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	if o.Warned == nil {
		o.Warned = new(Warned)
	}
	if o.Counters == nil {
		o.Counters = new(Counters)
	}
	_, scheduled := src.(*poll)
	f := &feed{FeedOptions: o, stop: stop, box: box, skips: scheduled}
	err := src.Run(ctx, func(samples ...Sample) { f.emit(ctx, samples) }, f.bad)
	if f.failed != nil {
		return f.failed
	}
	return err
}

// feed is one call of Feed; only the source's goroutine touches it, and it ends with that call.
type feed struct {
	FeedOptions
	stop   context.CancelFunc
	box    Intake
	skips  bool
	failed error // what ended the feed, if it was not the source
}

func (f *feed) bad(err error) {
	f.Counters.Bad.Add(1)
	if f.Bad != nil {
		f.Bad(err)
	}
}

func (f *feed) emit(ctx context.Context, samples []Sample) {
	taken := make([]Sample, 0, len(samples))
	messages := make([]outbox.Message, 0, len(samples))
	for _, s := range samples {
		m := message(s)
		if err := f.check(m); err != nil {
			f.bad(err)
			s.done(err)
			continue
		}
		taken, messages = append(taken, s), append(messages, m)
	}
	if len(messages) == 0 {
		return
	}
	err := f.put(ctx, messages)
	if len(messages) > 1 && isPermanent(err) { // one of them is at fault, the others are not
		for i, m := range messages {
			f.settle(taken[i:i+1], f.put(ctx, []outbox.Message{m}))
		}
		return
	}
	f.settle(taken, err)
}

// message is the sample as the outbox keeps it.
func message(s Sample) outbox.Message {
	if s.ContentType == "" {
		s.ContentType = "application/json"
		if s.ContentEncoding == "" {
			s.ContentEncoding = "utf-8"
		}
	}
	if s.Created.IsZero() {
		s.Created = time.Now()
	}
	return outbox.Message{
		Body: s.Body, ContentType: s.ContentType, ContentEncoding: s.ContentEncoding,
		Created: s.Created, Properties: s.Properties, Component: s.Component,
	}
}

func (s *Sample) done(err error) {
	if s.Done != nil {
		s.Done(err)
	}
}

// check warns of what the model does not expect, and refuses a body that is no JSON object.
func (f *feed) check(m outbox.Message) error {
	if f.Model == nil || !strings.HasPrefix(m.ContentType, "application/json") {
		return nil
	}
	for _, found := range f.Model.CheckTelemetry(m.Component, m.Body) {
		if found.Kind == model.NotObject {
			return errors.New(found.Text)
		}
		if found, isFirst := f.Warned.first(m.Component, found); isFirst && f.Warn != nil {
			f.Warn(found)
		}
	}
	return nil
}

// put waits for room if the source can wait.
func (f *feed) put(ctx context.Context, messages []outbox.Message) error {
	if f.skips {
		return f.box.TryAppend(messages...)
	}
	err := f.box.Append(ctx, messages...)
	if errors.Is(err, outbox.ErrFull) {
		err = f.box.AppendOver(messages...)
	}
	return err
}

// settle tells what became of samples that were put in together.
func (f *feed) settle(samples []Sample, err error) {
	switch {
	case err == nil:
		f.Counters.Made.Add(uint64(len(samples)))
	case errors.Is(err, outbox.ErrFull):
		f.Counters.Skipped.Add(uint64(len(samples)))
	case isPermanent(err):
		for range samples {
			f.bad(err)
		}
	default:
		f.failed = err
		f.stop()
	}
	for i := range samples {
		samples[i].done(err)
	}
}

// permanent is an error that says of itself that another try is of no use.
type permanent interface {
	error
	Permanent() bool
}

func isPermanent(err error) bool {
	p, ok := errors.AsType[permanent](err)
	return ok && p.Permanent()
}

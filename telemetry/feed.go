package telemetry

import (
	"context"
	"errors"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hubhop-iot/hubhop/model"
	"github.com/hubhop-iot/hubhop/telemetry/message"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

// Intake is the end of the outbox that Feed puts samples into.
type Intake interface {
	// Append returns when the messages are durable. Under the policy Block it waits for room until ctx ends, and then fails with
	// outbox.ErrFull, having taken nothing; ctx has no other influence.
	Append(ctx context.Context, messages ...message.Message) error
	// TryAppend is Append that does not wait.
	TryAppend(messages ...message.Message) error
	// AppendOver is Append that goes over the bound instead of waiting.
	AppendOver(messages ...message.Message) error
}

// FeedOptions are what a feed may be given; the zero value checks nothing and tells nobody.
type FeedOptions struct {
	Model    *model.Model                // checks the samples; nil: no check
	Warn     func(model.Finding)         // called once per name; the sample is sent unchanged
	Bad      func(error)                 // called for each input that is no sample, and each sample that the outbox refuses for good
	Skipped  func(n int, why SkipReason) // called for ticks of a schedule without a sample; may be nil
	Warned   *Warned                     // names already warned of, shared by the feeds of a process; nil: this feed has its own
	Counters *Counters                   // may be nil
}

// Counters is what feeds have done, to be read at any time.
type Counters struct {
	Made    atomic.Uint64 // samples the outbox has taken
	Skipped atomic.Uint64 // ticks of a schedule without a sample, for any SkipReason; they used no seq
	Bad     atomic.Uint64 // failed readings, bad lines, bodies that are not what their content type says
}

// SkipReason says why a tick has no sample. It is the end of a sentence.
type SkipReason string

// The reasons.
const (
	SkipFull SkipReason = "the outbox is full"
	SkipSlow SkipReason = "the disk is too slow for them"
	SkipLate SkipReason = "reading them took longer than the interval, or the process stood still"
)

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

// Feed puts the samples of a source into the outbox until the source or ctx ends. It returns the
// source's error, or the outbox's if the outbox accepts nothing more. It stamps every sample with
// its time and content type, and checks it against the model: it warns of a misfit once per name,
// and sends the sample unchanged. Only a body that claims to be a JSON object and is not is bad.
//
// Several feeds may use one outbox at once, each with its source. Several goroutines may call the
// functions of o at once.
func Feed(ctx context.Context, src Source, box Intake, o FeedOptions) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	if o.Warned == nil {
		o.Warned = new(Warned)
	}
	if o.Counters == nil {
		o.Counters = new(Counters)
	}
	if src.Unmodelled {
		o.Model = nil
	}
	f := &feed{FeedOptions: o, src: src, stop: stop, box: box}
	emit := func(samples ...Sample) { f.emit(ctx, samples) }
	var err error
	if src.Run != nil {
		err = src.Run(ctx, emit, f.bad)
	} else {
		err = src.poll(ctx, emit, f.bad, func(n int) { f.skip(n, SkipLate) })
	}
	f.putting.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failed != nil {
		return f.failed
	}
	return err
}

// feed is the state of one call of Feed.
type feed struct {
	FeedOptions
	src  Source
	stop context.CancelFunc
	box  Intake

	mu      sync.Mutex
	failed  error // the error that ended the feed, unless the source did
	waiting batch // samples of a schedule that wait for the append under way
	busy    bool  // a goroutine appends samples of a schedule
	putting sync.WaitGroup
}

// batch holds samples and their messages.
type batch struct {
	samples  []Sample
	messages []message.Message
	bytes    int
}

const (
	maxWaiting      = 1024
	maxWaitingBytes = 1 << 20
)

// later appends samples of a schedule in a goroutine, so that the schedule does not wait. The
// goroutine ends when no sample waits.
func (f *feed) later(ctx context.Context, samples []Sample, messages []message.Message) {
	f.mu.Lock()
	defer f.mu.Unlock()
	w, skipped := &f.waiting, 0
	for i, m := range messages {
		if n := len(w.messages); n == maxWaiting || n > 0 && w.bytes+len(m.Body) > maxWaitingBytes {
			skipped++
			samples[i].done(outbox.ErrFull)
			continue
		}
		w.samples, w.messages = append(w.samples, samples[i]), append(w.messages, m)
		w.bytes += len(m.Body)
	}
	f.skip(skipped, SkipSlow)
	if f.busy || len(w.messages) == 0 {
		return
	}
	f.busy = true
	f.putting.Go(func() {
		for {
			f.mu.Lock()
			next := f.waiting
			f.waiting = batch{}
			f.busy = len(next.messages) > 0
			f.mu.Unlock()
			if len(next.messages) == 0 {
				return
			}
			f.store(ctx, next.samples, next.messages)
		}
	})
}

// skip counts and reports ticks without a sample.
func (f *feed) skip(n int, why SkipReason) {
	if n == 0 {
		return
	}
	f.Counters.Skipped.Add(uint64(n))
	if f.Skipped != nil {
		f.Skipped(n, why)
	}
}

func (f *feed) bad(err error) {
	f.Counters.Bad.Add(1)
	if f.Bad != nil {
		f.Bad(err)
	}
}

func (f *feed) emit(ctx context.Context, samples []Sample) {
	taken := make([]Sample, 0, len(samples))
	messages := make([]message.Message, 0, len(samples))
	for _, s := range samples {
		m := f.src.message(s)
		if err := f.check(m); err != nil {
			f.bad(err)
			s.done(err)
			continue
		}
		taken, messages = append(taken, s), append(messages, m)
	}
	switch {
	case len(messages) == 0:
	case f.src.Full == Skip:
		f.later(ctx, taken, messages)
	default:
		f.store(ctx, taken, messages)
	}
}

// store appends samples, and reports those that the outbox refuses.
func (f *feed) store(ctx context.Context, taken []Sample, messages []message.Message) {
	err := f.put(ctx, messages)
	if len(messages) > 1 && (isPermanent(err) || errors.Is(err, outbox.ErrFull)) { // one message may have caused it, so each is tried alone
		for i, m := range messages {
			f.settle(taken[i:i+1], f.put(ctx, []message.Message{m}))
		}
		return
	}
	f.settle(taken, err)
}

// message returns the sample as the outbox keeps it. What the sample does not say, its source says.
func (src *Source) message(s Sample) message.Message {
	if s.ContentType == "" {
		s.ContentType = "application/json"
		if s.ContentEncoding == "" {
			s.ContentEncoding = "utf-8"
		}
	}
	if s.Created.IsZero() {
		s.Created = time.Now()
	}
	if s.Component == "" {
		s.Component = src.Component
	}
	if len(src.Properties) > 0 {
		all := maps.Clone(src.Properties)
		maps.Copy(all, s.Properties)
		s.Properties = all
	}
	return message.Message{
		Body: s.Body, ContentType: s.ContentType, ContentEncoding: s.ContentEncoding,
		Created: s.Created, Properties: s.Properties, Component: s.Component,
	}
}

func (s Sample) done(err error) {
	if s.Done != nil {
		s.Done(err)
	}
}

// check warns of what the model does not expect, and refuses a body that is no JSON object.
func (f *feed) check(m message.Message) error {
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
func (f *feed) put(ctx context.Context, messages []message.Message) error {
	if f.src.Full == Skip {
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
		f.skip(len(samples), SkipFull)
	case isPermanent(err):
		for range samples {
			f.bad(err)
		}
	default:
		f.mu.Lock()
		f.failed = err
		f.mu.Unlock()
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

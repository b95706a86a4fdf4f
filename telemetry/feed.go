package telemetry

import (
	"context"
	"errors"
	"fmt"
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
	// Append returns when the messages are durable. With the policy Block it waits for room until
	// ctx ends. Then it keeps none of the messages and returns outbox.ErrFull. ctx has no other
	// effect.
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
	Bad      func(error)                 // called for each input that is no sample, and each refused sample
	Skipped  func(n int, why SkipReason) // called for ticks without a sample; may be nil
	Warned   *Warned                     // names already warned of, shared by feeds; nil: own
	Counters *Counters                   // may be nil
	Sampler  *Sampler                    // asks a scheduled source; nil: a sampler of its own
	// Contain calls f. If f panics it may return an error, which then ends the feed. nil: a panic
	// is not contained.
	Contain func(f func() error) error
}

// Counters is what feeds have done, to be read at any time.
type Counters struct {
	Made    atomic.Uint64 // samples the outbox has taken
	Skipped atomic.Uint64 // ticks without a sample, for any SkipReason; they used no seq
	Bad     atomic.Uint64 // failed readings, bad lines, bodies against their content type
}

// SkipReason says why a tick has no sample. It is the end of a sentence.
type SkipReason string

// The reasons.
const (
	SkipFull SkipReason = "the outbox is full"
	SkipSlow SkipReason = "the disk is too slow for them"
	SkipLate SkipReason = "reading them took longer than the interval, or the process stood still"
)

// Warned remembers the warnings that were given. It is bounded, because the names come from
// outside. At the bound there is one last warning.
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
	f := newFeed(ctx, src, box, o)
	if src.Run != nil {
		return f.run()
	}
	ended := make(chan error, 1)
	f.ended = func(err error) { ended <- err }
	f.schedule()
	return <-ended
}

// StartFeed is Feed for a caller that does not wait. A source with a schedule is asked by
// o.Sampler, and costs no goroutine between two ticks; a source with a pace of its own gets a
// goroutine. ended is called once, by any goroutine, with what Feed would return. stop ends the
// feed and returns after ended has; ended must not call it.
func StartFeed(ctx context.Context, src Source, box Intake, o FeedOptions, ended func(error)) (stop func()) {
	f := newFeed(ctx, src, box, o)
	f.ended = ended
	if src.Run != nil {
		go func() { f.tell(f.run()) }()
	} else {
		f.schedule()
	}
	return func() {
		f.stop()
		f.untold.Wait()
	}
}

// feed is the state of one feed.
type feed struct {
	FeedOptions
	src  Source
	ctx  context.Context // a feed is a call that may outlive the one that began it
	stop func()          // ends the feed, and waits for nothing
	box  Intake

	ended  func(error)
	untold sync.WaitGroup // until ended has returned

	// Of a source with a schedule:
	task task
	due  time.Time // the tick that is due

	mu      sync.Mutex
	failed  error // the error that ended the feed, unless the source did
	waiting batch // samples of a schedule that wait for the append under way
	busy    bool  // a goroutine appends samples of a schedule
	putting sync.WaitGroup
}

func newFeed(ctx context.Context, src Source, box Intake, o FeedOptions) *feed {
	if o.Warned == nil {
		o.Warned = new(Warned)
	}
	if o.Counters == nil {
		o.Counters = new(Counters)
	}
	if o.Contain == nil {
		o.Contain = func(f func() error) error { return f() }
	}
	if src.Unmodelled {
		o.Model = nil
	}
	f := &feed{FeedOptions: o, src: src, box: box, ctx: ctx}
	f.untold.Add(1)
	if src.Run != nil || src.Full != Skip { // else nothing waits for the end of a context
		f.ctx, f.stop = context.WithCancel(ctx)
	}
	return f
}

// tell tells the caller how the feed has ended.
func (f *feed) tell(err error) {
	defer f.untold.Done()
	f.ended(err)
}

// run is the life of a source with a pace of its own.
func (f *feed) run() error {
	defer f.stop()
	err := f.Contain(func() error { return f.src.Run(f.ctx, f.emit, f.bad) })
	f.putting.Wait()
	return f.outcome(err)
}

// schedule begins the life of a source with a schedule. The feed has no context of its own unless
// it needs one, because a context costs more than the rest of an idle feed.
func (f *feed) schedule() {
	err := f.ctx.Err()
	if f.src.Interval <= 0 {
		err = fmt.Errorf("a sampling interval must be positive, this is %v", f.src.Interval)
	}
	if err != nil {
		if f.stop == nil {
			f.stop = func() {}
		}
		f.stop()
		f.tell(err)
		return
	}
	if f.Sampler == nil {
		f.Sampler = NewSampler(1)
	}
	f.due = time.Now()
	f.task.run = f.tick
	detach := context.AfterFunc(f.ctx, func() { f.finish(f.ctx.Err()) })
	if f.stop == nil {
		f.stop = func() {
			if detach() {
				go f.finish(context.Canceled)
			}
		}
	}
	f.Sampler.start(&f.task)
}

// finish ends the life of a source with a schedule.
func (f *feed) finish(err error) {
	f.Sampler.stop(&f.task)
	f.putting.Wait()
	f.tell(f.outcome(err))
}

// tick asks the source once, and returns when the next tick is due. A source that waits for room in
// the outbox, which may take long, keeps no worker of the sampler meanwhile.
func (f *feed) tick() (next time.Time) {
	var body []byte
	var err error
	now := time.Now()
	if !f.contained(func() { body, err = f.src.Read(now) }) {
		return f.nextTick()
	}
	if err != nil {
		f.bad(err)
		return f.nextTick()
	}
	sample := Sample{Body: body, Created: now}
	if f.src.Full == Skip {
		f.contained(func() { f.emit(sample) })
		return f.nextTick()
	}
	f.putting.Go(func() {
		f.contained(func() { f.emit(sample) })
		f.Sampler.resume(&f.task, f.nextTick())
	})
	return time.Time{}
}

// nextTick returns when the next tick is due. Those that were missed are skipped.
func (f *feed) nextTick() time.Time {
	late := max(0, time.Since(f.due)/f.src.Interval) // ticks
	f.skip(int(late), SkipLate)
	f.due = f.due.Add((late + 1) * f.src.Interval)
	return f.due
}

// contained calls one step of the feed. If it panics, and that is contained, the feed ends.
func (f *feed) contained(step func()) (done bool) {
	err := f.Contain(func() error {
		step()
		return nil
	})
	if err != nil {
		f.fail(err)
	}
	return err == nil
}

// fail ends the feed with an error.
func (f *feed) fail(err error) {
	f.mu.Lock()
	if f.failed == nil {
		f.failed = err
	}
	f.mu.Unlock()
	f.stop()
}

// outcome is what a feed ends with; err is what its source ended with.
func (f *feed) outcome(err error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failed != nil {
		return f.failed
	}
	return err
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
func (f *feed) later(samples []Sample, messages []message.Message) {
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
	f.putting.Go(func() { f.contained(f.storeWaiting) })
}

// storeWaiting appends what waits, until nothing does.
func (f *feed) storeWaiting() {
	for {
		f.mu.Lock()
		next := f.waiting
		f.waiting = batch{}
		f.busy = len(next.messages) > 0
		f.mu.Unlock()
		if len(next.messages) == 0 {
			return
		}
		f.store(next.samples, next.messages)
	}
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

func (f *feed) emit(samples ...Sample) {
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
		f.later(taken, messages)
	default:
		f.store(taken, messages)
	}
}

// store appends samples, and reports those that the outbox refuses.
func (f *feed) store(taken []Sample, messages []message.Message) {
	err := f.put(messages)
	if len(messages) > 1 && (isPermanent(err) || errors.Is(err, outbox.ErrFull)) { // perhaps only one is bad
		for i, m := range messages {
			f.conclude(taken[i:i+1], f.put([]message.Message{m}))
		}
		return
	}
	f.conclude(taken, err)
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
func (f *feed) put(messages []message.Message) error {
	if f.src.Full == Skip {
		return f.box.TryAppend(messages...)
	}
	err := f.box.Append(f.ctx, messages...)
	if errors.Is(err, outbox.ErrFull) {
		err = f.box.AppendOver(messages...)
	}
	return err
}

// conclude tells what became of samples that were put in together.
func (f *feed) conclude(samples []Sample, err error) {
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
		f.fail(err)
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

package telemetry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/hubhop-iot/hubhop/telemetry/message"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeBox is an outbox in memory that shows what it was asked. Its bound is a number of records.
type fakeBox struct {
	limit  int // records it holds; 0: any number
	refuse func(message.Message) error
	next   error // what Next answers instead of records
	ack    error // what Ack answers, having done nothing

	mu       sync.Mutex
	changed  chan struct{}
	seq      uint64
	records  []outbox.Record
	acks     []uint64 // in the order they came
	poisoned []uint64
	watches  []*fakeWatch
	closed   bool
}

func newFakeBox() *fakeBox { return &fakeBox{changed: make(chan struct{})} }

func (b *fakeBox) notifyLocked() {
	close(b.changed)
	b.changed = make(chan struct{})
}

func (b *fakeBox) TryAppend(messages ...message.Message) error { return b.put(false, messages) }

func (b *fakeBox) AppendOver(messages ...message.Message) error { return b.put(true, messages) }

func (b *fakeBox) put(over bool, messages []message.Message) error {
	defer b.callReaders()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return outbox.ErrClosed
	}
	for _, m := range messages {
		if b.refuse != nil {
			if err := b.refuse(m); err != nil {
				return err
			}
		}
	}
	if !over && b.limit > 0 && len(b.records)+len(messages) > b.limit {
		return outbox.ErrFull
	}
	for _, m := range messages {
		b.seq++
		b.records = append(b.records, outbox.Record{Message: m, Pos: b.seq * 10, ID: fmt.Sprintf("box-%d", b.seq)})
	}
	b.notifyLocked()
	return nil
}

func (b *fakeBox) Append(ctx context.Context, messages ...message.Message) error {
	for {
		b.mu.Lock()
		changed := b.changed
		b.mu.Unlock()
		err := b.TryAppend(messages...)
		if !errors.Is(err, outbox.ErrFull) {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return err
		}
	}
}

// fakeWatch is a reader that waits.
type fakeWatch struct {
	watch *outbox.Watch
	parts []outbox.Part
}

func (b *fakeBox) Watch(w *outbox.Watch, parts ...outbox.Part) {
	b.Unwatch(w)
	b.mu.Lock()
	b.watches = append(b.watches, &fakeWatch{w, slices.Clone(parts)})
	b.mu.Unlock()
	b.callReaders()
}

func (b *fakeBox) Unwatch(w *outbox.Watch) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := len(b.watches)
	b.watches = slices.DeleteFunc(b.watches, func(x *fakeWatch) bool { return x.watch == w })
	return len(b.watches) < n
}

// callReaders calls the readers that have something to read.
func (b *fakeBox) callReaders() {
	b.mu.Lock()
	var ready []*fakeWatch
	b.watches = slices.DeleteFunc(b.watches, func(w *fakeWatch) bool {
		found := b.next != nil || slices.ContainsFunc(w.parts, func(p outbox.Part) bool { return len(b.in(p, 1, 1)) > 0 })
		if found {
			ready = append(ready, w)
		}
		return found
	})
	b.mu.Unlock()
	for _, w := range ready {
		w.watch.Wake()
	}
}

func (b *fakeBox) Read(_ *outbox.Batch, limit, bytes int, parts ...outbox.Part) ([]outbox.Record, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.next; err != nil {
		return nil, err
	}
	for _, p := range parts {
		if found := b.in(p, limit, bytes); found != nil {
			return found, nil
		}
	}
	return nil, nil
}

// in gives records of a part. b.mu is held.
func (b *fakeBox) in(p outbox.Part, limit, bytes int) (found []outbox.Record) {
	for _, r := range b.records {
		if r.Pos <= p.After || p.Until != 0 && r.Pos >= p.Until {
			continue
		}
		if bytes -= len(r.Body); len(found) == limit || bytes < 0 && len(found) > 0 {
			break
		}
		found = append(found, r)
	}
	return found
}

func (b *fakeBox) Newest(n int) uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.records) <= n {
		return 0
	}
	return b.records[len(b.records)-n-1].Pos
}

func (b *fakeBox) Ack(places ...uint64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ack != nil {
		return b.ack
	}
	b.acks = append(b.acks, places...)
	b.records = slices.DeleteFunc(b.records, func(r outbox.Record) bool { return slices.Contains(places, r.Pos) })
	b.notifyLocked()
	return nil
}

func (b *fakeBox) Quarantine(pos uint64, _ error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.poisoned = append(b.poisoned, pos)
	for i, r := range b.records {
		if r.Pos == pos {
			b.records = slices.Delete(b.records, i, i+1)
			if i < len(b.records) {
				n := strings.TrimPrefix(r.ID, "box-")
				b.records[i].Gap = n + "-" + n
			}
			break
		}
	}
	return nil
}

func (b *fakeBox) close() {
	defer b.callReaders()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed, b.next = true, outbox.ErrClosed
	b.notifyLocked()
}

// held is a copy of what is in the box.
func (b *fakeBox) held() []outbox.Record {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.records)
}

func (b *fakeBox) acked() []uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.acks)
}

// fill puts in numbered samples of a size.
func fill(t testing.TB, b Intake, count, size int) {
	t.Helper()
	for i := range count {
		body := fmt.Sprintf(`{"n":%d}`, i+1)
		body += strings.Repeat(" ", max(0, size-len(body)))
		if err := b.TryAppend(message.Message{Body: []byte(body)}); err != nil {
			t.Fatal(err)
		}
	}
}

// sent is a message as it reached the sender.
type sent struct {
	message.Outgoing
	mid, body string
	done      func(error)
}

// fakeSender is a link: what is published stays in flight until the test answers.
type fakeSender struct {
	refuse func(body []byte) error
	inline bool // done is called inside Send

	mu       sync.Mutex
	window   int
	all      []sent
	inFlight int
	most     int
}

func newFakeSender() *fakeSender { return &fakeSender{window: 1000} }

func (s *fakeSender) Window() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.window
}

func (s *fakeSender) setWindow(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.window = n
}

func (s *fakeSender) Send(messages []message.Outgoing, to message.Completion) (int, error) {
	for i, m := range messages {
		if err := s.publish(m, func(err error) { to.Done([]uint64{m.Ticket}, err) }); err != nil {
			return i, err
		}
	}
	return len(messages), nil
}

func (s *fakeSender) publish(m message.Outgoing, done func(error)) error {
	if s.refuse != nil {
		if err := s.refuse(m.Body); err != nil {
			return err
		}
	}
	s.mu.Lock()
	s.all = append(s.all, sent{m, m.ID, string(m.Body), done})
	s.inFlight++
	s.most = max(s.most, s.inFlight)
	i := len(s.all) - 1
	s.mu.Unlock()
	if s.inline {
		s.answer(i, nil)
	}
	return nil
}

// answer completes message i.
func (s *fakeSender) answer(i int, err error) {
	s.mu.Lock()
	s.inFlight--
	done := s.all[i].done
	s.mu.Unlock()
	done(err)
}

func (s *fakeSender) sent() []sent {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.all)
}

func (s *fakeSender) mids() []string {
	var mids []string
	for _, m := range s.sent() {
		mids = append(mids, m.mid)
	}
	return mids
}

// mids of the fake box from first to last.
func mids(first, last int) []string {
	var all []string
	for i := first; i <= last; i++ {
		all = append(all, fmt.Sprintf("box-%d", i))
	}
	return all
}

// discard takes everything.
type discard struct{}

func (discard) Append(context.Context, ...message.Message) error { return nil }
func (discard) TryAppend(...message.Message) error               { return nil }
func (discard) AppendOver(...message.Message) error              { return nil }

// Run is Start, and Stop when ctx ends or the drain does. It returns ctx.Err(), the link's reason,
// or an error of the outbox.
func (d *Drain) Run(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
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

package telemetry

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/internal/bubble"
	"github.com/hubhop-iot/hubhop/telemetry/message"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

// TestAcknowledgementSendsTheNextMessages: the goroutine that brings an acknowledgement sends the
// messages that there is room for now, before it returns. After Stop nothing is sent, and
// acknowledgements still count.
func TestAcknowledgementSendsTheNextMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box, link := newFakeBox(), newFakeSender()
		fill(t, box, 10, 0)
		d := NewDrain(box, link, DrainOptions{Window: 3})
		d.Start(func(err error) { t.Errorf("ended with %v", err) })
		if got := len(link.sent()); got != 3 {
			t.Fatalf("%d sent by Start", got)
		}
		for i := range 4 {
			link.answer(i, nil)
			if got := len(link.sent()); got != i+4 {
				t.Fatalf("%d sent after %d acknowledgements", got, i+1)
			}
		}
		d.Stop()
		link.answer(4, nil)
		link.answer(5, nil)
		fill(t, box, 1, 0)
		link.answer(6, errLink) // nobody is told
		d.Stop()
		synctest.Wait()
		if got := box.acked(); len(link.sent()) != 7 || len(got) != 6 {
			t.Errorf("%d sent, acknowledged %v", len(link.sent()), got)
		}
	})
}

// TestIdleDrainHasNoGoroutine: an idle drain has no goroutine and no timer. A message that comes
// into the outbox is sent all the same, and the end is reported once.
func TestIdleDrainHasNoGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box, link := newFakeBox(), newFakeSender()
		before := bubble.Goroutines()
		var drains []*Drain
		ended := 0
		for range 50 {
			d := NewDrain(box, link, DrainOptions{})
			d.Start(func(err error) {
				if ended++; !errors.Is(err, errLink) {
					t.Errorf("ended with %v", err)
				}
			})
			drains = append(drains, d)
		}
		synctest.Wait()
		noMoreGoroutines(t, before)
		for _, d := range drains[1:] {
			d.Stop()
		}
		for i := range 5 {
			fill(t, box, 1, 0)
			synctest.Wait()
			if n := len(link.sent()); n != i+1 {
				t.Fatalf("%d sent", n)
			}
			link.answer(i, nil)
		}
		fill(t, box, 2, 0)
		synctest.Wait()
		link.answer(5, errLink)
		link.answer(6, errLink)
		drains[0].Stop()
		if ended != 1 {
			t.Errorf("told %d times", ended)
		}
	})
}

// TestClosedWindowIsLookedAtAgain: a drain with nothing in flight looks again at a closed window,
// until it has opened or the drain has stopped.
func TestClosedWindowIsLookedAtAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box, link := newFakeBox(), newFakeSender()
		link.setWindow(0)
		fill(t, box, 2, 0)
		var looks atomic.Int64
		d := NewDrain(box, link, DrainOptions{Go: func(work func()) { looks.Add(1); go work() }})
		d.Start(func(err error) { t.Errorf("ended with %v", err) })
		time.Sleep(10*lookAgain + lookAgain/2)
		if looks.Load() != 10 || len(link.sent()) != 0 {
			t.Errorf("%d looks, %d sent", looks.Load(), len(link.sent()))
		}
		link.setWindow(1)
		time.Sleep(time.Minute)
		if looks.Load() != 11 || len(link.sent()) != 1 {
			t.Errorf("%d looks, %d sent through an open window", looks.Load(), len(link.sent()))
		}
		link.setWindow(0)
		link.answer(0, nil)
		d.Stop()
		time.Sleep(time.Minute)
		if looks.Load() != 11 || len(link.sent()) != 1 {
			t.Errorf("%d looks, %d sent by a stopped drain", looks.Load(), len(link.sent()))
		}
	})
}

// Work that panics leaves a drain that can be stopped, and sends no more.
func TestDrainIsStoppedAfterAPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box, link := newFakeBox(), newFakeSender()
		link.refuse = func([]byte) error { panic("a bug") }
		bugs := 0
		d := NewDrain(box, link, DrainOptions{Go: func(work func()) {
			go func() {
				defer func() {
					if recover() != nil {
						bugs++
					}
				}()
				work()
			}()
		}})
		d.Start(func(err error) { t.Errorf("ended with %v", err) })
		fill(t, box, 1, 0)
		synctest.Wait()
		d.Stop()
		if bugs != 1 {
			t.Errorf("%d bugs", bugs)
		}
	})
}

// Run waits for the one who is sending. (Not in a bubble: there nobody may wait for a lock.)
func TestRunWaitsForTheSender(t *testing.T) {
	box, link := newFakeBox(), newFakeSender()
	fill(t, box, 3, 0)
	ctx, stop := context.WithCancel(t.Context())
	sending, release := make(chan struct{}), make(chan struct{})
	link.refuse = func(body []byte) error {
		sending <- struct{}{}
		if string(body) == `{"n":2}` {
			<-release
		}
		return nil
	}
	ended := draining(ctx, box, link, DrainOptions{Window: 1})
	<-sending
	for len(link.sent()) == 0 {
		runtime.Gosched()
	}
	go link.answer(0, nil)
	<-sending
	stop()
	for range 10_000 {
		runtime.Gosched()
	}
	select {
	case err := <-ended:
		t.Errorf("ended with %v while a message is being sent", err)
	default:
		close(release)
		if err := <-ended; !errors.Is(err, context.Canceled) || len(link.sent()) != 2 {
			t.Errorf("ended with %v, %d sent", err, len(link.sent()))
		}
	}
}

// parrot is a link that is full with one message, and leaves its acknowledgement to whoever looks.
type parrot struct{ sent atomic.Uint64 } // the ticket, plus 1

func (*parrot) Window() int { return 1 }

func (p *parrot) Send(messages []message.Outgoing, _ message.Completion) (int, error) {
	p.sent.Store(messages[0].Ticket + 1)
	return 1, nil
}

// TestDrainMissesNoAcknowledgement: an acknowledgement counts whenever it comes: while the drain is
// still sending, when it finds no more room, or when it waits.
func TestDrainMissesNoAcknowledgement(t *testing.T) {
	box, link := newFakeBox(), new(parrot)
	ctx, stop := context.WithCancel(t.Context())
	d, ended := NewDrain(box, link, DrainOptions{}), make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	for i := range 50_000 {
		fill(t, box, 2, 0) // Run, which waits for that, sends the first, and the one who acknowledges that the other
		for range 2 {
			ticket := uint64(0)
			for looked := 0; ticket == 0; ticket = link.sent.Swap(0) {
				if looked++; looked > 100 {
					runtime.Gosched()
				}
				if looked > 50_000_000 { // many seconds
					t.Fatalf("stuck after %d", i)
				}
			}
			for range i % 500 { // some nanoseconds more each time
				_ = link.sent.Load()
			}
			d.Done([]uint64{ticket - 1}, nil)
		}
	}
	stop()
	<-ended
}

// hooked is a box in which something happens once it was read.
type hooked struct {
	*fakeBox
	then func()
}

func (b *hooked) Read(into *outbox.Batch, limit, bytes int, parts ...outbox.Part) ([]outbox.Record, error) {
	records, err := b.fakeBox.Read(into, limit, bytes, parts...)
	if then := b.then; then != nil && len(records) > 0 {
		b.then = nil
		then()
	}
	return records, err
}

// TestDrainLooksAgain: an acknowledgement makes room just after the sending goroutine has seen that
// there is none. The drain looks again.
func TestDrainLooksAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box, link := &hooked{fakeBox: newFakeBox()}, newFakeSender()
		fill(t, box, 1, 400<<10)
		draining(t.Context(), box, link, DrainOptions{})
		synctest.Wait()
		box.then = func() { link.answer(0, nil) }
		fill(t, box, 1, 200<<10)
		synctest.Wait()
		if len(link.sent()) != 2 {
			t.Errorf("%d sent", len(link.sent()))
		}
	})
}

// TestDrainReadsForRoomOnly: a message that does not fit is not read again for each
// acknowledgement, but when there is room enough for it.
func TestDrainReadsForRoomOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box, link := &hooked{fakeBox: newFakeBox()}, newFakeSender()
		fill(t, box, 10, 40<<10)
		fill(t, box, 1, 400<<10)
		draining(t.Context(), box, link, DrainOptions{})
		synctest.Wait()
		for i := range 8 {
			read := false
			box.then = func() { read = true }
			link.answer(i, nil)
			synctest.Wait()
			if makesRoom := i == 8-1; read != makesRoom || len(link.sent()) == 11 != makesRoom {
				t.Errorf("after %d acknowledgements: read %v, %d sent", i+1, read, len(link.sent()))
			}
		}
	})
}

// Early does not pass what it could not send, and keeps to the bytes that may be in flight.
func TestEarlyLeavesTheRestToRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box, link := newFakeBox(), newFakeSender()
		fill(t, box, 8, 100<<10)
		link.refuse = func(body []byte) error {
			if strings.HasPrefix(string(body), `{"n":3}`) {
				return refused{permanent: true}
			}
			return nil
		}
		d := NewDrain(box, link, DrainOptions{})
		d.Early()
		if !slices.Equal(link.mids(), mids(1, 2)) || len(box.poisoned) > 0 {
			t.Fatalf("sent %v early, poisoned %v", link.mids(), box.poisoned)
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- d.Run(ctx) }()
		synctest.Wait()
		stop()
		<-ended
		if want := append(mids(1, 2), mids(4, 6)...); !slices.Equal(link.mids(), want) || !slices.Equal(box.poisoned, []uint64{30}) {
			t.Errorf("sent %v, poisoned %v", link.mids(), box.poisoned)
		}
	})
	box, link := newFakeBox(), newFakeSender()
	fill(t, box, 8, 100<<10)
	NewDrain(box, link, DrainOptions{}).Early()
	if len(link.sent()) != MaxInFlight/(100<<10) {
		t.Errorf("%d sent early", len(link.sent()))
	}
}

// What leaves the outbox while the window is full is not sent from memory afterwards.
func TestDrainHoldsNothingBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box, link := newFakeBox(), newFakeSender()
		fill(t, box, 6, 0)
		draining(t.Context(), box, link, DrainOptions{Window: 2})
		synctest.Wait()
		box.mu.Lock()
		box.records = slices.Delete(box.records, 2, 4) // dropped, for age
		box.mu.Unlock()
		link.answer(0, nil)
		link.answer(1, nil)
		synctest.Wait()
		if want := []string{"box-1", "box-2", "box-5", "box-6"}; !slices.Equal(link.mids(), want) {
			t.Errorf("sent %v", link.mids())
		}
	})
}

// TestDrainMissesNoRoom: acknowledgements and samples come at the same time. Everything is sent, in
// order.
func TestDrainMissesNoRoom(t *testing.T) {
	for range 20 {
		synctest.Test(t, func(t *testing.T) {
			const total, window = 500, 7
			box, link := newFakeBox(), newFakeSender()
			draining(t.Context(), box, link, DrainOptions{Window: window})
			var answered, made sync.WaitGroup
			made.Go(func() {
				for range total / 5 {
					fill(t, box, 5, 0)
					runtime.Gosched()
				}
			})
			for part := range window {
				answered.Go(func() {
					for i := part; i < total; i += window {
						for len(link.sent()) <= i {
							time.Sleep(time.Microsecond) // of virtual time
						}
						link.answer(i, nil)
					}
				})
			}
			answered.Wait()
			made.Wait()
			synctest.Wait()
			if !slices.Equal(link.mids(), mids(1, total)) || len(box.held()) != 0 || link.most > window {
				t.Errorf("%d sent, %d left, %d in flight at most", len(link.sent()), len(box.held()), link.most)
			}
		})
	}
}

// A link that fails between Early and Run has failed.
func TestDrainRemembersAnEarlyFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box, link := newFakeBox(), newFakeSender()
		fill(t, box, 2, 0)
		d := NewDrain(box, link, DrainOptions{})
		d.Early()
		link.answer(0, errLink)
		if err := d.Run(t.Context()); !errors.Is(err, errLink) || len(box.held()) != 2 {
			t.Errorf("ended with %v, %d held", err, len(box.held()))
		}
	})
}

// Sending allocates nothing per message beside what the outbox hands out.
func TestDrainAllocatesNothingPerMessage(t *testing.T) {
	d := NewDrain(newFakeBox(), new(instant), DrainOptions{})
	records := make([]outbox.Record, 64)
	for i := range records {
		records[i] = outbox.Record{Message: message.Message{Body: []byte("{}"), ContentType: "application/json", Created: time.Now()}, ID: "box-1"}
	}
	batch := func() {
		d.work()
		d.next.fill(records, nil)
		if err := d.send(len(records)); err != nil {
			t.Error(err)
		}
	}
	if n := testing.AllocsPerRun(100, batch); n > 0 {
		t.Errorf("%v allocations for a batch of %d", n, len(records))
	}
}

// instant is a link whose acknowledgement comes inside Send.
type instant struct{ ticket [1]uint64 }

func (*instant) Window() int { return 20 }

func (s *instant) Send(messages []message.Outgoing, to message.Completion) (int, error) {
	for i := range messages {
		s.ticket[0] = messages[i].Ticket
		to.Done(s.ticket[:], errLink) // the fake box would allocate
	}
	return len(messages), nil
}

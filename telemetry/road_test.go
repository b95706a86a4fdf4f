package telemetry

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/telemetry/message"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

// These tests go the whole way on a real outbox: Feed, the disk, and Drain, over links that die and
// a process that starts again.

func openBox(t testing.TB, dir string, o outbox.Options) *outbox.Box {
	t.Helper()
	box, err := outbox.Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = box.Close() })
	return box
}

// seq is the number in a message id.
func seq(t testing.TB, mid string) int {
	t.Helper()
	_, digits, ok := strings.Cut(mid, "-")
	n, err := strconv.Atoi(digits)
	if !ok || err != nil {
		t.Fatalf("message id %q", mid)
	}
	return n
}

// ledger is what the cloud received over all links: which body came under which id.
type ledger map[string]string

// enter takes what one link published: in order, and never another body under a known id.
func (l ledger) enter(t *testing.T, all []sent) {
	t.Helper()
	last := 0
	for _, m := range all {
		n := seq(t, m.mid)
		if n <= last {
			t.Errorf("%s came after seq %d", m.mid, last)
		}
		last = n
		if body, known := l[m.mid]; known && body != m.body {
			t.Errorf("%s is %q and %q", m.mid, body, m.body)
		}
		l[m.mid] = m.body
	}
}

func TestNothingIsLostOverLinksAndRestarts(t *testing.T) {
	const count = 3000
	dir, received := t.TempDir(), ledger{}
	synctest.Test(t, func(t *testing.T) {
		var input strings.Builder
		for i := range count {
			fmt.Fprintf(&input, "{\"n\":%d}\n", i+1)
		}
		box := openBox(t, dir, outbox.Options{Full: outbox.Block})
		if err := Feed(t.Context(), Lines(strings.NewReader(input.String())), box, FeedOptions{Model: failover(t)}); err != nil {
			t.Fatal(err)
		}
		for life := 0; box.Stats().Queued > 0; life++ {
			link := newFakeSender()
			ended := draining(t.Context(), box, link, DrainOptions{})
			for i := range 400 { // two of three messages arrive, and their acknowledgements do not come in order
				synctest.Wait()
				if all := link.sent(); i < len(all) && i%3 != 1 {
					link.answer(i, nil)
				}
			}
			synctest.Wait()
			all := link.sent()
			for i := range all {
				if i >= 400 || i%3 == 1 {
					link.answer(i, errLink)
				}
			}
			if err := <-ended; !errors.Is(err, errLink) {
				t.Fatalf("life %d: drain ended with %v", life, err)
			}
			received.enter(t, all)
			if life%2 == 0 { // the process ends too
				if err := box.Close(); err != nil {
					t.Fatal(err)
				}
				box = openBox(t, dir, outbox.Options{Full: outbox.Block})
			}
			if life > 40 {
				t.Fatalf("%d left after %d lives", box.Stats().Queued, life)
			}
			if box.Stats().Queued < 200 { // the last link holds
				link := newFakeSender()
				link.inline = true
				ctx, stop := context.WithCancel(t.Context())
				ended := draining(ctx, box, link, DrainOptions{})
				if err := box.WaitEmpty(ctx); err != nil {
					t.Fatal(err)
				}
				stop()
				<-ended
				received.enter(t, link.sent())
			}
		}
	})
	if len(received) != count {
		t.Errorf("%d of %d samples were received", len(received), count)
	}
	for mid, body := range received {
		if want := fmt.Sprintf(`{"n":%d}`, seq(t, mid)); body != want {
			t.Errorf("%s is %s, want %s", mid, body, want)
		}
	}
}

func TestPoisonLeavesATombstone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box, link := openBox(t, t.TempDir(), outbox.Options{}), newFakeSender()
		fill(t, box, 6, 0)
		link.inline = true
		link.refuse = func(body []byte) error {
			if s := string(body); s == `{"n":3}` || s == `{"n":4}` {
				return refused{permanent: true}
			}
			return nil
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := draining(ctx, box, link, DrainOptions{})
		if err := box.WaitEmpty(ctx); err != nil {
			t.Fatal(err)
		}
		stop()
		<-ended
		var got []string
		for _, m := range link.sent() {
			got = append(got, strings.TrimSpace(fmt.Sprintf("%d %s", seq(t, m.mid), m.Gap)))
		}
		if want := "1|2|5 3-4|6"; strings.Join(got, "|") != want {
			t.Errorf("received %v, want %s", got, want)
		}
		if s := box.Stats(); s.Quarantined != 2 || s.Acked != 4 {
			t.Errorf("%+v", s)
		}
	})
}

func TestAFullDiskAndASchedule(t *testing.T) {
	const day = 24*time.Hour + time.Second
	feed := func(t *testing.T, box *outbox.Box, interval time.Duration) *Counters {
		t.Helper()
		counters := new(Counters)
		ctx, stop := context.WithTimeout(t.Context(), day)
		defer stop()
		err := Feed(ctx, Every(interval, room), box, FeedOptions{Counters: counters})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		return counters
	}
	const ticks = 24*60 + 1
	t.Run("block skips ticks and uses no seq for them", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			box := openBox(t, t.TempDir(), outbox.Options{Full: outbox.Block, MaxBytes: 64 << 10})
			c := feed(t, box, time.Minute)
			made, skipped := c.Made.Load(), c.Skipped.Load()
			if made+skipped != ticks || made < 100 || skipped < 100 || c.Bad.Load() != 0 {
				t.Errorf("made %d, skipped %d", made, skipped)
			}
			if s := box.Stats(); s.LastSeq != made || s.Queued != made || s.Dropped != 0 {
				t.Errorf("%+v after %d made", s, made)
			}
		})
	})
	t.Run("drop-oldest goes on and says what is missing", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			box := openBox(t, t.TempDir(), outbox.Options{MaxBytes: 64 << 10})
			c := feed(t, box, time.Minute)
			if c.Made.Load() != ticks || c.Skipped.Load() != 0 {
				t.Errorf("made %d, skipped %d", c.Made.Load(), c.Skipped.Load())
			}
			s, link := box.Stats(), newFakeSender()
			link.inline = true
			ctx, stop := context.WithCancel(t.Context())
			ended := draining(ctx, box, link, DrainOptions{})
			if err := box.WaitEmpty(ctx); err != nil {
				t.Fatal(err)
			}
			stop()
			<-ended
			all := link.sent()
			if s.Dropped < 100 || uint64(len(all)) != ticks-s.Dropped {
				t.Fatalf("%+v, %d sent", s, len(all))
			}
			if want := fmt.Sprintf("1-%d", s.Dropped); all[0].Gap != want || seq(t, all[0].mid) != int(s.Dropped)+1 {
				t.Errorf("%s has gap %q, want %q", all[0].mid, all[0].Gap, want)
			}
			received := ledger{}
			received.enter(t, all)
		})
	})
}

// A batch that is larger than the whole outbox goes in one by one, as room comes.
func TestAStreamThroughASmallOutbox(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box, link := openBox(t, t.TempDir(), outbox.Options{Full: outbox.Block, MaxBytes: 64 << 10}), newFakeSender()
		link.inline = true
		line := `{"x":"` + strings.Repeat("y", 2000) + `"}` + "\n"
		drainCtx, stop := context.WithCancel(t.Context())
		ended := draining(drainCtx, box, link, DrainOptions{})
		var counters Counters
		err := Feed(t.Context(), Lines(strings.NewReader(strings.Repeat(line, 500))), box, FeedOptions{
			Counters: &counters, Bad: func(err error) { t.Error(err) },
		})
		if err != nil || counters.Made.Load() != 500 {
			t.Errorf("%v, %d made", err, counters.Made.Load())
		}
		if err := box.WaitEmpty(drainCtx); err != nil {
			t.Fatal(err)
		}
		stop()
		<-ended
		if n := len(link.sent()); n != 500 {
			t.Errorf("%d sent", n)
		}
	})
}

// Lines to a real disk, synced: what standard input can bear.
func BenchmarkLinesToDisk(b *testing.B) {
	const line = `{"temp":21.53,"humidity":40.17,"seq":123456}` + "\n"
	const lines = 20_000
	input, m := strings.Repeat(line, lines), failover(b)
	box := openBox(b, b.TempDir(), outbox.Options{MaxBytes: 8 << 20})
	b.ReportAllocs()
	for b.Loop() {
		if err := Feed(b.Context(), Lines(strings.NewReader(input)), box, FeedOptions{Model: m}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)*lines/b.Elapsed().Seconds(), "lines/s")
}

// answering is a link whose hub acknowledges from another goroutine, in order.
type answering struct {
	queue chan []uint64
	to    message.Completion
}

func (s *answering) Window() int { return 64 }

func (s *answering) Send(messages []message.Outgoing, to message.Completion) (int, error) {
	tickets := make([]uint64, len(messages))
	for i := range messages {
		tickets[i] = messages[i].Ticket
	}
	s.to = to
	s.queue <- tickets
	return len(messages), nil
}

// TestRoadAllocatesNothingPerMessage: from the disk to the link, and from the acknowledgement back
// to the disk, a message costs no allocation. A batch of messages may cost some.
func TestRoadAllocatesNothingPerMessage(t *testing.T) {
	const count = 20_000
	box := openBox(t, t.TempDir(), outbox.Options{})
	messages := make([]message.Message, 1000)
	for i := range messages {
		messages[i] = new(Source).message(Sample{Body: []byte(`{"temp":21.53,"humidity":40.17}`), Created: time.Now()})
	}
	for range count / len(messages) {
		if err := box.TryAppend(messages...); err != nil {
			t.Fatal(err)
		}
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	ctx, stop := context.WithCancel(t.Context())
	ended := draining(ctx, box, new(prompt), DrainOptions{})
	if err := box.WaitEmpty(ctx); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	stop()
	<-ended
	if n := after.Mallocs - before.Mallocs; n > count/2 {
		t.Errorf("%d allocations for %d messages", n, count)
	}
}

// prompt is a link whose hub has acknowledged a batch before Send returns.
type prompt struct{ tickets []uint64 }

func (*prompt) Window() int { return 64 }

func (s *prompt) Send(messages []message.Outgoing, to message.Completion) (int, error) {
	s.tickets = s.tickets[:0]
	for i := range messages {
		s.tickets = append(s.tickets, messages[i].Ticket)
	}
	to.Done(s.tickets, nil)
	return len(messages), nil
}

// Drain alone, with a link that costs nothing.
func BenchmarkDrain(b *testing.B) {
	box := openBox(b, b.TempDir(), outbox.Options{})
	link := &answering{queue: make(chan []uint64, 64)}
	go func() {
		for tickets := range link.queue {
			link.to.Done(tickets, nil)
		}
	}()
	messages := make([]message.Message, 1000)
	for i := range messages {
		messages[i] = new(Source).message(Sample{Body: []byte(`{"temp":21.53,"humidity":40.17}`), Created: time.Now()})
	}
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		for range 20 {
			if err := box.TryAppend(messages...); err != nil {
				b.Fatal(err)
			}
		}
		ctx, stop := context.WithCancel(b.Context())
		b.StartTimer()
		ended := draining(ctx, box, link, DrainOptions{})
		if err := box.WaitEmpty(ctx); err != nil {
			b.Fatal(err)
		}
		stop()
		<-ended
	}
	close(link.queue)
	b.ReportMetric(float64(b.N)*20_000/b.Elapsed().Seconds(), "msgs/s")
}

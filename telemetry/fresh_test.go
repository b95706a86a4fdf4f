package telemetry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

// seqsOf are the numbers of what a link published.
func seqsOf(t testing.TB, all []sent) (seqs []int) {
	t.Helper()
	for _, m := range all {
		seqs = append(seqs, seq(t, m.mid))
	}
	return seqs
}

// inTwoStreams checks that what is at or above split, and what is below it, each come in order.
func inTwoStreams(t testing.TB, seqs []int, split int) {
	t.Helper()
	var last [2]int
	for i, n := range seqs {
		stream := 0
		if n >= split {
			stream = 1
		}
		if n <= last[stream] {
			t.Fatalf("%d came in place %d, behind %d of the same stream", n, i, last[stream])
		}
		last[stream] = n
	}
}

// TestFreshSamplesGoBeforeTheBacklog: after an hour without a link, the newest samples are in the
// first window. New samples go before everything that is not sent yet, and the backlog arrives
// behind them.
func TestFreshSamplesGoBeforeTheBacklog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box, link := openBox(t, t.TempDir(), outbox.Options{}), newFakeSender()
		ctx, stop := context.WithCancel(t.Context())
		fed := make(chan error, 1)
		go func() { fed <- Feed(ctx, Every(time.Second, room), box, FeedOptions{}) }()
		time.Sleep(time.Hour)
		synctest.Wait()
		waited := int(box.Stats().LastSeq)
		ended := draining(ctx, box, link, DrainOptions{Order: FreshFirst})
		synctest.Wait()
		first := seqsOf(t, link.sent())
		if len(first) != 64 || !slices.Contains(first, waited) || first[63] != 48 {
			t.Fatalf("of %d that waited the first window has %v", waited, first)
		}
		answered := 0
		for box.Stats().Queued > 0 {
			if answered%10 == 0 { // a sample is made, and is the next to go
				time.Sleep(time.Second)
				synctest.Wait()
				made := int(box.Stats().LastSeq)
				link.answer(answered, nil)
				answered++
				synctest.Wait()
				if all := seqsOf(t, link.sent()); all[len(all)-1] != made {
					t.Fatalf("%d was made and %d went", made, all[len(all)-1])
				}
			}
			link.answer(answered, nil)
			answered++
			synctest.Wait()
		}
		stop()
		<-ended
		<-fed
		all := seqsOf(t, link.sent())
		inTwoStreams(t, all, first[0])
		slices.Sort(all)
		if made := int(box.Stats().LastSeq); len(all) != made || all[0] != 1 || all[made-1] != made || link.most != 64 {
			t.Errorf("%d of %d arrived, %d were in flight at most", len(all), made, link.most)
		}
	})
}

// TestFreshFirstOverLinksAndRestarts: links and processes die while a backlog drains behind fresh
// samples. Everything arrives, and only samples that were in flight arrive again. A box with many
// holes is drained in order until they are few.
func TestFreshFirstOverLinksAndRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const window = 8
		dir := t.TempDir()
		box := openBox(t, dir, outbox.Options{})
		received, sends, made := ledger{}, 0, 0
		for life := range 120 {
			fill(t, box, 50, 0)
			made += 50
			link := newFakeSender()
			ended := draining(t.Context(), box, link, DrainOptions{Window: window, Order: FreshFirst})
			for i := range 10 {
				synctest.Wait()
				if i%3 == 0 {
					fill(t, box, 1, 0)
					made++
				}
				link.answer(i, nil)
				received[link.sent()[i].mid] = link.sent()[i].body
			}
			synctest.Wait()
			all := link.sent()
			sends += len(all)
			for i := 10; i < len(all); i++ {
				link.answer(i, errLink)
			}
			if err := <-ended; !errors.Is(err, errLink) {
				t.Fatalf("life %d: drain ended with %v", life, err)
			}
			if life%10 == 9 {
				if err := box.Close(); err != nil {
					t.Fatal(err)
				}
				box = openBox(t, dir, outbox.Options{})
			}
			if want := made - len(received); int(box.Stats().Queued) != want {
				t.Fatalf("life %d: %d are queued, want %d", life, box.Stats().Queued, want)
			}
		}
		link := newFakeSender()
		link.inline = true
		ctx, stop := context.WithCancel(t.Context())
		ended := draining(ctx, box, link, DrainOptions{Window: window, Order: FreshFirst})
		if err := box.WaitEmpty(ctx); err != nil {
			t.Fatal(err)
		}
		stop()
		<-ended
		for _, m := range link.sent() {
			received[m.mid] = m.body
		}
		if repeated := sends + len(link.sent()) - made; len(received) != made || repeated > 120*window {
			t.Errorf("%d of %d arrived, %d came again", len(received), made, repeated)
		}
	})
}

// TestFreshFirstTellsGaps: with fresh-first, a fresh sample announces the samples that were dropped
// while it waited. When the outbox is empty, every seq is accounted for.
func TestFreshFirstTellsGaps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box, link := openBox(t, t.TempDir(), outbox.Options{MaxBytes: 64 << 10}), newFakeSender()
		fill(t, box, 3000, 0)
		dropped := int(box.Stats().Dropped)
		ctx, stop := context.WithCancel(t.Context())
		link.refuse = func(body []byte) error {
			if string(body) == `{"n":2990}` || string(body) == `{"n":2500}` {
				return refused{permanent: true}
			}
			return nil
		}
		ended := draining(ctx, box, link, DrainOptions{Order: FreshFirst})
		synctest.Wait()
		all := link.sent()
		if want := fmt.Sprintf("1-%d", dropped); dropped < 100 || seq(t, all[0].mid) != 2985 || all[0].Gap != want {
			t.Fatalf("the first is %s and tells %q, want %q", all[0].mid, all[0].Gap, want)
		}
		for i := 0; box.Stats().Queued > 0; i++ {
			if i%50 == 0 {
				fill(t, box, 1, 0)
			}
			link.answer(i, nil)
			synctest.Wait()
		}
		stop()
		<-ended
		accounted := map[int]bool{}
		for _, m := range link.sent() {
			accounted[seq(t, m.mid)] = true
			var first, last int
			if gap := m.Gap; gap != "" {
				if _, err := fmt.Sscanf(gap, "%d-%d", &first, &last); err != nil || last >= seq(t, m.mid) {
					t.Errorf("%s tells %q", m.mid, gap)
				}
				for n := first; n <= last; n++ {
					accounted[n] = true
				}
			}
		}
		s := box.Stats()
		if len(accounted) != int(s.LastSeq) || s.Quarantined != 2 {
			t.Errorf("%d of %d seqs are accounted for; %+v", len(accounted), s.LastSeq, s)
		}
	})
}

// Poison at the head of either stream blocks neither.
func TestFreshFirstQuarantines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box, link := newFakeBox(), newFakeSender()
		fill(t, box, 20, 0)
		link.refuse = func(body []byte) error {
			if s := string(body); s == `{"n":1}` || s == `{"n":20}` {
				return refused{permanent: true}
			}
			return nil
		}
		draining(t.Context(), box, link, DrainOptions{Window: 8, Order: FreshFirst})
		synctest.Wait()
		if want := append(mids(19, 19), mids(2, 8)...); !slices.Equal(link.mids(), want) || !slices.Equal(box.poisoned, []uint64{200, 10}) {
			t.Errorf("sent %v, poisoned %v", link.mids(), box.poisoned)
		}
	})
}

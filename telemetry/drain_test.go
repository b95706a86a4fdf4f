package telemetry

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/telemetry/message"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

var errLink = errors.New("link lost: reset by peer")

// draining starts a drain in a bubble and gives its end.
func draining(ctx context.Context, box Box, s Sender, o DrainOptions) <-chan error {
	ended := make(chan error, 1)
	go func() { ended <- NewDrain(box, s, o).Run(ctx) }()
	return ended
}

func TestDrainSendsWhatTheWireNeeds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box, link := newFakeBox(), newFakeSender()
		made := time.Date(2026, 3, 1, 9, 30, 0, 123456789, time.FixedZone("", 3600))
		err := box.TryAppend(
			message.Message{Body: []byte(` {"temp":1.50}`), ContentType: "application/json", ContentEncoding: "utf-8", Created: made,
				Properties: map[string]string{"level": "high", "$.mid": "mine", "$.ct": "text/plain"}, Component: "thermostat1"},
			message.Message{Body: []byte(`{}`)},
		)
		if err != nil {
			t.Fatal(err)
		}
		box.records[1].Gap = "3-7"
		draining(t.Context(), box, link, DrainOptions{})
		synctest.Wait()
		all := link.sent()
		if len(all) != 2 || all[0].body != ` {"temp":1.50}` || all[1].body != `{}` {
			t.Fatalf("sent %+v", all)
		}
		first, second := all[0].Outgoing, all[1].Outgoing
		if first.ID != "box-1" || first.ContentType != "application/json" || first.ContentEncoding != "utf-8" || first.Component != "thermostat1" ||
			!first.Created.Equal(made) || first.Gap != "" || !maps.Equal(first.Properties, map[string]string{"level": "high", "$.mid": "mine", "$.ct": "text/plain"}) {
			t.Errorf("the first is %+v", first)
		}
		if second.ID != "box-2" || second.Gap != "3-7" || second.ContentType != "" || !second.Created.IsZero() || len(second.Properties) > 0 {
			t.Errorf("the second is %+v", second)
		}
	})
}

func TestDrainKeepsItsWindowFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box, link := newFakeBox(), newFakeSender()
		fill(t, box, 300, 0)
		draining(t.Context(), box, link, DrainOptions{})
		for i := range 300 {
			synctest.Wait()
			if want := min(i+64, 300); len(link.sent()) != want {
				t.Fatalf("%d sent after %d acknowledgements, want %d", len(link.sent()), i, want)
			}
			link.answer(i, nil)
		}
		synctest.Wait()
		if !slices.Equal(link.mids(), mids(1, 300)) {
			t.Errorf("order %v", link.mids())
		}
		if link.most != 64 || len(box.held()) != 0 {
			t.Errorf("%d in flight at most, %d left", link.most, len(box.held()))
		}
		fill(t, box, 1, 0) // what comes later goes at once
		synctest.Wait()
		if len(link.sent()) != 301 {
			t.Error("the new record was not sent")
		}
	})
}

func TestDrainBoundsBytesInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box, link := newFakeBox(), newFakeSender()
		fill(t, box, 8, 100<<10)
		draining(t.Context(), box, link, DrainOptions{})
		for i, want := range []int{5, 6, 7, 8, 8, 8, 8, 8} {
			synctest.Wait()
			if got := len(link.sent()); got != want {
				t.Fatalf("%d sent after %d acknowledgements, want %d", got, i, want)
			}
			link.answer(i, nil)
		}
		if err := box.TryAppend(message.Message{Body: make([]byte, 600<<10)}); err != nil {
			t.Fatal(err)
		}
		fill(t, box, 1, 0)
		synctest.Wait()
		if got := len(link.sent()); got != 9 {
			t.Errorf("%d sent, want the large one alone", got)
		}
		link.answer(8, nil)
		synctest.Wait()
		if got := len(link.sent()); got != 10 {
			t.Errorf("%d sent", got)
		}
	})
}

func TestDrainCountsPropertiesAsBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box, link := newFakeBox(), newFakeSender()
		for range 3 {
			if err := box.TryAppend(message.Message{Properties: map[string]string{"k": strings.Repeat("v", 200<<10)}}); err != nil {
				t.Fatal(err)
			}
		}
		early := newFakeSender()
		NewDrain(box, early, DrainOptions{}).Early()
		draining(t.Context(), box, link, DrainOptions{})
		synctest.Wait()
		if len(early.sent()) != 2 || len(link.sent()) != 2 {
			t.Errorf("%d sent early, %d sent", len(early.sent()), len(link.sent()))
		}
	})
}

// The one rule that everything else is for.
func TestNothingIsAcknowledgedBeforeThePuback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box, link := newFakeBox(), newFakeSender()
		fill(t, box, 5, 0)
		draining(t.Context(), box, link, DrainOptions{})
		synctest.Wait()
		time.Sleep(time.Hour)
		if got := box.acked(); len(link.sent()) != 5 || got != nil {
			t.Fatalf("%d sent, acknowledged %v", len(link.sent()), got)
		}
		for _, i := range []int{3, 0, 4, 1, 2} { // in any order, each for itself
			link.answer(i, nil)
		}
		if got := box.acked(); !slices.Equal(got, []uint64{40, 10, 50, 20, 30}) {
			t.Errorf("acknowledged %v", got)
		}
	})
}

func TestDrainEndsWithTheLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box, first := newFakeBox(), newFakeSender()
		fill(t, box, 100, 0)
		ended := draining(t.Context(), box, first, DrainOptions{})
		synctest.Wait()
		first.answer(0, nil)
		first.answer(2, nil)
		synctest.Wait() // 66 sent
		for i := 3; i < 66; i++ {
			first.answer(i, errLink)
		}
		if err := <-ended; !errors.Is(err, errLink) {
			t.Fatalf("drain ended with %v", err)
		}
		if got := box.acked(); !slices.Equal(got, []uint64{10, 30}) {
			t.Fatalf("acknowledged %v", got)
		}
		if got := len(first.sent()); got > 67 {
			t.Errorf("%d sent although the link was gone", got)
		}

		second := newFakeSender()
		ctx, stop := context.WithCancel(t.Context())
		ended = draining(ctx, box, second, DrainOptions{Window: 200})
		synctest.Wait()
		want := append([]string{"box-2"}, mids(4, 100)...)
		if !slices.Equal(second.mids(), want) {
			t.Errorf("sent again %v", second.mids())
		}
		// The PUBACK of the first link was only late. It is one.
		first.answer(1, nil)
		if got := box.acked(); !slices.Equal(got, []uint64{10, 30, 20}) {
			t.Errorf("acknowledged %v", got)
		}
		stop()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("drain ended with %v", err)
		}
		second.answer(0, nil) // after the end: still true, and nothing breaks
		second.answer(1, nil)
		if got := box.acked(); !slices.Equal(got[3:], []uint64{20, 40}) {
			t.Errorf("acknowledged %v", got)
		}
	})
}

// A loss is noticed wherever the drain is waiting: for records, or for room.
func TestDrainEndsWhileItWaits(t *testing.T) {
	for name, records := range map[string]int{"for records": 1, "for room": 10} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				box, link := newFakeBox(), newFakeSender()
				fill(t, box, records, 0)
				ended := draining(t.Context(), box, link, DrainOptions{Window: 2})
				synctest.Wait()
				link.answer(0, errLink)
				if err := <-ended; err != errLink { //nolint:errorlint // the reason itself
					t.Errorf("drain ended with %v", err)
				}
				if got := box.acked(); got != nil || len(link.sent()) > 2 {
					t.Errorf("acknowledged %v, %d sent", got, len(link.sent()))
				}

				ctx, stop := context.WithCancel(t.Context())
				ended = draining(ctx, box, newFakeSender(), DrainOptions{Window: 2})
				synctest.Wait()
				stop()
				if err := <-ended; err != context.Canceled { //nolint:errorlint // the error itself
					t.Errorf("drain ended with %v", err)
				}
			})
		})
	}
}

func TestDrainReturnsWhatPublishSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box, link := newFakeBox(), newFakeSender()
		fill(t, box, 3, 0)
		link.refuse = func(body []byte) error {
			if string(body) == `{"n":2}` {
				return errLink
			}
			return nil
		}
		if err := NewDrain(box, link, DrainOptions{}).Run(t.Context()); !errors.Is(err, errLink) {
			t.Errorf("drain ended with %v", err)
		}
		if len(box.held()) != 3 || len(box.poisoned) != 0 || len(link.sent()) != 1 {
			t.Errorf("%d held, poisoned %v, %d sent", len(box.held()), box.poisoned, len(link.sent()))
		}
	})
}

// refused is what a link says of a message no hub would take.
type refused struct{ permanent bool }

func (refused) Error() string { return "message refused: too large" }

func (r refused) Permanent() bool { return r.permanent }

func TestDrainQuarantinesPoison(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box, link := newFakeBox(), newFakeSender()
		fill(t, box, 5, 0)
		link.refuse = func(body []byte) error {
			if string(body) == `{"n":2}` {
				return fmt.Errorf("hub-a: %w", refused{permanent: true})
			}
			return nil
		}
		draining(t.Context(), box, link, DrainOptions{Window: 4})
		synctest.Wait()
		if want := []string{"box-1", "box-3", "box-4", "box-5"}; !slices.Equal(link.mids(), want) {
			t.Fatalf("sent %v", link.mids()) // all four: the poison holds no place in the window
		}
		for i, m := range link.sent() {
			want := ""
			if i == 1 {
				want = "2-2"
			}
			if m.Gap != want {
				t.Errorf("%s has gap %q", m.mid, m.Gap)
			}
		}
		if !slices.Equal(box.poisoned, []uint64{20}) || box.acked() != nil {
			t.Errorf("poisoned %v, acknowledged %v", box.poisoned, box.acked())
		}
	})
}

func TestDrainKeepsWhatIsNotPermanent(t *testing.T) {
	box, link := newFakeBox(), newFakeSender()
	fill(t, box, 1, 0)
	link.refuse = func([]byte) error { return refused{permanent: false} }
	if err := NewDrain(box, link, DrainOptions{}).Run(t.Context()); err == nil || len(box.poisoned) != 0 {
		t.Errorf("ended with %v, poisoned %v", err, box.poisoned)
	}
}

func TestDrainFollowsTheWindowOfTheLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box, link := newFakeBox(), newFakeSender()
		link.setWindow(0)
		fill(t, box, 30, 0)
		draining(t.Context(), box, link, DrainOptions{Window: 8})
		expect := func(want int) {
			t.Helper()
			synctest.Wait()
			if got := len(link.sent()); got != want {
				t.Fatalf("%d sent, want %d", got, want)
			}
		}
		time.Sleep(time.Minute)
		expect(0)
		link.setWindow(-1)
		time.Sleep(time.Minute)
		expect(0)
		link.setWindow(4)
		time.Sleep(lookAgain)
		expect(4)
		link.setWindow(2) // it shrinks under suspicion
		link.answer(0, nil)
		link.answer(1, nil)
		expect(4)
		link.answer(2, nil)
		expect(5)
		link.setWindow(100) // and never more than the drain was told
		link.answer(3, nil)
		expect(5 + 7)
		if link.most != 8 {
			t.Errorf("%d in flight", link.most)
		}
	})
}

func TestDrainBearsAnAnswerInsideThePublish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box, link := newFakeBox(), newFakeSender()
		link.inline = true
		fill(t, box, 200, 0)
		draining(t.Context(), box, link, DrainOptions{Window: 1})
		synctest.Wait()
		if len(link.sent()) != 200 || len(box.held()) != 0 {
			t.Errorf("%d sent, %d left", len(link.sent()), len(box.held()))
		}
	})
}

func TestDrainReportsFaultsOfTheOutbox(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box, link := newFakeBox(), newFakeSender()
		errDisk := errors.New("disk full")
		box.ack = errDisk
		fill(t, box, 3, 0)
		var problem error
		ended := draining(t.Context(), box, link, DrainOptions{Window: 1, Problem: func(err error) { problem = err }})
		synctest.Wait()
		link.answer(0, nil) // not written down, but the link goes on
		synctest.Wait()
		if !errors.Is(problem, errDisk) || len(link.sent()) != 2 {
			t.Errorf("problem %v, %d sent", problem, len(link.sent()))
		}
		box.close()
		link.answer(1, nil)
		if err := <-ended; !errors.Is(err, outbox.ErrClosed) {
			t.Errorf("drain ended with %v", err)
		}
	})
}

func TestDrainOfAStoppedDeviceSendsNothing(t *testing.T) {
	box, link := newFakeBox(), newFakeSender()
	fill(t, box, 3, 0)
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := NewDrain(box, link, DrainOptions{}).Run(ctx); !errors.Is(err, context.Canceled) || len(link.sent()) != 0 {
		t.Errorf("%v, %d sent", err, len(link.sent()))
	}
}

// What waits goes early, as far as the link takes it; Run goes on behind it and repeats nothing.
func TestDrainBeginsEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box, link := newFakeBox(), newFakeSender()
		errNoRoom := errors.New("no room yet")
		link.refuse = func([]byte) error {
			if len(link.sent()) == 3 {
				return errNoRoom
			}
			return nil
		}
		d := NewDrain(box, link, DrainOptions{Window: 5})
		d.Early() // an empty outbox holds up nothing
		fill(t, box, 10, 0)
		d.Early()
		if !slices.Equal(link.mids(), mids(1, 3)) {
			t.Fatalf("sent %v early", link.mids())
		}
		link.answer(1, nil) // before the link is up
		link.refuse = nil
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- d.Run(ctx) }()
		synctest.Wait()
		if !slices.Equal(link.mids(), mids(1, 6)) || link.most != 5 {
			t.Errorf("sent %v, %d in flight", link.mids(), link.most)
		}
		if got := box.acked(); !slices.Equal(got, []uint64{20}) {
			t.Errorf("acknowledged %v", got)
		}
		stop()
		<-ended
	})
}

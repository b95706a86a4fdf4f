package telemetry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/model"
	"github.com/hubhop-iot/hubhop/telemetry/message"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

func failover(t testing.TB) *model.Model {
	t.Helper()
	data, err := os.ReadFile("../failover.json")
	if err != nil {
		t.Fatal(err)
	}
	m, err := model.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// gives is a source that emits what it was given, in one go, and ends.
func gives(samples ...Sample) Source {
	return Source{Ends: true, Run: func(_ context.Context, emit func(...Sample), _ func(error)) error {
		emit(samples...)
		return nil
	}}
}

// room reads a room that never changes.
func room(time.Time) ([]byte, error) { return []byte(`{"temp":21.53,"humidity":40.17}`), nil }

func TestFeedStampsAndFills(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box := newFakeBox()
		made := time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
		err := Feed(t.Context(), gives(
			Sample{Body: []byte(` {"a" : 1}`)},
			Sample{Body: []byte{0, 255}, ContentType: "application/octet-stream", Created: made, Component: "c", Properties: map[string]string{"k": "v"}},
		), box, FeedOptions{Model: failover(t)})
		held := box.held()
		if err != nil || len(held) != 2 {
			t.Fatal(err, held)
		}
		if m := held[0].Message; string(m.Body) != ` {"a" : 1}` || m.ContentType != "application/json" || m.ContentEncoding != "utf-8" || !m.Created.Equal(time.Now()) {
			t.Errorf("%+v", m)
		}
		if m := held[1].Message; !bytes.Equal(m.Body, []byte{0, 255}) || m.ContentType != "application/octet-stream" || m.ContentEncoding != "" ||
			!m.Created.Equal(made) || m.Component != "c" || m.Properties["k"] != "v" {
			t.Errorf("%+v", m)
		}
	})
}

func TestASampleGetsWhatItLacksFromItsSource(t *testing.T) {
	src := gives(
		Sample{Body: []byte(`{"foreign":1}`)},
		Sample{Body: []byte(`{}`), Component: "own", Properties: map[string]string{"place": "roof"}},
	)
	src.Component, src.Unmodelled, src.Properties = "room", true, map[string]string{"place": "cellar", "unit": "C"}
	box := newFakeBox()
	err := Feed(t.Context(), src, box, FeedOptions{Model: failover(t), Warn: func(f model.Finding) { t.Errorf("%+v", f) }})
	held := box.held()
	if err != nil || len(held) != 2 {
		t.Fatal(err, held)
	}
	if m := held[0].Message; m.Component != "room" || m.Properties["place"] != "cellar" || m.Properties["unit"] != "C" {
		t.Errorf("%+v", m)
	}
	if m := held[1].Message; m.Component != "own" || m.Properties["place"] != "roof" || m.Properties["unit"] != "C" {
		t.Errorf("%+v", m)
	}
	if src.Properties["place"] != "cellar" {
		t.Error("a sample changed the properties of its source")
	}
}

// TestEachSourceHasItsOwnPolicyForAFullOutbox: a source with a pace of its own may skip samples.
// That does not affect a source beside it that waits.
func TestEachSourceHasItsOwnPolicyForAFullOutbox(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box := newFakeBox()
		box.limit = 1
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		sample := Sample{Body: []byte(`{}`)}
		var skipped Counters
		hasty := gives(sample, sample)
		hasty.Full = Skip
		if err := Feed(ctx, hasty, box, FeedOptions{Counters: &skipped}); err != nil || skipped.Made.Load() != 1 || skipped.Skipped.Load() != 1 {
			t.Fatalf("%v, made %d, skipped %d", err, skipped.Made.Load(), skipped.Skipped.Load())
		}
		ended := make(chan error, 1)
		go func() { ended <- Feed(ctx, gives(sample), box, FeedOptions{}) }()
		synctest.Wait()
		select {
		case err := <-ended:
			t.Fatalf("it did not wait: %v", err)
		default:
		}
		if err := Feed(ctx, hasty, box, FeedOptions{Counters: &skipped}); err != nil || skipped.Skipped.Load() != 3 {
			t.Errorf("%v, skipped %d", err, skipped.Skipped.Load())
		}
		if err := box.Ack(box.held()[0].Pos); err != nil {
			t.Fatal(err)
		}
		if err := <-ended; err != nil || len(box.held()) != 1 {
			t.Errorf("%v, %d held", err, len(box.held()))
		}
	})
}

func TestFeedWarnsOncePerNameAndSendsAll(t *testing.T) {
	var warnings []string
	var counters Counters
	warned := new(Warned)
	for range 2 { // a second feed of the process does not begin anew
		box := newFakeBox()
		lines := strings.NewReader(strings.Repeat(`{"temp":"21.50","pressure":1}`+"\n"+`{"pressure":"x","temp":1}`+"\n", 50))
		err := Feed(t.Context(), Lines(lines), box, FeedOptions{
			Model: failover(t), Warned: warned, Counters: &counters,
			Warn: func(f model.Finding) { warnings = append(warnings, f.Name+": "+f.Kind.String()) },
			Bad:  func(err error) { t.Error(err) },
		})
		if err != nil || len(box.held()) != 100 || string(box.held()[0].Body) != `{"temp":"21.50","pressure":1}` {
			t.Errorf("%v, %d sent", err, len(box.held()))
		}
	}
	if want := []string{"pressure: unknown", "temp: wrong type"}; !slices.Equal(warnings, want) {
		t.Errorf("warned of %v, want %v", warnings, want)
	}
	if counters.Made.Load() != 200 || counters.Bad.Load() != 0 {
		t.Errorf("made %d, bad %d", counters.Made.Load(), counters.Bad.Load())
	}
}

func TestWarningsAreBounded(t *testing.T) {
	count, last := 0, ""
	var input strings.Builder
	for i := range 3000 {
		fmt.Fprintf(&input, `{"name%d":1}`+"\n", i)
	}
	err := Feed(t.Context(), Lines(strings.NewReader(input.String())), newFakeBox(), FeedOptions{
		Model: failover(t), Warn: func(f model.Finding) { count++; last = f.Text },
	})
	if err != nil || count != maxWarned+1 || !strings.Contains(last, "further ones are not reported") {
		t.Errorf("%v, %d warnings, the last %q", err, count, last)
	}
}

func TestFeedTellsWhatBecameOfASample(t *testing.T) {
	var got []string
	sample := func(name, body string) Sample {
		return Sample{Body: []byte(body), Done: func(err error) { got = append(got, fmt.Sprintf("%s %v", name, err)) }}
	}
	var counters Counters
	var bad []error
	box := newFakeBox()
	box.refuse = func(m message.Message) error {
		if len(m.Body) > 20 {
			return fmt.Errorf("outbox: %w", refused{permanent: true})
		}
		return nil
	}
	err := Feed(t.Context(), gives(
		sample("good", `{}`), sample("list", `[]`), sample("large", `{"x":"yyyyyyyyyyyyyyyyyyyyy"}`), Sample{Body: []byte(`{}`)}, sample("last", `{}`),
	), box, FeedOptions{Model: failover(t), Counters: &counters, Bad: func(err error) { bad = append(bad, err) }})
	if err != nil {
		t.Error(err)
	}
	want := []string{"list not a JSON object but an array", "good <nil>", "large outbox: message refused: too large", "last <nil>"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if counters.Made.Load() != 3 || counters.Bad.Load() != 2 || len(bad) != 2 || len(box.held()) != 3 {
		t.Errorf("made %d, bad %v, held %d", counters.Made.Load(), bad, len(box.held()))
	}
}

func TestASchedulesTicksAreSkippedWhileTheOutboxIsFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box, counters := newFakeBox(), new(Counters)
		box.limit = 3
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() {
			ended <- Feed(ctx, Every(time.Second, room), box, FeedOptions{Counters: counters, Model: failover(t)})
		}()
		time.Sleep(9500 * time.Millisecond) // ticks 0 to 9
		if made, skipped := counters.Made.Load(), counters.Skipped.Load(); made != 3 || skipped != 7 {
			t.Errorf("made %d, skipped %d", made, skipped)
		}
		_ = box.Ack(10)
		time.Sleep(time.Second)
		held := box.held()
		if len(held) != 3 || held[2].ID != "box-4" { // the skipped ones used no number
			t.Errorf("held %+v", held)
		}
		if counters.Made.Load() != 4 || counters.Skipped.Load() != 7 || counters.Bad.Load() != 0 {
			t.Errorf("made %d, skipped %d", counters.Made.Load(), counters.Skipped.Load())
		}
		stop()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

func TestAStreamWaitsWhileTheOutboxIsFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box, counters := newFakeBox(), new(Counters)
		box.limit = 300
		ended := make(chan error, 1)
		go func() {
			ended <- Feed(t.Context(), Lines(strings.NewReader(strings.Repeat("{}\n", 1000))), box, FeedOptions{Counters: counters})
		}()
		for range 1000 {
			synctest.Wait()
			if len(ended) == 1 {
				break
			}
			if n := len(box.held()); n > 300 {
				t.Fatalf("%d held", n)
			}
			if r := box.held(); len(r) > 0 {
				_ = box.Ack(r[0].Pos)
			}
		}
		if err := <-ended; err != nil || counters.Made.Load() != 1000 || counters.Skipped.Load() != 0 {
			t.Errorf("%v, made %d, skipped %d", err, counters.Made.Load(), counters.Skipped.Load())
		}
	})
}

func TestFeedStopsAStreamThatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box, counters := newFakeBox(), new(Counters)
		box.limit = 1
		var reason error
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		sample := Sample{Body: []byte(`{}`), Done: func(err error) { reason = err }}
		go func() { ended <- Feed(ctx, gives(sample, sample), box, FeedOptions{Counters: counters}) }()
		synctest.Wait()
		stop()
		if err := <-ended; err != nil { // this source came to its end
			t.Error(err)
		}
		if reason != nil || counters.Made.Load() != 2 || len(box.held()) != 2 { // what the source had in its hands went in over the bound
			t.Errorf("reason %v, made %d", reason, counters.Made.Load())
		}
	})
}

// What a source has in its hands when it is stopped is not thrown away while there is room.
func TestAStopLosesNothingThereIsRoomFor(t *testing.T) {
	box, counters := newFakeBox(), new(Counters)
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := Feed(ctx, gives(Sample{Body: []byte(`{}`)}), box, FeedOptions{Counters: counters}); err != nil || len(box.held()) != 1 || counters.Made.Load() != 1 {
		t.Errorf("%v, %d held", err, len(box.held()))
	}
}

func TestFeedEndsWithTheOutbox(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, src := range map[string]Source{
			"schedule": Every(time.Second, room),
			"lines":    Lines(endless{}),
		} {
			box := newFakeBox()
			box.close()
			if err := Feed(t.Context(), src, box, FeedOptions{}); !errors.Is(err, outbox.ErrClosed) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return copy(p, "{}\n"), nil }

func TestFeedGivesTheSourcesError(t *testing.T) {
	errTape := errors.New("tape torn")
	var counters Counters
	err := Feed(t.Context(), Lines(&torn{text: "{}\n[]\n{", err: errTape}), newFakeBox(), FeedOptions{Counters: &counters})
	if !errors.Is(err, errTape) || !strings.Contains(err.Error(), "reading line 3") {
		t.Error(err)
	}
	if counters.Made.Load() != 1 || counters.Bad.Load() != 1 {
		t.Errorf("made %d, bad %d", counters.Made.Load(), counters.Bad.Load())
	}
}

type torn struct {
	text string
	err  error
}

func (r *torn) Read(p []byte) (int, error) {
	if r.text == "" {
		return 0, r.err
	}
	n := copy(p, r.text)
	r.text = r.text[n:]
	return n, nil
}

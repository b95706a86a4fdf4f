package journal

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestWatcherThatFallsBehindCostsNothing: a sink sees everything in order, a slow watcher what it
// has room for, and the rest is counted.
func TestWatcherThatFallsBehindCostsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j Journal
		var seen []string
		j.Sink(func(e Event) { seen = append(seen, e.Text) })
		slow, end := j.Watch(3)
		quick, endQuick := j.Watch(100)
		began := time.Now()
		for i := range 10 {
			j.Emit(Event{Kind: Warning, Text: fmt.Sprint(i)})
		}
		if time.Since(began) != 0 || len(seen) != 10 || seen[9] != "9" {
			t.Errorf("%v after %v", seen, time.Since(began))
		}
		if len(slow) != 3 || len(quick) != 10 || j.Missed() != 7 || j.Count(Warning) != 10 || j.Count(Lost) != 0 {
			t.Errorf("%d and %d events, %d missed, %d counted", len(slow), len(quick), j.Missed(), j.Count(Warning))
		}
		if e := <-slow; e.Text != "0" || !e.Time.Equal(began) {
			t.Errorf("%+v", e)
		}
		end()
		end() // twice is once
		j.Emit(Event{Kind: Warning})
		endQuick()
		if _, open := <-slow; !open || len(slow) != 1 {
			t.Error("an ended watch has lost what it had, or got more")
		}
	})
}

// TestEmitFromAnywhere hands each event to each sink once, whoever emits.
func TestEmitFromAnywhere(t *testing.T) {
	var j Journal
	n := 0
	j.Sink(func(Event) { n++ })
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 100 {
				j.Emit(Event{Kind: Dialing})
			}
		})
	}
	all.Wait()
	if n != 800 || j.Count(Dialing) != 800 {
		t.Errorf("%d events, %d counted", n, j.Count(Dialing))
	}
}

// TestDuration writes times as people say them.
func TestDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		1560 * time.Microsecond: "1.6 ms", 42 * time.Millisecond: "42 ms", 310 * time.Millisecond: "0.31 s", 1 * time.Second: "1.0 s",
		12 * time.Second: "12 s", 90 * time.Second: "90 s", 4 * time.Minute: "4 min", 150 * time.Minute: "150 min", 6 * time.Hour: "6 h",
		100 * time.Hour: "4 d",
	} {
		if got := Duration(d); got != want {
			t.Errorf("%v is %q, not %q", d, got, want)
		}
	}
}

package journal

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestSinksSeeEveryEventInOrder emits ten events, and a time that the event already has stays.
func TestSinksSeeEveryEventInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j Journal
		var first, second []Event
		j.Sink(func(e Event) { first = append(first, e) })
		j.Sink(func(e Event) { second = append(second, e) })
		began := time.Now()
		for i := range 10 {
			j.Emit(Event{Kind: Warning, Text: fmt.Sprint(i)})
		}
		then := began.Add(-time.Hour)
		j.Emit(Event{Kind: Warning, Time: then})
		if len(first) != 11 || !slices.Equal(first, second) || first[9].Text != "9" || !first[9].Time.Equal(began) || !first[10].Time.Equal(then) {
			t.Errorf("%v and %v", first, second)
		}
	})
}

// TestEachEventReachesASinkOnce hands each event to a sink once, whoever emits it.
func TestEachEventReachesASinkOnce(t *testing.T) {
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
	if n != 800 {
		t.Errorf("%d events", n)
	}
}

// TestDurationsAreWrittenAsPeopleSayThem writes times as people say them.
func TestDurationsAreWrittenAsPeopleSayThem(t *testing.T) {
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

// TestBusyTellsOfASinkThatHangs looks while a sink takes an event, and after it.
func TestBusyTellsOfASinkThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j Journal
		hang := make(chan struct{})
		j.Sink(func(Event) { <-hang })
		if !j.Busy().IsZero() {
			t.Error("it is busy before the first event")
		}
		began := time.Now()
		go j.Emit(Event{Kind: Warning})
		time.Sleep(time.Minute)
		if !j.Busy().Equal(began) {
			t.Errorf("it is busy since %v", j.Busy())
		}
		close(hang)
		synctest.Wait()
		if !j.Busy().IsZero() {
			t.Error("it is busy for ever")
		}
	})
}

// TestOnceActsAtTheFirstEventOfItsKind, and at no other, without keeping the journal waiting.
func TestOnceActsAtTheFirstEventOfItsKind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j Journal
		calls := make(chan struct{})
		j.Sink(Once(Connected, func() { calls <- struct{}{} }))
		j.Emit(Event{Kind: Dialing})
		synctest.Wait()
		select {
		case <-calls:
			t.Error("it acted at another kind")
		default:
		}
		for range 3 {
			j.Emit(Event{Kind: Connected})
		}
		<-calls
		synctest.Wait()
		select {
		case <-calls:
			t.Error("it acted twice")
		default:
		}
	})
}

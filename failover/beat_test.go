package failover

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/dps"
)

// TestBeatTellsWorkFromRest: a session dials for ever, and is told to wait by an observer, then by
// a disk. Only the first is work that takes too long. While a hub is away, the session says when it
// goes on.
func TestBeatTellsWorkFromRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		observing, saving := make(chan struct{}), make(chan struct{})
		var slow, up atomic.Bool
		s := &Session[*standing]{
			Cached: &State{AssignedHub: "hub-a"},
			Dial: func(context.Context, Target) (*standing, error) {
				if !up.Load() {
					return nil, errors.New("away")
				}
				return &standing{done: make(chan struct{})}, nil
			},
			Register: func(context.Context, dps.Request) (dps.Assignment, error) {
				return dps.Assignment{Hub: "hub-b", DeviceID: "d"}, nil
			},
			Serve: func(context.Context, *standing, bool, func()) func() error { return func() error { return nil } },
			Save:  func(State) { <-saving },
			Observe: func(n Note) {
				if n.Kind == NoteDecision && slow.Load() {
					<-observing
				}
			},
		}
		if busy, due := s.Beat(); !busy.IsZero() || !due.IsZero() {
			t.Errorf("before Run: busy since %v, due %v", busy, due)
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); s.Run(ctx) }()
		for range 600 {
			time.Sleep(100 * time.Millisecond)
			synctest.Wait()
			if busy, due := s.Beat(); !busy.IsZero() || due.Before(time.Now()) {
				t.Fatalf("in an outage: busy since %v, due %v, now %v", busy, due, time.Now())
			}
		}
		slow.Store(true)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if busy, _ := s.Beat(); busy.IsZero() || time.Since(busy) < 30*time.Second {
			t.Errorf("an observer holds up the loop, and it is busy since %v", busy)
		}
		slow.Store(false)
		up.Store(true)
		close(observing)
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if busy, _ := s.Beat(); !busy.IsZero() {
			t.Errorf("a disk holds up the loop, and it is busy since %v", busy)
		}
		close(saving)
		time.Sleep(time.Minute)
		synctest.Wait()
		if busy, due := s.Beat(); !busy.IsZero() || !due.IsZero() && due.Before(time.Now()) {
			t.Errorf("with a link: busy since %v, due %v", busy, due)
		}
		stop()
		<-ended
		if busy, due := s.Beat(); !busy.IsZero() || !due.IsZero() {
			t.Errorf("after Run: busy since %v, due %v", busy, due)
		}
	})
}

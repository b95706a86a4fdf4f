package leash

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestEndReachesAllWork: whatever was made of a leash has ended when End returns, whether it was
// made before or is made afterwards.
func TestEndReachesAllWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := new(Leash)
		works := map[string]func() (context.Context, context.CancelFunc){
			"Under":        func() (context.Context, context.CancelFunc) { return Under(l) },
			"WithCancel":   func() (context.Context, context.CancelFunc) { return context.WithCancel(l) },
			"WithTimeout":  func() (context.Context, context.CancelFunc) { return context.WithTimeout(l, time.Hour) },
			"below a work": func() (context.Context, context.CancelFunc) { ctx, _ := Under(l); return Under(ctx) },
		}
		before := map[string]context.Context{}
		for name, work := range works {
			ctx, cancel := work()
			defer cancel()
			if ctx.Err() != nil {
				t.Errorf("%s ended before its leash", name)
			}
			before[name] = ctx
		}
		done, called := l.Done(), 0
		context.AfterFunc(l, func() { called++ })
		l.End()
		l.End()
		<-done
		<-l.Done()
		for name, ctx := range before {
			if !errors.Is(ctx.Err(), context.Canceled) {
				t.Errorf("%s: %v", name, ctx.Err())
			}
			ctx, cancel := works[name]()
			defer cancel()
			<-ctx.Done()
		}
		synctest.Wait()
		if called != 1 || !errors.Is(l.Err(), context.Canceled) {
			t.Errorf("%d calls, %v", called, l.Err())
		}
	})
}

// TestWorkLeavesNothingBehind: a leash under which nobody works any more is as it was before.
func TestWorkLeavesNothingBehind(t *testing.T) {
	l := new(Leash)
	var cancels []context.CancelFunc
	for range 5 {
		_, cancel := Under(l)
		cancels = append(cancels, cancel)
	}
	for _, i := range []int{2, 0, 4, 1, 3} {
		cancels[i]()
		cancels[i]()
	}
	if l.first != nil || l.done != nil {
		t.Errorf("%+v", l.first)
	}
}

// TestStoppedFunctionsAreNotCalled: stop says whether it came in time, and works once.
func TestStoppedFunctionsAreNotCalled(t *testing.T) {
	l, called := new(Leash), ""
	keep := func(name string) (stop func() bool) { return l.AfterFunc(func() { called += name }) }
	a, b, c := keep("a"), keep("b"), keep("c")
	if !b() || b() {
		t.Error("b was stopped never, or twice")
	}
	l.End()
	if a() || c() || b() || called != "ca" {
		t.Errorf("called: %s", called)
	}
	if stop := keep("d"); stop() || called != "cad" {
		t.Errorf("called: %s", called)
	}
}

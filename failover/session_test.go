package failover

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/dps"
	"github.com/hubhop-iot/hubhop/hub"
	"github.com/hubhop-iot/hubhop/internal/bubble"
)

// standing is a link that lives until this side ends it.
type standing struct {
	once    sync.Once
	done    chan struct{}
	carried bool
	why     error // the reason that ended it; nil: none was given
	mu      sync.Mutex
	ended   func()
}

func (l *standing) Done() <-chan struct{} { return l.done }
func (l *standing) Err() error {
	<-l.done
	return cmp.Or[error](l.why, &hub.Error{Phase: hub.PhaseSession, Host: "hub-a", Err: hub.ErrClosed})
}
func (l *standing) Carried() bool                      { return l.carried }
func (l *standing) Close(_ context.Context, why error) { l.Abort(why) }
func (l *standing) Abort(why error) {
	l.once.Do(func() {
		l.why = why
		close(l.done)
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.ended != nil {
			l.ended()
		}
	})
}

func (l *standing) OnEnd(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.done:
		f()
	default:
		l.ended = f
	}
}

// serving makes a function for Session.Serve of one that works on a link until it returns, in the
// goroutine in which the session ends the work.
func serving(work func(context.Context, *standing) error) func(context.Context, *standing, bool, func()) func() error {
	return func(ctx context.Context, l *standing, _ bool, over func()) func() error {
		over()
		return func() error { return work(ctx, l) }
	}
}

// TestWorkThatFailsIsWhyALinkEnds: if the work on a living link fails, that error is why the link
// ended. That this side then closed the link is not.
func TestWorkThatFailsIsWhyALinkEnds(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var lost []Note
	s := &Session[*standing]{
		Options: Options{NoDPS: true}, Cached: &State{AssignedHub: "hub-a"},
		Dial: func(context.Context, Target) (*standing, error) { return &standing{done: make(chan struct{})}, nil },
		Register: func(context.Context, dps.Request) (dps.Assignment, error) {
			return dps.Assignment{}, errors.New("nobody")
		},
		Serve: serving(func(context.Context, *standing) error {
			return &hub.Error{Phase: hub.PhaseSession, Host: "hub-a", Err: hub.ErrProtocol}
		}),
		Observe: func(n Note) {
			if n.Kind == NoteLost {
				lost = append(lost, n)
				stop()
			}
		},
	}
	s.Run(ctx)
	if len(lost) != 1 || lost[0].Signal != HubProtocol || !strings.Contains(lost[0].Err.Error(), hub.ErrProtocol.Error()) {
		t.Errorf("%+v", lost)
	}
}

// TestPanicEndsTheSession: a panic in a goroutine of the session ends the session with all its
// goroutines, and Run panics with it in the goroutine of its caller.
func TestPanicEndsTheSession(t *testing.T) {
	up := &standing{done: make(chan struct{})}
	s := &Session[*standing]{
		Options: Options{NoDPS: true}, Cached: &State{AssignedHub: "hub-a"},
		Dial: func(context.Context, Target) (*standing, error) { return up, nil },
		Register: func(context.Context, dps.Request) (dps.Assignment, error) {
			return dps.Assignment{}, errors.New("nobody")
		},
		Serve: serving(func(context.Context, *standing) error { panic("no server") }),
	}
	var found any
	func() {
		defer func() { found = recover() }()
		s.Run(t.Context())
	}()
	p, ok := found.(*PanicError)
	if !ok || p.Value != "no server" || !strings.Contains(string(p.Stack()), "TestPanicEndsTheSession") {
		t.Errorf("Run panicked with %v", found)
	}
}

// TestServeThatPanicsEndsTheSession: a panic in Serve itself ends the session too, and the link is
// closed.
func TestServeThatPanicsEndsTheSession(t *testing.T) {
	up := &standing{done: make(chan struct{})}
	s := &Session[*standing]{
		Options: Options{NoDPS: true}, Cached: &State{AssignedHub: "hub-a"},
		Dial:  func(context.Context, Target) (*standing, error) { return up, nil },
		Serve: func(context.Context, *standing, bool, func()) func() error { panic("no server") },
	}
	var found any
	func() {
		defer func() { found = recover() }()
		s.Run(t.Context())
	}()
	if p, ok := found.(*PanicError); !ok || p.Value != "no server" {
		t.Errorf("Run panicked with %v", found)
	}
	select {
	case <-up.done:
	default:
		t.Error("the link is still open")
	}
}

// TestServedLinkNeedsNoGoroutine: while a link is at work and nothing happens, the goroutine that
// has called Run is the only one of the session.
func TestServedLinkNeedsNoGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		served := false
		s := &Session[*standing]{
			Cached: &State{AssignedHub: "hub-a"},
			Dial: func(context.Context, Target) (*standing, error) {
				return &standing{done: make(chan struct{})}, nil
			},
			Serve: func(context.Context, *standing, bool, func()) func() error {
				served = true
				return func() error { return nil }
			},
		}
		before, ended := bubble.Goroutines(), make(chan struct{})
		go func() { s.Run(ctx); close(ended) }()
		synctest.Wait()
		if !served {
			t.Error("the link was not put to work")
		}
		if n := bubble.Goroutines() - before; n != 1 {
			t.Errorf("%d goroutines", n)
		}
		stop()
		<-ended
	})
}

// TestLinksAreServedOneAtATime: a link is put to work only when the work on the one before has
// ended, and that one is then closed in order.
func TestLinksAreServedOneAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		began := time.Now()
		var mu sync.Mutex
		var story []string
		tell := func(format string, args ...any) {
			mu.Lock()
			defer mu.Unlock()
			story = append(story, fmt.Sprintf("%v ", time.Since(began))+fmt.Sprintf(format, args...))
		}
		var tried atomic.Bool // hub-a has been dialled
		s := &Session[*standing]{
			Cached: &State{AssignedHub: "hub-a", KnownHubs: []KnownHub{{Host: "hub-b", AssignedAt: began}}},
			Dial: func(ctx context.Context, to Target) (*standing, error) {
				if to.Host == "hub-a" && tried.CompareAndSwap(false, true) {
					select {
					case <-time.After(10 * time.Second):
					case <-ctx.Done():
						return nil, ctx.Err()
					}
				}
				return &standing{done: make(chan struct{})}, nil
			},
			Register: func(context.Context, dps.Request) (dps.Assignment, error) {
				return dps.Assignment{}, &dps.Error{Step: dps.StepDial, Err: syscall.ECONNREFUSED}
			},
			Serve: func(ctx context.Context, l *standing, provisional bool, _ func()) func() error {
				tell("begun, provisional %v", provisional)
				return func() error {
					tell("winding down, retired %v", ctx.Err() != nil)
					time.Sleep(3 * time.Second)
					tell("ended")
					return nil
				}
			},
		}
		time.AfterFunc(20*time.Second, stop)
		s.Run(ctx)
		want := []string{"250ms begun, provisional true", "10s winding down, retired true", "13s ended", "13s begun, provisional false",
			"20s winding down, retired true", "23s ended"}
		if !slices.Equal(story, want) {
			t.Errorf("%q", story)
		}
	})
}

// TestConnectionToDPSIsPromisedBeforeARegistration: a registration that follows at once finds the
// connection that was promised to it, and opens none of its own.
func TestConnectionToDPSIsPromisedBeforeARegistration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		dials, promised := 0, false
		s := &Session[*standing]{
			Cached: &State{AssignedHub: "hub-a"},
			Dial: func(context.Context, Target) (*standing, error) {
				if dials++; dials > 1 {
					return nil, &hub.Error{Phase: hub.PhaseDial, Host: "hub-a", Err: syscall.ECONNREFUSED}
				}
				return &standing{done: make(chan struct{}), carried: true}, nil
			},
			Open: func(context.Context) func() {
				synctest.Wait() // all that can go on without this loop has done so
				promised = true
				return func() {}
			},
			Register: func(context.Context, dps.Request) (dps.Assignment, error) {
				if !promised {
					t.Error("the registration came first")
				}
				stop()
				return dps.Assignment{}, errors.New("nobody")
			},
			Serve: serving(func(context.Context, *standing) error {
				return &hub.Error{Phase: hub.PhaseSession, Host: "hub-a", Err: io.EOF}
			}),
		}
		s.Run(ctx)
		if !promised {
			t.Error("no connection was promised")
		}
	})
}

// TestShortLinkThatCarriedIsRedialledAtOnce: a link that brought a message to the hub is followed
// by the next dial at once, also if it ended before it could be put to work.
func TestShortLinkThatCarriedIsRedialledAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		dials, began := 0, time.Now()
		s := &Session[*standing]{
			Cached: &State{AssignedHub: "hub-a"},
			Dial: func(context.Context, Target) (*standing, error) {
				if dials++; dials == 5 {
					stop()
				}
				l := &standing{done: make(chan struct{}), carried: true}
				l.Abort(nil)
				return l, nil
			},
			Register: func(ctx context.Context, _ dps.Request) (dps.Assignment, error) {
				<-ctx.Done()
				return dps.Assignment{}, ctx.Err()
			},
			Serve: serving(func(_ context.Context, l *standing) error { return l.Err() }),
		}
		s.Run(ctx)
		if took := time.Since(began); dials != 5 || took != 0 {
			t.Errorf("%d dials, the last one after %v", dials, took)
		}
	})
}

// TestStartedSessionAtRestHasNoGoroutine: while a link is at work and nothing happens, a session
// that was begun with Start has no goroutine. When the link ends, the next one is made.
func TestStartedSessionAtRestHasNoGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var links []*standing
		served := 0
		s := &Session[*standing]{
			Cached: &State{AssignedHub: "hub-a"},
			Dial: func(context.Context, Target) (*standing, error) {
				l := &standing{done: make(chan struct{}), carried: true}
				links = append(links, l)
				return l, nil
			},
			Serve: func(context.Context, *standing, bool, func()) func() error {
				served++
				return func() error { return nil }
			},
			Register: func(ctx context.Context, _ dps.Request) (dps.Assignment, error) {
				<-ctx.Done()
				return dps.Assignment{}, ctx.Err()
			},
		}
		before, ended := bubble.Goroutines(), make(chan *PanicError, 1)
		stop := s.Start(func(p *PanicError) { ended <- p })
		for want := 1; want <= 3; want++ {
			time.Sleep(time.Minute)
			synctest.Wait()
			if n := bubble.Goroutines() - before; n != 0 || served != want {
				t.Errorf("%d goroutines, %d links were put to work, not %d", n, served, want)
			}
			links[len(links)-1].Abort(nil)
		}
		stop()
		stop()
		if p := <-ended; p != nil {
			t.Error(p)
		}
		synctest.Wait()
		if n := bubble.Goroutines() - before; n != 0 {
			t.Errorf("%d goroutines are left", n)
		}
	})
}

// TestPanicEndsAStartedSession: whoever has started a session is told of a panic in it.
func TestPanicEndsAStartedSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := &standing{done: make(chan struct{})}
		s := &Session[*standing]{
			Cached: &State{AssignedHub: "hub-a"},
			Dial:   func(context.Context, Target) (*standing, error) { return up, nil },
			Serve:  func(context.Context, *standing, bool, func()) func() error { panic("no server") },
		}
		ended := make(chan *PanicError, 1)
		s.Start(func(p *PanicError) { ended <- p })
		if p := <-ended; p == nil || p.Value != "no server" {
			t.Errorf("ended with %v", p)
		}
		<-up.done
	})
}

// TestLinkThatComesTooLateIsClosed: a dial may bring a link when the session has ended already.
// Whoever started the session is told of its end only when that link is closed.
func TestLinkThatComesTooLateIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		late := &standing{done: make(chan struct{})}
		s := &Session[*standing]{
			Cached: &State{AssignedHub: "hub-a"},
			Dial: func(context.Context, Target) (*standing, error) {
				time.Sleep(time.Second)
				return late, nil
			},
			Register: func(ctx context.Context, _ dps.Request) (dps.Assignment, error) {
				<-ctx.Done()
				return dps.Assignment{}, ctx.Err()
			},
			Serve: func(context.Context, *standing, bool, func()) func() error {
				t.Error("it was put to work")
				return func() error { return nil }
			},
		}
		ended := make(chan *PanicError, 1)
		stop := s.Start(func(p *PanicError) { ended <- p })
		time.Sleep(100 * time.Millisecond)
		stop()
		if p := <-ended; p != nil {
			t.Error(p)
		}
		select {
		case <-late.done:
		default:
			t.Error("the link is open")
		}
	})
}

package failover

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/dps"
	"github.com/hubhop-iot/hubhop/hub"
)

// standing is a link that lives until this side ends it.
type standing struct {
	once    sync.Once
	done    chan struct{}
	carried bool
}

func (l *standing) Done() <-chan struct{} { return l.done }
func (l *standing) Err() error {
	return &hub.Error{Phase: hub.PhaseSession, Host: "hub-a", Err: hub.ErrClosed}
}
func (l *standing) Carried() bool         { return l.carried }
func (l *standing) Close(context.Context) { l.Abort() }
func (l *standing) Abort()                { l.once.Do(func() { close(l.done) }) }

// TestReasonOfServe: what ended the work on a link that lives is the reason of its end, and not that this side then closed it.
func TestReasonOfServe(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var lost []Note
	s := &Session[*standing]{
		Options: Options{NoDPS: true}, Cached: State{AssignedHub: "hub-a"},
		Dial: func(context.Context, Target) (*standing, error) { return &standing{done: make(chan struct{})}, nil },
		Register: func(context.Context, dps.Request) (dps.Assignment, error) {
			return dps.Assignment{}, errors.New("nobody")
		},
		Serve: func(context.Context, *standing, bool) error {
			return &hub.Error{Phase: hub.PhaseSession, Host: "hub-a", Err: hub.ErrProtocol}
		},
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
		Options: Options{NoDPS: true}, Cached: State{AssignedHub: "hub-a"},
		Dial: func(context.Context, Target) (*standing, error) { return up, nil },
		Register: func(context.Context, dps.Request) (dps.Assignment, error) {
			return dps.Assignment{}, errors.New("nobody")
		},
		Serve: func(context.Context, *standing, bool) error { panic("no server") },
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

// TestOpensBeforeItAsks: a registration that follows at once finds the connection that was promised to it, and opens none of its own.
func TestOpensBeforeItAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		dials, promised := 0, false
		s := &Session[*standing]{
			Cached: State{AssignedHub: "hub-a"},
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
			Serve: func(context.Context, *standing, bool) error {
				return &hub.Error{Phase: hub.PhaseSession, Host: "hub-a", Err: io.EOF}
			},
		}
		s.Run(ctx)
		if !promised {
			t.Error("no connection was promised")
		}
	})
}

// TestShortLinkThatCarried: a link that has ended before it could be put to work, and has brought a message to the hub, is followed by the
// next dial at once, like any that has.
func TestShortLinkThatCarried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		dials, began := 0, time.Now()
		s := &Session[*standing]{
			Cached: State{AssignedHub: "hub-a"},
			Dial: func(context.Context, Target) (*standing, error) {
				if dials++; dials == 5 {
					stop()
				}
				l := &standing{done: make(chan struct{}), carried: true}
				l.Abort()
				return l, nil
			},
			Register: func(ctx context.Context, _ dps.Request) (dps.Assignment, error) {
				<-ctx.Done()
				return dps.Assignment{}, ctx.Err()
			},
			Serve: func(_ context.Context, l *standing, _ bool) error { return l.Err() },
		}
		s.Run(ctx)
		if took := time.Since(began); dials != 5 || took != 0 {
			t.Errorf("%d dials, the last one after %v", dials, took)
		}
	})
}

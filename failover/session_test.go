package failover

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"hubhop/dps"
	"hubhop/hub"
)

// standing is a link that lives until this side ends it.
type standing struct {
	once sync.Once
	done chan struct{}
}

func (l *standing) Done() <-chan struct{} { return l.done }
func (l *standing) Err() error {
	return &hub.Error{Phase: hub.PhaseSession, Host: "hub-a", Err: hub.ErrClosed}
}
func (l *standing) Carried() bool         { return false }
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

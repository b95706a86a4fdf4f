package wire

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// ErrStopped is the error of a fault that comes after Close.
var ErrStopped = errors.New("the simulator has stopped")

// ActiveFault is a fault in force.
type ActiveFault[F any] struct {
	Fault F
	Kind  string
	Since time.Time
	timer *time.Timer // heals it; nil if somebody has to
}

// FaultState is the fault of one service, if it has any. Now may be read without a lock; a mutex is
// held while a fault begins or ends, and comes before all others.
type FaultState[F any] struct {
	Over     func(kind string) // called when a fault has ended, while no other can begin
	changing sync.Mutex        // held while a fault begins or ends
	Now      atomic.Pointer[ActiveFault[F]]
	closed   bool
}

// Kind is the kind of the present fault, empty if there is none.
func (s *FaultState[F]) Kind() string {
	if a := s.Now.Load(); a != nil {
		return a.Kind
	}
	return ""
}

// Begin replaces the present fault. The function apply makes the new one felt; if it fails it must
// have put everything back to healthy. The function undo heals, and is called after secs seconds
// unless another fault has begun by then; 0 seconds are for ever.
func (s *FaultState[F]) Begin(f F, kind string, secs float64, apply func() error, undo func() error) error {
	s.changing.Lock()
	defer s.changing.Unlock()
	if s.closed {
		return ErrStopped
	}
	old := s.Now.Load()
	a := &ActiveFault[F]{Fault: f, Kind: kind, Since: time.Now()}
	s.Now.Store(a)
	old.stop()
	if err := apply(); err != nil {
		s.Now.Store(nil) // apply has put everything back to healthy
		if old != nil {
			s.Over(old.Kind)
		}
		return err
	}
	if secs > 0 {
		a.timer = time.AfterFunc(time.Duration(secs*float64(time.Second)), func() { s.expire(a, undo) })
	}
	return nil
}

// expire heals a fault if it is still the present one. If undo fails, because somebody has taken
// the address meanwhile, it is tried again after a second.
func (s *FaultState[F]) expire(a *ActiveFault[F], undo func() error) {
	s.changing.Lock()
	defer s.changing.Unlock()
	if s.closed || s.Now.Load() != a {
		return
	}
	s.Now.Store(nil)
	if undo() != nil {
		s.Now.Store(a)
		a.timer.Reset(time.Second)
		return
	}
	s.Over(a.Kind)
}

// End heals the present fault, if there is one. If undo fails the fault stays.
func (s *FaultState[F]) End(undo func() error) error {
	s.changing.Lock()
	defer s.changing.Unlock()
	if s.closed {
		return ErrStopped
	}
	old := s.Now.Load()
	if old == nil {
		return nil
	}
	s.Now.Store(nil)
	if err := undo(); err != nil {
		s.Now.Store(old)
		return err
	}
	old.stop()
	s.Over(old.Kind)
	return nil
}

func (a *ActiveFault[F]) stop() {
	if a != nil && a.timer != nil {
		a.timer.Stop()
	}
}

// Close stops the timer, and waits for the healing that runs. The present fault stays for good.
func (s *FaultState[F]) Close() {
	s.changing.Lock()
	defer s.changing.Unlock()
	s.closed = true
	s.Now.Load().stop()
}

package mqtt

import (
	"fmt"
	"runtime/debug"
)

// BugError is a panic in a goroutine of a session, so a bug of this program. It ends the session
// and nothing else.
type BugError struct {
	Doing string // what the session was doing
	Value string // of the panic
	Stack []byte // of the goroutine
}

func (e *BugError) Error() string {
	return fmt.Sprintf("a bug in hubhop while %s: %s", e.Doing, e.Value)
}

// Contain is deferred in every goroutine of a session and of its user, so that a panic ends this
// session and not the process. A lock that is held where a panic could happen is released by defer,
// so Contain can take it.
func (s *Session) Contain(doing string) {
	if p := recover(); p != nil {
		s.lose(bug(doing, p))
	}
}

// bug returns the error for a panic. It is called while the goroutine is still panicking.
func bug(doing string, value any) error {
	return &BugError{Doing: doing, Value: fmt.Sprint(value), Stack: debug.Stack()}
}

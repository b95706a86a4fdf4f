package hub

import (
	"fmt"
	"runtime/debug"
)

// contain is deferred in every goroutine of a link, so that a panic ends this link and not the
// process. A lock that is held where a panic could happen is released by defer; so contain can take
// it.
func (l *Link) contain(doing string) {
	if p := recover(); p != nil {
		l.lose(bug(doing, p))
	}
}

// bug is the error for a panic. It is called while the goroutine is still panicking.
func bug(doing string, value any) error {
	return &BugError{Doing: doing, Value: fmt.Sprint(value), Stack: debug.Stack()}
}

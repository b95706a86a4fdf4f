package hub

import (
	"fmt"
	"runtime/debug"
)

// contain is deferred in every goroutine of a link: a panic there ends this link and not the process. Locks are held with deferred
// unlocks wherever a panic is thinkable, so the end finds them free.
func (l *Link) contain(doing string) {
	if p := recover(); p != nil {
		l.lose(bug(doing, p))
	}
}

// bug is the error for a panic. It is called while the goroutine is still panicking.
func bug(doing string, value any) error {
	return &BugError{Doing: doing, Value: fmt.Sprint(value), Stack: debug.Stack()}
}

package device

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/hubhop-iot/hubhop/hub"
	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/internal/plain"
)

const (
	bugPauseMin = time.Second // before a path that a bug has stopped begins again; doubles
	bugPauseMax = time.Minute
	maxStack    = 4 << 10 // bytes of a stack in an event
	maxBugText  = 300     // bytes of a panic's text in an event
)

// bulkheads keep a panic in one path of the device from stopping the others. So every goroutine of
// the package is started here; a test checks that.
type bulkheads struct{ emit func(journal.Event) }

// bug is the error for a panic that was contained and told.
type bug struct {
	path  string
	value string
}

func (b *bug) Error() string {
	return fmt.Sprintf("a bug in hubhop stopped the path %s: %s", b.path, b.value)
}

// run calls f. A panic in f is reported, and returned as an error.
func (b bulkheads) run(path string, f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = b.recovered(path, p)
		}
	}()
	return f()
}

// recovered reports a panic that was recovered, and returns it as an error.
func (b bulkheads) recovered(path string, p any) error {
	stack := debug.Stack()
	if other, ok := p.(interface{ Stack() []byte }); ok { // it comes from another goroutine
		stack = other.Stack()
	}
	return b.told(path, fmt.Sprint(p), stack)
}

// told emits an event about a panic, and returns it as an error.
func (b bulkheads) told(path, value string, stack []byte) error {
	found := &bug{path: path, value: plain.Line(value, maxBugText)}
	b.emit(journal.Event{Kind: journal.Bug, Name: path, Error: string(stack[:min(len(stack), maxStack)]),
		Text: found.Error() + "; the other paths go on, and this one begins again; please report it"})
	return found
}

// keep runs one path until it returns or ctx ends. After a panic it runs the path again, with
// pauses that double from bugPauseMin to bugPauseMax.
func (b bulkheads) keep(ctx context.Context, path string, run func(context.Context) error) error {
	for wait := bugPauseMin; ; wait = min(2*wait, bugPauseMax) {
		err := b.run(path, func() error { return run(ctx) })
		if _, isBug := errors.AsType[*bug](err); !isBug {
			return err
		}
		if err := pause(ctx, wait); err != nil {
			return err
		}
	}
}

// pause waits. It returns the error of ctx if that ends first.
func pause(ctx context.Context, wait time.Duration) error {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// spawn runs f in a goroutine of its own.
func (b bulkheads) spawn(path string, f func()) {
	go func() { _ = b.run(path, func() error { f(); return nil }) }()
}

// spawnIn is spawn for a goroutine that wg waits for.
func (b bulkheads) spawnIn(wg *sync.WaitGroup, path string, f func()) {
	wg.Go(func() { _ = b.run(path, func() error { f(); return nil }) })
}

// when runs f once, when ctx ends.
func (b bulkheads) when(ctx context.Context, path string, f func()) {
	context.AfterFunc(ctx, func() { _ = b.run(path, func() error { f(); return nil }) })
}

// after runs f once, after d.
func (b bulkheads) after(d time.Duration, path string, f func()) *time.Timer {
	return time.AfterFunc(d, func() { _ = b.run(path, func() error { f(); return nil }) })
}

// linkBug reports a panic in a goroutine of a link. The panic has ended that link.
func (b bulkheads) linkBug(err error) {
	if found, ok := errors.AsType[*hub.BugError](err); ok {
		_ = b.told("link ("+found.Doing+")", found.Value, found.Stack)
	}
}

package device

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/hubhop-iot/hubhop/hub"
	"github.com/hubhop-iot/hubhop/internal/journal"
)

const (
	bugPauseMin = time.Second // before a path that a bug has stopped begins again; doubles
	bugPauseMax = time.Minute
	maxStack    = 4 << 10 // bytes of a stack that are told
	maxBugText  = 300     // bytes of a panic's own words that are told
	maxShown    = 200     // bytes of what a peer has sent that are told
	maxName     = 128     // bytes of a name that a peer has given that are told
)

// bulkheads keep a panic in one path of the device from sinking the others. Everything that the device starts is started here, which
// a test holds the package to.
type bulkheads struct{ emit func(journal.Event) }

// bug is a panic that was contained. It has been told.
type bug struct {
	path  string
	value string
}

func (b *bug) Error() string {
	return fmt.Sprintf("a bug in hubhop stopped the path %s: %s", b.path, b.value)
}

// run calls f. A panic in f is told, and returned as an error.
func (b bulkheads) run(path string, f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			stack := debug.Stack()
			if other, ok := p.(interface{ Stack() []byte }); ok { // it comes from another goroutine
				stack = other.Stack()
			}
			err = b.told(path, fmt.Sprint(p), stack)
		}
	}()
	return f()
}

// told reports a bug.
func (b bulkheads) told(path, value string, stack []byte) error {
	found := &bug{path: path, value: oneLine(value, maxBugText)}
	b.emit(journal.Event{Kind: journal.Bug, Name: path, Error: string(stack[:min(len(stack), maxStack)]),
		Text: found.Error() + "; the other paths go on, and this one begins again; please report it"})
	return found
}

// keep runs one path until it ends by itself or ctx does. What a bug has stopped begins again after a pause, which grows.
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

// pause waits, and says whether ctx has ended meanwhile.
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

// spawnIn is spawn for one who waits for the end of it.
func (b bulkheads) spawnIn(wg *sync.WaitGroup, path string, f func()) {
	wg.Go(func() { _ = b.run(path, func() error { f(); return nil }) })
}

// after runs f once, that much later.
func (b bulkheads) after(d time.Duration, path string, f func()) *time.Timer {
	return time.AfterFunc(d, func() { _ = b.run(path, func() error { f(); return nil }) })
}

// linkBug tells of a panic that has ended a link, in a goroutine of the link.
func (b bulkheads) linkBug(err error) {
	if found, ok := errors.AsType[*hub.BugError](err); ok {
		_ = b.told("link ("+found.Doing+")", found.Value, found.Stack)
	}
}

// quoted shows a name that comes from a peer: as it is if it is short and plain, else in quotes, with an end.
func quoted(name string) string {
	short := named(name)
	if name != "" && short == name && !strings.ContainsFunc(name, func(r rune) bool { return r == ' ' || !unicode.IsPrint(r) }) {
		return name
	}
	return strconv.Quote(short)
}

// named bounds a name that comes from a peer.
func named(name string) string {
	if len(name) > maxName {
		name = strings.ToValidUTF8(name[:maxName], "") + "…"
	}
	return name
}

// shown is a JSON value that comes from a peer, on one line and with an end.
func shown(value []byte) string {
	return oneLine(string(value[:min(len(value), maxShown+1)]), maxShown)
}

// oneLine makes a text of any length and content fit for a line: at most limit bytes, and nothing that breaks it.
func oneLine(s string, limit int) string {
	if len(s) > limit {
		s = s[:limit] + "…"
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, strings.ToValidUTF8(s, "\uFFFD"))
}

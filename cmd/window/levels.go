package window

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
)

// Levels is the level of the log. It can be changed while the process runs.
type Levels struct {
	atStart zerolog.Level
	now     atomic.Int32

	mu       sync.Mutex
	standing zerolog.Level // what holds when no span is under way
	timer    *time.Timer   // brings standing back; nil: nothing is to be brought back
}

// NewLevels returns the level that a log starts with.
func NewLevels(at zerolog.Level) *Levels {
	l := &Levels{atStart: at, standing: at}
	l.now.Store(int32(at))
	return l
}

// Run drops a line below the level. It is a hook of the logger.
func (l *Levels) Run(e *zerolog.Event, level zerolog.Level, _ string) {
	if level < zerolog.Level(l.now.Load()) {
		e.Discard()
	}
}

// Set changes the level for a span, for ever if that is 0. After a span the level is again what was
// last set for ever, or what the log started with.
func (l *Levels) Set(name string, span time.Duration) error {
	known := []string{zerolog.LevelDebugValue, zerolog.LevelInfoValue, zerolog.LevelWarnValue, zerolog.LevelErrorValue}
	if l.atStart == zerolog.TraceLevel { // else the events of that level are not even made
		known = append(known, zerolog.LevelTraceValue)
	}
	level, err := zerolog.ParseLevel(name)
	if err != nil || !slices.Contains(known, name) {
		text := fmt.Sprintf("level must be one of %s", strings.Join(known, ", "))
		if name == zerolog.LevelTraceValue {
			text += "; trace needs a start with --log-level trace"
		}
		return errors.New(text)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
	l.now.Store(int32(level))
	if span <= 0 {
		l.standing = level
	} else {
		var timer *time.Timer
		timer = time.AfterFunc(span, func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			if l.timer == timer { // else the level was changed meanwhile
				l.now.Store(int32(l.standing))
				l.timer = nil
			}
		})
		l.timer = timer
	}
	return nil
}

package journal

import (
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// repeatAfter is how often an outage that goes on is worth a line: an hour of it is one story, not 3,600 lines.
const repeatAfter = time.Minute

// Log returns a sink that tells the events as a story. What a level means: error, a person must act; warn, something went wrong
// and is being dealt with; info, the story; debug, every step of it. A decision that repeats itself within an outage is told once
// a minute, with the number of times; the steps in between are debug.
func Log(log zerolog.Logger) func(Event) {
	s := &story{log: log, told: map[string]*chapter{}}
	return s.tell
}

type story struct {
	mu    sync.Mutex
	log   zerolog.Logger
	asked bool
	told  map[string]*chapter // by what repeats: hub and rule
}

type chapter struct {
	last  time.Time
	quiet int // times since it was told
}

func (s *story) tell(e Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	level := zerolog.InfoLevel
	repeats := 0
	switch e.Kind {
	case Dialing, Acknowledged:
		level = zerolog.DebugLevel
	case Asking:
		if s.asked {
			level = zerolog.DebugLevel
		}
		s.asked = true
	case Connected:
		s.asked = false
		clear(s.told)
		if e.Provisional {
			level = zerolog.WarnLevel
		}
	case Lost, OutboxProblem, Warning, BadLine, ClockWrong:
		level = zerolog.WarnLevel
	case Decision:
		level, repeats = s.decision(e)
	default: // the story
	}
	line := s.log.WithLevel(level)
	for _, f := range []struct{ key, value string }{
		{"device", e.Device}, {"kind", string(e.Kind)}, {"hub", e.Hub}, {"rule", e.Rule}, {"name", e.Name},
	} {
		if f.value != "" {
			line = line.Str(f.key, f.value)
		}
	}
	if e.Status != 0 {
		line = line.Int("status", e.Status)
	}
	if e.Wait > 0 {
		line = line.Str("wait", Duration(e.Wait))
	}
	if repeats > 0 {
		line = line.Int("times", repeats+1)
	}
	line.Msg(e.Text)
}

// decision finds the level of a decision. Those that only name the next step are debug; failures are warnings, once a minute.
func (s *story) decision(e Event) (level zerolog.Level, repeats int) {
	if e.Error == "" {
		return zerolog.DebugLevel, 0
	}
	key := e.Hub + " " + e.Rule
	c := s.told[key]
	if c == nil {
		s.told[key] = &chapter{last: e.Time}
		return zerolog.WarnLevel, 0
	}
	if e.Time.Sub(c.last) < repeatAfter {
		c.quiet++
		return zerolog.DebugLevel, 0
	}
	repeats = c.quiet
	c.last, c.quiet = e.Time, 0
	return zerolog.WarnLevel, repeats
}

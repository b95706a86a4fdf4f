package journal

import (
	"fmt"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

const (
	// repeatAfter is the time between two lines for the same decision in an outage, because an hour
	// of an outage must not be 3,600 lines.
	repeatAfter = time.Minute

	// burstMost is how many lines of one kind about one device are told in each burstSpan, because
	// a peer may cause a hundred thousand a second.
	burstMost = 20
	burstSpan = 10 * time.Second

	maxText  = 2048 // bytes of a sentence, which may contain a peer's text
	maxField = 512
	maxStack = 8 << 10
)

// Log returns a sink that writes events as lines. docs/adr/0005-log-levels.md says what a level
// means. What needs a person has level error. A decision that repeats itself within an outage gets
// one line a minute, with the number of times, for each device apart. Its other repetitions have
// level debug. So have the lines beyond burstMost, and one line says how many they are. All texts
// are bounded.
func Log(log zerolog.Logger) func(Event) {
	s := &logSink{log: log, devices: map[string]*deviceLog{}}
	return s.take
}

// logSink writes the log of all devices.
type logSink struct {
	mu      sync.Mutex
	log     zerolog.Logger
	devices map[string]*deviceLog // by device id, from the first event to Stopped
}

// deviceLog is what the log has said of one device.
type deviceLog struct {
	asked     bool                   // this outage has a line that says that DPS is asked
	named     bool                   // this outage has a line that says that DPS names the failed hub
	decisions map[string]*repetition // of this outage, by hub and rule
	bursts    map[Kind]*burst
}

// repetition counts how often a decision has been made.
type repetition struct {
	last  time.Time // of the last line
	quiet int       // repetitions since then
}

// burst is a span in which lines of one kind are counted.
type burst struct {
	timer *time.Timer
	told  int
	held  int
	level zerolog.Level // the highest level of the lines that were held
}

func (s *logSink) take(e Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.devices[e.Device]
	if p == nil {
		p = &deviceLog{decisions: map[string]*repetition{}, bursts: map[Kind]*burst{}}
		s.devices[e.Device] = p
	}
	level, repeats := p.level(e)
	if e.Person && repeats >= 0 {
		level = zerolog.ErrorLevel
	}
	switch e.Kind {
	case Started, Stopping:
	case Stopped:
		for kind, b := range p.bursts {
			b.timer.Stop()
			s.sumUp(e.Device, kind, b)
		}
		delete(s.devices, e.Device)
	default:
		if level >= zerolog.InfoLevel && e.Times == 0 && s.held(p, e, level) {
			level = zerolog.DebugLevel
		}
	}
	s.write(level, e, repeats)
}

// level returns the level of an event, and how often it has happened since its last line. A number
// below 0 means that it is too early for another line.
func (p *deviceLog) level(e Event) (level zerolog.Level, repeats int) {
	switch e.Kind {
	case Packet:
		return zerolog.TraceLevel, 0
	case Dialing:
		return zerolog.DebugLevel, 0
	case Acknowledged:
		if e.Routine {
			return zerolog.DebugLevel, 0
		}
	case Asking:
		return once(&p.asked), 0
	case AssignedAgain:
		return once(&p.named), 0
	case Connected:
		p.asked, p.named = false, false
		clear(p.decisions)
		if e.Provisional {
			return zerolog.WarnLevel, 0
		}
	case Lost, OutboxProblem, Warning, BadLine, ClockWrong, StillDown:
		return zerolog.WarnLevel, 0
	case Bug:
		return zerolog.ErrorLevel, 0
	case Decision:
		return p.decision(e)
	default: // what is said once has level info
	}
	return zerolog.InfoLevel, 0
}

func once(told *bool) zerolog.Level {
	if *told {
		return zerolog.DebugLevel
	}
	*told = true
	return zerolog.InfoLevel
}

// decision returns the level of a decision, and how often it has happened since its last line. A
// decision that only names the next step has level debug. A failure is a warning, once a minute.
func (p *deviceLog) decision(e Event) (level zerolog.Level, repeats int) {
	if e.Error == "" {
		return zerolog.DebugLevel, 0
	}
	key := e.Hub + " " + e.Rule
	c := p.decisions[key]
	if c == nil {
		p.decisions[key] = &repetition{last: e.Time}
		return zerolog.WarnLevel, 0
	}
	if e.Time.Sub(c.last) < repeatAfter {
		c.quiet++
		return zerolog.DebugLevel, -1
	}
	repeats = c.quiet
	c.last, c.quiet = e.Time, 0
	return zerolog.WarnLevel, repeats
}

// held counts an event, and reports whether there have been too many of its kind.
func (s *logSink) held(p *deviceLog, e Event, level zerolog.Level) bool {
	b := p.bursts[e.Kind]
	if b == nil {
		b = &burst{}
		b.timer = time.AfterFunc(burstSpan, func() { s.burstOver(e.Device, p, e.Kind, b) })
		p.bursts[e.Kind] = b
	}
	if b.told < burstMost {
		b.told++
		return false
	}
	if b.held++; b.held == 1 {
		b.level = level
	}
	b.level = max(b.level, level)
	return true
}

// burstOver ends a span. Another span follows at once if this one held lines back.
func (s *logSink) burstOver(device string, p *deviceLog, kind Kind, b *burst) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.bursts[kind] != b || s.devices[device] != p {
		return
	}
	if b.held == 0 {
		delete(p.bursts, kind)
		return
	}
	s.sumUp(device, kind, b)
	b.told = 0
	b.timer.Reset(burstSpan)
}

// sumUp tells how many lines were held back.
func (s *logSink) sumUp(device string, kind Kind, b *burst) {
	if b.held == 0 {
		return
	}
	s.log.WithLevel(b.level).Str("device", device).Str("kind", string(kind)).Int("times", b.held).
		Msg(fmt.Sprintf("%d more lines of the kind %s were left out (--log-level debug shows them)", b.held, kind))
	b.held = 0
}

// write writes an event as a line.
func (s *logSink) write(level zerolog.Level, e Event, repeats int) {
	line := s.log.WithLevel(level)
	reason := e.Error
	if e.Kind == Bug {
		line = line.Str("stack", Clip(e.Error, maxStack))
		reason = ""
	}
	if strings.Contains(e.Text, reason) {
		reason = "" // the sentence contains it
	}
	for _, f := range []struct{ key, value string }{
		{"device", e.Device}, {"kind", string(e.Kind)}, {"hub", e.Hub}, {"peer", e.Peer}, {"rule", e.Rule}, {"signal", e.Signal}, {"name", e.Name},
		{"reason", reason},
	} {
		if f.value != "" {
			line = line.Str(f.key, Clip(f.value, maxField))
		}
	}
	if e.Body != "" {
		line = line.Str("body", Clip(e.Body, maxText))
	}
	if e.Status != 0 {
		line = line.Int("status", e.Status)
	}
	for _, f := range []struct {
		key   string
		value time.Duration
	}{{"tookMs", e.Took}, {"waitMs", e.Wait}, {"outageMs", e.Outage}} {
		if f.value > 0 {
			line = line.Float64(f.key, math.Round(f.value.Seconds()*1e4)/10)
		}
	}
	for _, f := range []struct {
		key   string
		value uint64
	}{{"queued", e.Queued}, {"lost", e.Lost}} {
		if f.value > 0 {
			line = line.Uint64(f.key, f.value)
		}
	}
	switch {
	case e.Times > 0:
		line = line.Uint64("times", e.Times)
	case repeats > 0:
		line = line.Int("times", repeats+1)
	}
	line.Msg(Clip(e.Text, maxText))
}

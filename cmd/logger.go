package cmd

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/rs/zerolog"

	"github.com/hubhop-iot/hubhop/cmd/window"
	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/internal/linequeue"
	"github.com/hubhop-iot/hubhop/internal/secret"
)

const (
	stampFormat = "2006-01-02T15:04:05.000Z07:00"
	dayFormat   = "2006-01-02 "
	clockFormat = "15:04:05.000"

	maxShown = 2048 // bytes of one text in a line for people, because a peer may send long ones
)

// logger builds the one logger of the process. On a console, lines do not show the fields in
// hidden.
func (s *settings) logger(hidden []string) (zerolog.Logger, error) {
	level, err := zerolog.ParseLevel(s.logLevel)
	if err != nil || !slices.Contains(choices["log-level"], s.logLevel) {
		return zerolog.Nop(), fmt.Errorf("log-level is %s; it must be one of trace, debug, info, warn, error", secret.Quoted(s.logLevel))
	}
	zerolog.TimeFieldFormat = stampFormat
	build := func(w io.Writer) zerolog.Logger { return zerolog.New(w).With().Timestamp().Logger() }
	switch format := s.logFormat; {
	case format == "json" || format == "" && !s.env.Terminal:
	case format == "console" || format == "":
		raw, colours := build, s.env.colours()
		build = func(w io.Writer) zerolog.Logger { return raw(console(w, colours, hidden)) }
	default:
		return zerolog.Nop(), fmt.Errorf("log-format is %s; it must be console or json", secret.Quoted(format))
	}
	if q, ok := s.env.Stderr.(*linequeue.Queue); ok {
		q.TellWith(func(n uint64) []byte {
			var line bytes.Buffer
			log := build(&line)
			log.Warn().Uint64("dropped", n).Msg(linequeue.DroppedText(n))
			return line.Bytes()
		})
	}
	s.levels = window.NewLevels(level)
	log := build(s.env.Stderr).Hook(s.levels)
	if s.logFormat == "json" || s.logFormat == "" && !s.env.Terminal {
		s.env.jsonLog = &log
	}
	return log, nil
}

// colours reports whether the log goes to a terminal that shows colours, and nothing turns them
// off.
func (e *Env) colours() bool {
	term, _ := e.lookup("TERM")
	unwanted, _ := e.lookup("NO_COLOR")
	return e.Terminal && term != "dumb" && unwanted == ""
}

// said are the fields that only programs need, because a device's sentence says the same.
var said = []string{"device", "kind", "hub", "signal", "reason", "tookMs", "outageMs", "queued", "lost", "took", "outage"}

// console writes log lines for people. Nothing that a peer has sent can move the cursor or start a
// new line: the message is escaped here, and zerolog quotes the fields.
func console(w io.Writer, colours bool, hidden []string) zerolog.ConsoleWriter {
	return zerolog.ConsoleWriter{
		Out: w, NoColor: !colours, FormatTimestamp: dated(colours),
		FieldsExclude:    hidden,
		FormatPrepare:    forPeople,
		FormatFieldValue: func(v any) string { return escaped(fmt.Sprintf("%s", v)) },
	}
}

// forPeople changes a line for a console: it bounds texts, escapes the message, and writes a
// duration in milliseconds (a field ending in Ms) in words.
func forPeople(line map[string]any) error {
	for key, value := range line {
		switch v := value.(type) {
		case string:
			v = clip(v)
			if key == zerolog.MessageFieldName {
				v = escaped(v)
			}
			line[key] = v
		case json.Number:
			name, ok := strings.CutSuffix(key, "Ms")
			if ms, err := v.Float64(); ok && err == nil {
				delete(line, key)
				line[name] = journal.Duration(time.Duration(ms * float64(time.Millisecond)))
			}
		}
	}
	return nil
}

// dated writes the time of day, and the date if it differs from the date of the line before.
func dated(colours bool) zerolog.Formatter {
	var mu sync.Mutex
	var last string
	return func(v any) string {
		text, _ := v.(string)
		t, err := time.Parse(stampFormat, text)
		if err != nil {
			return escaped(text)
		}
		t = t.Local()
		day := t.Format(dayFormat)
		text = t.Format(clockFormat)
		mu.Lock()
		if day != last {
			last = day
			text = day + text
		}
		mu.Unlock()
		if colours {
			return "\x1b[90m" + text + "\x1b[0m"
		}
		return text
	}
}

// clip bounds a text in a line for people.
func clip(s string) string { return journal.Clip(s, maxShown) }

// escaped writes characters that are not printable as Go does: \n, \x1b, \u202e.
func escaped(s string) string {
	if strings.IndexFunc(s, unprintable) < 0 && utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for i, r := range s {
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(s[i:], string(utf8.RuneError)):
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case unprintable(r):
			q := strconv.QuoteRune(r)
			b.WriteString(q[1 : len(q)-1])
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

func unprintable(r rune) bool { return !strconv.IsPrint(r) }

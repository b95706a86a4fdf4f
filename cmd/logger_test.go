package cmd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode"

	"github.com/rs/zerolog"

	"github.com/hubhop-iot/hubhop/internal/linequeue"
)

// nasty is a text that a peer may send: it clears the screen, starts a line, turns the direction of
// writing, and is not UTF-8.
const nasty = "a\x1b[2J\nb\r\x7f\u009b1m\u202e\xff\u2028c"

// TestConsoleLinesAreEscaped holds every part of a console line to one line of printable text.
func TestConsoleLinesAreEscaped(t *testing.T) {
	var out bytes.Buffer
	log := zerolog.New(console(&out, false, said)).With().Timestamp().Logger()
	log.Info().Str("name", nasty).Strs("list", []string{nasty}).Any("map", map[string]string{nasty: nasty}).
		RawJSON("raw", []byte(`{"a":"\u009b\u202e"}`)).Err(errors.New(nasty)).Msg("method " + nasty)
	text, ended := strings.CutSuffix(out.String(), "\n")
	if i := strings.IndexFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }); i >= 0 || !ended {
		t.Errorf("at %d: %q", i, text)
	}
	if want := `method a\x1b[2J\nb\r\x7f\u009b1m\u202e`; !strings.Contains(text, want) {
		t.Errorf("%q does not contain %q", text, want)
	}
}

// TestConsoleLinesAreBounded sends texts of a megabyte.
func TestConsoleLinesAreBounded(t *testing.T) {
	var out bytes.Buffer
	log := zerolog.New(console(&out, false, said))
	long := strings.Repeat("é\x1b", 1<<19)
	log.Info().Str("name", long).Msg(long)
	if out.Len() > 12*maxShown || !strings.Contains(out.String(), "(1572864 bytes in all)") {
		t.Errorf("%d bytes: %.200q", out.Len(), out.String())
	}
}

// TestConsoleShowsTheDateWhereItChanges shows the date where it changes, and at the beginning.
func TestConsoleShowsTheDateWhereItChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		zerolog.TimeFieldFormat = stampFormat
		var out bytes.Buffer
		log := zerolog.New(console(&out, false, said)).With().Timestamp().Logger()
		var want strings.Builder
		day := ""
		for range 5 {
			now := time.Now().Local()
			if d := now.Format("2006-01-02"); d != day {
				day = d
				want.WriteString(d + " ")
			}
			want.WriteString(now.Format("15:04:05.000") + " INF a line\n")
			log.Info().Msg("a line")
			time.Sleep(11 * time.Hour)
		}
		if out.String() != want.String() || strings.Count(out.String(), "-") != 4 {
			t.Errorf("written:\n%swanted:\n%s", out.String(), want.String())
		}
	})
}

// TestLogDurationsAreNumbersForPrograms are numbers for programs and words for people.
func TestLogDurationsAreNumbersForPrograms(t *testing.T) {
	var out bytes.Buffer
	log := zerolog.New(console(&out, false, said))
	log.Info().Int64("waitMs", 2300).Int("status", 200).Msg("it waits")
	if got := out.String(); !strings.HasSuffix(got, "INF it waits status=200 wait=\"2.3 s\"\n") {
		t.Errorf("%q", got)
	}
}

// TestColoursAreForTerminals are for terminals that show them, and for people who want them.
func TestColoursAreForTerminals(t *testing.T) {
	for _, test := range []struct {
		terminal bool
		environ  []string
		want     bool
	}{
		{true, []string{"TERM=xterm"}, true},
		{true, nil, true},
		{true, []string{"TERM=dumb"}, false},
		{true, []string{"TERM=xterm", "NO_COLOR=1"}, false},
		{true, []string{"NO_COLOR="}, true}, // no-color.org: present and not empty
		{false, []string{"TERM=xterm"}, false},
	} {
		var out bytes.Buffer
		env := &Env{Terminal: test.terminal, Environ: test.environ, Stderr: &out}
		s := &settings{env: env, logLevel: "info", logFormat: "console"}
		log, err := s.logger(said)
		if err != nil {
			t.Fatal(err)
		}
		log.Warn().Err(errors.New("an error")).Msg("a line")
		if got := strings.Contains(out.String(), "\x1b["); got != test.want {
			t.Errorf("%+v: %q", test, out.String())
		}
	}
}

// comingReader is the reader of a log that takes the second write only.
type comingReader struct {
	got   bytes.Buffer
	tried chan struct{}
	here  bool
}

func (r *comingReader) Write(p []byte) (int, error) {
	if !r.here {
		r.here = true
		r.tried <- struct{}{}
		return 0, errors.New("broken pipe")
	}
	return r.got.Write(p)
}

// TestDroppedLineHasTheFormatOfTheLog, at whatever level the log is.
func TestDroppedLineHasTheFormatOfTheLog(t *testing.T) {
	reader := &comingReader{tried: make(chan struct{}, 1)}
	q := linequeue.New(reader)
	s := &settings{env: &Env{Stderr: q}, logLevel: "error", logFormat: "json"}
	log, err := s.logger(said)
	if err != nil {
		t.Fatal(err)
	}
	log.Error().Msg("lost")
	<-reader.tried
	log.Error().Msg("lost too")
	q.CloseSoon()
	var line struct {
		Level, Message string
		Dropped        int
	}
	if err := json.Unmarshal(reader.got.Bytes(), &line); err != nil || line.Level != "warn" || line.Dropped != 2 || line.Message != linequeue.DroppedText(2) {
		t.Errorf("%+v %v", line, err)
	}
}

// TestComplainTellsOneFaultALine, whatever the text of a peer looks like.
func TestComplainTellsOneFaultALine(t *testing.T) {
	var out bytes.Buffer
	complain(&out, fmt.Errorf("DPS: %w", errors.New("no\n  - 2nd\x1b[2J")))
	if want := `hubhop: DPS: no\n  - 2nd\x1b[2J` + "\n"; out.String() != want {
		t.Errorf("%q", out.String())
	}
	out.Reset()
	complain(&out, usage(errors.Join(errors.New("one"), errors.Join(fmt.Errorf("%w and %w", errors.New("two"), errors.New("a\nhalf")), errors.New("three")))))
	if want := "hubhop: 3 things are wrong:\n  - one\n  - two and a\\nhalf\n  - three\n"; out.String() != want {
		t.Errorf("%q", out.String())
	}
}

// TestBugIsToldAndEndsWithOne panics in code that every command runs.
func TestBugIsToldAndEndsWithOne(t *testing.T) {
	var out bytes.Buffer
	env := &Env{Args: []string{"run", "--id-scope", "s", "--group-key", "AAECAwQFBgcICQoLDA0ODw=="}, Stderr: &out, Stdout: &out,
		Notify:   func(ctx context.Context) (context.Context, context.CancelFunc) { return context.WithCancel(ctx) },
		Hostname: func() (string, error) { panic("no\nname") }}
	code := Main(env, nil)
	if text := out.String(); code != exitFailure || !strings.Contains(text, `this is a bug in hubhop`) || !strings.Contains(text, `no\nname; please report it`) ||
		strings.Contains(text, "goroutine") {
		t.Errorf("exit code %d: %s", code, text)
	}
}

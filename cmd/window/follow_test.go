package window

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/hubhop-iot/hubhop/internal/home"
	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/internal/status"
)

// scripted shows what a test says.
type scripted struct {
	mu sync.Mutex
	v  status.View
}

func (s *scripted) View() status.View {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.v
}

func (s *scripted) Beats() []status.Beat { return nil }

func (s *scripted) set(f func(v *status.View)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.v)
}

// device serves a device's control socket in a state directory, until end.
func serveDevice(t *testing.T, stateDir, id string) (*scripted, *status.Events, func()) {
	t.Helper()
	dir := home.Dir(stateDir, id)
	if err := os.MkdirAll(home.OutboxDir(stateDir, id), 0o700); err != nil {
		t.Fatal(err)
	}
	v := &scripted{v: status.View{Device: id, State: status.Connected, Hub: "hub-a"}}
	s := &status.Server{Shown: v, Events: status.NewEvents()}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); s.ServeSocket(ctx, status.Socket{Dir: dir}) }()
	end := sync.OnceFunc(func() { stop(); <-ended })
	t.Cleanup(end)
	for {
		if _, _, err := Ask(t.Context(), dir); err == nil {
			return v, s.Events, end
		}
	}
}

// TestFindNamesTheDeviceToAsk: one that was named is taken, whether it answers or not. Else the one
// that was guessed is, if it answers, or the only one that does.
func TestFindNamesTheDeviceToAsk(t *testing.T) {
	dir := t.TempDir()
	find := func(id string, guessed bool, want string, wrong error) {
		t.Helper()
		got, err := Find(t.Context(), dir, id, guessed)
		if got != want || !errors.Is(err, wrong) {
			t.Errorf("%q, guessed %v: %q, %v", id, guessed, got, err)
		}
	}
	find("host", true, "host", nil)
	serveDevice(t, dir, "a")
	find("host", true, "a", nil)
	find("host", false, "host", nil)
	find("", true, "a", nil)
	_, _, end := serveDevice(t, dir, "b")
	find("host", true, "", ErrSeveral)
	find("b", true, "b", nil)
	end()
	find("b", true, "a", nil)
}

// pipe is an output that a test reads line by line.
type pipe struct {
	mu   sync.Mutex
	b    bytes.Buffer
	news chan struct{}
}

func (p *pipe) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case p.news <- struct{}{}:
	default:
	}
	return p.b.Write(b)
}

// await waits until the output holds a text.
func (p *pipe) await(t *testing.T, text string) string {
	t.Helper()
	for {
		p.mu.Lock()
		all := p.b.String()
		p.mu.Unlock()
		if strings.Contains(all, text) {
			return all
		}
		select {
		case <-p.news:
		case <-t.Context().Done():
			t.Fatalf("no %q in %q", text, all)
		}
	}
}

// TestFollowerShowsChangesAlone follows a device that changes, goes away and comes back. Lines come
// for changes only; on a terminal the status is drawn anew.
func TestFollowerShowsChangesAlone(t *testing.T) {
	dir := t.TempDir()
	v, events, end := serveDevice(t, dir, "a")
	ctx, stop := context.WithCancel(t.Context())
	lines, screen := &pipe{news: make(chan struct{}, 1)}, &pipe{news: make(chan struct{}, 1)}
	var following sync.WaitGroup
	follow := func(out *pipe, redraw bool) {
		f := &Follower{Dir: home.Dir(dir, "a"), Out: out, Err: out, Redraw: redraw, Clean: func(s string) string { return s }, Spawn: func(f func()) { following.Go(f) }}
		following.Go(func() {
			if err := f.Run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	follow(lines, false)
	follow(screen, true)
	lines.await(t, "connected  on hub-a")
	screen.await(t, "a is connected to hub-a")
	v.set(func(v *status.View) {
		v.State, v.Hub, v.Why = status.Waiting, "", &status.Why{Rule: "H07", Cause: "hub-a is dead", At: time.Now()}
	})
	for range 3 {
		events.Emit(journal.Event{Kind: journal.Lost})
	}
	all := lines.await(t, "hub-a is dead")
	screen.await(t, clearScreen+"a has had no link")
	if n := strings.Count(all, "\n"); n != 2 {
		t.Errorf("%d lines for two states: %s", n, all)
	}
	end()
	lines.await(t, "nobody answers")
	serveDevice(t, dir, "a")
	lines.await(t, "waiting\n")
	for !strings.Contains(lines.await(t, "\n")[len(all):], "connected  on hub-a") {
		<-lines.news
	}
	stop()
	following.Wait()
}

// TestFollowerEndsWithItsOutput: an output that takes nothing ends it.
func TestFollowerEndsWithItsOutput(t *testing.T) {
	dir := t.TempDir()
	serveDevice(t, dir, "a")
	var following sync.WaitGroup
	f := &Follower{Dir: home.Dir(dir, "a"), Out: brokenPipe{}, Err: brokenPipe{}, JSON: true, Clean: func(s string) string { return s }, Spawn: func(f func()) { following.Go(f) }}
	if err := f.Run(t.Context()); !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
	following.Wait()
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, os.ErrClosed }

// TestLevelComesBackByItself changes the level for a time, twice.
func TestLevelComesBackByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		l := NewLevels(zerolog.InfoLevel)
		log := zerolog.New(&out).Hook(l)
		says := func(want string) {
			t.Helper()
			out.Reset()
			log.Debug().Msg("d")
			log.Info().Msg("i")
			log.Warn().Msg("w")
			got := ""
			for _, m := range []string{"d", "i", "w"} {
				if strings.Contains(out.String(), `"message":"`+m+`"`) {
					got += m
				}
			}
			if got != want {
				t.Errorf("the log has %q, not %q", got, want)
			}
		}
		set := func(level string, span time.Duration) {
			t.Helper()
			if err := l.Set(level, span); err != nil {
				t.Error(err)
			}
		}
		says("iw")
		set("debug", 10*time.Minute)
		says("diw")
		time.Sleep(9 * time.Minute)
		set("warn", 10*time.Minute)
		time.Sleep(2 * time.Minute) // the end of the first span
		says("w")
		time.Sleep(9 * time.Minute)
		says("iw")
		set("debug", 0)
		time.Sleep(24 * time.Hour)
		says("diw")
		set("warn", 10*time.Minute)
		time.Sleep(10 * time.Minute) // the end of a span brings back what was set for ever
		synctest.Wait()
		says("diw")
		for _, bad := range []string{"", "loud", "INFO", "fatal", "trace"} {
			if err := l.Set(bad, 0); err == nil || !strings.Contains(err.Error(), "debug, info, warn, error") {
				t.Errorf("%q: %v", bad, err)
			}
		}
		if err := NewLevels(zerolog.TraceLevel).Set("trace", 0); err != nil {
			t.Error(err)
		}
	})
}

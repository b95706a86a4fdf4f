package linequeue

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// reader is the reader of a log, which may read, stall or go away.
type reader struct {
	mu   sync.Mutex
	got  bytes.Buffer
	gate chan struct{} // nil: at work; else a write waits for it
	gone bool
}

var errGone = errors.New("broken pipe")

func (r *reader) Write(p []byte) (int, error) {
	r.mu.Lock()
	gate := r.gate
	r.mu.Unlock()
	if gate != nil {
		<-gate
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.gone {
		return 0, errGone
	}
	return r.got.Write(p)
}

func (r *reader) text() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.got.String()
}

// TestStalledReaderStallsNobody writes ten times the room of the queue while the reader stalls.
// When the reader is back, every line is there, in order, or counted.
func TestStalledReaderStallsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		r := &reader{gate: gate}
		q := New(r)
		line := strings.Repeat("x", 91)
		const all = 10 * Room / 100
		for i := range all {
			_, _ = fmt.Fprintf(q, "%07d %s\n", i, line)
			if i == 0 {
				synctest.Wait() // the first one is being written
			}
		}
		if n := cap(q.waiting); n > 2*Room {
			t.Errorf("%d bytes are kept for a reader who does not read", n)
		}
		close(gate)
		synctest.Wait()
		_, _ = fmt.Fprintln(q, "later")
		if !q.CloseSoon() {
			t.Error("not everything was written")
		}
		got := strings.Split(strings.TrimSuffix(r.text(), "\n"), "\n")
		kept := len(got) - 2
		for i, l := range got[:kept] {
			if want := fmt.Sprintf("%07d %s", i, line); l != want {
				t.Fatalf("line %d is %q", i, l)
			}
		}
		if want := string(plainDropped(uint64(all - kept))); got[kept]+"\n" != want || kept*100 < Room-100 {
			t.Errorf("%d of %d lines are there, then %q, not %q", kept, all, got[kept], want)
		}
		if got[kept+1] != "later" {
			t.Errorf("the last line is %q", got[kept+1])
		}
	})
}

// TestEndDoesNotWaitForReader closes a queue whose reader has stalled: the process must end, a
// second later.
func TestEndDoesNotWaitForReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		q := New(&reader{gate: gate})
		_, _ = fmt.Fprintln(q, "a line")
		began := time.Now()
		if q.CloseSoon() || time.Since(began) != FlushLimit {
			t.Errorf("it waited for %v", time.Since(began))
		}
		close(gate)
	})
}

// TestResultWaitsForReader closes a queue of results. A slow reader gets all of it, unless the
// process is asked to stop.
func TestResultWaitsForReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		r := &reader{gate: gate}
		q := New(r)
		_, _ = fmt.Fprintln(q, "the verdict")
		time.AfterFunc(time.Hour, func() { close(gate) })
		if !q.Close(t.Context()) || r.text() != "the verdict\n" {
			t.Errorf("only %q was written", r.text())
		}

		gate = make(chan struct{})
		defer close(gate)
		q = New(&reader{gate: gate})
		_, _ = fmt.Fprintln(q, "the verdict")
		ctx, stop := context.WithTimeout(t.Context(), time.Minute)
		defer stop()
		began := time.Now()
		if q.Close(ctx) || time.Since(began) != time.Minute+FlushLimit {
			t.Errorf("it waited for %v", time.Since(began))
		}
	})
}

// TestGoneReaderCostsOnlyLines loses the reader; a disk that was full has room again later, and
// then the loss is told, to the line.
func TestGoneReaderCostsOnlyLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &reader{gone: true}
		q := New(r)
		for range 5 {
			_, _ = fmt.Fprint(q, "first\nsecond\n")
			synctest.Wait()
		}
		r.mu.Lock()
		r.gone = false
		r.mu.Unlock()
		_, _ = fmt.Fprintln(q, "lost as well: only now the way is known to be free")
		synctest.Wait()
		_, _ = fmt.Fprintln(q, "there")
		q.CloseSoon()
		if want := string(plainDropped(11)) + "there\n"; r.text() != want {
			t.Errorf("written was %q, not %q", r.text(), want)
		}
	})
}

package telemetry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
)

// run gives the bodies of all samples, the sizes of the batches and the faults.
func run(t *testing.T, r io.Reader) (bodies []string, batches []int, faults []string) {
	t.Helper()
	err := Lines(r).Run(t.Context(), func(samples ...Sample) {
		batches = append(batches, len(samples))
		for _, s := range samples {
			bodies = append(bodies, string(s.Body))
		}
	}, func(err error) {
		var line *LineError
		if !errors.As(err, &line) || line.Line < 1 {
			t.Errorf("fault %T %v", err, err)
		}
		faults = append(faults, err.Error())
	})
	if err != nil {
		t.Error(err)
	}
	return bodies, batches, faults
}

func TestLinesByteForByte(t *testing.T) {
	long := `{"x":"` + strings.Repeat("é", (MaxLine-8)/2) + `"}`
	if len(long) != MaxLine {
		t.Fatal(len(long))
	}
	tests := []struct {
		name, input string
		bodies      []string
		faults      []string
	}{
		{"nothing", "", nil, nil},
		{"one", "{\"a\":1}\n", []string{`{"a":1}`}, nil},
		{"no end", "{}\n{\"a\":1}", []string{`{}`, `{"a":1}`}, nil},
		{"as written", "\t {\"b\" :1.50, \"a\":1e2 ,\"a\":\"\\u00e9\\/é\"}  \n", []string{"\t {\"b\" :1.50, \"a\":1e2 ,\"a\":\"\\u00e9\\/é\"}  "}, nil},
		{"crlf", "{\"a\":1}\r\n{\"b\":2}\r\n", []string{`{"a":1}`, `{"b":2}`}, nil},
		{"one carriage return only", "{}\r\r\n{}\r", []string{"{}\r", `{}`}, nil},
		{"blank", "\n\r\n  \t\n{}\n\n", []string{`{}`}, nil},
		{"byte order mark", "\xef\xbb\xbf{}\n{}\n", []string{`{}`, `{}`}, nil},
		{"mark in the middle", "{}\n\xef\xbb\xbf{}\n", []string{`{}`}, []string{"line 2: not a JSON object: invalid character 'ï' looking for beginning of value"}},
		{"not objects", "[1]\n\"x\"\n5\n-1\nnull\ntrue\nfalse\n{}\n", []string{`{}`}, []string{
			"line 1: not a JSON object, but an array", "line 2: not a JSON object, but a string", "line 3: not a JSON object, but a number",
			"line 4: not a JSON object, but a number", "line 5: not a JSON object, but null", "line 6: not a JSON object, but a boolean",
			"line 7: not a JSON object, but a boolean",
		}},
		{"broken", "{}\n\n{\"a\":}\nhello\n{}{}\n{\"a\":1\n{}", []string{`{}`, `{}`}, []string{
			"line 3: not a JSON object: invalid character '}' looking for beginning of value",
			"line 4: not a JSON object: invalid character 'h' looking for beginning of value",
			"line 5: not a JSON object: invalid character '{' after top-level value",
			"line 6: not a JSON object: unexpected end of JSON input",
		}},
		{"latin-1", "{\"a\":\"\xe9\"}\n{}\n", []string{`{}`}, []string{"line 1: not UTF-8 text"}},
		{"unknown fields and wrong types", `{"temp":"warm","pressure":[1]}`, []string{`{"temp":"warm","pressure":[1]}`}, nil},
		{"largest", long + "\n" + long + "\r\n" + long, []string{long, long, long}, nil},
		{"too long", "{}\n" + long + " \n{}\n" + long + " \r\n{}\n" + long + long, []string{`{}`, `{}`, `{}`}, []string{
			"line 2: longer than 262144 bytes", "line 4: longer than 262144 bytes", "line 6: longer than 262144 bytes",
		}},
	}
	for _, test := range tests {
		readers := map[string]func() io.Reader{
			"whole":       func() io.Reader { return strings.NewReader(test.input) },
			"halves":      func() io.Reader { return iotest.HalfReader(strings.NewReader(test.input)) },
			"end at once": func() io.Reader { return iotest.DataErrReader(strings.NewReader(test.input)) },
		}
		if len(test.input) < 10000 {
			readers["bytes"] = func() io.Reader { return iotest.OneByteReader(strings.NewReader(test.input)) }
		}
		for how, reader := range readers {
			bodies, _, faults := run(t, reader())
			if !slices.Equal(bodies, test.bodies) {
				t.Errorf("%s in %s: %d bodies %.300q, want %.300q", test.name, how, len(bodies), bodies, test.bodies)
			}
			if !slices.Equal(faults, test.faults) {
				t.Errorf("%s in %s: faults %q, want %q", test.name, how, faults, test.faults)
			}
		}
	}
}

// A line without end is told of once and costs no memory.
func TestEndlessLine(t *testing.T) {
	r := io.MultiReader(strings.NewReader("{}\n"), io.LimitReader(zeros{}, 100<<20), strings.NewReader("\n{\"a\":1}\n"))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	bodies, _, faults := run(t, r)
	runtime.ReadMemStats(&after)
	if !slices.Equal(bodies, []string{`{}`, `{"a":1}`}) || !slices.Equal(faults, []string{"line 2: longer than 262144 bytes"}) {
		t.Errorf("%q %q", bodies, faults)
	}
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 4<<20 {
		t.Errorf("%d bytes were allocated", grown)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func TestLinesGoInBatches(t *testing.T) {
	_, batches, _ := run(t, strings.NewReader(strings.Repeat("{}\n", 1000)))
	if want := []int{256, 256, 256, 232}; !slices.Equal(batches, want) {
		t.Errorf("batches %v, want %v", batches, want)
	}
	line := `{"x":"` + strings.Repeat("y", 50<<10) + `"}` + "\n"
	_, batches, _ = run(t, strings.NewReader(strings.Repeat(line, 5)))
	if want := []int{5}; !slices.Equal(batches, want) {
		t.Errorf("batches %v, want %v", batches, want)
	}
	// A long line whose beginning came before fills most of a batch; 87 of the short ones fill one.
	first, short := `{"x":"`+strings.Repeat("y", 200<<10), `{"a":"`+strings.Repeat("y", 3000)+"\"}\n"
	bodies, batches, _ := run(t, io.MultiReader(&atOnce{[]byte(first)}, &atOnce{[]byte("\"}\n" + strings.Repeat(short, 170))}))
	if len(bodies) != 171 || len(batches) > 5 {
		t.Errorf("%d lines in batches %v", len(bodies), batches)
	}
	for _, n := range batches {
		size := 0
		for _, b := range bodies[:n] {
			size += len(b)
		}
		if bodies = bodies[n:]; size > batchBytes {
			t.Errorf("a batch of %d lines and %d bytes", n, size)
		}
	}
}

type atOnce struct{ data []byte }

func (r *atOnce) Read(p []byte) (int, error) {
	if len(r.data) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.data)
	r.data = r.data[n:]
	return n, nil
}

// A line is a sample when it is there, not when the next one is.
func TestALineDoesNotWaitForTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		var got []Sample
		ended := make(chan error)
		go func() {
			ended <- Lines(r).Run(t.Context(), func(samples ...Sample) { got = append(got, samples...) }, nil)
		}()
		for i, text := range []string{"{\"n\":1}\n{\"n", "\":2}\n", "{\"n\":3}\r\n"} {
			fmt.Fprint(w, text)
			synctest.Wait()
			if want := fmt.Sprintf(`{"n":%d}`, i+1); len(got) != i+1 || string(got[i].Body) != want || !got[i].Created.Equal(time.Now()) {
				t.Fatalf("%d samples at %v: %+v", len(got), time.Now(), got)
			}
			time.Sleep(time.Minute)
		}
		_ = w.Close()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// counted counts what was taken from it.
type counted struct {
	r io.Reader
	n atomic.Int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n.Add(int64(n))
	return n, err
}

func TestAFullOutboxStopsTheReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		line := `{"x":"` + strings.Repeat("y", 1000) + `"}` + "\n"
		in := &counted{r: strings.NewReader(strings.Repeat(line, 10_000))} // 10 MB
		box := newFakeBox()
		box.limit = 2000
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- Feed(ctx, Lines(in), box, FeedOptions{}) }()
		synctest.Wait()
		time.Sleep(time.Hour)
		taken := in.n.Load()
		if inBox := int64(len(box.held()) * len(line)); taken > inBox+readBytes+int64(len(line)) || taken < inBox {
			t.Errorf("%d bytes taken, %d in the outbox", taken, inBox)
		}
		for _, r := range box.held()[:600] {
			_ = box.Ack(r.Pos)
		}
		synctest.Wait()
		if in.n.Load() <= taken {
			t.Error("the reading did not go on")
		}
		stop()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		whole := in.n.Load() / int64(len(line)) // what was taken from the input is in the outbox, over its bound
		if got := int64(len(box.held()) + 600); got != whole {
			t.Errorf("%d lines taken from the input, %d put into the outbox", whole, got)
		}
	})
}

// What was read before the stop goes to the outbox while it has room.
func TestAStopLosesNothingThatWasRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box, ctx, stop := newFakeBox(), context.Context(nil), context.CancelFunc(nil)
		ctx, stop = context.WithCancel(t.Context())
		in := readerFunc(func(p []byte) (int, error) {
			stop()
			return copy(p, strings.Repeat("{}\n", 1000)), nil
		})
		if err := Feed(ctx, Lines(in), box, FeedOptions{}); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if n := len(box.held()); n != 1000 && n != 0 { // 0: the stop was seen before the read was
			t.Errorf("%d of 1000 lines are in the outbox", n)
		}
	})
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// stopped runs a source on an input that stays silent, stops it, and gives how long that took.
func stopped(t *testing.T, r io.Reader) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	got := make(chan struct{}, 10)
	go func() { ended <- Lines(r).Run(ctx, func(...Sample) { got <- struct{}{} }, nil) }()
	<-got // the first line is through, the next read waits
	stop()
	select {
	case err := <-ended:
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("still running")
	}
}

func TestAStopEndsTheRead(t *testing.T) {
	t.Run("pipe of the system", func(t *testing.T) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		defer w.Close()
		fmt.Fprintln(w, "{}")
		stopped(t, r)
		fmt.Fprintln(w, "{}") // the input is as good as before
		if b := make([]byte, 10); func() int { n, _ := r.Read(b); return n }() != 3 {
			t.Errorf("read %q", b)
		}
	})
	t.Run("a line that has no end yet", func(t *testing.T) {
		r, w := io.Pipe()
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		var bad []error
		ended := make(chan error, 1)
		got := make(chan struct{}, 1)
		go func() {
			ended <- Lines(r).Run(ctx, func(...Sample) { got <- struct{}{} }, func(err error) { bad = append(bad, err) })
		}()
		_, _ = io.WriteString(w, "{}\n{\"a\":")
		<-got
		stop()
		<-ended
		if len(bad) != 1 || !strings.HasPrefix(bad[0].Error(), "line 2: stopped before its end") {
			t.Errorf("told %v", bad)
		}
	})
	t.Run("bytes that come with the interruption", func(t *testing.T) {
		r := &interrupted{stop: make(chan struct{})}
		ctx, stop := context.WithCancel(t.Context())
		time.AfterFunc(time.Millisecond, stop)
		var got []string
		var bad []error
		err := Lines(r).Run(ctx, func(samples ...Sample) { got = append(got, string(samples[0].Body)) }, func(err error) { bad = append(bad, err) })
		if !errors.Is(err, context.Canceled) || len(bad) != 1 || !slices.Equal(got, []string{`{"last":1}`}) || !r.reset {
			t.Errorf("%v, %q", err, got)
		}
	})
	t.Run("something to close", func(t *testing.T) {
		r, w := io.Pipe()
		go fmt.Fprintln(w, "{}")
		stopped(t, r)
	})
	t.Run("a reader that cannot be ended", func(t *testing.T) {
		release := make(chan struct{})
		first := true
		r := readerFunc(func(p []byte) (int, error) {
			if first {
				first = false
				return copy(p, "{}\n"), nil
			}
			<-release
			return copy(p, "{}\n"), nil
		})
		stopped(t, r)
		close(release) // and then the goroutine left behind ends too, or goleak would say so
	})
	t.Run("a reader that does not notice that it is closed", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r, w := io.Pipe()
			go fmt.Fprintln(w, "{}")
			start := time.Now()
			stopped(t, deaf{r})
			if took := time.Since(start); took != time.Second {
				t.Errorf("took %v", took)
			}
			_ = w.Close()
		})
	})
}

// interrupted is an input whose last bytes arrive while it is being interrupted.
type interrupted struct {
	stop  chan struct{}
	reset bool
}

func (r *interrupted) Read(p []byte) (int, error) {
	<-r.stop
	return copy(p, "{\"last\":1}\n{\"ha"), os.ErrDeadlineExceeded
}

func (r *interrupted) SetReadDeadline(t time.Time) error {
	if t.IsZero() {
		r.reset = true
	} else {
		close(r.stop)
	}
	return nil
}

type deaf struct{ io.Reader }

func (deaf) Close() error { return nil }

func TestAReaderThatGivesNothing(t *testing.T) {
	err := Lines(readerFunc(func([]byte) (int, error) { return 0, nil })).Run(t.Context(), nil, nil)
	if !errors.Is(err, io.ErrNoProgress) {
		t.Error(err)
	}
}

// The outbox may keep what it is given, so no line may share memory with the next read.
func TestBodiesAreTheirOwn(t *testing.T) {
	var kept [][]byte
	err := Lines(iotest.HalfReader(strings.NewReader(strings.Repeat("{\"a\":1}\n{\"b\":2}\n", 50)))).Run(t.Context(), func(samples ...Sample) {
		for _, s := range samples {
			kept = append(kept, s.Body)
		}
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, body := range kept {
		if want := [][]byte{[]byte(`{"a":1}`), []byte(`{"b":2}`)}[i%2]; !bytes.Equal(body, want) {
			t.Fatalf("body %d is %q", i, body)
		}
	}
}

func BenchmarkLines(b *testing.B) {
	const line = `{"temp":21.53,"humidity":40.17,"seq":123456}` + "\n"
	input := strings.Repeat(line, 10_000)
	m, box := failover(b), discard{}
	b.SetBytes(int64(len(input)))
	b.ReportAllocs()
	for b.Loop() {
		if err := Feed(b.Context(), Lines(strings.NewReader(input)), box, FeedOptions{Model: m}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)*10_000/b.Elapsed().Seconds(), "lines/s")
}

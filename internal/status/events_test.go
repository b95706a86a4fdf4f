package status

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/hubhop-iot/hubhop/internal/journal"
)

// stream opens GET /events and returns its lines.
func stream(t *testing.T, addr, path string, headers ...string) *bufio.Scanner {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+path, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	a, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); _ = a.Body.Close() })
	if a.StatusCode != http.StatusOK || a.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("%s %v", a.Status, a.Header)
	}
	lines := bufio.NewScanner(a.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() && lines.Text() != ": beat" { // then the reader has its place in the stream
	}
	return lines
}

// next returns the id and data of the next event.
func next(t *testing.T, lines *bufio.Scanner) (id, data string) {
	t.Helper()
	for lines.Scan() {
		switch line := lines.Text(); {
		case strings.HasPrefix(line, "id: "):
			id = line[4:]
		case strings.HasPrefix(line, "data: "):
			data = line[6:]
		case line == "" && data != "":
			return id, data
		}
	}
	t.Fatalf("the stream has ended: %v", lines.Err())
	return "", ""
}

// TestEventsComeInOrderAndResume reads events as they come, and those that another reader has
// missed.
func TestEventsComeInOrderAndResume(t *testing.T) {
	s, _ := newServer()
	addr := serve(t, s, OnMachine)
	s.Events.Emit(journal.Event{Kind: journal.Started, Text: "0"})
	lines := stream(t, addr, "/events")
	var ids []string
	for i := 1; i <= 5; i++ {
		s.Events.Emit(journal.Event{Kind: journal.Warning, Device: "<script>", Text: fmt.Sprint(i)})
		id, data := next(t, lines)
		var e journal.Event
		if err := json.Unmarshal([]byte(data), &e); err != nil || e.Text != fmt.Sprint(i) || e.Device != "<script>" || strings.Contains(data, "<") {
			t.Errorf("%s: %v", data, err)
		}
		ids = append(ids, id)
	}
	if !slices.IsSorted(ids) {
		t.Errorf("the ids do not rise: %v", ids)
	}
	again := stream(t, addr, "/events", "Last-Event-ID", ids[2])
	if id, _ := next(t, again); id != ids[3] {
		t.Errorf("behind %s comes %s", ids[2], id)
	}
	for _, unknown := range []string{"/events?after=0", "/events?after=99999999999999999"} { // of an earlier run, of a later one
		if _, data := next(t, stream(t, addr, unknown)); !strings.Contains(data, `"started"`) {
			t.Errorf("%s begins with %s", unknown, data)
		}
	}
	if code, _, _ := ask(t, http.MethodGet, addr, "/events?after=x"); code != http.StatusBadRequest {
		t.Errorf("an id that is none: %d", code)
	}
	s.Events.Emit(journal.Event{Kind: journal.Packet, Body: "secret"})
	s.Events.Emit(journal.Event{Kind: journal.Stopped})
	if _, data := next(t, lines); !strings.Contains(data, `"stopped"`) {
		t.Errorf("after a packet comes %s", data)
	}
}

// TestASlowReaderIsToldWhatItHasMissed lets a reader sleep while more happens than is kept. What it
// gets then has no gap but the one that is told.
func TestASlowReaderIsToldWhatItHasMissed(t *testing.T) {
	s, _ := newServer()
	addr := serve(t, s, OnMachine)
	conn := dial(t, addr)
	_, _ = io.WriteString(conn, "GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
	lines := bufio.NewScanner(conn)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() && lines.Text() != ": beat" {
	}
	const all = 20_000
	text := strings.Repeat("x", 1500)
	for i := range all {
		s.Events.Emit(journal.Event{Kind: journal.Warning, Lost: uint64(i + 1), Text: text})
	}
	seen, missed, told, last := 0, 0, uint64(0), uint64(0)
	for last < all {
		_, data := next(t, lines)
		var e struct{ Lost, Count uint64 }
		if err := json.Unmarshal([]byte(data), &e); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(data, "kind") {
			missed, told = missed+1, told+e.Count
			continue
		}
		seen, last = seen+1, e.Lost
	}
	if uint64(seen)+told != all || missed == 0 {
		t.Errorf("%d seen and %d told as missed in %d notes, of %d", seen, told, missed, all)
	}
}

// TestEventsAreBoundedInBytes emits events with the largest texts. What is kept stays bounded.
func TestEventsAreBoundedInBytes(t *testing.T) {
	e := NewEvents()
	for range 3 * KeptEvents {
		e.Emit(journal.Event{Kind: journal.Bug, Text: strings.Repeat("\x00", 1<<16), Error: strings.Repeat("é", 1<<16), Name: strings.Repeat("n", 1<<16)})
	}
	kept := 0
	for _, f := range e.frames {
		kept += len(f)
	}
	if kept > keptBytes || len(e.frames) == 0 || kept != e.bytes {
		t.Errorf("%d bytes in %d events, counted as %d", kept, len(e.frames), e.bytes)
	}
}

// TestAThousandReadersAreSmall measures what 1,000 readers of the events cost.
func TestAThousandReadersAreSmall(t *testing.T) {
	s, _ := newServer()
	addr := serve(t, s, OnMachine)
	memory := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapInuse + m.StackInuse
	}
	const readers = 1000
	conns := make([]net.Conn, 0, readers)
	before := memory()
	for range readers {
		conn := dial(t, addr)
		_, _ = io.WriteString(conn, "GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
		got := make([]byte, 0, 512)
		for !strings.Contains(string(got), ": beat\n\n") {
			n, err := conn.Read(got[len(got):cap(got)])
			if err != nil {
				t.Fatal(err)
			}
			got = got[:len(got)+n]
		}
		conns = append(conns, conn)
	}
	s.Events.Emit(journal.Event{Kind: journal.Started, Text: "hello"})
	for _, conn := range conns {
		if n, err := conn.Read(make([]byte, 1024)); n == 0 {
			t.Fatal(err)
		}
	}
	cost := int64(memory()) - int64(before)
	t.Logf("%d readers cost %d kB, with their clients", readers, cost/1000)
	if cost > 20_000_000 {
		t.Errorf("%d readers cost %d bytes", readers, cost)
	}
}

// TestThereIsABoundOfReaders asks for one stream too many.
func TestThereIsABoundOfReaders(t *testing.T) {
	s, _ := newServer()
	addr := serve(t, s, OnMachine)
	s.mu.Lock()
	s.places[OnMachine].streams = maxStreams
	s.mu.Unlock()
	if code, _, h := ask(t, http.MethodGet, addr, "/events"); code != http.StatusServiceUnavailable || h.Get("Retry-After") == "" {
		t.Errorf("%d %v", code, h)
	}
}

// TestEmitWaitsForNobody emits while readers take nothing.
func TestEmitWaitsForNobody(t *testing.T) {
	s, _ := newServer()
	addr := serve(t, s, OnMachine)
	for range 20 {
		conn := dial(t, addr)
		_, _ = io.WriteString(conn, "GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
		if _, err := conn.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	for range 50_000 { // far more than all buffers hold; the test ends only if none of them is waited for
		s.Events.Emit(journal.Event{Kind: journal.Warning, Text: "a text of a usual length, as the events of a device have it"})
	}
}

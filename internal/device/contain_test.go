package device

import (
	"context"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/journal"
)

// TestEveryGoroutineIsContained: nothing in this package starts a goroutine or a timer but the
// bulkheads, which contain its panics.
func TestEveryGoroutineIsContained(t *testing.T) {
	files := token.NewFileSet()
	packages, err := parser.ParseDir(files, ".", nil, 0) //nolint:staticcheck // ParseDir reads the files of every system, which go/packages would not
	if err != nil {
		t.Fatal(err)
	}
	starts := 0
	for name, file := range packages["device"].Files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		ast.Inspect(file, func(n ast.Node) bool {
			found := false
			switch n := n.(type) {
			case *ast.GoStmt:
				found = true
			case *ast.CallExpr:
				s, ok := n.Fun.(*ast.SelectorExpr)
				found = ok && (s.Sel.Name == "Go" || s.Sel.Name == "AfterFunc")
			}
			switch {
			case found && name == "contain.go":
				starts++
			case found:
				t.Errorf("%s starts something that no bulkhead contains", files.Position(n.Pos()))
			}
			return true
		})
	}
	if starts != 4 {
		t.Errorf("the bulkheads start goroutines in %d places, not 4: is this test still looking?", starts)
	}
}

// bugs counts the events about bugs by path.
func bugs(told []journal.Event) map[string]int {
	found := map[string]int{}
	for _, e := range told {
		if e.Kind != journal.Bug {
			continue
		}
		found[e.Name]++
		if e.Error == "" || len(e.Error) > maxStack || strings.ContainsAny(e.Text, "\n\x1b") || len(e.Text) > 1000 {
			found["told badly: "+e.Text]++
		}
	}
	return found
}

// failing panics over the first three events of a kind.
func failing(kind journal.Kind) func(journal.Event) {
	left := 3
	return func(e journal.Event) {
		if e.Kind == kind {
			if left--; left >= 0 {
				panic("nobody listens")
			}
		}
	}
}

// TestBugsAreContained puts a bug into each path of a running device. The path stops and begins
// again, with growing pauses while the bug lasts. A person is told each time, and all other paths
// go on.
func TestBugsAreContained(t *testing.T) {
	const calls = 60
	var sink func(journal.Event)
	left := 0 // panics of the clock
	for _, test := range []struct {
		path        string
		change      func(*Device)
		wall        func() time.Time // nil: the bubble's
		least, most int              // bugs told in ten minutes
		links       int
		late        int // samples that come after the bug only
	}{
		{path: "twin", change: func(d *Device) {
			d.twin.readers = append(d.twin.readers, nil)
		}, least: 8, most: 16},
		{path: "reported", change: func(d *Device) {
			d.twin.readers[0].property = Reported{Every: time.Second, Read: func(context.Context, Request) (any, error) { panic("no battery") }}
		}, least: 8, most: 16},
		{path: "handler", change: func(d *Device) {
			d.handle("echo", func(context.Context, json.RawMessage) (json.RawMessage, error) { panic("no echo") })
		}, least: 4 * calls, most: 4 * calls}, // a message is tried three times
		{path: "methods", change: func(d *Device) {
			d.floods.of(ofCalls).emit = func(journal.Event) { panic("no answer") }
		}, least: calls, most: calls},
		{path: "messages", change: func(d *Device) {
			d.floods.of(ofMail).emit = func(journal.Event) { panic("no mail") }
		}, least: calls, most: calls},
		{path: "samples", change: func(d *Device) {
			read, left := d.app.Sources[0].Read, 5
			d.app.Sources[0].Read = func(now time.Time) ([]byte, error) {
				if left--; left >= 0 {
					panic("no sample\n\x1b[31m" + strings.Repeat("x", 100_000))
				}
				return read(now)
			}
		}, least: 5, most: 5, late: 31},
		{path: "dialling", change: func(d *Device) {
			dial, left := d.shared.DialContext, 3
			d.shared.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
				if left--; left >= 0 {
					panic("no line")
				}
				return dial(ctx, network, addr)
			}
		}, least: 3, most: 3},
		{path: "session", change: func(*Device) { sink = failing(journal.Dialing) }, least: 3, most: 3},
		{path: "clock", wall: func() time.Time {
			if left > 0 && strings.Contains(string(debug.Stack()), ".(*Clock).lookAll(") {
				left--
				panic("no time")
			}
			return time.Now()
		}, change: func(*Device) { left = 3 }, least: 3, most: 3},
		{path: "serving", change: func(*Device) { sink = failing(journal.Acknowledged) }, least: 3, most: 3, links: 4},
	} {
		t.Run(test.path, func(t *testing.T) {
			sink = func(journal.Event) {}
			var next atomic.Int64 // over all links
			h := &scriptedHub{wall: test.wall, sink: func(e journal.Event) { sink(e) }, after: func(send func(topic, body string)) {
				for sent := next.Add(1); sent <= calls; sent = next.Add(1) {
					time.Sleep(9 * time.Second)
					send(fmt.Sprintf("$iothub/methods/POST/echo/?$rid=%d", sent), "1")
					send(fmt.Sprintf("devices/dev-1/messages/devicebound/%%24.mid=m%d&method-name=echo", sent), "1")
				}
			}}
			found := bugs(h.world(t, test.change, 10*time.Minute))
			if test.path == "serving" { // it depends on who comes first: who serves, or the reader with the first PUBACK
				found[test.path] += found["link (reading)"]
				delete(found, "link (reading)")
			}
			if n := found[test.path]; n < test.least || n > test.most {
				t.Errorf("told %d times", n)
			}
			delete(found, test.path)
			if len(found) > 0 {
				t.Errorf("told also of %v", found)
			}
			if h.links != max(test.links, 1) || h.messages < 590-test.late {
				t.Errorf("%d links, %d messages", h.links, h.messages)
			}
			if test.links <= 1 && (len(h.methodAnswers) != calls || len(h.completed) != calls) {
				t.Errorf("%d methods answered, %d messages completed", len(h.methodAnswers), len(h.completed))
			}
		})
	}
}

package main

import (
	"encoding/json"
	"fmt"
	"hash/maphash"
	"path"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/internal/drill"
	"github.com/hubhop-iot/hubhop/internal/sim"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/audit"
)

// flowBook judges two graphs that get the same stream. One keeps nothing: it drops every tenth
// message, and maps the others. The other one gives out one message for each window, which says of
// each place in the window which message was there. So a message that is missing in its window is
// noticed even if another one was counted twice.
type flowBook struct {
	drill.Judge // of the outbox: what it has numbered must arrive, in order
	stream
	seed maphash.Seed

	received int64
	contents []uint64 // by seq: a sum of the message; 0: it has not arrived
	resent   int64    // messages that came again under the number of the outbox
	moves    int      // how often the next message came to another hub
	hub      string

	mapped   []bool // by number: the map's message has arrived
	distinct uint64
	newest   []uint64 // by source: the greatest number within it
	again    int64    // mapped messages that came again as others

	windows   []seenWindow
	closed    uint64 // windows that have arrived
	lastEnd   int64  // the newest window, -1: none
	replayed  int64  // windows that came again as other messages
	doubled   int64  // messages that were counted more than once, in all windows together
	leftovers int64  // windows with nothing but repeated messages
}

// seenWindow is a window that has arrived.
type seenWindow struct {
	id  string
	sum uint64
}

// flowBody is the body of either graph's messages.
type flowBody struct {
	S, N, Twice uint64
	Count       int64   `json:"count"`
	Average     float64 `json:"average"`
}

func newFlowBook(s stream) *flowBook {
	return &flowBook{stream: s, seed: maphash.MakeSeed(), mapped: make([]bool, s.last+1), newest: make([]uint64, s.sources),
		windows: make([]seenWindow, s.last/perWindow), lastEnd: -1}
}

// complete says whether all has arrived that must.
func (b *flowBook) complete() bool {
	return b.distinct == b.last-b.last/dropEvery && b.closed == uint64(len(b.windows))
}

// downstream is the number up to which everything has arrived that has come of the stream.
func (b *flowBook) downstream() uint64 {
	least := b.last
	for source, n := range b.newest {
		if n == 0 {
			return 0
		}
		least = min(least, b.number(uint64(source), n))
	}
	return min(least, uint64(b.lastEnd+1)*perWindow)
}

// Add takes in one message of the ledger.
func (b *flowBook) Add(m sim.Message) {
	b.received++
	seq, seen := b.Arrived(drill.ArrivalOf(m))
	if seq == 0 || seq > 1<<26 {
		if seq > 0 {
			b.Object(drill.Content, "message %q has a number that no run comes to", m.Mid)
		}
		return
	}
	if b.hub != m.Hub {
		if b.hub != "" {
			b.moves++
		}
		b.hub = m.Hub
	}
	id := ""
	if text := m.Properties["id"]; text != nil {
		id = *text
	}
	sum := maphash.String(b.seed, id+" "+string(m.Body)) | 1
	for uint64(len(b.contents)) <= seq {
		b.contents = append(b.contents, 0)
	}
	if was := b.contents[seq]; was != 0 && was != sum {
		b.Object(drill.Content, "%s names two messages, now %q with body %s", m.Mid, id, m.Body)
	}
	b.contents[seq] = sum
	if seen == audit.Again {
		b.resent++
		return
	}
	var body flowBody
	if err := json.Unmarshal(m.Body, &body); err != nil {
		b.Object(drill.Content, "message %q with body %s is of neither graph: %v", m.Mid, m.Body, err)
		return
	}
	if body.Count > 0 {
		b.window(m, id, sum, &body)
		return
	}
	b.map1(m, id, &body)
}

// map1 takes in a message of the graph that keeps nothing.
func (b *flowBook) map1(m sim.Message, id string, body *flowBody) {
	if body.N == 0 || body.S >= b.sources || b.number(body.S, body.N) > b.last {
		b.Object(drill.Content, "message %q with body %s was never published", m.Mid, m.Body)
		return
	}
	g := b.number(body.S, body.N)
	switch {
	case b.drops(g):
		b.Object(drill.Content, "message %d of source %d has arrived, although the filter drops it", body.N, body.S)
	case body.Twice != 2*body.N:
		b.Object(drill.Content, "the map made %s of message %d", m.Body, g)
	case id != fmt.Sprint(g):
		b.Object(drill.Content, "message %d came under the id %q", g, id)
	}
	if b.mapped[g] {
		b.again++
		return
	}
	if body.N < b.newest[body.S] {
		b.Object(drill.Reordered, "message %d of source %d arrived behind message %d", body.N, body.S, b.newest[body.S])
	}
	b.mapped[g] = true
	b.distinct++
	b.newest[body.S] = max(b.newest[body.S], body.N)
}

// window takes in a message of the graph with windows. Its id has the end of the window:
// <graph>/<node>/<end>/<n>.
func (b *flowBook) window(m sim.Message, id string, sum uint64, body *flowBody) {
	end, err := time.Parse(time.RFC3339Nano, path.Base(path.Dir(id)))
	at := int64(end.Sub(b.base)/window) - 1
	var places map[string]any
	if err != nil || at < 0 || !end.Equal(b.base.Add(time.Duration(at+1)*window)) || json.Unmarshal(m.Body, &places) != nil {
		b.Object(drill.Content, "the window %s with id %q and body %s is none of the stream", m.Mid, id, m.Body)
		return
	}
	if at >= int64(len(b.windows)) { // the clock has closed the last window, and then something came again
		b.leftover(m, body, places)
		return
	}
	was := &b.windows[at]
	if was.id != "" {
		b.replayed++
		if was.id != id || was.sum != sum {
			b.Object(drill.Content, "window %d came as %q and as %q, now with body %s: a consumer cannot tell that they are one", at, was.id, id, m.Body)
		}
		return
	}
	*was = seenWindow{id, sum}
	b.closed++
	switch {
	case at < b.lastEnd:
		b.Object(drill.Reordered, "window %d arrived behind window %d", at, b.lastEnd)
	case at > b.lastEnd+1: // a window that lacks a message gives out nothing
		b.Object(drill.Lost, "windows %d to %d have not arrived before window %d", b.lastEnd+1, at-1, at)
	}
	b.lastEnd = max(b.lastEnd, at)
	b.count(m, at, body, places)
}

// count compares what a window has counted with what belongs to it.
func (b *flowBook) count(m sim.Message, at int64, body *flowBody, places map[string]any) {
	var missing []string
	first := at*perWindow + 1
	for i := range int64(perWindow) {
		// A message that comes again late counts for a later window. It has a smaller number.
		if got, ok := places[fmt.Sprintf("m%d", i)].(float64); !ok || int64(got) != first+i {
			missing = append(missing, fmt.Sprint(first+i))
		}
	}
	if len(missing) > 0 {
		b.Object(drill.Lost, "window %d lacks the messages %s: %s", at, strings.Join(missing, ", "), m.Body)
	}
	b.doubled += body.Count - perWindow
	if mean := float64(first) + (perWindow-1)/2.0; body.Count == perWindow && body.Average != mean {
		b.Object(drill.Content, "window %d has the average %v, not %v: %s", at, body.Average, mean, m.Body)
	}
}

// leftover takes in a window behind the last one of the stream.
func (b *flowBook) leftover(m sim.Message, body *flowBody, places map[string]any) {
	b.leftovers++
	b.doubled += body.Count
	for name, value := range places {
		if got, ok := value.(float64); ok && name[0] == 'm' && got > float64(b.last) {
			b.Object(drill.Content, "a window behind the last one holds what was never published: %s", m.Body)
		}
	}
}

// allowance is how much may have come again.
type allowance struct {
	resent              int64 // by the link
	broker              int64 // by the broker to one graph, with what was published again
	toMapped, toWindows int64 // what the broker has sent again to each graph
	replayed            int64 // windows, from the journal
}

// Conclude compares what has arrived with the stream.
func (b *flowBook) Conclude(may allowance) drill.Verdict {
	v := b.Verdict(false)
	lost, first := 0, uint64(0)
	for g := uint64(1); g <= b.last; g++ {
		if !b.mapped[g] && !b.drops(g) {
			if lost++; lost == 1 {
				first = g
			}
		}
	}
	if lost > 0 {
		v.Object(drill.Lost, "%d of %d messages never arrived; the first is %d", lost, b.last-b.last/dropEvery, first)
	}
	lost, first = 0, 0
	for i, w := range b.windows {
		if w.id == "" {
			if lost++; lost == 1 {
				first = uint64(i)
			}
		}
	}
	if lost > 0 {
		v.Object(drill.Lost, "%d of %d windows never arrived; the first is window %d", lost, len(b.windows), first)
	}
	for _, x := range []struct {
		what      string
		n, atMost int64
	}{
		{"messages were sent twice by the link", b.resent, may.resent},
		{"messages were sent again to mapped by the broker", may.toMapped, may.broker},
		{"messages were sent again to windows by the broker", may.toWindows, may.broker},
		{"messages were mapped again", b.again, may.toMapped},
		{"messages were counted again in windows", b.doubled, may.toWindows},
		{"windows were given out again", b.replayed, may.replayed},
	} {
		if x.n > x.atMost {
			v.Object(drill.Repeated, "%d %s, more than the %d that the events explain", x.n, x.what, x.atMost)
		}
	}
	v.Close(v.Reason)
	return v
}

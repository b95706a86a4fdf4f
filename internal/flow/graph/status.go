package graph

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hubhop-iot/hubhop/internal/flow/node"
)

// State is what a graph does.
type State string

// The states.
const (
	Stopped State = "stopped" // Run has not been called, or has returned
	Running State = "running"
	Failing State = "failed" // a node, or the journal, has failed and is tried again
)

// Status are figures of a graph since New.
type Status struct {
	Name  string
	State State
	In    uint64 // messages taken from sources
	Out   uint64 // messages that are safe at a destination
	// Dropped counts messages that left the graph on purpose, Errors those that failed, and those
	// that a damaged disk or lost rules have lost; a checkpoint that is lost counts as one.
	Dropped, Errors uint64
	InFlight        int           // messages that were taken, or read from the journal, and are not safe yet
	InFlightBytes   int           // of those
	Held            int           // bytes that delays and accumulations hold
	OldestAge       time.Duration // of those in flight
	Late            uint64        // messages that came behind the frontier; most are not dropped
	Clamped         uint64        // messages dated more than a minute ahead, which count as of now
	Undated         uint64        // messages whose property __ts is no time
	Journal         int64         // bytes in the journal that no checkpoint covers yet
	Drops           []Count       // why messages were dropped, those that occurred
	Text            string        // what a person should know; empty: nothing
	LastError       string        // which message failed last, why, and where it is kept; empty: none has
}

// Count is how often a node had a reason to drop a message.
type Count struct {
	Node   string
	Reason Reason
	Count  uint64
}

// Status returns the present figures.
func (g *Graph) Status() Status {
	s := Status{Name: g.plan.Name, Late: g.core.late.Load(), Clamped: g.core.clamped.Load(), Undated: g.core.undated.Load()}
	for i := range g.core.vertices {
		for r := range reasons {
			n := g.core.counts[i][r].Load()
			if n == 0 {
				continue
			}
			s.Drops = append(s.Drops, Count{Node: g.core.vertices[i].name, Reason: r, Count: n})
			if r.IsError() {
				s.Errors += n
			} else {
				s.Dropped += n
			}
		}
	}
	if f := g.failed.Load(); f != nil {
		s.LastError = "the last error, at " + f.at.UTC().Format("15:04:05Z") + ": " + g.failureText(f)
	}
	now := g.instant().wall
	g.mu.Lock()
	defer g.mu.Unlock()
	s.In, s.Out, s.State = g.in, g.out, g.state
	s.InFlight, s.InFlightBytes, s.Held, s.Journal = g.inFlight, g.bytes, g.held, g.journaled
	oldest := int64(math.MaxInt64)
	for i := range g.inbox {
		oldest = min(oldest, g.inbox[i].taken)
	}
	for i := range g.roots {
		if r := &g.roots[i]; r.refs > 0 {
			oldest = min(oldest, r.taken)
		}
	}
	if oldest != math.MaxInt64 {
		s.OldestAge = max(time.Duration(now-oldest), 0)
	}
	var texts []string
	for _, name := range slices.Sorted(mapKeys(g.trouble)) {
		texts = append(texts, g.trouble[name])
	}
	if s.State == Running && len(texts) > 0 {
		s.State = Failing
	}
	if g.full != "" {
		texts = append(texts, g.full)
	}
	s.Errors += g.lost
	texts = append(texts, g.notices...)
	s.Text = strings.Join(texts, "; ")
	return s
}

func mapKeys(m map[string]string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// bursts keeps a log short: of equal events it lets one through in a minute, with the number of
// those that were left out.
type bursts struct {
	mu   sync.Mutex
	seen map[string]*burst
}

type burst struct {
	since time.Time
	more  int
}

const burstPause = time.Minute

// open says whether an event is to be told, and how many were not told before.
func (b *bursts) open(key string, now time.Time) (more int, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	x := b.seen[key]
	if x != nil && now.Sub(x.since) < burstPause {
		x.more++
		return 0, false
	}
	if b.seen == nil {
		b.seen = map[string]*burst{}
	}
	if x == nil {
		x = &burst{}
		b.seen[key] = x
	}
	more = x.more
	*x = burst{since: now}
	return more, true
}

// failure is a message that failed.
type failure struct {
	Drop
	topic  string
	at     time.Time
	isKept bool
}

// maxTopic is how many bytes of a topic are shown.
const maxTopic = 200

// failureText says what failed where, and where the message is kept.
func (g *Graph) failureText(f *failure) string {
	text := fmt.Sprintf("node %s drops a message", f.Node)
	if f.topic != "" {
		text += fmt.Sprintf(" of the topic %q", f.topic)
	}
	text += fmt.Sprintf(" (%v): %v", f.Reason, f.Err)
	d := g.opt.DeadLetters
	switch {
	case d == nil:
		return text + "; it is not kept: deadLetter: {} in the spec of the flow keeps such messages"
	case !f.isKept:
		return text + fmt.Sprintf("; it could not be kept in %s: the disk is too slow, or the message is "+
			"larger than half of maxBytes (%d)", d.file(), d.most)
	}
	return text + "; it is kept in " + d.file()
}

// maxNotices bounds what the status says of losses. The log has all of them.
const maxNotices = 4

// noticed keeps for the status what was lost, and how many messages; text is a sentence.
func (g *Graph) noticed(lost uint64, text string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.lost += lost
	if len(g.notices) < maxNotices && !slices.Contains(g.notices, text) {
		g.notices = append(g.notices, text)
	}
}

// damaged logs what a damaged disk has lost, and keeps it for the status.
func (g *Graph) damaged(lost uint64, text string) {
	g.noticed(lost, text)
	g.log("flow " + g.plan.Name + ": " + text)
}

// dropped tells of a message that was lost.
func (g *Graph) dropped(d Drop, m *node.Message) {
	if !d.Reason.IsError() {
		return
	}
	now := g.now()
	f := &failure{Drop: d, topic: strings.Clone(m.Topic[:min(len(m.Topic), maxTopic)]), at: now}
	if g.opt.DeadLetters != nil {
		f.isKept = g.opt.DeadLetters.keep(g.plan.Name, d, m, now)
	}
	g.failed.Store(f)
	more, ok := g.bursts.open(d.Node+"\x00"+d.Reason.String(), now)
	if !ok {
		return
	}
	text := fmt.Sprintf("flow %s: %s", g.plan.Name, g.failureText(f))
	if more > 0 {
		text += fmt.Sprintf("; %d more were dropped for this since it was last said", more)
	}
	g.log(text)
}

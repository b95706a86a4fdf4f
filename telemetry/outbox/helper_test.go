package outbox

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hubhop-iot/hubhop/telemetry/message"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/format"
)

func TestMain(m *testing.M) {
	if childMain() {
		return
	}
	debug.SetGCPercent(400) // most of what these tests do is make disks in memory and throw them away
	goleak.VerifyTestMain(m)
}

// reports collects problems.
type reports struct {
	mu  sync.Mutex
	all []Problem
}

func (r *reports) add(p Problem) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, p)
}

func (r *reports) count(k Kind) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.all {
		if p.Kind == k {
			n++
		}
	}
	return n
}

func openBox(t testing.TB, dir string, o Options) *Box {
	t.Helper()
	b, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func closeBox(t testing.TB, b *Box) {
	t.Helper()
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
}

func appendBodies(t testing.TB, b *Box, bodies ...string) {
	t.Helper()
	ms := make([]message.Message, len(bodies))
	for i, s := range bodies {
		ms[i] = message.Message{Body: []byte(s)}
	}
	if err := b.Append(context.Background(), ms...); err != nil {
		t.Fatal(err)
	}
}

// body makes the n-th body of a test; numbers of different tests may be the same.
func body(n int) string { return fmt.Sprintf("body %d", n) }

func bodies(from, to int) (all []string) {
	for n := from; n <= to; n++ {
		all = append(all, body(n))
	}
	return all
}

// queued reads everything that is in the line, without acknowledging it.
func queued(t testing.TB, b *Box) (all []Record) {
	t.Helper()
	after := uint64(0)
	for {
		next := tryNext(t, b, after, 100)
		if len(next) == 0 {
			return all
		}
		all = append(all, next...)
		after = next[len(next)-1].Pos
	}
}

// maxBodies is how many bytes of bodies next takes at once, unless the first body alone is more.
const maxBodies = 512 << 10

// next returns the oldest records behind a position, up to limit of them. It waits for one.
func next(ctx context.Context, b *Box, after uint64, limit int) ([]Record, error) {
	return nextOf(ctx, b, limit, Part{After: after})
}

// nextOf is next for a reader that has more than one position in the line: it returns the oldest
// records of the first part that has some.
func nextOf(ctx context.Context, b *Box, limit int, parts ...Part) ([]Record, error) {
	var once Batch
	defer once.ahead.release()
	for {
		if err := b.Wait(ctx, parts...); err != nil {
			return nil, err
		}
		if records, err := b.Read(&once, limit, maxBodies, parts...); len(records) > 0 || err != nil {
			return records, err
		}
	}
}

// tryNext is next without waiting for new records. It waits in virtual time until damage is
// believed.
func tryNext(t testing.TB, b *Box, after uint64, limit int) []Record {
	t.Helper()
	for patience := 50 * time.Millisecond; ; patience = 10 * doubtFor {
		b.mu.Lock()
		_, where := b.find(after + 1)
		b.mu.Unlock()
		if where == nowhere {
			return nil
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		records, err := next(ctx, b, after, limit)
		cancel()
		if err == nil {
			return records
		}
		if !errors.Is(err, context.DeadlineExceeded) { // else what was there has been found to be damaged
			t.Fatal(err)
		}
	}
}

func bodiesOf(records []Record) (all []string) {
	for _, r := range records {
		all = append(all, string(r.Body))
	}
	return all
}

func idsOf(records []Record) (all []string) {
	for _, r := range records {
		all = append(all, r.ID)
	}
	return all
}

func ackAll(t testing.TB, b *Box, records []Record) {
	t.Helper()
	for _, r := range records {
		if err := b.Ack(r.Pos); err != nil {
			t.Fatal(err)
		}
	}
}

func equal[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func equalAll(t testing.TB, what string, got, want []string) {
	t.Helper()
	if strings.Join(got, "|") != strings.Join(want, "|") {
		t.Errorf("%s:\n got %q\nwant %q", what, got, want)
	}
}

// consumer is the far end: it keeps an account of every seq.
type consumer struct {
	received map[string]string          // id to body
	gaps     map[string]map[uint64]bool // outbox id to seqs it was told are missing
	top      map[string]uint64
}

func newConsumer() *consumer {
	return &consumer{received: map[string]string{}, gaps: map[string]map[uint64]bool{}, top: map[string]uint64{}}
}

func splitID(t testing.TB, id string) (string, uint64) {
	t.Helper()
	box, s, ok := strings.Cut(id, "-")
	seq, err := strconv.ParseUint(s, 10, 64)
	if !ok || err != nil || len(box) != 16 || seq == 0 {
		t.Fatalf("%q is no id", id)
	}
	return box, seq
}

// take is the arrival of a record. An id must not come with two bodies.
func (c *consumer) take(t testing.TB, r Record) {
	t.Helper()
	if old, again := c.received[r.ID]; again && old != string(r.Body) {
		t.Fatalf("id %s names %q and %q", r.ID, old, r.Body)
	}
	c.received[r.ID] = string(r.Body)
	box, seq := splitID(t, r.ID)
	c.top[box] = max(c.top[box], seq)
	if r.Gap == "" {
		return
	}
	var first, last uint64
	if _, err := fmt.Sscanf(r.Gap, "%d-%d", &first, &last); err != nil || first == 0 || first > last || last >= seq {
		t.Fatalf("record %s carries gap %q", r.ID, r.Gap)
	}
	if c.gaps[box] == nil {
		c.gaps[box] = map[uint64]bool{}
	}
	for ; first <= last; first++ {
		c.gaps[box][first] = true
	}
}

// unaccounted are the ids that it neither received nor was told of.
func (c *consumer) unaccounted() (ids []string) {
	for box, top := range c.top {
		for seq := uint64(1); seq <= top; seq++ {
			id := fmt.Sprintf("%s-%d", box, seq)
			if _, ok := c.received[id]; !ok && !c.gaps[box][seq] {
				ids = append(ids, id)
			}
		}
	}
	return ids
}

var le = binary.LittleEndian

func checksum(b []byte) uint32 { return crc32.Checksum(b, format.Castagnoli) }

// Has says whether there is a record behind a position, so that next would not have to wait for it.
func (b *Box) Has(after uint64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, where := b.find(after + 1)
	return where != nowhere
}

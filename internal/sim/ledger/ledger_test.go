package ledger

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/quick"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/simtest"
)

// The counts are exact for any order, any duplicates and any message ids.
func TestLedgerCountsExactly(t *testing.T) {
	check := func(seed uint64) bool {
		rnd := rand.New(rand.NewPCG(seed, 1))
		l := newLedger(roomy)
		from := &Origin{Hub: "hub-a", Device: "d"}
		want := simtest.Counts{}
		next := []uint64{1, 1, 1 << 40}
		for range 500 {
			o := rnd.IntN(3)
			seq := next[o]
			switch rnd.IntN(6) {
			case 0:
				seq -= min(seq-1, rnd.Uint64N(20))
			case 1:
				seq += rnd.Uint64N(5)
			}
			next[o] = max(next[o], seq+1)
			mid := fmt.Sprintf("%016x-%d", o, seq)
			switch rnd.IntN(20) {
			case 0:
				mid = ""
			case 1:
				mid = fmt.Sprintf("%016X-0%d", o+10, rnd.IntN(9)) // foreign
			}
			l.Enter(from, Arrival{Bag: []byte("a=b&%24.mid=" + mid + "&c"), Body: []byte("x")})
			want.Enter(mid)
		}
		r := l.Sum("d")
		ok := r.Received == want.Received && r.Duplicates == want.Duplicates && r.Reordered == want.Reordered && r.Missing == want.Missing() && r.Distinct == want.Received-want.Duplicates && r.Hubs["hub-a"] == want.Received
		if !ok {
			t.Logf("seed %d: %+v, want %+v", seed, r, want)
		}
		return ok
	}
	if err := quick.Check(check, &quick.Config{MaxCount: 100}); err != nil {
		t.Error(err)
	}
}

func TestStreamIsSmallForOrdinaryTraffic(t *testing.T) {
	var s stream
	for seq := uint64(1); seq <= 1_000_000; seq++ {
		if !s.add(seq) {
			t.Fatal(seq)
		}
	}
	for _, seq := range []uint64{1, 500_000, 1_000_000} {
		if s.add(seq) {
			t.Errorf("%d is new", seq)
		}
	}
	if len(s.ranges) != 1 {
		t.Errorf("%d ranges", len(s.ranges))
	}
	for _, seq := range []uint64{1_000_005, 1_000_003, 1_000_004, 1_000_001, 1_000_002, 0} {
		if !s.add(seq) || s.add(seq) {
			t.Errorf("%d", seq)
		}
	}
	if len(s.ranges) != 1 || s.ranges[0] != (span{0, 1_000_005}) {
		t.Errorf("%v", s.ranges)
	}
}

func TestOnlyIDsOfAnOutboxHaveSequenceNumbers(t *testing.T) {
	for mid, want := range map[string]uint64{
		"0123456789abcdef-1": 1, "0123456789abcdef-0": 0, "ffffffffffffffff-9999999999999999999": 9999999999999999999,
	} {
		if outbox, seq, ok := splitMid([]byte(mid)); !ok || seq != want || string(outbox) != mid[:16] {
			t.Errorf("%s: %s %d %v", mid, outbox, seq, ok)
		}
	}
	for _, mid := range []string{"", "0123456789abcdef", "0123456789abcdef-", "0123456789ABCDEF-1", "0123456789abcdef-01", "0123456789abcdef-1x", "0123456789abcdef-10000000000000000000",
		"123456789abcdef-1", "0123456789abcdef_1", "d411e727-bb5f-4b42-a32e-7c8c9a5c8c6e"} {
		if _, _, ok := splitMid([]byte(mid)); ok {
			t.Errorf("%q was recognised", mid)
		}
	}
}

func TestLedgerKeepsTheNewestMessages(t *testing.T) {
	for name, c := range map[string]Options{"messages": {Keep: 10, KeepBytes: 1 << 20}, "bytes": {Keep: 1000, KeepBytes: 10 * 105}} {
		l := newLedger(c)
		a, b := &Origin{Hub: "hub-a", Device: "a"}, &Origin{Hub: "hub-b", Device: "b"}
		l.Enter(b, Arrival{Body: []byte("first")})
		for i := range 1000 {
			l.Enter(a, Arrival{Bag: []byte(fmt.Sprintf("n=%03d", i)), Body: []byte(strings.Repeat("x", 100))})
		}
		r := l.all("a", 0)
		if r.Received != 1000 || !r.Truncated || len(r.Messages) != 10 || *r.Messages[0].Properties["n"] != "990" || *r.Messages[9].Properties["n"] != "999" {
			t.Errorf("%s: %d kept, %+v", name, len(r.Messages), r.Truncated)
		}
		if r := l.all("b", 0); r.Received != 1 || !r.Truncated || r.Messages == nil || len(r.Messages) != 0 {
			t.Errorf("%s: %+v", name, r)
		}
		if r := l.Sum(""); r.Received != 1001 || r.Hubs["hub-a"] != 1000 || r.Hubs["hub-b"] != 1 || r.Messages != nil {
			t.Errorf("%s: %+v", name, r)
		}
		l.Reset()
		l.Enter(a, Arrival{Body: []byte("again")}) // the connection is still there
		if r := l.all("a", 0); r.Received != 1 || r.Truncated || string(r.Messages[0].Body) != `"again"` {
			t.Errorf("%s: %+v", name, r)
		}
	}
	l := newLedger(roomy)
	from := &Origin{Device: "d"}
	l.Enter(from, Arrival{Body: make([]byte, 3*chunkBytes)})
	l.Enter(from, Arrival{Body: []byte("{}")})
	if r := l.all("d", 0); len(r.Messages) != 2 || string(r.Messages[1].Body) != "{}" {
		t.Errorf("%d messages", len(r.Messages))
	}
}

// A reader that comes back for more in time gets every message once. A reader that comes too late
// is told so.
func TestLedgerGoesOnWhereAReaderStopped(t *testing.T) {
	l := newLedger(Options{Keep: 20, KeepBytes: 1 << 20})
	a, b := &Origin{Hub: "hub-a", Device: "a"}, &Origin{Hub: "hub-b", Device: "b"}
	read := 0
	more := func(device string, after int) (bodies []string, truncated bool) {
		r := l.all(device, int64(after))
		for _, m := range r.Messages {
			bodies = append(bodies, string(m.Body))
		}
		return bodies, r.Truncated
	}
	for i := range 100 {
		l.Enter(a, Arrival{Body: []byte(fmt.Sprint(i))})
		l.Enter(b, Arrival{Body: []byte("0")})
		if i%7 != 6 {
			continue
		}
		bodies, truncated := more("a", read)
		if truncated || len(bodies) != 7 || bodies[0] != fmt.Sprint(read) || bodies[6] != fmt.Sprint(read+6) {
			t.Fatalf("after %d: %v, truncated %v", read, bodies, truncated)
		}
		read += len(bodies)
	}
	for after, want := range map[int]int{89: 10, 90: 10, 99: 1, 100: 0, 1000: 0} {
		if bodies, truncated := more("a", after); len(bodies) != want || truncated != (after < 90) {
			t.Errorf("after %d: %v, truncated %v", after, bodies, truncated)
		}
	}
	if bodies, truncated := more("", 190); len(bodies) != 10 || truncated {
		t.Errorf("%v, truncated %v", bodies, truncated)
	}
}

func TestLedgerTellsTimesAndTheLongestGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(Options{Keep: 10, KeepBytes: 1000, Ahead: time.Hour})
		if r := l.all("d", 0); r.FirstAt != nil || r.LastAt != nil || r.MaxGapMs != 0 || r.Received != 0 {
			t.Errorf("%+v", r)
		}
		from := &Origin{Hub: "hub-a", Device: "d"}
		start := time.Now()
		for _, gap := range []time.Duration{time.Second, 7 * time.Second, 2 * time.Second} {
			time.Sleep(gap)
			l.Enter(from, Arrival{Bag: []byte("iothub-creation-time-utc=2021-04-21T11%3A30%3A16Z")})
		}
		r := l.all("d", 0)
		if r.MaxGapMs != 7000 || !r.FirstAt.Equal(start.Add(time.Second)) || !r.LastAt.Equal(start.Add(10*time.Second)) {
			t.Errorf("%+v", r)
		}
		m := r.Messages[2]
		if m.CreationTime != "2021-04-21T11:30:16Z" || !m.At.Equal(*r.LastAt) || *m.Properties["iothub-enqueuedtime"] != "2000-01-01T01:00:10.0000000Z" || string(m.Body) != `""` {
			t.Errorf("%+v", m)
		}
	})
}

func TestBodyIsShownAsJSONOrAsText(t *testing.T) {
	for body, want := range map[string]string{
		`{"a":1.50}`: `{"a":1.50}`, `7`: `7`, `"x"`: `"x"`, `x`: `"x"`, ``: `""`, "{\"a\":1} ": "{\"a\":1} ", "\xff": `"` + "\uFFFD" + `"`, "{\"a\":\"\xff\"}": `"{\"a\":\"` + "\uFFFD" + `\"}"`,
	} {
		if got := string(bodyJSON([]byte(body))); got != want {
			t.Errorf("%q: %s, want %s", body, got, want)
		}
	}
}

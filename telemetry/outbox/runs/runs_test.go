package runs

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// A set answers like a map of its numbers, whatever was added in which order.
func TestSetIsLikeAMap(t *testing.T) {
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		set, all := Set{Cursor: 1}, map[uint64]bool{}
		for range 60 {
			first := 1 + rnd.Uint64N(80)
			span := Of(first, first+rnd.Uint64N(6))
			fresh := uint64(0)
			for n := span.First; n <= span.Last; n++ {
				if !all[n] {
					fresh++
				}
				all[n] = true
			}
			if got := set.Add(span); got != fresh {
				t.Fatalf("seed %d: %v is new by %d, not %d", seed, span, got, fresh)
			}
			within, greatest := uint64(0), uint64(0)
			for n := range all {
				greatest = max(greatest, n)
				if n >= set.Cursor {
					within++
				}
			}
			if set.Above != within || set.Max() != greatest {
				t.Fatalf("seed %d: %d above the cursor, not %d; greatest %d, not %d", seed, set.Above, within, set.Max(), greatest)
			}
			for n := uint64(1); n < 95; n++ {
				next := n
				for all[next] {
					next++
				}
				if set.Has(n) != all[n] || set.Next(n) != next {
					t.Fatalf("seed %d: has %d: %v; the next is %d, not %d", seed, n, set.Has(n), set.Next(n), next)
				}
			}
			look := Of(1+rnd.Uint64N(40), 40+rnd.Uint64N(50))
			var in, out uint64
			for _, s := range set.Among(look) {
				in += s.Count()
				for n := s.First; n <= s.Last; n++ {
					if !all[n] || n < look.First || n > look.Last {
						t.Fatalf("seed %d: %d is not among %v", seed, n, look)
					}
				}
			}
			for _, s := range set.Open(look) {
				out += s.Count()
			}
			if in+out != look.Count() {
				t.Fatalf("seed %d: %v has %d in the set and %d not in it", seed, look, in, out)
			}
			for i, s := range set.Spans {
				if s.First <= set.Cursor || i > 0 && s.First <= set.Spans[i-1].Last+1 {
					t.Fatalf("seed %d: cursor %d, spans %v", seed, set.Cursor, set.Spans)
				}
			}
		}
		if !slices.IsSortedFunc(set.Spans, func(a, b Span) int { return int(a.First) - int(b.First) }) {
			t.Fatalf("seed %d: %v", seed, set.Spans)
		}
	}
}

// Package runs holds sets of numbers that are mostly without gaps: positions in a line, or numbers
// of messages.
package runs

import (
	"cmp"
	"slices"
	"sort"
)

// Span is a run of numbers, both ends included.
type Span struct{ First, Last uint64 }

// Of is the span from first to last.
func Of(first, last uint64) Span { return Span{first, last} }

// Count is how many numbers are in the span.
func (s Span) Count() uint64 { return s.Last - s.First + 1 }

// Set is a set of numbers: all below the cursor, and a few spans above it. Its cost depends on how
// many spans there are, and not on how many numbers are in them.
type Set struct {
	Cursor uint64
	Spans  []Span // ascending, neither overlapping nor adjacent, all above the cursor
	Above  uint64 // how many numbers are in Spans
}

// Next returns the first number from n on that is not in the set.
func (a *Set) Next(n uint64) uint64 {
	n = max(n, a.Cursor)
	i := sort.Search(len(a.Spans), func(i int) bool { return a.Spans[i].Last >= n })
	if i < len(a.Spans) && a.Spans[i].First <= n {
		return a.Spans[i].Last + 1
	}
	return n
}

// Has says whether a number is in the set.
func (a *Set) Has(n uint64) bool { return a.Next(n) != n }

// Open returns the parts of a span that are not in the set.
func (a *Set) Open(s Span) []Span {
	var open []Span
	for n := a.Next(s.First); n <= s.Last; {
		last := s.Last
		i := sort.Search(len(a.Spans), func(i int) bool { return a.Spans[i].First > n })
		if i < len(a.Spans) {
			last = min(last, a.Spans[i].First-1)
		}
		open = append(open, Span{n, last})
		n = a.Next(last + 1)
	}
	return open
}

// Joins says that a number would not need a span of its own.
func (a *Set) Joins(n uint64) bool {
	return n <= a.Cursor || a.Has(n) || a.Has(n-1) || a.Has(n+1)
}

// Add puts a span into the set, and returns how many of its numbers were not in it before.
func (a *Set) Add(s Span) (fresh uint64) {
	s.First = max(s.First, a.Cursor)
	if s.First > s.Last {
		return 0
	}
	fresh = s.Count()
	i := sort.Search(len(a.Spans), func(i int) bool { return a.Spans[i].Last+1 >= s.First })
	j := i
	for ; j < len(a.Spans) && a.Spans[j].First <= s.Last+1; j++ {
		old := a.Spans[j]
		a.Above -= old.Count()
		if both := min(s.Last, old.Last) + 1; both > max(s.First, old.First) {
			fresh -= both - max(s.First, old.First)
		}
	}
	if j > i {
		s.First, s.Last = min(s.First, a.Spans[i].First), max(s.Last, a.Spans[j-1].Last)
	}
	if s.First <= a.Cursor {
		a.Cursor = s.Last + 1
		a.Spans = slices.Delete(a.Spans, i, j)
		return fresh
	}
	a.Above += s.Count()
	a.Spans = slices.Replace(a.Spans, i, j, s)
	return fresh
}

// Max is the greatest number in the set; 0 if the set is empty and its cursor at 1.
func (a *Set) Max() uint64 {
	if n := len(a.Spans); n > 0 {
		return a.Spans[n-1].Last
	}
	return a.Cursor - 1
}

// Among returns the parts of a span that are in the set.
func (a *Set) Among(s Span) []Span {
	var left []Span
	at := s.First
	for _, open := range append(a.Open(s), Span{s.Last + 1, s.Last + 1}) {
		if open.First > at {
			left = append(left, Span{at, open.First - 1})
		}
		at = open.Last + 1
	}
	return left
}

// Longest returns the n longest spans, in order.
func Longest(spans []Span, n int) []Span {
	if len(spans) <= n {
		return spans
	}
	all := slices.Clone(spans)
	slices.SortFunc(all, func(a, b Span) int { return cmp.Compare(b.Last-b.First, a.Last-a.First) })
	all = all[:n]
	slices.SortFunc(all, func(a, b Span) int { return cmp.Compare(a.First, b.First) })
	return all
}

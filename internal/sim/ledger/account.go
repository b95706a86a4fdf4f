package ledger

import (
	"crypto/sha256"
	"math"
	"slices"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
)

// account is one device's part of the ledger. The ledger's mutex guards it.
type account struct {
	received, duplicates, reordered int64
	hubs                            map[string]int64
	first, last                     time.Time
	maxGap                          time.Duration
	truncated                       bool                  // some of its messages are no longer kept
	streams                         map[string]*stream    // by outbox id
	foreign                         map[[16]byte]struct{} // hashes of all other ids
}

// count counts one message. Its mid is "" if it has no message id.
func (a *account) count(hub string, mid []byte, now time.Time) {
	if a.received > 0 {
		a.maxGap = max(a.maxGap, now.Sub(a.last))
	} else {
		a.first = now
	}
	a.last = now
	a.received++
	a.hubs[hub]++
	if len(mid) == 0 {
		return
	}
	outbox, seq, ok := splitMid(mid)
	if !ok {
		sum := sha256.Sum256(mid)
		key := [16]byte(sum[:16])
		if _, seen := a.foreign[key]; seen {
			a.duplicates++
			return
		}
		if a.foreign == nil {
			a.foreign = map[[16]byte]struct{}{}
		}
		a.foreign[key] = struct{}{}
		return
	}
	s := a.streams[string(outbox)]
	if s == nil {
		if a.streams == nil {
			a.streams = map[string]*stream{}
		}
		s = &stream{}
		a.streams[string(outbox)] = s
	}
	switch {
	case !s.add(seq):
		a.duplicates++
	case seq < s.highest():
		a.reordered++
	}
}

// stream is the set of the sequence numbers that have come from one outbox. Its ranges are
// disjoint, do not touch, and are in ascending order.
type stream struct{ ranges []span }

type span struct{ from, to uint64 }

// add adds a number, and reports whether it is new.
func (s *stream) add(seq uint64) bool {
	r := s.ranges
	if n := len(r); n > 0 && seq == r[n-1].to+1 { // nearly always
		r[n-1].to = seq
		return true
	}
	i, _ := slices.BinarySearchFunc(r, seq, func(x span, seq uint64) int { // the first range that ends at or behind seq
		if x.to < seq {
			return -1
		}
		return 1
	})
	if i < len(r) && r[i].from <= seq {
		return false
	}
	left := i > 0 && r[i-1].to+1 == seq
	right := i < len(r) && r[i].from == seq+1
	switch {
	case left && right:
		r[i-1].to = r[i].to
		s.ranges = slices.Delete(r, i, i+1)
	case left:
		r[i-1].to = seq
	case right:
		r[i].from = seq
	default:
		s.ranges = slices.Insert(r, i, span{seq, seq})
	}
	return true
}

func (s *stream) highest() uint64 { return s.ranges[len(s.ranges)-1].to }

// missing returns how many numbers lie between the ranges.
func (s *stream) missing() int64 {
	n := uint64(0)
	for i := 1; i < len(s.ranges); i++ {
		n += s.ranges[i].from - s.ranges[i-1].to - 1
	}
	return int64(min(n, math.MaxInt64))
}

// splitMid recognises <16 lower-case hex digits>-<decimal without leading zeros>. It is as strict
// as that so that no two texts mean the same number.
func splitMid(mid []byte) (outbox []byte, seq uint64, ok bool) {
	if len(mid) < 18 || len(mid) > 16+1+19 || mid[16] != '-' || mid[17] == '0' && len(mid) > 18 {
		return nil, 0, false
	}
	for _, c := range mid[:16] {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return nil, 0, false
		}
	}
	for _, c := range mid[17:] {
		if c < '0' || c > '9' {
			return nil, 0, false
		}
		seq = seq*10 + uint64(c-'0') // 19 digits always fit
	}
	return mid[:16], seq, true
}

// findMid appends the decoded $.mid of a property bag to dst, and returns nil if there is none.
func findMid(dst, bag []byte) []byte {
	for len(bag) > 0 {
		pair := bag
		for i, c := range bag {
			if c == '&' {
				pair = bag[:i]
				break
			}
		}
		bag = bag[min(len(pair)+1, len(bag)):]
		for i, c := range pair {
			if c != '=' {
				continue
			}
			if key := pair[:i]; string(key) == "%24.mid" || string(key) == "$.mid" ||
				len(key) <= 15 && string(azure.AppendUnescaped(make([]byte, 0, 15), key)) == "$.mid" {
				return azure.AppendUnescaped(dst, pair[i+1:])
			}
			break
		}
	}
	return nil
}

package outbox

import (
	"slices"
	"strconv"

	"github.com/hubhop-iot/hubhop/telemetry/outbox/format"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/runs"
)

// gap is a run of seqs that left the line unsent and that no consumer has been told of for sure.
type gap struct {
	id          format.ID
	first, last uint64
	by          uint64 // the place of the record that was handed out with it; 0: none. Not kept on disk: after a restart it is told again
}

func (g gap) String() string {
	return strconv.FormatUint(g.first, 10) + "-" + strconv.FormatUint(g.last, 10)
}

// gaps are few: neighbours are joined.
type gaps []gap

// maxGaps bounds what is kept, in memory and on disk.
const maxGaps = 64

// add remembers a run of seqs. A gap that grows has to be told anew. dead says of a gap that no record can follow that could tell it;
// it is asked only when there are too many.
func (g *gaps) add(id format.ID, first, last uint64, dead func(gap) bool) {
	if first > last {
		return
	}
	grown := gap{id: id, first: first, last: last}
	for i := 0; i < len(*g); {
		old := (*g)[i]
		if old.id != id || old.last+1 < grown.first || grown.last+1 < old.first {
			i++
			continue
		}
		grown.first, grown.last = min(grown.first, old.first), max(grown.last, old.last)
		if grown.first == old.first && grown.last == old.last {
			grown.by = old.by // nothing new
		} else {
			grown.by = 0
		}
		*g = slices.Delete(*g, i, i+1)
		i = 0
	}
	*g = append(*g, grown)
	if len(*g) > maxGaps {
		*g = slices.DeleteFunc(*g, dead)
	}
	if len(*g) > maxGaps {
		g.joinNearest()
	}
}

// joinNearest makes one of the two gaps that are closest to each other. It then says too much, never too little.
func (g *gaps) joinNearest() {
	slices.SortFunc(*g, func(a, b gap) int {
		if a.id != b.id {
			if a.id < b.id {
				return -1
			}
			return 1
		}
		if a.first < b.first {
			return -1
		}
		return 1
	})
	best := -1
	for i := range len(*g) - 1 {
		a, b := (*g)[i], (*g)[i+1]
		if a.id == b.id && (best < 0 || b.first-a.last < (*g)[best+1].first-(*g)[best].last) {
			best = i
		}
	}
	if best < 0 { // each of another outbox id: the one that ended longest ago is not known, any will do
		*g = slices.Delete(*g, 0, 1)
		return
	}
	(*g)[best].last, (*g)[best].by = (*g)[best+1].last, 0
	*g = slices.Delete(*g, best+1, best+2)
}

// tell returns the gap that the record at pos has to carry, "" if none: the one it carried before, or else the nearest before it that
// nobody carries.
func (g gaps) tell(id format.ID, seq, pos uint64) string {
	best := -1
	for i := range g {
		if g[i].by == pos {
			return g[i].String()
		}
		if g[i].by == 0 && g[i].id == id && g[i].last < seq && (best < 0 || g[i].last > g[best].last) {
			best = i
		}
	}
	if best < 0 {
		return ""
	}
	g[best].by = pos
	return g[best].String()
}

// told forgets the gap that the record at pos carried, for it arrived.
func (g *gaps) told(pos uint64) {
	*g = slices.DeleteFunc(*g, func(x gap) bool { return x.by == pos })
}

// untold gives the gaps back whose carriers left the line without arriving.
func (g gaps) untold(s runs.Span) {
	for i := range g {
		if g[i].by >= s.First && g[i].by <= s.Last {
			g[i].by = 0
		}
	}
}

package outbox

import (
	"slices"

	"github.com/hubhop-iot/hubhop/telemetry/outbox/format"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/runs"
)

// gaps are few, because neighbours are joined.
type gaps []format.Gap

// add remembers a run of seqs. A gap that grows is announced again. If there are too many gaps, add
// forgets those that are dead: no record can come any more that could announce them.
func (g *gaps) add(id format.ID, first, last uint64, dead func(format.Gap) bool) {
	if first > last {
		return
	}
	grown := format.Gap{ID: id, First: first, Last: last}
	for i := 0; i < len(*g); {
		old := (*g)[i]
		if old.ID != id || old.Last+1 < grown.First || grown.Last+1 < old.First {
			i++
			continue
		}
		grown.First, grown.Last = min(grown.First, old.First), max(grown.Last, old.Last)
		if grown.First == old.First && grown.Last == old.Last {
			grown.By = old.By // nothing new
		} else {
			grown.By = 0
		}
		*g = slices.Delete(*g, i, i+1)
		i = 0
	}
	*g = append(*g, grown)
	if len(*g) > format.MaxGaps {
		*g = slices.DeleteFunc(*g, dead)
	}
	if len(*g) > format.MaxGaps {
		g.joinNearest()
	}
}

// joinNearest makes one gap of the two that are closest to each other. The gap then names too many
// seqs, never too few.
func (g *gaps) joinNearest() {
	slices.SortFunc(*g, func(a, b format.Gap) int {
		if a.ID != b.ID {
			if a.ID < b.ID {
				return -1
			}
			return 1
		}
		if a.First < b.First {
			return -1
		}
		return 1
	})
	best := -1
	for i := range len(*g) - 1 {
		a, b := (*g)[i], (*g)[i+1]
		if a.ID == b.ID && (best < 0 || b.First-a.Last < (*g)[best+1].First-(*g)[best].Last) {
			best = i
		}
	}
	if best < 0 { // no two are of one outbox id, so any may go
		*g = slices.Delete(*g, 0, 1)
		return
	}
	(*g)[best].Last, (*g)[best].By = (*g)[best+1].Last, 0
	*g = slices.Delete(*g, best+1, best+2)
}

// tell returns the gap that the record at pos announces, "" if none: the one that it announced
// before, or else the nearest one before it that no record announces.
func (g gaps) tell(id format.ID, seq, pos uint64) string {
	best := -1
	for i := range g {
		if g[i].By == pos {
			return g[i].String()
		}
		if g[i].By == 0 && g[i].ID == id && g[i].Last < seq && (best < 0 || g[i].Last > g[best].Last) {
			best = i
		}
	}
	if best < 0 {
		return ""
	}
	g[best].By = pos
	return g[best].String()
}

// told forgets the gap that the record at pos announced, because the record has arrived.
func (g *gaps) told(pos uint64) {
	*g = slices.DeleteFunc(*g, func(x format.Gap) bool { return x.By == pos })
}

// untold gives back the gaps whose records have left the line without arriving.
func (g gaps) untold(s runs.Span) {
	for i := range g {
		if g[i].By >= s.First && g[i].By <= s.Last {
			g[i].By = 0
		}
	}
}

package topic

import "math"

// Index finds the first of many filters that a topic fits, without looking at each of them. The
// zero Index is empty. It can be read from any goroutine while nothing is added.
type Index struct{ root fork }

// fork is what filters have in common up to one of their levels. The numbers of filters are one
// more than the caller's, so that 0 is none.
type fork struct {
	next  map[string]*fork
	any   *fork // behind +
	here  int   // the first filter that ends here
	below int   // the first filter that goes on with # only
	least int   // the first filter of all that come by here
}

// Add puts a valid filter into the index, under a number from 0. Of equal filters the one with the
// least number counts.
func (x *Index) Add(filter string, number int) {
	if filter != "" && filter[0] == '$' {
		_, filter, _ = Shared(filter)
	}
	if filter == "" {
		return
	}
	number++
	at := &x.root
	at.note(&at.least, number)
	for {
		end := levelEnd(filter)
		switch name := filter[:end]; name {
		case "#":
			at.note(&at.below, number)
			return
		case "+":
			if at.any == nil {
				at.any = &fork{}
			}
			at = at.any
		default:
			if at.next == nil {
				at.next = map[string]*fork{}
			}
			if at.next[name] == nil {
				at.next[name] = &fork{}
			}
			at = at.next[name]
		}
		at.note(&at.least, number)
		if end == len(filter) {
			at.note(&at.here, number)
			return
		}
		filter = filter[end+1:]
	}
}

func (*fork) note(first *int, number int) {
	if *first == 0 || number < *first {
		*first = number
	}
}

// First returns the least number of a filter that [Match] says the topic fits. ok is false if there
// is none.
func (x *Index) First(topic string) (number int, ok bool) {
	if topic == "" || x.root.least == 0 {
		return 0, false
	}
	best := math.MaxInt
	if topic[0] != '$' { // MQTT 5 section 4.7.2: no wildcard at the beginning fits these
		best = x.root.first(topic, true, best)
	} else if end := levelEnd(topic); x.root.next[topic[:end]] != nil {
		best = x.root.next[topic[:end]].first(topic[min(end+1, len(topic)):], end < len(topic), best)
	}
	return best - 1, best != math.MaxInt
}

// first returns the first filter below that the rest of a topic fits, or best if that comes before.
// more is false if there is no further level.
func (k *fork) first(rest string, more bool, best int) int {
	if k.least >= best {
		return best
	}
	if k.below > 0 {
		best = min(best, k.below)
	}
	if !more {
		if k.here > 0 {
			best = min(best, k.here)
		}
		return best
	}
	end := levelEnd(rest)
	name, more := rest[:end], end < len(rest)
	rest = rest[min(end+1, len(rest)):]
	if at := k.next[name]; at != nil {
		best = at.first(rest, more, best)
	}
	if k.any != nil {
		best = k.any.first(rest, more, best)
	}
	return best
}

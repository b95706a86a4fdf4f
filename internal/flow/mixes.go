package flow

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/hubhop-iot/hubhop/internal/flow/manifest"
)

// mixes warns of nodes that treat several topics as one, although their results look as if they
// were of one topic: windows, and throttles whose rules have wildcards.
func mixes(g *manifest.Graph) (faults []manifest.Fault) {
	warn := func(at manifest.Pos, format string, a ...any) {
		faults = append(faults, manifest.Fault{Pos: at, Severity: manifest.Warning, Rule: "topics-mixed", Text: fmt.Sprintf(format, a...)})
	}
	for i := range g.Operators {
		o := &g.Operators[i]
		switch o.Native {
		case manifest.NativeWindow:
			if topics := topicsInto(g, o.Name); len(topics) > 1 || len(topics) == 1 && isWild(topics[0]) {
				warn(o.Pos(), "the window %s puts the messages of all topics of %s into one result, under the topic of the last of them; "+
					"if each topic is to have its own result, give each a source and a window, see examples/flows/rooms", o.Name, strings.Join(topics, ", "))
			}
		case manifest.NativeThrottle:
			for _, s := range o.Configuration {
				for _, filter := range throttled(s) {
					if isWild(filter) {
						warn(s.Pos(), "the throttle %s has one budget for all topics of %s together; if each topic is to have its own, write a rule for each", o.Name, filter)
					}
				}
			}
		default:
		}
	}
	return faults
}

func isWild(filter string) bool { return strings.ContainsAny(filter, "+#") }

// throttled returns the topic filters of a setting of a throttle. Whatever is wrong with it, the
// throttle says.
func throttled(s manifest.Setting) (filters []string) {
	var rules struct {
		PerTopicThrottles []struct{ Topic string }
	}
	if json.Unmarshal([]byte(s.Value), &rules) != nil {
		return nil
	}
	for _, r := range rules.PerTopicThrottles {
		filters = append(filters, r.Topic)
	}
	return filters
}

// topicsInto returns the topic filters of the sources that lead to a node.
func topicsInto(g *manifest.Graph, name string) (topics []string) {
	before := []string{name}
	for i := 0; i < len(before); i++ {
		for j := range g.Connections {
			if c := &g.Connections[j]; c.To == before[i] && !slices.Contains(before, c.From) {
				before = append(before, c.From)
			}
		}
	}
	for i := range g.Sources {
		if !slices.Contains(before, g.Sources[i].Name) {
			continue
		}
		for _, f := range filtersOf(&g.Sources[i]) {
			if !slices.Contains(topics, f) {
				topics = append(topics, f)
			}
		}
	}
	return topics
}

package transform

import (
	"math"
	"time"

	"github.com/hubhop-iot/hubhop/internal/flow/jsonscan"
	"github.com/hubhop-iot/hubhop/internal/flow/node"
	"github.com/hubhop-iot/hubhop/internal/flow/topic"
)

// throttle is the operator throttle: it passes no more messages of a topic filter than a rate
// allows. Its time is that of the processing.
type throttle struct {
	now    func() time.Time
	rules  []pace
	filter topic.Index // of the rules, by their place
}

type pace struct {
	interval time.Duration // 0: nothing passes
	last     time.Time     // when a message passed
	passed   bool
}

func (c *compiler) throttle(settings map[string]string) any {
	text, ok := settings["throttle"]
	if !ok {
		c.fault(Fault{Key: "throttle", Offset: -1, Text: `the setting is missing; it is {"perTopicThrottles": [{"topic": …, "maxMessagesPerSecond": …}]}`})
		return nil
	}
	f := c.open("throttle", text)
	if f == nil {
		return nil
	}
	fields := f.fields(0, 0, "perTopicThrottles", "version")
	at, ok := fields["perTopicThrottles"]
	if !ok {
		f.at(0, 0, "perTopicThrottles is missing")
		return nil
	}
	t := &throttle{now: c.o.Now}
	seen := map[string]int{}
	for i, element := range f.list(at, 0, "perTopicThrottles", maxRules) {
		values := f.fields(element, i+1, "topic", "maxMessagesPerSecond", "description")
		var p pace
		var filter string
		if at, ok := values["topic"]; !ok {
			f.at(element, i+1, "topic is missing: a topic filter")
		} else if filter, ok = f.text(at, i+1, "topic"); ok {
			if err := topic.ValidFilter(filter); err != nil {
				f.at(at, i+1, "topic: %v", err)
			}
			t.filter.Add(filter, i)
			if first, ok := seen[filter]; ok {
				f.at(at, i+1, "the topic filter is that of rule %d", first)
			}
			seen[filter] = i + 1
		}
		p.interval = f.interval(values, element, i+1)
		t.rules = append(t.rules, p)
	}
	if len(t.rules) == 0 {
		f.at(at, 0, "perTopicThrottles has no rule")
	}
	return t
}

// interval returns the time between two messages: whole milliseconds, rounded up.
func (f *config) interval(values map[string]int, element, number int) time.Duration {
	at, ok := values["maxMessagesPerSecond"]
	if !ok {
		f.at(element, number, "maxMessagesPerSecond is missing: a number from 0")
		return 0
	}
	rate, ok := jsonscan.ParseFloat(f.d.Raw(at))
	if f.d.Nodes[at].Kind != jsonscan.Number || !ok || rate < 0 {
		f.at(at, number, "maxMessagesPerSecond must be a number from 0")
		return 0
	}
	if rate == 0 {
		return 0
	}
	return time.Duration(min(math.Ceil(1000/rate), 1e12)) * time.Millisecond
}

// Filter says whether a message passes: the first rule that its topic fits decides, and a message
// that fits none passes. It never fails.
func (t *throttle) Filter(m *node.Message) (pass bool, err error) {
	i, fits := t.filter.First(m.Topic)
	if !fits {
		return true, nil
	}
	p := &t.rules[i]
	if p.interval == 0 {
		return false, nil
	}
	now := t.now()
	if p.passed && now.Sub(p.last) < p.interval {
		return false, nil
	}
	p.last, p.passed = now, true
	return true, nil
}

package topic

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Pattern is the topic of a destination, which may contain variables: ${outputTopic} is the topic
// that an operator has written, ${inputTopic} the one that the message came on, and
// ${outputTopic.N} and ${inputTopic.N} are their N-th level, counted from 1. Slashes at the
// beginning and at the end do not count. It is safe for concurrent use.
type Pattern struct {
	text   string
	parts  []part // empty: text is the topic
	levels []level
}

// part is a literal text, or one variable.
type part struct {
	literal string
	output  bool  // of the output topic; else of the input topic
	level   int   // 0: the whole topic
	missing error // what to say when the message has no such topic or level
	is      kind
}

type kind byte

const (
	literal  kind = iota
	variable      // stands for one level in a level
	levels        // stands for one level or more
)

// level is what is known of one level of what a pattern makes.
type level struct {
	is             kind
	text           string // of a literal
	prefix, suffix string // around the variables of one level
}

// Static says whether the pattern has no variable.
func (p *Pattern) Static() bool { return len(p.parts) == 0 }

// String returns the pattern as it was written.
func (p *Pattern) String() string { return p.text }

// Parse reads a destination's topic. The error says what is wrong with it.
func Parse(text string) (*Pattern, error) {
	p := &Pattern{text: text}
	if !strings.Contains(text, "${") {
		if err := ValidTopic(text); err != nil {
			return nil, err
		}
		p.readLevels()
		return p, nil
	}
	for rest := text; rest != ""; {
		before, tail, ok := strings.Cut(rest, "${")
		if before != "" {
			if err := ValidTopic(before); err != nil {
				return nil, err
			}
			p.parts = append(p.parts, part{literal: before})
		}
		if !ok {
			break
		}
		name, after, ok := strings.Cut(tail, "}")
		if !ok {
			return nil, errors.New("${ has no closing }")
		}
		v, err := parseVariable(name)
		if err != nil {
			return nil, err
		}
		p.parts, rest = append(p.parts, v), after
	}
	if len(text) > MaxBytes {
		return nil, errLong
	}
	p.readLevels()
	return p, nil
}

func parseVariable(name string) (part, error) {
	base, number, numbered := strings.Cut(name, ".")
	v := part{is: levels, output: base == "outputTopic"}
	if !v.output && base != "inputTopic" {
		return v, fmt.Errorf("${%.80s} is no variable; there are ${outputTopic}, ${inputTopic}, and their levels such as ${outputTopic.1}", name)
	}
	if !numbered {
		v.missing = fmt.Errorf("no operator has written the topic that ${%s} stands for", name)
		if !v.output {
			v.missing = fmt.Errorf("the message has no topic for ${%s}", name)
		}
		return v, nil
	}
	n, err := strconv.Atoi(number)
	if err != nil || n < 1 || n > MaxBytes || strconv.Itoa(n) != number {
		return v, fmt.Errorf("${%.80s}: the level is a number from 1", name)
	}
	v.is, v.level = variable, n
	v.missing = fmt.Errorf("the topic has no level %d for ${%s}", n, name)
	return v, nil
}

// Expand returns the topic for a message that came in on the topic input and has the topic output
// now; empty: no operator has written one. An error says why the message cannot go anywhere.
func (p *Pattern) Expand(input, output string) (string, error) {
	if len(p.parts) == 0 {
		return p.text, nil
	}
	if len(p.parts) == 1 { // ${outputTopic} alone: nothing to join
		text, err := p.parts[0].value(input, output)
		if err != nil {
			return "", err
		}
		return text, ValidTopic(text)
	}
	n := 0
	for i := range p.parts {
		text, err := p.parts[i].value(input, output)
		if err != nil {
			return "", err
		}
		n += len(text)
	}
	if n > MaxBytes {
		return "", errLong
	}
	var joined strings.Builder
	joined.Grow(n)
	for i := range p.parts {
		text, _ := p.parts[i].value(input, output)
		joined.WriteString(text)
	}
	return joined.String(), ValidTopic(joined.String())
}

func (v *part) value(input, output string) (string, error) {
	if v.is == literal {
		return v.literal, nil
	}
	text := input
	if v.output {
		text = output
	}
	if text == "" {
		return "", v.missing
	}
	if v.level == 0 {
		return text, nil
	}
	text = strings.Trim(text, "/")
	for range v.level - 1 {
		_, rest, ok := strings.Cut(text, "/")
		if !ok {
			return "", v.missing
		}
		text = rest
	}
	if text = text[:levelEnd(text)]; text == "" {
		return "", v.missing
	}
	return text, nil
}

// readLevels works out what is known of each level of the topics that the pattern makes.
func (p *Pattern) readLevels() {
	for text := range strings.SplitSeq(p.text, "/") {
		first, last := strings.Index(text, "${"), strings.LastIndex(text, "}")
		switch {
		case first < 0:
			p.levels = append(p.levels, level{text: text})
		case strings.Contains(text, "Topic}"): // a whole topic has any number of levels
			p.levels = append(p.levels, level{is: levels})
		default:
			p.levels = append(p.levels, level{is: variable, prefix: text[:first], suffix: text[last+1:]})
		}
	}
}

// Overlap says whether a pattern can make a topic that fits a topic filter: a message could then go
// round in a circle. A pattern that is no valid one makes no topic.
func Overlap(filter, pattern string) bool {
	p, err := Parse(pattern)
	return err == nil && p.Overlaps(filter)
}

// overlapWork bounds the steps of one comparison. What is larger counts as overlapping.
const overlapWork = 1 << 22

// Overlaps says whether the pattern can make a topic that fits a topic filter. When in doubt it
// says so: the text of a variable is not known.
func (p *Pattern) Overlaps(filter string) bool {
	_, filter, _ = Shared(filter)
	f := strings.Split(filter, "/")
	if first := p.levels[0]; first.is == literal && strings.HasPrefix(first.text, "$") && (f[0] == "+" || f[0] == "#") {
		return false
	}
	if len(f)*len(p.levels) > overlapWork {
		return true
	}
	// next[j] says whether the filter after the level text, and the pattern from the level j on,
	// have a topic in common. The rows go from the last level of the filter to its first.
	next, row := make([]bool, len(p.levels)+1), make([]bool, len(p.levels)+1)
	next[len(p.levels)] = true // both at their end
	for _, text := range slices.Backward(f) {
		for j := range row {
			row[j] = text == "#" || j < len(p.levels) && p.levels[j].fits(text) && (next[j+1] || p.levels[j].is == levels && next[j])
		}
		next, row = row, next
	}
	return next[0]
}

// fits says whether a level of a filter, which is no #, has a text in common with l.
func (l *level) fits(filter string) bool {
	switch {
	case filter == "+" || l.is == levels:
		return true
	case l.is == literal:
		return filter == l.text
	}
	return len(filter) >= len(l.prefix)+len(l.suffix) && strings.HasPrefix(filter, l.prefix) && strings.HasSuffix(filter, l.suffix)
}

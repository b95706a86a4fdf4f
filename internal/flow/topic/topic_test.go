package topic

import (
	"strings"
	"testing"
)

func TestFiltersMatchAsMQTTSays(t *testing.T) {
	for _, c := range []struct {
		filter, topic string
		want          bool
	}{
		{"a/b", "a/b", true},
		{"a/b", "a/b/c", false},
		{"a/b/c", "a/b", false},
		{"a/+", "a/b", true},
		{"a/+", "a/", true},
		{"a/+", "a", false},
		{"+", "a", true},
		{"+", "/a", false},
		{"/+", "/a", true},
		{"+/+", "/a", true},
		{"a/+/c", "a/b/c", true},
		{"a/+/c", "a/b/d", false},
		{"a/#", "a", true},
		{"a/#", "a/b/c", true},
		{"a/#", "ab", false},
		{"a/+/#", "a", false},
		{"a/+/#", "a/b", true},
		{"#", "a/b", true},
		{"#", "/", true},
		{"#", "$SYS/x", false},
		{"+/x", "$SYS/x", false},
		{"$SYS/#", "$SYS/x", true},
		{"$SYS/+", "$SYS/x", true},
		{"A/b", "a/b", false},
		{"", "a", false},
		{"a", "", false},
		{"$shared/group/a/#", "a/b", true},
		{"$share/group/#", "$SYS/x", false},
		{"a//b", "a//b", true},
		{"a/+/b", "a//b", true},
	} {
		if got := Match(c.filter, c.topic); got != c.want {
			t.Errorf("Match(%q, %q) = %v, want %v", c.filter, c.topic, got, c.want)
		}
	}
}

func TestMatchAllocatesNothing(t *testing.T) {
	if n := testing.AllocsPerRun(100, func() { Match("factory/+/line/#", "factory/1/line/a/b") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestTopicsAndFiltersAreCheckedBeforeUse(t *testing.T) {
	long := strings.Repeat("a", MaxBytes+1)
	for text, want := range map[string][2]bool{ // valid as a topic, valid as a filter
		"a/b": {true, true}, "/": {true, true}, "a/+": {false, true}, "a/#": {false, true}, "#": {false, true},
		"a#": {false, false}, "a/#/b": {false, false}, "a+/b": {false, false}, "": {false, false},
		"a\x00b": {false, false}, "a\xff": {false, false}, long: {false, false}, long[1:]: {true, true},
		"$shared/g/a/#": {false, true}, "$shared/g": {true, false}, "$shared//a": {true, false}, "$share/g+/a": {false, false},
		"$sharedx/g": {true, true},
	} {
		if err := ValidTopic(text); (err == nil) != want[0] {
			t.Errorf("ValidTopic(%.20q) = %v", text, err)
		}
		if err := ValidFilter(text); (err == nil) != want[1] {
			t.Errorf("ValidFilter(%.20q) = %v", text, err)
		}
	}
}

func TestVariablesTakeTopicsAndTheirLevels(t *testing.T) {
	for _, c := range []struct{ pattern, input, output, want string }{
		{"fixed/topic", "a", "", "fixed/topic"},
		{"out/${outputTopic}", "a", "b/c", "out/b/c"},
		{"${outputTopic}", "a", "b/c", "b/c"},
		{"out/${outputTopic.2}", "a", "b/c", "out/c"},
		{"out/${outputTopic.2}/x", "a", "/b/c/", "out/c/x"},
		{"${inputTopic.1}-${outputTopic.1}", "a", "b", "a-b"},
		{"${inputTopic}", "a/b", "", "a/b"},
		{"x/${inputTopic.3}", "a//c", "", "x/c"},
	} {
		p, err := Parse(c.pattern)
		if err != nil {
			t.Errorf("Parse(%q): %v", c.pattern, err)
			continue
		}
		if got, err := p.Expand(c.input, c.output); err != nil || got != c.want {
			t.Errorf("%q with %q and %q = %q, %v, want %q", c.pattern, c.input, c.output, got, err, c.want)
		}
	}
}

func TestAMessageWhoseTopicLacksWhatIsAskedForGoesNowhere(t *testing.T) {
	for _, c := range []struct{ pattern, input, output, reason string }{
		{"a/${outputTopic}", "in", "", "no operator has written"},
		{"a/${inputTopic}", "", "", "has no topic"},
		{"a/${inputTopic.3}", "a/b", "", "no level 3"},
		{"a/${inputTopic.2}", "a//b", "", "no level 2"},
		{"a/${outputTopic}", "in", "b/+", "+ or #"},
		{"${outputTopic}", "in", "b\x00", "NUL"},
		{"a/${outputTopic}", "in", strings.Repeat("x", MaxBytes), "longer than"},
	} {
		p, err := Parse(c.pattern)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := p.Expand(c.input, c.output); err == nil || !strings.Contains(err.Error(), c.reason) {
			t.Errorf("%q = %.20q, %v; want an error with %q", c.pattern, got, err, c.reason)
		}
	}
}

func TestFaultyPatternsAreRefused(t *testing.T) {
	for pattern, reason := range map[string]string{
		"": "empty", "a/+": "+ or #", "a/${outputTopic": "closing", "${topic}": "${topic} is no variable",
		"${outputTopic.0}": "number from 1", "${outputTopic.01}": "number from 1", "${inputTopic.}": "number from 1",
		"a/#/${inputTopic}": "+ or #", "${outputTopic}\xff": "UTF-8",
	} {
		if _, err := Parse(pattern); err == nil || !strings.Contains(err.Error(), reason) {
			t.Errorf("Parse(%q): %v, want an error with %q", pattern, err, reason)
		}
	}
}

func TestOverlapFindsTopicsInCommon(t *testing.T) {
	for _, c := range []struct {
		filter, pattern string
		want            bool
	}{
		{"a/b", "a/b", true},
		{"a/b", "a/c", false},
		{"a/#", "a", true},
		{"a/+", "a/b/c", false},
		{"a/+/c", "a/${outputTopic.1}/c", true},
		{"a/x/c", "a/${outputTopic.1}/c", true},
		{"a/x/d", "a/${outputTopic.1}/c", false},
		{"b/#", "a/${outputTopic}", false},
		{"a/b/c/d", "a/${outputTopic}", true},
		{"a", "a/${outputTopic}", false},
		{"a/b/c", "a/${inputTopic}/c", true},
		{"a/b/d", "a/${inputTopic}/c", false},
		{"a/b/b/c", "${inputTopic}/c", true},
		{"dev-1/x", "dev-${inputTopic.1}/x", true},
		{"dev/x", "dev-${inputTopic.1}/x", false},
		{"#", "${outputTopic}", true},
		{"#", "$SYS/x", false},
		{"$shared/g/a/+", "a/b", true},
		{"a/#", "${nothing}", false},
	} {
		if got := Overlap(c.filter, c.pattern); got != c.want {
			t.Errorf("Overlap(%q, %q) = %v, want %v", c.filter, c.pattern, got, c.want)
		}
	}
}

func FuzzPatterns(f *testing.F) {
	f.Add("a/${outputTopic.1}/b", "a/#", "x/y", "u/v")
	f.Add("${inputTopic}", "+/y", "x/y", "")
	f.Fuzz(func(t *testing.T, pattern, filter, input, output string) {
		p, err := Parse(pattern)
		if err != nil {
			return
		}
		got, err := p.Expand(input, output)
		if err != nil {
			return
		}
		if ValidTopic(got) != nil {
			t.Errorf("%q made the topic %q", pattern, got)
		}
		if ValidFilter(filter) == nil && Match(filter, got) && !p.Overlaps(filter) {
			t.Errorf("%q made %q, which %q takes, and does not overlap with it", pattern, got, filter)
		}
	})
}

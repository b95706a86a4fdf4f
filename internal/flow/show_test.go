package flow

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/hubhop-iot/hubhop/internal/flow/manifest"
	"github.com/hubhop-iot/hubhop/internal/flow/node"
)

// graphWith is a graph with the ways that a text names: "a → b, b true → c".
func graphWith(sources, operators, destinations, ways string) *manifest.Graph {
	g := &manifest.Graph{}
	for name := range strings.FieldsSeq(sources) {
		g.Sources = append(g.Sources, manifest.Source{Name: name, Endpoint: name, Topics: []manifest.TopicFilter{{Filter: "+"}}})
	}
	for name := range strings.FieldsSeq(operators) {
		g.Operators = append(g.Operators, manifest.Operator{Name: name})
	}
	for name := range strings.FieldsSeq(destinations) {
		g.Destinations = append(g.Destinations, manifest.Destination{Name: name, Endpoint: name, To: "t"})
	}
	for way := range strings.SplitSeq(ways, ", ") {
		from, to, _ := strings.Cut(way, " → ")
		from, arm, _ := strings.Cut(from, " ")
		g.Connections = append(g.Connections, manifest.Connection{From: from, To: to, Arm: manifest.Arm(arm)})
	}
	return g
}

// TestWaysCanBeFollowed: each line ends at a destination, or at a node whose ways have lines of
// their own.
func TestWaysCanBeFollowed(t *testing.T) {
	for name, c := range map[string]struct {
		g    *manifest.Graph
		want []string
	}{
		"one after the other": {graphWith("s", "a b", "d", "s → a, a → b, b → d"), []string{"s + → a → b → d t"}},
		"nothing between":     {graphWith("s", "", "d e", "s → d, s → e"), []string{"s + → d t + e t"}},
		"sources that meet":   {graphWith("s r", "a", "d", "s → a, r → a, a → d"), []string{"s + + r + → a → d t"}},
		"sources that do not": {graphWith("s r", "a b", "d", "s → a, r → b, a → d, b → d"), []string{"s + → a → d t", "r + → b → d t"}},
		"a branch": {graphWith("s", "a b c", "d e", "s → a, a true → b, a false → c, b → d, c → e"),
			[]string{"s + → a", "a true → b → d t", "a false → c → e t"}},
		"a branch behind a branch": {graphWith("s", "a b c", "d", "s → a, a true → b, a false → c, b true → c, b false → d, c → d"),
			[]string{"s + → a", "a true → b", "a false → c → d t", "b true → c → d t", "b false → d t"}},
		"an arm that is copied": {graphWith("s", "a b c", "d", "s → a, a true → b, a true → c, a false → d, b → d, c → d"),
			[]string{"s + → a", "a true → b → d t", "a true → c → d t", "a false → d t"}},
		"a copy": {graphWith("s", "a b c", "d e", "s → a, a → b, a → c, a → e, b → d, c → d"),
			[]string{"s + → a", "a → b → d t", "a → c → d t", "a → e t"}},
	} {
		if got := Ways(c.g); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, not %q", name, got, c.want)
		}
	}
}

// TestWaysOfAHugeFlowAreBounded: what nobody reads is left out.
func TestWaysOfAHugeFlowAreBounded(t *testing.T) {
	const n = 1200
	var operators, ways []string
	for i := range n {
		operators = append(operators, fmt.Sprint("o", i))
		ways = append(ways, fmt.Sprintf("s%d → o0", i), fmt.Sprintf("o%d → o%d", i, i+1))
	}
	g := graphWith("s", strings.Join(operators, " "), "d", strings.Join(ways, ", "))
	for i := range n {
		g.Connections = append(g.Connections, manifest.Connection{From: "s", To: fmt.Sprint("o", i)})
	}
	lines := Ways(g)
	if len(lines) != maxWays+1 || lines[maxWays] != "…" {
		t.Errorf("%d lines, and the last is %q", len(lines), lines[len(lines)-1])
	}
	if n := strings.Count(lines[0], "→"); n != maxOnAWay+1 || !strings.HasSuffix(lines[0], " → …") {
		t.Errorf("the first line has %d nodes: %s", n, lines[0])
	}
}

// TestALineIsFitForATerminal: a message is written with no character that a terminal obeys, and is
// the same when it is read again.
func TestALineIsFitForATerminal(t *testing.T) {
	for _, payload := range []string{"{\"a\":\"\u202e\u009b\x7f\u2028\U000e0041é→\"}", "\u202e\x1b[31m", "{\"a\":\"\xff\"}", "\xff\x9b", `{"a":1}`, ""} {
		m := node.Message{Topic: "a/\u202e", Payload: []byte(payload), Properties: []node.Property{{Key: "\u009b", Value: "\u202e"}}}
		line := Line("out", &m)
		if bytes.ContainsAny(line, "\u202e\u009b\u2028\U000e0041\x7f\x1b\xff") || !json.Valid(line) {
			t.Errorf("%q is written as %q", payload, line)
		}
		var l map[string]any
		if err := json.Unmarshal(line, &l); err != nil {
			t.Fatal(err)
		}
		delete(l, "destination")
		again, _ := json.Marshal(l)
		in, err := ParseInput(again)
		if err != nil || in.Topic != m.Topic || !reflect.DeepEqual(in.Properties, m.Properties) {
			t.Errorf("%q is read as %+v, %v", line, in, err)
		}
		if string(in.Payload) != payload && !json.Valid([]byte(payload)) {
			t.Errorf("%q is read as the payload %q, not %q", line, in.Payload, payload)
		}
	}
}

package main

import (
	"strings"
	"testing"
)

var small = table{
	title:     "Small",
	clients:   []client{{id: "a", name: "A"}, {id: "b", name: "B", cannot: map[string]string{"two": "B has no two."}}},
	scenarios: []scenario{{"one", "the first", "both"}, {"two", "the second", "both"}},
}

func ok(client, scenario string) result { return result{Client: client, Scenario: scenario, OK: true} }

func TestVerdict(t *testing.T) {
	whole := []result{ok("a", "one"), ok("a", "two"), ok("b", "one")}
	if wrong := small.verdict(whole); len(wrong) > 0 {
		t.Errorf("all as it should be, but: %q", wrong)
	}
	for want, all := range map[string][]result{
		"a, two: it did not run": {ok("a", "one"), ok("b", "one")},
		"a, two: boom":           {ok("a", "one"), {Client: "a", Scenario: "two", Why: "boom\nand more"}, ok("b", "one")},
		"a, one: it ran 2 times": append([]result{ok("a", "one")}, whole...),
		"b, two: it runs, although it is said that it cannot": append([]result{ok("b", "two")}, whole...),
		"a, three: nobody expected it":                        append([]result{ok("a", "three")}, whole...),
	} {
		if wrong := small.verdict(all); len(wrong) != 1 || wrong[0] != want {
			t.Errorf("%q, want %q", wrong, want)
		}
	}
	misspelt := small
	misspelt.clients = []client{{id: "a", cannot: map[string]string{"tow": "why"}}}
	if wrong := misspelt.verdict([]result{ok("a", "one"), ok("a", "two")}); len(wrong) != 1 || !strings.Contains(wrong[0], "no such scenario") {
		t.Errorf("%q", wrong)
	}
}

func TestMarkdown(t *testing.T) {
	var notes footnotes
	got := small.markdown([]result{ok("a", "one"), {Client: "b", Scenario: "one", Why: "boom"}}, &notes)
	want := "## Small\n\n| scenario | A | B |\n|---|:-:|:-:|\n| the first | ok | **RED** |\n| the second | **RED** | –<sup>1</sup> |\n"
	if got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
	if len(notes) != 1 || notes[0] != "B has no two." {
		t.Errorf("%q", notes)
	}
}

// Every client's versions must be found in the files that pin them.
func TestVersions(t *testing.T) {
	versions, err := pinned("node/package.json", "go.mod")
	if err != nil {
		t.Fatal(err)
	}
	for _, t0 := range tables {
		for _, c := range t0.clients {
			for _, name := range placeholder.FindAllString(c.about, -1) {
				if versions[strings.Trim(name, "%")] == "" {
					t.Errorf("%s: nothing pins %s", c.name, name)
				}
			}
		}
	}
}

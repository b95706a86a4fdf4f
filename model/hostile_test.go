package model

import (
	"fmt"
	"strings"
	"testing"
	"unicode"
)

// TestFilesOfVeryLargeModelsAreRefused: a small file can describe a very large model. It is refused
// with a reason, at a bounded cost.
func TestFilesOfVeryLargeModelsAreRefused(t *testing.T) {
	list := func(n int, format string) string {
		var b strings.Builder
		for i := range n {
			if i > 0 {
				b.WriteByte(',')
			}
			fmt.Fprintf(&b, format, i)
		}
		return b.String()
	}
	many := one(list(2000, `{"@type":"Command","name":"c%d"}`)) // dtmi:t;1
	tests := []struct{ name, file, want string }{
		{"many values", "[" + strings.Repeat("1,", maxValues) + "1]", "a model file has at most 250000 values"},
		{"many that inherit many", "[" + many + "," + list(500, `{"@id":"dtmi:u%d;1","@type":"Interface","extends":"dtmi:t;1"}`) + "]",
			"the Interfaces of this file have more than 200000 contents, inherited ones included"},
		{"many components of many", "[" + many + `,{"@id":"dtmi:u;1","@type":"Interface","contents":[` + list(500, `{"@type":"Component","name":"p%d","schema":"dtmi:t;1"}`) + "]}]",
			"the components of dtmi:u;1 have more than 200000 contents"},
		{"inherited components", "[" + many + `,{"@id":"dtmi:u;1","@type":"Interface","contents":[` + list(60, `{"@type":"Component","name":"p%d","schema":"dtmi:t;1"}`) + "]}," +
			`{"@id":"dtmi:v;1","@type":"Interface","contents":[` + list(60, `{"@type":"Component","name":"q%d","schema":"dtmi:t;1"}`) + `]},{"@id":"dtmi:w;1","@type":"Interface","extends":["dtmi:u;1","dtmi:v;1"]}]`,
			"the components of dtmi:w;1 have more than 200000 contents"},
	}
	for _, test := range tests {
		if _, err := Parse([]byte(test.file)); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %s", test.name, err, test.want)
		}
		if test.name == "many values" {
			continue // which takes its time, and Flaws reads no further than Parse
		}
		if n := len(Flaws([]byte(test.file))); n > maxFlaws {
			t.Errorf("%s: %d flaws", test.name, n)
		}
	}
}

// plainText says whether a text can be printed on one line as it is.
func plainText(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// TestTextsAreShownAsTexts: the texts of a model come from strangers. None may leave its cell of a
// table or command the terminal.
func TestTextsAreShownAsTexts(t *testing.T) {
	const escape = `\u001b[2J\u001b]0;owned\u0007`
	bad := strings.NewReplacer("NAME", escape, "LINE", `a\nb`, "TURN", `\u202egnp`).Replace(
		`{"@context":"dtmi:dtdl:context;2","@id":"dtmi:t;1","@type":"Interface","displayName":"NAME","contents":[
		{"@type":"Telemetry","name":"a","displayName":"LINE NAME","schema":{"@type":"Enum","valueSchema":"string","enumValues":[{"name":"n","enumValue":"NAME"}]}},
		{"@type":"Property","name":"m","displayName":"TURN","writable":true,"schema":{"@type":"Map","mapKey":{"name":"k","schema":"string"},"mapValue":{"name":"v","schema":"long"}}},
		{"@type":"Telemetry","name":"t","schema":{"@type":"Map","mapKey":{"name":"k","schema":"string"},"mapValue":{"name":"v","schema":"long"}}},
		{"@type":"NAME","name":"NAME"}]}`)
	m := parse(t, bad)
	var out strings.Builder
	if err := m.Describe(&out); err != nil {
		t.Fatal(err)
	}
	texts := []string{strings.ReplaceAll(out.String(), "\n", "")}
	if lines := strings.Count(out.String(), "\n"); lines != 5 {
		t.Errorf("%d lines, want 5:\n%q", lines, out.String())
	}
	for _, f := range Flaws([]byte(bad)) {
		texts = append(texts, f.At.Error())
	}
	if len(texts) < 2 {
		t.Error("no flaw is found")
	}
	found := m.CheckTelemetry("", []byte(`{"a":"x","t":{"\u001b[1m\n":"x"},"\u001b[1m":1}`))
	if len(found) != 3 {
		t.Errorf("found %v", found)
	}
	for _, f := range found {
		texts = append(texts, f.Text)
	}
	for _, value := range []string{`{"` + `\u001b[1m` + `":"x"}`, `{"a\nb":"x"}`} {
		err := m.CheckProperty("", "m", []byte(value))
		if err == nil {
			t.Fatalf("%s fits", value)
		}
		texts = append(texts, err.Error())
	}
	_, err := Parse([]byte(strings.Replace(bad, `"name":"a"`, `"name":"`+escape+`"`, 1)))
	if err == nil {
		t.Fatal("a name of escapes is read")
	}
	for _, text := range append(texts, err.Error()) {
		if !plainText(text) {
			t.Errorf("not fit for a terminal: %q", text)
		}
	}
}

// TestModelDoesNotHoldItsFile: a device keeps only the parts of a model that it needs, not the text
// of the file.
func TestModelDoesNotHoldItsFile(t *testing.T) {
	m := parse(t, "["+rich+","+base+","+part+"]")
	for _, i := range m.all {
		if i.at != nil {
			t.Errorf("%s holds the file", i.id)
		}
		for _, c := range i.contents {
			if c.at != nil {
				t.Errorf("%s holds the file", c.name)
			}
		}
	}
}

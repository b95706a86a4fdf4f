package transform

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/flow/expr"
	"github.com/hubhop-iot/hubhop/internal/flow/node"
)

func TestMapsDoWhatTheirRulesSay(t *testing.T) {
	for _, c := range []struct{ name, rules, in, want string }{
		{"a field is copied as it was published", `{"inputs":["a"],"output":"b"}`, `{"a": 1.50e3 }`, `{"b":1.50e3}`},
		{"numbers no float can hold are copied", `{"inputs":["a"],"output":"b"}`, `{"a":123456789012345678901234567890}`, `{"b":123456789012345678901234567890}`},
		{"texts keep their escapes", `{"inputs":["a"],"output":"b"}`, `{"a":"\u00e4\/"}`, `{"b":"\u00e4\/"}`},
		{"objects are copied whole", `{"inputs":["a.b"],"output":"c"}`, `{"a":{"b":{ "x":[1, 2]}}}`, `{"c":{ "x":[1, 2]}}`},
		{"null is copied", `{"inputs":["a"],"output":"b"}`, `{"a":null}`, `{"b":null}`},
		{"an empty expression is none", `{"inputs":["a"],"output":"b","expression":""}`, `{"a":1}`, `{"b":1}`},
		{"computed floats have a fraction", `{"inputs":["a"],"output":"b","expression":"cToF($1)"}`, `{"a":100}`, `{"b":212.0}`},
		{"a constant needs no input", `{"inputs":[],"output":"b","expression":"true"}`, `{}`, `{"b":true}`},
		{"fields come in the order of the rules", `{"inputs":["a"],"output":"z"},{"inputs":["a"],"output":"b.c"},{"inputs":["a"],"output":"d"},{"inputs":["a"],"output":"b.a"}`, `{"a":1}`, `{"z":1,"b":{"c":1,"a":1},"d":1}`},
		{"the later of two rules for one field wins", `{"inputs":["a"],"output":"x"},{"inputs":["b"],"output":"x"}`, `{"a":1,"b":2}`, `{"x":2}`},
		{"a rule writes into a copied object", `{"inputs":["a"],"output":"x"},{"inputs":["b"],"output":"x.n"}`, `{"a":{"m":1,"n":3},"b":2}`, `{"x":{"m":1,"n":2}}`},
		{"a quoted segment has dots", `{"inputs":["\"a.b\".c"],"output":"\"x.y\".z"}`, `{"a.b":{"c":1}}`, `{"x.y":{"z":1}}`},
		{"a segment can be any text", `{"inputs":["Date of Birth?.a\"b"],"output":"x y"}`, `{"Date of Birth?":{"a\"b":1}}`, `{"x y":1}`},
		{"an output is escaped", `{"inputs":["a"],"output":"x\"\n"}`, `{"a":1}`, `{"x\"\n":1}`},
		{"$source is the message", `{"inputs":["$source.a"],"output":"b"}`, `{"a":1}`, `{"b":1}`},
		{"a default stands for a missing field", `{"inputs":["a ?? \"none\""],"output":"b"}`, `{}`, `{"b":"none"}`},
		{"a default stands for null", `{"inputs":["a??1.50"],"output":"b","expression":"$1"}`, `{"a":null}`, `{"b":1.50}`},
		{"a default is not taken where a value is", `{"inputs":["a ?? 1"],"output":"b"}`, `{"a":false}`, `{"b":false}`},
		{"null is a default", `{"inputs":["a ?? null"],"output":"b"}`, `{}`, `{"b":null}`},
		{"() finds missing fields", `{"inputs":["a","b"],"output":"c","expression":"if($2 == (), $1, $1 * $2)"}`, `{"a":3}`, `{"c":3}`},
		{"() is written as null", `{"inputs":["a"],"output":"b","expression":"if($1 > 0, (), 1)"}`, `{"a":1}`, `{"b":null}`},
		{"arrays can be computed with", `{"inputs":["a"],"output":"b","expression":"max($1)"}`, `{"a":[1,7.0,3]}`, `{"b":7.0}`},
		{"the last of equal keys counts", `{"inputs":["a"],"output":"b"}`, `{"a":1,"a":2}`, `{"b":2}`},

		{"* copies all, spaces included", `{"inputs":["*"],"output":"*"}`, `{ "a": {"b":1}, "c":[ ]}`, `{ "a": {"b":1}, "c":[ ]}`},
		{"* keeps the order", `{"inputs":["*"],"output":"*"},{"inputs":["c"],"output":"new"}`, `{"z":1,"e":{},"a":{"y":1,"b":[1, 2]},"c":3}`, `{"z":1,"e":{},"a":{"y":1,"b":[1, 2]},"new":3}`},
		{"* moves under another object", `{"inputs":["*"],"output":"t.*"}`, `{"a":{"b":1},"c":2}`, `{"t":{"a":{"b":1},"c":2}}`},
		{"* moves out of an object", `{"inputs":["a.*"],"output":"*"}`, `{"a":{"b":{"c":1},"d":2},"e":3}`, `{"b":{"c":1},"d":2}`},
		{"several * rules join", `{"inputs":["a.*"],"output":"*"},{"inputs":["b.*"],"output":"*"}`, `{"a":{"x":1,"y":1},"b":{"y":2}}`, `{"x":1,"y":2}`},
		{"* in the middle", `{"inputs":["a.*.v"],"output":"o.*.w"}`, `{"a":{"p":{"v":1},"q":{"r":{"v":2}},"v":3,"s":{"u":4}}}`, `{"o":{"p":{"w":1},"q":{"r":{"w":2}}}}`},
		{"* of an object that is not there finds nothing", `{"inputs":["a.*"],"output":"*"}`, `{"a":1}`, `{}`},
		{"what one input lacks is left out", `{"inputs":["*.x","*.y"],"output":"*","expression":"$1 - $2"}`, `{"a":{"x":3,"y":1},"b":{"x":1}}`, `{"a":2}`},
		{"a default fills what one input lacks", `{"inputs":["*.x","*.y ?? 0"],"output":"*","expression":"$1 - $2"}`, `{"a":{"x":3,"y":1},"b":{"x":1}}`, `{"a":2,"b":1}`},
		{"an input without * is the same for all", `{"inputs":["s.*","f"],"output":"*","expression":"$1 * $2"}`, `{"s":{"a":1,"b":2},"f":10}`, `{"a":10,"b":20}`},
		{"a specific rule replaces the wildcard", `{"inputs":["*"],"output":"*"},{"inputs":["a"],"output":"b","expression":"$1 + 1"}`, `{"a":1,"c":{"a":5}}`, `{"c":{"a":5},"b":2}`},
		{"so it does for several inputs", `{"inputs":["*.x","*.y"],"output":"o.*","expression":"$1 + $2"},{"inputs":["p.x","p.y"],"output":"o.adjusted","expression":"$1 + $2 + 1"}`, `{"t":{"x":1,"y":2},"p":{"x":3,"y":4}}`, `{"o":{"t":3,"adjusted":8}}`},
		{"so does a wildcard that captures less", `{"inputs":["*"],"output":"*"},{"inputs":["a.*"],"output":"low.*"}`, `{"a":{"x":1},"b":2}`, `{"b":2,"low":{"x":1}}`},
		{"rules of equal rank both apply", `{"inputs":["*.x"],"output":"*.min"},{"inputs":["*.x"],"output":"*.max"}`, `{"a":{"x":1}}`, `{"a":{"min":1,"max":1}}`},
		{"an empty output leaves fields out", `{"inputs":["*"],"output":"*"},{"inputs":["password","o.secret"],"output":""}`, `{"password":"x","o":{"secret":1,"open":2},"a":1}`, `{"o":{"open":2},"a":1}`},
		{"and all that is in them", `{"inputs":["*"],"output":"*"},{"inputs":["o"],"output":""}`, `{"o":{"p":{"q":1}},"a":1}`, `{"a":1}`},
		{"an empty output of a wildcard, too", `{"inputs":["*"],"output":"*"},{"inputs":["o.*"],"output":""}`, `{"o":{"p":{"q":1}},"a":1}`, `{"a":1}`},
		{"what is left out need not be there", `{"inputs":["*"],"output":"*"},{"inputs":["nothing"],"output":""}`, `{"a":1}`, `{"a":1}`},
		{"metadata do not take a field from the wildcard", `{"inputs":["*"],"output":"*"},{"inputs":["a"],"output":"$metadata.topic"}`, `{"a":"x"}`, `{"a":"x"}`},
		{"* of an object with equal keys takes the last", `{"inputs":["*"],"output":"*"}`, `{"a":{"x":1},"a":{"y":2}}`, `{"a":{"y":2}}`},
		{"a quoted * is a key", `{"inputs":["\"*\""],"output":"a"}`, `{"*":1,"b":2}`, `{"a":1}`},
	} {
		op := compile[node.Map](t, "map", Options{}, "rules", `{"map":[`+c.rules+`]}`)
		in := []byte(c.in)
		m := &node.Message{Payload: in, Topic: "t"}
		if err := op.Map(m); err != nil || string(m.Payload) != c.want {
			t.Errorf("%s: %s, %v; want %s", c.name, m.Payload, err, c.want)
		}
		if string(in) != c.in {
			t.Errorf("%s: the payload was changed in place", c.name)
		}
	}
}

func TestAMapWritesMetadata(t *testing.T) {
	for _, c := range []struct {
		name, rules string
		want        node.Message
	}{
		{"topic", `{"inputs":["s"],"output":"$metadata.topic","expression":"\"x/\" + $1"}`, node.Message{Topic: "x/hot", TopicSet: true}},
		{"a number as topic", `{"inputs":["n"],"output":"$metadata.topic"}`, node.Message{Topic: "7", TopicSet: true}},
		{"removed topic", `{"inputs":[],"output":"$metadata.topic","expression":"()"}`, node.Message{}},
		{"content type", `{"inputs":[],"output":"$metadata.system_property.content_type","expression":"\"text/plain\""}`, node.Message{Topic: "in/1", ContentType: "text/plain"}},
		{"property", `{"inputs":["n"],"output":"$metadata.user_property.n"}`, node.Message{Topic: "in/1", Properties: []node.Property{{Key: "p", Value: "1"}, {Key: "q", Value: "2"}, {Key: "p", Value: "3"}, {Key: "n", Value: "7"}}}},
		{"replaced property", `{"inputs":["s"],"output":"$metadata.header.p"}`, node.Message{Topic: "in/1", Properties: []node.Property{{Key: "q", Value: "2"}, {Key: "p", Value: "hot"}}}},
		{"two rules for a property", `{"inputs":["s"],"output":"$metadata.user_property.p"},{"inputs":["n"],"output":"$metadata.user_property.p"}`, node.Message{Topic: "in/1", Properties: []node.Property{{Key: "q", Value: "2"}, {Key: "p", Value: "hot"}, {Key: "p", Value: "7"}}}},
		{"removed property", `{"inputs":[],"output":"$metadata.user_property.p","expression":"()"}`, node.Message{Topic: "in/1", Properties: []node.Property{{Key: "q", Value: "2"}}}},
		{"quoted key", `{"inputs":["s"],"output":"$metadata.user_property.\"a b.c\""}`, node.Message{Topic: "in/1", Properties: []node.Property{{Key: "p", Value: "1"}, {Key: "q", Value: "2"}, {Key: "p", Value: "3"}, {Key: "a b.c", Value: "hot"}}}},
	} {
		op := compile[node.Map](t, "map", Options{}, "rules", `{"map":[{"inputs":["*"],"output":"*"},`+c.rules+`]}`)
		in := []node.Property{{Key: "p", Value: "1"}, {Key: "q", Value: "2"}, {Key: "p", Value: "3"}}
		m := node.Message{Payload: []byte(`{"s":"hot","n":7}`), Topic: "in/1", Properties: in}
		if err := op.Map(&m); err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if c.want.Properties == nil {
			c.want.Properties = in
		}
		if m.Topic != c.want.Topic || m.TopicSet != c.want.TopicSet || m.ContentType != c.want.ContentType || !slices.Equal(m.Properties, c.want.Properties) {
			t.Errorf("%s: %+v", c.name, m)
		}
		if in[0].Value != "1" || in[2].Value != "3" || string(m.Payload) != `{"s":"hot","n":7}` {
			t.Errorf("%s: the message was changed in place", c.name)
		}
	}
}

func TestRulesReadMetadata(t *testing.T) {
	op := compile[node.Map](t, "map", Options{}, "rules", `{"map":[{"inputs":["$metadata.topic","$metadata.user_property.p","$metadata.system_property.content_type"],"output":"a","expression":"$1 + \"|\" + $2 + \"|\" + $3"},
		{"inputs":["$metadata.user_property.none ?? 5"],"output":"b"},{"inputs":["$metadata.header.\"a b\""],"output":"c"}]}`)
	m := node.Message{Payload: []byte("{}"), Topic: "t", ContentType: "x", Properties: []node.Property{{Key: "p", Value: "1"}, {Key: "p", Value: "2"}, {Key: "a b", Value: "\""}}}
	if err := op.Map(&m); err != nil || string(m.Payload) != `{"a":"t|1|x","b":5,"c":"\""}` {
		t.Error(string(m.Payload), err)
	}
}

func TestAMessageThatFailsSaysWhyAndStaysAsItWas(t *testing.T) {
	for _, c := range []struct{ rules, in, want string }{
		{`{"inputs":["a"],"output":"b"}`, `{}`, "rule 1, input 1: the message does not have this field"},
		{`{"inputs":["x"],"output":"$metadata.topic"},{"inputs":["a","b"],"output":"c","expression":"$1 + $2"}`, `{"a":1,"x":"y"}`, "rule 2, input 2: the message does not have"},
		{`{"inputs":["a"],"output":"c","expression":"$1 * 2"}`, `{"a":"x"}`, "rule 1, column 4: only numbers can be computed; got string and int"},
		{`{"inputs":["a"],"output":"c","expression":"1 / $1"}`, `{"a":0.0}`, "rule 1: the result is no number that JSON can write"},
		{`{"inputs":["a"],"output":"c.d"},{"inputs":["a"],"output":"c.d.e"}`, `{"a":1}`, "rule 2: the output lies under a field that is no object"},
		{`{"inputs":["a"],"output":"c","expression":"$1"}`, `{"a":1e999}`, "rule 1, input 1: a number is too large"},
		{`{"inputs":["a"],"output":"$metadata.topic"}`, `{"a":{}}`, "rule 1: an object cannot be written to metadata"},
		{`{"inputs":["a"],"output":"a"}`, `[1]`, "the payload is no JSON object"},
		{`{"inputs":["a"],"output":"a"}`, `{"a":1} x`, "invalid JSON at byte 8"},
		{`{"inputs":["a"],"output":"a"}`, `{"a":"` + strings.Repeat("x", 1<<20) + `"}`, "larger than the limit"},
		{`{"inputs":["a"],"output":"a"},{"inputs":["a"],"output":"b"}`, `{"a":"` + strings.Repeat("x", 600_000) + `"}`, "result is larger than the limit"},
	} {
		op := compile[node.Map](t, "map", Options{}, "rules", `{"map":[`+c.rules+`]}`)
		m := node.Message{Payload: []byte(c.in), Topic: "t", ContentType: "c"}
		err := op.Map(&m)
		if err == nil || !strings.Contains(err.Error(), c.want) || len(err.Error()) > 300 {
			t.Errorf("%.40s: %v, want %q", c.in, err, c.want)
		}
		if string(m.Payload) != c.in || m.Topic != "t" || m.TopicSet || m.ContentType != "c" {
			t.Errorf("%.40s: the message was changed", c.in)
		}
	}
}

func TestLastKnownValuesAreOfEachInputAndSurviveASave(t *testing.T) {
	rules := `{"map":[{"inputs":["a ? $last"],"output":"x"},{"inputs":["a  ?$LAST ?? 0","b"],"output":"y","expression":"$1 + $2"},{"inputs":["$metadata.user_property.p ? $last ?? \"none\""],"output":"p"}]}`
	op := compile[node.Map](t, "map", Options{}, "rules", rules)
	run := func(payload string, properties ...node.Property) string {
		m := node.Message{Payload: []byte(payload), Properties: properties}
		if err := op.Map(&m); err != nil {
			return err.Error()
		}
		return string(m.Payload)
	}
	for i, c := range []struct{ in, want string }{
		{`{"b":1}`, "rule 1, input 1: the message does not have this field, and the input has no default"},
		{`{"a":2.50,"b":1}`, `{"x":2.50,"y":3.5,"p":"none"}`},
		{`{"b":2}`, `{"x":2.50,"y":4.5,"p":"none"}`},
		{`{"a":null,"b":2}`, `{"x":2.50,"y":4.5,"p":"none"}`},
	} {
		if got := run(c.in); got != c.want {
			t.Errorf("message %d: %s, want %s", i+1, got, c.want)
		}
	}
	run(`{"a":"t","b":""}`, node.Property{Key: "p", Value: "q\""})
	saved := op.(node.Stateful).Save(nil)
	op = compile[node.Map](t, "map", Options{}, "rules", rules)
	if err := op.(node.Stateful).Restore(saved); err != nil {
		t.Fatal(err)
	}
	if got := run(`{"b":7}`); got != `{"x":"t","y":"t7","p":"q\""}` {
		t.Error(got)
	}
	for n := range saved {
		if compile[node.Stateful](t, "map", Options{}, "rules", rules).Restore(saved[:n]) == nil {
			t.Errorf("%d of %d bytes were taken", n, len(saved))
		}
	}
}

func TestOnlyOperatorsThatRememberAreStateful(t *testing.T) {
	with, without := `["a ? $last"]`, `["a ?? 1"]`
	for _, c := range []struct{ kind, rules string }{
		{"map", `{"map":[{"inputs":%s,"output":"b"}]}`}, {"filter", `{"filter":[{"inputs":%s,"expression":"$1 > 1"}]}`}, {"branch", `{"branch":{"inputs":%s,"expression":"$1 > 1"}}`},
	} {
		compile[node.Stateful](t, c.kind, Options{}, "rules", fmt.Sprintf(c.rules, with))
		if _, ok := compile[any](t, c.kind, Options{}, "rules", fmt.Sprintf(c.rules, without)).(node.Stateful); ok {
			t.Errorf("a %s without memory is stateful", c.kind)
		}
	}
}

func TestAFilterDropsWhatItsRulesAreTrueFor(t *testing.T) {
	for _, c := range []struct {
		in   string
		pass bool
		err  string
	}{
		{`{"t":150,"h":60}`, false, ""}, {`{"t":80,"h":98}`, false, ""}, {`{"t":80,"h":60}`, true, ""},
		{`{"h":60}`, false, "rule 1, input 1"}, {`{"t":80}`, false, "rule 2, input 1"}, {`{"t":150}`, false, ""}, {`{"t":"x","h":1}`, false, "rule 1, column 4"}, {`1`, false, "no JSON object"},
	} {
		op := compile[node.Filter](t, "filter", Options{}, "rules", `{"filter":[{"inputs":["t"],"expression":"$1 > 100"},{"inputs":["h"],"expression":"$1 > 95"}]}`)
		pass, err := op.Filter(&node.Message{Payload: []byte(c.in)})
		if pass != c.pass || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %v, %v", c.in, pass, err)
		}
	}
	op := compile[node.Filter](t, "filter", Options{}, "rules", `{"filter":[{"inputs":["t"],"expression":"$1"}]}`)
	if _, err := op.Filter(&node.Message{Payload: []byte(`{"t":1}`)}); err == nil || !strings.Contains(err.Error(), "no boolean") {
		t.Error(err)
	}
}

func TestABranchChoosesAnArm(t *testing.T) {
	op := compile[node.Branch](t, "branch", Options{}, "rules", `{"branch":{"inputs":["severity"],"expression":"$1 > 5","description":"d"}}`)
	for in, want := range map[string]bool{`{"severity":6}`: true, `{"severity":5}`: false} {
		if arm, err := op.Branch(&node.Message{Payload: []byte(in)}, node.Time{}); err != nil || arm != want {
			t.Errorf("%s: %v, %v", in, arm, err)
		}
	}
	if _, err := op.Branch(&node.Message{Payload: []byte(`{}`)}, node.Time{}); err == nil {
		t.Error("no error without the field")
	}
}

func TestAFilterDropsWhatDoesNotFitTheSchema(t *testing.T) {
	schema := func(ref string) ([]byte, error) {
		switch ref {
		case "aio-sr://a:1":
			return []byte(`{"type":"object","required":["t"],"properties":{"t":{"$ref":"#/definitions/n"}},"definitions":{"n":{"type":"number"}}}`), nil
		case "external":
			return []byte(`{"$ref":"file:///etc/passwd"}`), nil
		case "broken":
			return []byte(`{`), nil
		}
		return nil, errors.New("no such schema")
	}
	rules := `{"validateSchema":true,"filter":[{"inputs":["t"],"expression":"$1 > 100"}]}`
	for _, ref := range []string{"aio-sr://a:1", ""} {
		op := compile[node.Filter](t, "filter", Options{Schema: schema, SchemaRef: ref}, "rules", rules)
		for in, want := range map[string]bool{`{"t":1}`: true, `{"t":"x"}`: false, `{}`: false, `{"t":101}`: false} {
			if pass, err := op.Filter(&node.Message{Payload: []byte(in), Schema: "aio-sr://a:1"}); err != nil || pass != want {
				t.Errorf("%s: %v, %v", in, pass, err)
			}
		}
	}
	op := compile[node.Filter](t, "filter", Options{Schema: schema}, "rules", `{"validateSchema":true,"filter":[]}`)
	for ref, want := range map[string]string{"": "names no schema", "external": "cannot refer to other files", "broken": "broken", "other": "no such schema"} {
		if _, err := op.Filter(&node.Message{Payload: []byte(`{}`), Schema: ref}); err == nil || !strings.Contains(err.Error(), want) || len(err.Error()) > 500 {
			t.Errorf("%q: %v", ref, err)
		}
	}
	for ref, want := range map[string]string{"external": "cannot refer", "broken": "broken", "other": "no such schema"} {
		if _, err := Compile("filter", "", []Setting{{"rules", rules}}, Options{Schema: schema, SchemaRef: ref}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", ref, err)
		}
	}
}

// changing is a state store that counts how often it is asked.
type changing struct {
	value    string
	revision uint64
	missing  bool
	err      error
}

func (c *changing) Get(string) ([]byte, uint64, bool, error) {
	return []byte(c.value), c.revision, !c.missing, c.err
}

const enrich = `{"datasets":[{"key":"devices as d","inputs":["$source.id","$context.id"],"expression":"%s"}],"map":[{"inputs":["id"],"output":"id"},{"inputs":["$context(d).name"],"output":"name"},{"inputs":["v","$context(d).factor ?? 2"],"output":"v","expression":"$1 * $2"}]}`

func TestDataSetsGiveTheFirstRecordThatFits(t *testing.T) {
	for _, expression := range []string{"$1 == $2", "$2 == $1", "$1 == $2 && true"} { // with and without the index
		store := &changing{value: `{"id":"a","name":"A","factor":10}` + "\n\n" + `{"id":"b","name":"B"}` + "\r\n" + `{"id":"a","name":"second"}` + "\n[1]\nbroken\n" + `{"name":"nobody"}`, revision: 1}
		var logs []string
		op := compile[node.Map](t, "map", Options{Store: store, Log: func(text string) { logs = append(logs, text) }}, "rules", fmt.Sprintf(enrich, expression))
		run := func(in string) string {
			m := node.Message{Payload: []byte(in)}
			if err := op.Map(&m); err != nil {
				return err.Error()
			}
			return string(m.Payload)
		}
		want := func(in, want string) {
			t.Helper()
			if got := run(in); got != want {
				t.Errorf("%s of %s = %s, want %s", expression, in, got, want)
			}
		}
		want(`{"id":"a","v":1}`, `{"id":"a","name":"A","v":10}`)
		want(`{"id":"b","v":1}`, `{"id":"b","name":"B","v":2}`)
		want(`{"id":"c","v":1}`, `{"id":"c"}`)
		if len(logs) != 1 || !strings.Contains(logs[0], "2 lines are no JSON object, the first is line 5") {
			t.Error(logs)
		}
		store.value, store.revision = `{"id":"c","name":"C"}`, 2
		want(`{"id":"c","v":1}`, `{"id":"c","name":"C","v":2}`)
		want(`{"id":"a","v":1}`, `{"id":"a"}`)
		store.missing = true
		want(`{"id":"c","v":1}`, `{"id":"c"}`)
		store.missing = false
		want(`{"id":"c","v":1}`, `{"id":"c","name":"C","v":2}`)
		store.err = errors.New("unreachable")
		if got := run(`{"id":"c","v":1}`); !strings.Contains(got, "unreachable") {
			t.Error(got)
		}
	}
}

// TestADataSetWithoutARecordSaysSo once, and not any more when it has one.
func TestADataSetWithoutARecordSaysSo(t *testing.T) {
	store := &changing{missing: true}
	var logs []string
	op := compile[node.Map](t, "map", Options{Store: store, Log: func(text string) { logs = append(logs, text) }}, "rules", fmt.Sprintf(enrich, "$1 == $2"))
	after := func(want string) {
		t.Helper()
		for range 2 {
			if err := op.Map(&node.Message{Payload: []byte(`{"id":"c","v":1}`)}); err != nil {
				t.Fatal(err)
			}
		}
		said := op.(interface{ Says() string }).Says()
		if (said == "") != (want == "") || !strings.Contains(said, want) || want != "" && (len(logs) != 1 || logs[0] != said) || want == "" && len(logs) > 0 {
			t.Errorf("it says %q and has logged %q; want %q", said, logs, want)
		}
		logs = nil
	}
	after(`data set "d" has no record, because the state store has no key "devices"`)
	store.missing = false
	after(`data set "d" has no record, because the value of the key "devices" has none`)
	store.value, store.revision = `{"id":"a"}`, 1 // one of another message
	after("")
	store.missing = true
	after(`the state store has no key "devices"`)
}

func TestConditionsWithoutARecordDoNotHold(t *testing.T) {
	sets := `"datasets":[{"key":"k as d","inputs":["$source.id","$context.id"],"expression":"$1 == $2"}]`
	o := Options{Store: records{"k": `{"id":"a","limit":5}`}}
	filter := compile[node.Filter](t, "filter", o, "rules", `{`+sets+`,"filter":[{"inputs":["v","$context(d).limit"],"expression":"$1 > $2"}]}`)
	branch := compile[node.Branch](t, "branch", o, "rules", `{`+sets+`,"branch":{"inputs":["v","$context(d).limit"],"expression":"$1 > $2"}}`)
	for in, above := range map[string]bool{`{"id":"a","v":6}`: true, `{"id":"a","v":5}`: false, `{"id":"b","v":6}`: false, `{"v":6}`: false} {
		m := node.Message{Payload: []byte(in)}
		if pass, err := filter.Filter(&m); err != nil || pass == above {
			t.Errorf("%s: the filter passes it: %v, %v", in, pass, err)
		}
		if arm, err := branch.Branch(&m, node.Time{}); err != nil || arm != above {
			t.Errorf("%s: the arm is %v, %v", in, arm, err)
		}
	}
}

// TestADataSetThatIsTooLargeSaysSo, at the check as at the first message, and names what is left out.
func TestADataSetThatIsTooLargeSaysSo(t *testing.T) {
	record := `{"id":"a","name":"A"}` + "\n"
	large := `the value of the key "devices" has more than 67108864 bytes`
	many := "line 1048578 and all after it are left out: a data set has at most 1048576 records"
	for _, c := range []struct {
		name, value    string
		err            error
		says, log      string // of the operator that runs
		warning, after string // of the check; what comes out
	}{
		{"bytes", record + strings.Repeat("\n", 64<<20), nil, large + ": rules that need one are passed over",
			large, large + ", so all of it is left out; make the file of devices smaller", `{"id":"a"}`},
		{"records", "{}\n[]\n" + strings.Repeat("{}\n", 1<<20-1) + record + record, nil, "",
			"line 2 is no JSON object, and is left out; mend it; " + many, many, `{"id":"a"}`},
		{"as many as there may be", strings.Repeat("{}\n", 1<<20-1) + record, nil, "", "", "", `{"id":"a","name":"A","v":2}`},
		{"a store that fails", "", errors.New("unreachable"), "", "",
			`the key "devices" of the state store cannot be read: unreachable`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var logs, warnings []string
			o := Options{Store: &changing{value: c.value, revision: 1, err: c.err}, WarnLacks: true,
				StoreFile: func(key string) string { return "the file of " + key },
				Log:       func(text string) { logs = append(logs, text) },
				Warn:      func(f Fault) { warnings = append(warnings, f.Text) }}
			op := compile[node.Map](t, "map", o, "rules", fmt.Sprintf(enrich, "$1 == $2"))
			if all := strings.Join(warnings, "\n"); !strings.HasSuffix(all, c.warning) || (all == "") != (c.warning == "") {
				t.Errorf("the check warns of %q, want %q", all, c.warning)
			}
			m := node.Message{Payload: []byte(`{"id":"a","v":1}`)}
			if err := op.Map(&m); !errors.Is(err, c.err) {
				t.Fatal(err)
			}
			if c.after != "" && string(m.Payload) != c.after {
				t.Errorf("out comes %s, want %s", m.Payload, c.after)
			}
			all := strings.Join(logs, "\n")
			if !strings.Contains(all, c.log) || (all == "") != (c.log == "") {
				t.Errorf("the log has %q, want %q", all, c.log)
			}
			said := op.(interface{ Says() string }).Says()
			if !strings.HasSuffix(said, c.says) || (said == "") != (c.says == "") {
				t.Errorf("the status says %q, want %q", said, c.says)
			}
		})
	}
}

func TestTheIndexOfADataSetFindsWhatAScanFinds(t *testing.T) {
	values := []string{"1", "1.0", "1e0", "-0.0", "0", "true", "null", `"1"`, `"\u0061"`, `"a"`, "[1,2]", "[1.0, 2]", "9007199254740993", "9007199254740992.0", "9007199254740992", `{"x":1}`, "2.5"}
	random := rand.New(rand.NewPCG(1, 2))
	var lines []string
	for i := range 40 {
		lines = append(lines, fmt.Sprintf(`{"id":%s,"name":%d}`, values[random.IntN(len(values))], i))
	}
	lines = slices.DeleteFunc(lines, func(l string) bool { return strings.Contains(l, `{"x"`) }) // which no == takes
	store := records{"devices": strings.Join(lines, "\n")}
	indexed := compile[node.Map](t, "map", Options{Store: store}, "rules", fmt.Sprintf(enrich, "$1 == $2"))
	scanning := compile[node.Map](t, "map", Options{Store: store}, "rules", fmt.Sprintf(enrich, "$1 == $2 || false"))
	for _, v := range values {
		a, b := node.Message{Payload: []byte(`{"v":1,"id":` + v + `}`)}, node.Message{Payload: []byte(`{"v":1,"id":` + v + `}`)}
		errA, errB := indexed.Map(&a), scanning.Map(&b)
		if string(a.Payload) != string(b.Payload) || (errA == nil) != (errB == nil) {
			t.Errorf("%s: with an index %s, %v; without %s, %v", v, a.Payload, errA, b.Payload, errB)
		}
	}
}

func TestAWildcardCopiesARecord(t *testing.T) {
	op := compile[node.Map](t, "map", Options{Store: records{"k": `{"id":1,"o":{"p":{"q":1}},"e":{}}`}}, "rules",
		`{"datasets":[{"key":"k","inputs":["$context.id","$source.id"],"expression":"$1 == $2"}],"map":[{"inputs":["*"],"output":"*"},{"inputs":["$context(k).*"],"output":"all.*"},{"inputs":["$context(k).o.*"],"output":"deep.*"}]}`)
	m := node.Message{Payload: []byte(`{"id":1}`)}
	if err := op.Map(&m); err != nil || string(m.Payload) != `{"id":1,"all":{"id":1,"o":{"p":{"q":1}},"e":{}},"deep":{"p":{"q":1}}}` {
		t.Error(string(m.Payload), err)
	}
	m = node.Message{Payload: []byte(`{"id":2}`)}
	if err := op.Map(&m); err != nil || string(m.Payload) != `{"id":2}` {
		t.Error(string(m.Payload), err)
	}
}

func TestAThrottleLeavesTimeBetweenMessages(t *testing.T) {
	now := time.Unix(0, 0)
	op := compile[node.Filter](t, "throttle", Options{Now: func() time.Time { return now }}, "throttle",
		`{"perTopicThrottles":[{"topic":"a/b","maxMessagesPerSecond":0.1},{"topic":"a/#","maxMessagesPerSecond":3},{"topic":"none","maxMessagesPerSecond":0},{"topic":"fast","maxMessagesPerSecond":5000}]}`)
	for _, c := range []struct {
		ms    int64
		topic string
		pass  bool
	}{
		{0, "a/b", true}, {9999, "a/b", false}, {10000, "a/b", true}, // the first rule decides
		{10000, "a/c", true}, {10333, "a", false}, {10334, "a", true}, {10334, "a/c", false}, // 1000/3 is rounded up; one state for all topics of a rule
		{20000, "none", false}, {20000, "other", true}, {20000, "other", true},
		{20000, "fast", true}, {20000, "fast", false}, {20001, "fast", true},
		{90000, "a/c", true}, {90000, "a/c", false}, // no credit for the quiet time
	} {
		now = time.Unix(0, 0).Add(time.Duration(c.ms) * time.Millisecond)
		if pass, err := op.Filter(&node.Message{Topic: c.topic, Payload: []byte("no JSON")}); pass != c.pass || err != nil {
			t.Errorf("%s after %d ms: %v, %v", c.topic, c.ms, pass, err)
		}
	}
}

func TestAllFaultsOfAConfigurationAreToldAtOnce(t *testing.T) {
	text := `{"map":[
  {"inputs":["a..b"],"output":"*"},
  {"inputs":["a"],"output":"b","expression":"$1 + $2"},
  {"input":["a"],"output":"b"},
  {"inputs":["a"],"output":"x\u0022y.","expression":"\"\ud83d\ude00\"\u0020+ foo"}
]}`
	_, err := Compile("map", "", []Setting{{"rules", text}, {"rule", "{}"}}, Options{})
	var faults ConfigErrors
	if !errors.As(err, &faults) {
		t.Fatal(err)
	}
	var got []string
	for _, f := range faults {
		line := f.String()
		if f.Offset >= 0 {
			line += " @ " + text[f.Offset:min(len(text), f.Offset+4)]
		}
		got = append(got, line)
	}
	want := []string{
		`rule: a map has no such setting; it has rules; did you mean rules?`,
		`rules: rule 1, column 3: a segment of the path is empty; an empty key is written as "" @ .b"]`,
		`rules: rule 1: the output has a *, and the first input has none @ "*"}`,
		`rules: rule 2, column 6: $2 has no input: the rule has 1 @ $2"}`,
		`rules: rule 3: unknown key "input"; did you mean inputs? @ inpu`,
		`rules: rule 3: inputs is missing: the list of the fields to read @ {"in`,
		`rules: rule 3: a rule without inputs needs an expression, and an output @ {"in`,
		`rules: rule 4, column 7: "foo" is neither a value nor a call; inputs are $1, $2, …, and a text stands in "quotation marks" @ foo"`,
		`rules: rule 4, column 5: a segment of the path is empty; an empty key is written as "" @ ","e`,
	}
	slices.SortFunc(got[1:], func(a, b string) int { return strings.Compare(a[:13], b[:13]) })
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestFaultyConfigurationsAreRefused(t *testing.T) {
	oneMap := func(rule string) []Setting { return []Setting{{"rules", `{"map":[` + rule + `]}`}} }
	window := func(more ...Setting) []Setting { return append(more, Setting{"rules", countAll}) }
	delay := Setting{"delay", tenSeconds}
	for _, c := range []struct {
		kind, version string
		settings      []Setting
		want          string
	}{
		{"mapp", "", nil, "there is no transform"},
		{"map", "", nil, "rules: the setting is missing"},
		{"map", "", []Setting{{"rules", "{}"}}, "map is missing"},
		{"map", "", []Setting{{"rules", "[1"}}, "invalid JSON at byte 2"},
		{"map", "", []Setting{{"rules", "[]"}}, "an object"},
		{"map", "", []Setting{{"rules", `{"map":[]}`}, {"rules", "{}"}}, "there twice"},
		{"map", "", []Setting{{"rules", `{"map":[],"map":[]}`}}, `the key "map" is there twice`},
		{"map", "", []Setting{{"rules", `{"map":{}}`}}, "map must be a list"},
		{"map", "", []Setting{{"rules", `{"map":[1]}`}}, "an object"},
		{"map", "", oneMap(`{"inputs":["a"]}`), "output is missing"},
		{"map", "", oneMap(`{"inputs":"a","output":"b"}`), "inputs must be a list"},
		{"map", "", oneMap(`{"inputs":[1],"output":"b"}`), "an input must be a text"},
		{"map", "", oneMap(`{"inputs":["a"],"output":2}`), "output must be a text"},
		{"map", "", oneMap(`{"inputs":["a"],"output":"b","expression":1}`), "expression must be a text"},
		{"map", "", oneMap(`{"inputs":[],"output":"b"}`), "needs an expression"},
		{"map", "", oneMap(`{"inputs":["a"],"output":"","expression":"$1"}`), "leaves fields out has no expression"},
		{"map", "", oneMap(`{"inputs":["$metadata.topic"],"output":""}`), "only fields of the payload"},
		{"map", "", oneMap(`{"inputs":["a.*"],"output":"b"}`), "must have a *"},
		{"map", "", oneMap(`{"inputs":["a","*"],"output":"b","expression":"$1"}`), "the first input has none"},
		{"map", "", oneMap(`{"inputs":["*.*"],"output":"*"}`), "one * at most"},
		{"map", "", oneMap(`{"inputs":["a"],"output":"b"},{"inputs":["*"],"output":"*"}`), "move it above rule 1"},
		{"map", "", oneMap(strings.Repeat(`{"inputs":["*"],"output":"*"},`, maxWild) + `{"inputs":["*"],"output":"*"}`), "rule 101: there are more than 100"},
		{"map", "", oneMap(`{"inputs":["* ? $last"],"output":"*"}`), "no last known value"},
		{"map", "", oneMap(`{"inputs":["a ?? x"],"output":"b"}`), "after ?? comes"},
		{"map", "", oneMap(`{"inputs":["a ?? {}"],"output":"b"}`), "after ?? comes"},
		{"map", "", oneMap(`{"inputs":["a ? $last b"],"output":"b"}`), "only ?? and a default"},
		{"map", "", oneMap(`{"inputs":["\"a"],"output":"b"}`), "no closing"},
		{"map", "", oneMap(`{"inputs":["\"a\"b"],"output":"b"}`), "dot or the end"},
		{"map", "", oneMap(`{"inputs":[""],"output":"b"}`), "is empty"},
		{"map", "", oneMap(`{"inputs":["$1"],"output":"b"}`), "begins with $"},
		{"map", "", oneMap(`{"inputs":["$metadata.topics"],"output":"b"}`), "there are $metadata.topic"},
		{"map", "", oneMap(`{"inputs":["$metadata.user_property.a.b"],"output":"b"}`), "one key must follow"},
		{"map", "", oneMap(`{"inputs":["a"],"output":"$metadata.user_property"}`), "there are $metadata.topic"},
		{"map", "", oneMap(`{"inputs":["a"],"output":"$x"}`), "begins with $"},
		{"map", "", oneMap(`{"inputs":["$context(d).x"],"output":"b"}`), "no data set \"d\""},
		{"map", "", oneMap(`{"inputs":["$context(d)"],"output":"b"}`), "$context(alias).field"},
		{"map", "", oneMap(`{"inputs":["` + strings.Repeat("a.", 200) + `a"],"output":"b"}`), "more than 128 segments"},
		{"map", "", []Setting{{"rules", `{"datasets":[{"key":"k","inputs":["$source.a"],"expression":"true"}],"map":[]}`}}, "no state store"},
		{"map", "", []Setting{{"rules", `{"datasets":[{"inputs":["a"]},{"key":" as "}],"map":[]}`}}, "key is missing"},
		{"map", "", []Setting{{"rules", `{"datasets":[{"key":"k","inputs":["a"],"expression":"true"}],"map":[]}`}}, "$source.field of the message"},
		{"filter", "", []Setting{{"rules", `{"filter":[]}`}}, "needs a rule"},
		{"filter", "", []Setting{{"rules", `{"filter":[{"inputs":["a"]}]}`}}, "expression is missing"},
		{"filter", "", []Setting{{"rules", `{"filter":[{"inputs":["a.*"],"expression":"$1"}]}`}}, "only the rules of a map"},
		{"filter", "", []Setting{{"rules", `{"filter":[{"inputs":["a"],"output":"b","expression":"$1"}]}`}}, "unknown key \"output\""},
		{"filter", "", []Setting{{"rules", `{"filter":[],"validateSchema":1}`}}, "true or false"},
		{"filter", "", []Setting{{"rules", `{"filter":[],"validateSchema":true}`}}, "no schemas here"},
		{"branch", "", []Setting{{"rules", `{"branch":[]}`}}, "one rule"},
		{"branch", "", []Setting{{"rules", `{"branch":{"inputs":[],"expression":""}}`}}, "expression is missing"},
		{"concatenate", "", []Setting{{"rules", "{}"}}, "has no settings"},
		{"throttle", "", nil, "the setting is missing"},
		{"throttle", "", []Setting{{"throttle", `{}`}}, "perTopicThrottles is missing"},
		{"throttle", "", []Setting{{"throttle", `{"perTopicThrottles":[]}`}}, "no rule"},
		{"throttle", "", []Setting{{"throttle", `{"perTopicThrottles":[{"topic":"a#","maxMessagesPerSecond":1}]}`}}, "# must be the last"},
		{"throttle", "", []Setting{{"throttle", `{"perTopicThrottles":[{"topic":"a","maxMessagesPerSecond":-1}]}`}}, "a number from 0"},
		{"throttle", "", []Setting{{"throttle", `{"perTopicThrottles":[{"topic":"a","maxMessagesPerSecond":1e999}]}`}}, "a number from 0"},
		{"throttle", "", []Setting{{"throttle", `{"perTopicThrottles":[{"topic":"a","maxMessagesPerSecond":1},{"topic":"a","maxMessagesPerSecond":2}]}`}}, "that of rule 1"},
		{"window", "", window(), "nothing closes the window"},
		{"window", "", []Setting{delay}, "rules: the setting is missing"},
		{"window", "", []Setting{delay, {"rules", `{"accumulate":[]}`}}, "needs an accumulation rule"},
		{"window", "", window(Setting{"delay", `{"type":"duration","delaySeconds":0}`}), "whole number from 1"},
		{"window", "", window(Setting{"delay", `{"type":"duration","delaySeconds":1.5}`}), "whole number from 1"},
		{"window", "", window(Setting{"delay", `{"type":"duration","delaySeconds":99999999999}`}), "more than"},
		{"window", "", window(Setting{"delay", `{"type":"time","delaySeconds":1}`}), "type is duration"},
		{"window", "1.0.0", window(Setting{"count", `{"type":"messageCount","maxMessageCount":1,"boundaryMessage":"messageInNext"}`}), "came with version 1.1.0"},
		{"window", "", window(Setting{"count", `{"type":"messageCount","maxMessageCount":1}`}), "boundaryMessage is missing"},
		{"window", "", window(Setting{"memory", `{"type":"bufferSize","maxBufferBytes":1,"boundaryMessage":"x"}`}), "messageInCurrent or messageInNext"},
		{"window", "", window(Setting{"triggers", `{"type":"expression","rules":[]}`}), "no trigger"},
		{"window", "", window(Setting{"triggers", `{"type":"expression"}`}), "rules is missing"},
		{"window", "", window(Setting{"triggers", `{"type":"expression","rules":[{"inputs":["a"],"boundaryMessage":"messageInNext"}]}`}), "trigger is missing"},
		{"window", "", []Setting{delay, {"rules", `{"accumulate":[{"inputs":["a"],"output":"b"}]}`}}, "expression is missing"},
		{"window", "", []Setting{delay, {"rules", `{"accumulate":[{"inputs":["a"],"output":"b","expression":"$1"}]}`}}, "aggregate it"},
		{"window", "", []Setting{delay, {"rules", `{"accumulate":[{"inputs":["a ? $last"],"output":"b","expression":"sum($1)"}]}`}}, "no meaning here"},
		{"window", "", []Setting{delay, {"rules", `{"accumulate":[{"inputs":["a ?? 1"],"output":"b","expression":"sum($1)"}]}`}}, "no meaning here"},
		{"window", "", []Setting{delay, {"rules", `{"accumulate":[{"inputs":["$metadata.topic"],"output":"b","expression":"sum($1)"}]}`}}, "fields of the payload only"},
		{"window", "", []Setting{delay, {"rules", `{"accumulate":[{"inputs":["a.*"],"output":"b","expression":"sum($1)"}]}`}}, "only the rules of a map"},
		{"window", "", []Setting{delay, {"rules", `{"accumulate":[{"inputs":["a"],"output":"$metadata.topic","expression":"sum($1)"}]}`}}, "one field of the payload"},
		{"window", "", []Setting{delay, {"rules", `{"accumulate":[{"inputs":["a"],"output":"b","expression":"sum($1)"},{"inputs":["a"],"output":"b.c","expression":"sum($1)"}]}`}}, "that of rule 1"},
	} {
		_, err := Compile(c.kind, c.version, c.settings, Options{})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %v: %v, want %q", c.kind, c.settings, err, c.want)
		}
	}
}

func TestTheOlderKindHasIntegersOf128Bits(t *testing.T) {
	rules := `{"map":[{"inputs":["n"],"output":"n","expression":"$1 + 1"}]}`
	for dialect, want := range map[Dialect]string{Dataflow: `{"n":18446744073709551616}`, Graph: `{"n":1.8446744073709552e19}`} {
		op := compile[node.Map](t, "map", Options{Dialect: dialect}, "rules", rules)
		m := node.Message{Payload: []byte(`{"n":18446744073709551615}`)}
		if err := op.Map(&m); err != nil || string(m.Payload) != want {
			t.Errorf("%s, %v; want %s", m.Payload, err, want)
		}
	}
}

func TestTheOlderKindHasNoDefaultsAndNoRegularExpressions(t *testing.T) {
	o := Options{Dialect: Dataflow, Store: records{"k": `{"id":1,"n":"x"}`}}
	for text, want := range map[string]string{
		`{"map":[{"inputs":["a ?? 1"],"output":"b","type":"Rename"}]}`:                                                                                 "data flow graphs only",
		`{"map":[{"inputs":["a"],"output":"b","type":"Compute","expression":"str::regex_matches($1, \"a\")"}]}`:                                        "data flow graphs only",
		`{"map":[{"inputs":["a ? $last"],"output":"b","type":"NewProperties","expression":""}]}`:                                                       "",
		`{"datasets":[{"key":"k","inputs":["$source.a","$context(k).id"],"expression":"$1 == $2"}],"map":[{"inputs":["$context(k).n"],"output":"b"}]}`: "",
	} {
		op, err := Compile("map", "", []Setting{{"rules", text}}, o)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
		if err != nil || !strings.Contains(text, "datasets") {
			continue
		}
		m := node.Message{Payload: []byte(`{"a":1}`)}
		if err := op.(node.Map).Map(&m); err != nil || string(m.Payload) != `{"b":"x"}` {
			t.Error(string(m.Payload), err)
		}
	}
	if _, err := Compile("map", "", []Setting{{"rules", `{"map":[{"inputs":["a"],"output":"b","type":"Rename"}]}`}}, Options{}); err == nil {
		t.Error("a graph takes the key type")
	}
}

func TestDoubtfulConfigurationsAreWarnedOf(t *testing.T) {
	var warnings []string
	o := Options{Warn: func(f Fault) { warnings = append(warnings, f.String()) }}
	compile[node.Map](t, "map", o, "rules", `{"map":[{"inputs":["a.*"],"output":"*"},{"inputs":["b.*"],"output":"*"},{"inputs":["a","b"],"output":"c"}]}`)
	if _, err := Compile("concatenate", "9.9.9", nil, o); err != nil {
		t.Error(err)
	}
	want := []string{"rules: rule 2: Azure", "rules: rule 3: without an expression", "version \"9.9.9\""}
	if len(warnings) != len(want) {
		t.Fatal(warnings)
	}
	for i := range want {
		if !strings.HasPrefix(warnings[i], want[i]) {
			t.Errorf("%q, want %q", warnings[i], want[i])
		}
	}
}

func TestConcatenateIsNoOperator(t *testing.T) {
	if op, err := Compile("concatenate", "1.0.0", nil, Options{}); op != nil || err != nil {
		t.Error(op, err)
	}
}

func TestLargeMessagesAreHandledInMemoryThatIsGivenBack(t *testing.T) {
	var wide strings.Builder
	wide.WriteString(`{"temperature":1`)
	for i := range 40_000 {
		fmt.Fprintf(&wide, `,"key-%d":%d`, i, i)
	}
	wide.WriteByte('}')
	op := compile[node.Map](t, "map", Options{}, "rules", copyRules).(*mapper)
	m := node.Message{Payload: []byte(strings.Replace(wide.String(), "{", `{"status":1,`, 1))}
	if err := op.Map(&m); err != nil || !strings.HasSuffix(string(m.Payload), `"key-39999":39999,"temperature_f":33.8}`) {
		t.Error(err)
	}
	for range 2 {
		m = node.Message{Payload: []byte(`{"temperature":1,"status":1}`)}
		if err := op.Map(&m); err != nil {
			t.Error(err)
		}
	}
	if cap(op.doc.Nodes) > 1<<13 || cap(op.out.nodes) > 1<<13 || cap(op.marks) > 1<<17 || len(op.out.index) > 1<<13 {
		t.Error("the memory of the large message is kept:", cap(op.doc.Nodes), cap(op.out.nodes), cap(op.marks), len(op.out.index))
	}
	deep := strings.Repeat(`{"a":`, 128) + "1" + strings.Repeat("}", 128)
	m = node.Message{Payload: []byte(deep)}
	if err := compile[node.Map](t, "map", Options{}, "rules", `{"map":[{"inputs":["*"],"output":"b.*"}]}`).Map(&m); err == nil || !strings.Contains(err.Error(), "too deeply") {
		t.Error(err)
	}
}

func FuzzInputs(f *testing.F) {
	for _, s := range []string{`a."b.c".d`, `$metadata.user_property."x y" ? $last ?? 1`, `$context(a).*.b ?? "x"`, `$source.a?$LAST`, `*`, `a ?? `, `$metadata.topic ?? 1`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, s := range []scope{{wildcard: true}, {record: true, dialect: Dataflow}, {place: expr.InAccumulate}} {
			in, fault := parseInput(text, s)
			if fault != nil && (fault.Column < 1 || fault.Text == "") {
				t.Errorf("%q: %v", text, fault)
			}
			if fault == nil && (in.from == fromPayload || in.from == fromContext) && len(in.path.keys) == 0 && in.path.star < 0 {
				t.Errorf("%q is an empty path", text)
			}
		}
		if out, fault := parseOutput(text); fault == nil && out.to == fromPayload && !out.remove && len(out.path.keys) == 0 && out.path.star < 0 {
			t.Errorf("%q is an empty path", text)
		}
	})
}

func FuzzConfigurations(f *testing.F) {
	f.Add("map", copyRules, `{"temperature":1}`)
	f.Add("filter", filterRules, `{"temperature":1,"humidity":2}`)
	f.Add("window", windowRules, `{"temperature":1}`)
	f.Add("map", fmt.Sprintf(enrich, "$1 == $2"), `{"id":1}`)
	f.Fuzz(func(t *testing.T, kind, rules, payload string) {
		op, err := Compile(kind, "", []Setting{{"rules", rules}}, Options{Store: records{"k": `{"id":1}`}})
		if kind == "window" {
			op, err = Compile(kind, "", []Setting{{"rules", rules}, {"delay", tenSeconds}}, Options{})
		}
		if faults, ok := errors.AsType[ConfigErrors](err); ok {
			for _, fault := range faults {
				if fault.Offset < -1 || fault.Offset > len(rules) || fault.Text == "" {
					t.Errorf("%q: %+v", rules, fault)
				}
			}
			return
		}
		m := node.Message{Payload: []byte(payload), Topic: "t"}
		emit := func(*node.Message) {}
		switch op := op.(type) {
		case node.Map:
			op.Map(&m)
		case node.Filter:
			op.Filter(&m)
		case node.Branch:
			op.Branch(&m, node.Time{})
		case node.Window:
			op.Add(&m, node.Time{}, emit)
			op.Advance(node.Time{Nanos: 1 << 60}, emit)
		}
	})
}

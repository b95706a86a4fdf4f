package scenario

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

// text is a scenario that is right.
const text = `name: a-name
title: A title
description: |
  Why.
speed: virtual
cloud: {hubs: 3, retryAfter: none, polls: 1, delay: 20ms, move: delete, refusal: connack5}
device: {interval: 100ms, window: 20, pipeline: "on", transport: https, tokenLife: 1h, order: fresh-first, syncEvery: 1s, outboxBytes: 2GiB, others: 3}
steady: {within: 1m, lasts: 10s, gap: 2s, backlog: 9}
budget: {rto: 10s, rpo: 3, duplicates: 0}
stop: {gap: 2m, backlog: 1000, givenUp: 0, lasts: 1d}
steps:
  - name: one
    at: 5s
    lasts: 1.5d
    do:
      - fault: {hub: hub-c, kind: slow, delay: 200ms, for: 1m}
      - desired: {fanSpeed: 3, list: [1, {a: null}]}
      - failback
      - disconnect:
    expect: {back: 10s, on: hub-a, lost: 0, acknowledged: 1s, rules: [H07, H08]}
  - name: two
    after: 3s
    repeat: 4
    do:
      - clock: {ahead: 1970, for: 3s}
`

func TestAScenarioIsReadAsItIsWritten(t *testing.T) {
	s, err := Parse("a.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	one, two := s.Steps[0], s.Steps[1]
	for what, right := range map[string]bool{
		"name":       s.Name == "a-name" && s.Description == "Why.\n" && s.Line == 1,
		"cloud":      s.Cloud == Cloud{Pos: Pos{6}, Hubs: 3, RetryAfter: RetryAfter{Given: true, None: true}, Polls: 1, Delay: 20 * time.Millisecond, Move: "delete", Refusal: "connack5"},
		"device":     s.Device.OutboxBytes == 2<<30 && s.Device.Pipeline == "on" && s.Device.Others == 3,
		"budget":     s.Budget.RPO == 3 && *s.Budget.Duplicates == 0 && s.Budget.RTO == 10*time.Second,
		"stop":       s.Stop.Lasts == 24*time.Hour && *s.Stop.GivenUp == 0,
		"one":        *one.At == 5*time.Second && one.After == nil && one.Lasts == 36*time.Hour && one.Line == 12 && one.Do[1].Line == 17,
		"fault":      *one.Do[0].Fault == Fault{Hub: "hub-c", Kind: "slow", Delay: 200 * time.Millisecond, For: time.Minute},
		"desired":    string(one.Do[1].Desired["list"]) == `[1,{"a":null}]`,
		"words":      one.Do[2].Failback != nil && one.Do[3].Disconnect != nil,
		"expect":     one.Expect.On == "hub-a" && *one.Expect.Lost == 0 && len(one.Expect.Rules) == 2 && one.Expect.Duplicates == nil,
		"repeat":     two.Repeat == 4 && *two.After == 3*time.Second && two.At == nil,
		"clock 1970": two.Do[0].Clock.Ahead == "1970",
	} {
		if !right {
			t.Errorf("%s is wrong: %+v", what, s)
		}
	}
}

// TestEachFaultIsToldWithItsLine replaces one line of the scenario, and looks for the fault.
func TestEachFaultIsToldWithItsLine(t *testing.T) {
	for _, c := range []struct {
		line       int
		text, want string
	}{
		{1, "name: A Name", `name must be small letters, digits and hyphens, at most 64; it is "A Name"`},
		{1, "nam: a-name", `"nam" is no key; did you mean name?`},
		{1, "nam: a-name", "the file needs name"},
		{1, "something: else", `"something" is no key; there are name, title,`},
		{2, "title: ", "title has no value"},
		{2, "title: 12", "title must be a text; put \"12\" in quotes"},
		{2, "title: [a]", "title must be a text that is not empty; it is a list"},
		{2, "title: &a x", "anchors and aliases"},
		{2, "title: !!str x", "tags (!) are not read"},
		{2, "title: a\ntitle: b", "title is given twice, first in line 2"},
		{2, "title: 'x", "this is no YAML"},
		{2, "title: x\n---\nname: y", "a second document begins here"},
		{5, "speed: fast", `speed must be one of virtual, real; it is "fast"`},
		{6, "cloud: [1]", "cloud must be an object, keys with values: hubs, retryAfter,"},
		{6, "cloud: {hubs: 27}", "cloud.hubs must be a whole number from 2 to 26; it is \"27\""},
		{6, "cloud: {retryAfter: 1.5s}", "cloud.retryAfter must be whole seconds up to an hour, such as 3s, or none; it is \"1.5s\""},
		{6, "cloud: {hubs: 2}", "there is no hub-c; the cloud has 2 hubs, hub-a to hub-b"},
		{7, "device: {interval: 100}", `device.interval must be a duration from 1ms to 24h, such as 500ms, 10s, 3m, 72h or 7d; it is "100"`},
		{7, "device: {interval: -1s}", "device.interval must be a duration"},
		{7, "device: {interval: 25h}", "device.interval must be a duration"},
		{7, "device: {syncEvery: 9000d}", "device.syncEvery must be a duration"},
		{7, "device: {outboxBytes: 12}", "device.outboxBytes must be a size such as 64MiB or 2GiB"},
		{7, "device: {outboxBytes: 1KiB}", "device.outboxBytes must be a size of at least 1MiB"},
		{9, "budget: {rpo: -1}", "budget.rpo must be a whole number of at least 0"},
		{11, "steps: []", "steps is an empty list"},
		{11, "steps: {}", "steps must be a list, each item behind a hyphen; it is an object"},
		{13, "    at: 5s\n    after: 3s", "the step has at and after"},
		{16, "      - fault: {hub: c, kind: slow}", `steps[1].do[1].fault.hub must be the name of a hub, such as hub-a; it is "c"`},
		{16, "      - fault: {hub: hub-c, kind: dead}", "fault.kind must be one of kill, blackhole,"},
		{16, "      - fault: {hub: hub-c}", "steps[1].do[1].fault needs kind"},
		{16, "      - fault: {hub: hub-c, kind: kill, delay: 1s}", "fault.delay belongs to slow and throttle, and the kind is kill"},
		{16, "      - fault: {hub: hub-c, kind: kill, whenOver: reset}", "fault.whenOver belongs to blackhole and syndrop"},
		{16, "      - fault: {hub: hub-c, kind: kill, dpsKnows: yes please}", "fault.dpsKnows must be true or false"},
		{16, "      - dps: {kind: slow, retryAfter: 1s}", "dps.retryAfter belongs to throttle"},
		{16, "      - dps: {kind: throttle, retryAfter: 1500ms}", "dps.retryAfter must be whole seconds"},
		{16, "      - dps: {kind: down, delay: 1s}", "dps.delay belongs to slow"},
		{16, "      - dps: {kind: down, whenOver: reset}", "dps.whenOver belongs to blackhole"},
		{16, "      - heal: hub-d", "there is no hub-d"},
		{16, "      - handover", "handover needs more than its name"},
		{12, "  - name: one\n    fault: {hub: hub-a, kind: kill}", `"fault" is no key in steps[1]; it belongs under do`},
		{12, "  - name: one\n    back: 10s", `"back" is no key in steps[1]; it belongs under expect`},
		{3, "hubs: 3", `"hubs" is no key; it belongs under cloud`},
		{16, "      - kind: kill", `"kind" is no key in steps[1].do[1]; it belongs under fault or dps`},
		{16, "      - fly", `"fly" is no key in steps[1].do[1]`},
		{16, "      - {failback: {}, disconnect: {}}", "must have exactly one key, one action; it has 2"},
		{16, "      - weather: {loss: 0.95, for: 1s}", "weather.loss must be a number from 0 to 0.9"},
		{16, "      - weather: {loss: NaN, for: 1s}", "weather.loss must be a number"},
		{16, "      - newCertificate: {life: 1h}", "newCertificate needs a device with a certificate"},
		{17, "      - desired: {}", "desired must be an object with at least one key"},
		{17, "      - desired: {a: .inf}", "cannot be written as JSON"},
		{17, "      - desired: {a: 1e309}", `the number "1e309" is too large`},
		{17, "      - desired: {a: {b: [-1.5E+999]}}", `the number "-1.5E+999" is too large`},
		{17, "      - clock: {ahead: 3 days, for: 1s}", "clock.ahead must be a duration such as -2h, or 1970"},
		{20, "    expect: {on: hub-a}", "expect.on says which hub has the first sample again; it needs back or backOnceOver"},
		{20, "    expect: {back: 1s, backOnceOver: 2s}", "back and backOnceOver are two ways to count the same"},
		{20, "    expect: {drained: 1s}", "expect.drained counts from when the device is back"},
		{20, "    expect: {answered: 1s}", "expect.answered needs a method or a message in the step"},
		{25, "      - disconnect\n  - name: one\n    lasts: 1s", `there is a step "one" already in line 12`},
		{25, "      - disconnect\n  - name: three", "the step does nothing, and does not last"},
		{25, "      - disconnect\n  - name: three\n    at: 1s\n    lasts: 1s", "put steps in the order of their times"},
		{25, "      - disconnect\n  - name: three\n    at: 9s\n    repeat: 2\n    lasts: 1s", "a step that is repeated has after, not at"},
		{25, "      - disconnect\n  - name: three\n    lasts: 1s\n    expect: {acknowledged: 1s}", "expect.acknowledged needs desired in the step"},
		{25, "      - disconnect\n  - name: three\n    do: [disconnect]\n    expect: {gap: 1s}", "expect.gap is about a time"},
		{25, "      - chaos\n  - name: three\n    do: [chaos]", "chaos is played once in a run"},
	} {
		lines := strings.Split(text, "\n")
		lines[c.line-1] = c.text
		if strings.HasPrefix(c.text, "steps:") {
			lines = lines[:c.line]
		}
		_, err := Parse("a.yaml", []byte(strings.Join(lines, "\n")))
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "a.yaml:") {
			t.Errorf("%s:\n%v\nand not %q", c.text, err, c.want)
		}
	}
}

func TestAllFaultsAreToldAtOnceInOrder(t *testing.T) {
	_, err := Parse("a.yaml", []byte("name: X\ntitle: 1\nsteps:\n- {nam: x, do: [fly]}\n- {name: y, lasts: 1}\n"))
	var lines []string
	for line := range strings.Lines(err.Error()) {
		lines = append(lines, line)
	}
	want := []string{"a.yaml:1: name", "a.yaml:2: title", `a.yaml:4: "nam"`, `a.yaml:4: "fly"`, "a.yaml:4: steps[1] needs name", "a.yaml:5: steps[2].lasts"}
	if len(lines) != len(want) {
		t.Fatalf("%d faults: %v", len(lines), err)
	}
	for i, w := range want {
		if !strings.HasPrefix(lines[i], w) {
			t.Errorf("fault %d is %s and not %s", i+1, lines[i], w)
		}
	}
}

func TestFaultsAreBounded(t *testing.T) {
	many := "name: x\ntitle: y\nsteps: [{name: z, lasts: 1s}]\n" + strings.Repeat("a: 1\n", 1000)
	_, err := Parse("a.yaml", []byte(many))
	if n := strings.Count(err.Error(), "\n") + 1; n != maxFaults+1 || !strings.Contains(err.Error(), "more faults") {
		t.Errorf("%d faults are told", n)
	}
	for _, bad := range []string{strings.Repeat("x", maxBytes+1), "\xff", "", "# nothing", strings.Repeat("[", 200), "a: " + strings.Repeat("{a: ", 100) + "1" + strings.Repeat("}", 100)} {
		if _, err := Parse("a.yaml", []byte(bad)); err == nil || len(err.Error()) > 2000 {
			t.Errorf("%.30q: the error has %d bytes", bad, len(err.Error()))
		}
	}
}

// schemaOf compiles the published schema.
func schemaOf(t testing.TB) *jsonschema.Schema {
	t.Helper()
	f, err := os.Open(schemaFile)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	doc, err := jsonschema.UnmarshalJSON(f)
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("schema.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// asJSON is what an editor checks: the file's values.
func asJSON(text []byte) (any, error) {
	var v any
	if err := yaml.Unmarshal(text, &v); err != nil {
		return nil, err
	}
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return jsonschema.UnmarshalJSON(strings.NewReader(string(b)))
}

func TestTheSchemaAcceptsWhatIsRight(t *testing.T) {
	schema := schemaOf(t)
	files, err := filepath.Glob(filepath.Join(filepath.Dir(schemaFile), "*.yaml"))
	if err != nil || len(files) < 10 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	texts := map[string][]byte{"the test's": []byte(text)}
	for _, f := range files {
		if texts[f], err = os.ReadFile(f); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range texts {
		v, err := asJSON(text)
		if err == nil {
			err = schema.Validate(v)
		}
		if _, read := Parse(name, text); errors.Join(err, read) != nil {
			t.Errorf("%s: %v", name, errors.Join(err, read))
		}
	}
}

func TestTheSchemaRefusesWhatTheReaderRefuses(t *testing.T) {
	schema := schemaOf(t)
	for _, bad := range []string{
		"name: A", "titel: x", "speed: fast", "cloud: {hubs: 1}", "cloud: {retryAfter: 2}", "cloud: {more: 1}", "device: {interval: 100}", "device: {outboxBytes: 5}",
		"budget: {rpo: -1}", "steps: []", "steps: [{lasts: 1s}]", "steps: [{name: x, do: [fly]}]", "steps: [{name: x, do: [handover]}]", "steps: [{name: x, do: [{fault: {hub: hub-a}}]}]",
		"steps: [{name: x, do: [{fault: {hub: a, kind: kill}}]}]", "steps: [{name: x, do: [{failback: {}, disconnect: {}}]}]", "steps: [{name: x, do: [{heal: here}]}]",
		"steps: [{name: x, repeat: 0, lasts: 1s}]", "steps: [{name: x, do: [{desired: {}}]}]", "steps: [{name: x, do: [{weather: {loss: 2, for: 1s}}]}]",
	} {
		var lines []string
		key, _, _ := strings.Cut(bad, ":")
		for _, line := range []string{"name: x", "title: y", "steps: [{name: x, lasts: 1s}]"} {
			if !strings.HasPrefix(line, key+":") {
				lines = append(lines, line)
			}
		}
		text := []byte(strings.Join(append(lines, bad), "\n"))
		v, err := asJSON(text)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Parse("a.yaml", text); err == nil {
			t.Errorf("the reader accepts %s", bad)
		}
		if schema.Validate(v) == nil {
			t.Errorf("the schema accepts %s", bad)
		}
	}
}

func TestANameThatIsNearIsSuggested(t *testing.T) {
	files := os.DirFS(filepath.Dir(schemaFile))
	for name, want := range map[string]string{"giant-lizzard": "did you mean giant-lizard?", "nothing-like-it": "there are 72-hours-dark, ", "../x": "there is no scenario"} {
		if _, err := Named(files, name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if s, err := Named(files, "giant-lizard"); err != nil || s.Name != "giant-lizard" {
		t.Error(err)
	}
}

// FuzzParse looks for texts that end the process, for faults without a line, and for texts that the
// reader accepts and the published schema refuses.
func FuzzParse(f *testing.F) {
	f.Add([]byte(text))
	files, err := filepath.Glob(filepath.Join(filepath.Dir(schemaFile), "*.yaml"))
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	schema := schemaOf(f)
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := Parse("a.yaml", text)
		if err != nil {
			for line := range strings.Lines(err.Error()) {
				if !strings.HasPrefix(line, "a.yaml:") {
					t.Errorf("the fault %q has no line", line)
				}
			}
			return
		}
		if s.Name == "" || s.Title == "" || len(s.Steps) == 0 {
			t.Errorf("it lacks what it must have: %+v", s)
		}
		v, err := asJSON(text)
		if err != nil {
			return // keys that are no texts in a payload
		}
		if err := schema.Validate(v); err != nil {
			t.Errorf("the schema refuses it: %v", err)
		}
	})
}

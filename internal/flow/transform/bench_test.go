package transform

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/flow/node"
)

// reading is a message as a gateway sends it.
const reading = `{"deviceId":"press-017","timestamp":"2026-11-30T15:35:18.123Z","temperature":71.25,"humidity":40,"pressure":1013.1,"vibration":{"x":0.01,"y":0.02},"status":"running","count":123456}`

const (
	filterRules = `{"filter":[{"inputs":["temperature"],"expression":"$1 > 100"},{"inputs":["humidity"],"expression":"$1 > 95"}]}`
	mapRules    = `{"map":[{"inputs":["deviceId"],"output":"id"},{"inputs":["temperature"],"output":"temperature_f","expression":"cToF($1)"},
		{"inputs":["pressure"],"output":"env.pressure"},{"inputs":["humidity"],"output":"env.humidity"},{"inputs":["vibration.x","vibration.y"],"output":"vibration","expression":"$1 + $2"}]}`
	copyRules   = `{"map":[{"inputs":["*"],"output":"*"},{"inputs":["temperature"],"output":"temperature_f","expression":"cToF($1)"},{"inputs":["status"],"output":""}]}`
	topicRules  = `{"map":[{"inputs":["*"],"output":"*"},{"inputs":["temperature"],"output":"$metadata.topic","expression":"if($1 > 1000, \"alerts\", \"historian\")"}]}`
	windowRules = `{"accumulate":[{"inputs":["temperature"],"output":"avg","expression":"average($1)"},{"inputs":["temperature"],"output":"min","expression":"min($1)"},
		{"inputs":["temperature"],"output":"max","expression":"max($1)"},{"inputs":["temperature"],"output":"n","expression":"count($1)"}]}`
	thousand = `{"type":"messageCount","maxMessageCount":1000,"boundaryMessage":"messageInCurrent"}`
)

func BenchmarkFilter(b *testing.B) {
	op := compile[node.Filter](b, "filter", Options{}, "rules", filterRules)
	m := node.Message{Payload: []byte(reading)}
	b.ReportAllocs()
	for b.Loop() {
		if pass, err := op.Filter(&m); !pass || err != nil {
			b.Fatal(err)
		}
	}
}

// readingSchema is what a person would write for a reading.
const readingSchema = `{"$schema":"http://json-schema.org/draft-07/schema#","type":"object","required":["deviceId","timestamp","temperature"],"properties":{
	"deviceId":{"type":"string","minLength":1},"timestamp":{"type":"string"},"temperature":{"type":"number","minimum":-50,"maximum":200},
	"humidity":{"type":"integer","minimum":0,"maximum":100},"pressure":{"type":"number"},"vibration":{"type":"object","properties":{"x":{"type":"number"},"y":{"type":"number"}}},
	"status":{"enum":["running","stopped"]},"count":{"type":"integer"}}}`

// validating is a filter that does nothing but compare messages with a schema.
func validating(t testing.TB, text string) *filter {
	schema := func(string) ([]byte, error) { return []byte(text), nil }
	op := compile[node.Filter](t, "filter", Options{Schema: schema, SchemaRef: "aio-sr://a:1"}, "rules", `{"validateSchema":true,"filter":[]}`)
	return op.(*filter)
}

func BenchmarkFilterValidates(b *testing.B) { benchmarkValidation(b, readingSchema) }

// BenchmarkFilterValidatesByTheLibrary is that with a keyword that is left to the library.
func BenchmarkFilterValidatesByTheLibrary(b *testing.B) {
	benchmarkValidation(b, strings.Replace(readingSchema, `"type":"object",`, `"type":"object","not":{"required":["error"]},`, 1))
}

func benchmarkValidation(b *testing.B, schema string) {
	op, m := validating(b, schema), node.Message{Payload: []byte(reading)}
	b.ReportAllocs()
	for b.Loop() {
		if pass, err := op.Filter(&m); !pass || err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkFilterFails(b *testing.B) {
	op := compile[node.Filter](b, "filter", Options{}, "rules", strings.ReplaceAll(filterRules, "humidity", "deviceId"))
	m := node.Message{Payload: []byte(reading)}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := op.Filter(&m); err == nil {
			b.Fatal("no error")
		}
	}
}

func BenchmarkBranch(b *testing.B) {
	op := compile[node.Branch](b, "branch", Options{}, "rules", `{"branch":{"inputs":["temperature"],"expression":"$1 > 5"}}`)
	m := node.Message{Payload: []byte(reading)}
	b.ReportAllocs()
	for b.Loop() {
		if arm, err := op.Branch(&m, node.Time{}); !arm || err != nil {
			b.Fatal(err)
		}
	}
}

func benchmarkMap(b *testing.B, rules string) {
	op := compile[node.Map](b, "map", Options{}, "rules", rules)
	b.ReportAllocs()
	for b.Loop() {
		m := node.Message{Payload: []byte(reading)}
		if err := op.Map(&m); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkMapOfFiveFields(b *testing.B)     { benchmarkMap(b, mapRules) }
func BenchmarkMapCopiesAllAndAdds(b *testing.B) { benchmarkMap(b, copyRules) }
func BenchmarkMapWritesTheTopic(b *testing.B)   { benchmarkMap(b, topicRules) }

func BenchmarkWindowOfThousand(b *testing.B) {
	op := compile[node.Window](b, "window", Options{}, "count", thousand, "rules", windowRules)
	m := node.Message{Payload: []byte(reading)}
	at := node.TimeOf(epoch)
	n := 0
	emit := func(*node.Message) { n++ }
	b.ReportAllocs()
	for b.Loop() {
		at.Nanos += 1000
		if err := op.Add(&m, at, emit); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEnrich(b *testing.B) {
	for _, size := range []int{100, 10_000} {
		b.Run(fmt.Sprint(size, " records"), func(b *testing.B) {
			var text strings.Builder
			for i := range size {
				fmt.Fprintf(&text, `{"deviceId":"press-%03d","name":"Press %d","limit":%d}`+"\n", i, i, i)
			}
			op := compile[node.Map](b, "map", Options{Store: single(text.String())}, "rules",
				`{"datasets":[{"key":"k as d","inputs":["$source.deviceId","$context.deviceId"],"expression":"$1 == $2"}],"map":[{"inputs":["$context(d).name"],"output":"name"},{"inputs":["temperature"],"output":"t"}]}`)
			b.ReportAllocs()
			for b.Loop() {
				m := node.Message{Payload: []byte(reading)}
				if err := op.Map(&m); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkThrottle(b *testing.B) {
	for _, n := range []int{1, 1000} {
		b.Run(fmt.Sprint(n, " rules"), func(b *testing.B) {
			var rules []string
			for i := range n {
				rules = append(rules, fmt.Sprintf(`{"topic":"factory/+/line-%d/#","maxMessagesPerSecond":10}`, i))
			}
			now := time.Unix(0, 0)
			op := compile[node.Filter](b, "throttle", Options{Now: func() time.Time { now = now.Add(time.Millisecond); return now }}, "throttle", `{"perTopicThrottles":[`+strings.Join(rules, ",")+`]}`)
			m := node.Message{Topic: fmt.Sprintf("factory/7/line-%d/temperature", n-1)}
			b.ReportAllocs()
			for b.Loop() {
				op.Filter(&m)
			}
		})
	}
}

func TestNothingIsAllocatedWhereNothingChanges(t *testing.T) {
	filter := compile[node.Filter](t, "filter", Options{}, "rules", filterRules)
	last := compile[node.Filter](t, "filter", Options{}, "rules", `{"filter":[{"inputs":["temperature ? $last ?? 0"],"expression":"$1 > 100"}]}`)
	branch := compile[node.Branch](t, "branch", Options{}, "rules", `{"branch":{"inputs":["temperature","$metadata.topic"],"expression":"$1 > 5 && $2 != \"x\""}}`)
	same := compile[node.Map](t, "map", Options{}, "rules", `{"map":[{"inputs":["*"],"output":"*"}]}`)
	window := compile[node.Window](t, "window", Options{}, "delay", tenSeconds, "rules", windowRules,
		"triggers", `{"type":"expression","rules":[{"inputs":["temperature"],"trigger":"running_sum($1) + $1 > 1000000000 || prev($1) > 100","boundaryMessage":"messageInCurrent"}]}`)
	throttle := compile[node.Filter](t, "throttle", Options{}, "throttle", `{"perTopicThrottles":[{"topic":"a/+","maxMessagesPerSecond":10}]}`)
	m := node.Message{Payload: []byte(reading), Topic: "a/b"}
	short := node.Message{Payload: []byte(`{"x":1}`), Topic: "a/b"}
	at := node.TimeOf(epoch)
	for name, do := range map[string]func() error{
		"filter":          func() error { _, err := filter.Filter(&m); return err },
		"last value":      func() error { _, err := last.Filter(&m); return err },
		"last value used": func() error { _, err := last.Filter(&short); return err },
		"branch":          func() error { _, err := branch.Branch(&m, at); return err },
		"map":             func() error { return same.Map(&m) },
		"window":          func() error { return window.Add(&m, at, nil) },
		"throttle":        func() error { _, err := throttle.Filter(&m); return err },
	} {
		if n := testing.AllocsPerRun(200, func() {
			if err := do(); err != nil {
				t.Fatal(name, err)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
	five := compile[node.Map](t, "map", Options{}, "rules", mapRules)
	var out node.Message
	if n := testing.AllocsPerRun(200, func() {
		out = m
		if err := five.Map(&out); err != nil {
			t.Fatal(err)
		}
	}); n > 1 {
		t.Errorf("a map of five fields: %v allocations, want 1: the new payload", n)
	}
}

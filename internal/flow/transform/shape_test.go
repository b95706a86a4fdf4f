package transform

import (
	"bytes"
	"errors"
	"runtime"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/hubhop-iot/hubhop/internal/flow/node"
)

// shapely are schemas that have a shape.
var shapely = []string{
	`true`, `{}`, readingSchema,
	`{"properties":{"v":false}}`, `{"properties":{"v":true},"additionalProperties":false}`,
	`{"properties":{"v":{"type":"number"}}}`, `{"properties":{"v":{"type":"integer"}}}`, `{"properties":{"v":{"type":["integer","null"]}}}`,
	`{"properties":{"v":{"type":["number","string"],"minimum":0,"maximum":100}}}`, `{"properties":{"v":{"exclusiveMinimum":0,"exclusiveMaximum":100}}}`,
	`{"properties":{"v":{"minimum":0.1,"maximum":0.3}}}`, `{"properties":{"v":{"exclusiveMinimum":9007199254740993}}}`, `{"properties":{"v":{"maximum":-1e-300}}}`,
	`{"properties":{"v":{"enum":["a","é",null,true]}}}`, `{"properties":{"v":{"type":"string","minLength":2,"maxLength":3}}}`,
	`{"properties":{"v":{"pattern":"^a+$"}}}`, `{"properties":{"v":{"format":"date-time"}}}`,
	`{"properties":{"v":{"minProperties":1,"maxProperties":2}}}`, `{"properties":{"v":{"items":{"type":"number"},"minItems":1,"maxItems":2}}}`,
	`{"required":["v","w"]}`, `{"additionalProperties":{"type":"string"}}`, `{"properties":{"v":{"type":"boolean"}}}`, `{"properties":{"v":{"type":"array","items":false}}}`,
	`{"properties":{"v":{"$ref":"#/definitions/n"}},"definitions":{"n":{"type":"number","minimum":1}}}`,
	`{"type":"object","properties":{"v":{"$ref":"#"}},"additionalProperties":{"type":"number"}}`,
}

// values are what a member v may have.
var values = []string{
	`0`, `1`, `-1`, `100`, `100.0`, `1e2`, `1E+2`, `1.5e1`, `1.50e0`, `150e-1`, `100e-2`, `0.0`, `-0.0`, `0e-5`, `0.1`, `0.3`, `0.30000000000000001`, `0.29999999999999999`, `99.9999999999999999999`,
	`9007199254740993`, `9007199254740992`, `9007199254740994`, `1e300`, `-1e300`, `-1e-300`, `-1e-301`, `null`, `true`, `false`, `""`, `"a"`, `"aa"`, `"aaaa"`, `"é"`, `"\u00e9"`, `"\ud83d\ude00a"`,
	`"2026-11-30T15:35:18.123Z"`, `[]`, `[1]`, `[1,2]`, `["1"]`, `[1,2,3]`, `{}`, `{"a":1}`, `{"a":1,"a":2}`, `{"a":1,"b":2,"c":3}`, `{"v":{"v":{}}}`, `{"v":{"v":3,"x":"y"}}`,
}

// TestAShapeSaysWhatTheLibrarySays of each schema and value.
func TestAShapeSaysWhatTheLibrarySays(t *testing.T) {
	fits := 0
	for _, text := range shapely {
		op := validating(t, text)
		s, err := op.schema("aio-sr://a:1")
		if err != nil || s.shape == nil {
			t.Errorf("%s has no shape: %v", text, err)
			continue
		}
		var payloads []string
		for _, v := range values {
			payloads = append(payloads, `{"v":`+v+`}`, `{"w":1,"v":`+v+`}`)
		}
		for _, payload := range append(payloads, `{}`, `{"\u0076":5}`, `{"v":"x","v":1}`, reading) {
			value, err := jsonschema.UnmarshalJSON(bytes.NewReader([]byte(payload)))
			if err != nil {
				t.Fatal(err)
			}
			want := s.whole.Validate(value) == nil
			if got, err := op.Filter(&node.Message{Payload: []byte(payload)}); err != nil || got != want {
				t.Errorf("%s, %s: %v, %v; the library says %v", text, payload, got, err, want)
			}
			if want {
				fits++
			}
		}
	}
	if fits < 500 {
		t.Errorf("only %d values fit", fits)
	}
}

// TestOtherKeywordsAreLeftToTheLibrary, and do what they say there.
func TestOtherKeywordsAreLeftToTheLibrary(t *testing.T) {
	for _, part := range []string{
		`{"multipleOf":2}`, `{"const":2}`, `{"not":{"const":3}}`, `{"allOf":[{"maximum":2}]}`, `{"anyOf":[{"const":2}]}`, `{"oneOf":[{"const":2}]}`, `{"if":true,"then":{"const":2}}`, `{"enum":[2]}`,
	} {
		op := validating(t, `{"properties":{"v":`+part+`}}`)
		if s, err := op.schema("aio-sr://a:1"); err != nil || s.shape != nil {
			t.Errorf("%s: %v, %v", part, s.shape, err)
		}
		for payload, want := range map[string]bool{`{"v":2}`: true, `{"v":3}`: false} {
			if got, err := op.Filter(&node.Message{Payload: []byte(payload)}); err != nil || got != want {
				t.Errorf("%s, %s: %v, %v", part, payload, got, err)
			}
		}
	}
	for _, text := range []string{
		`{"patternProperties":{"^v":true}}`, `{"propertyNames":{"maxLength":3}}`, `{"dependencies":{"v":["w"]}}`, `{"properties":{"v":{"uniqueItems":true}}}`, `{"properties":{"v":{"contains":true}}}`,
		`{"properties":{"v":{"items":[true],"additionalItems":false}}}`, `{"$schema":"https://json-schema.org/draft/2020-12/schema","properties":{"v":{"prefixItems":[true]}}}`,
	} {
		if s, err := validating(t, text).schema("aio-sr://a:1"); err != nil || s.shape != nil {
			t.Errorf("%s: %v, %v", text, s.shape, err)
		}
	}
}

// TestNumbersWithVeryLargeExponentsCostNothing: a schema with bounds must not compute all digits.
func TestNumbersWithVeryLargeExponentsCostNothing(t *testing.T) {
	plain, left := validating(t, `{"properties":{"v":{"minimum":0,"maximum":100}}}`), validating(t, `{"properties":{"v":{"minimum":0,"maximum":100,"not":{"const":5}}}}`)
	for v, want := range map[string]bool{
		`1e999999`: false, `-1e999999`: false, `1e99999999999999999999`: false, `1e-999999`: true, `-1e-999999`: false, `0e999999`: true,
		`-1e-99999999999999999999`: false, `1` + strings.Repeat("0", 500_000): false, `99.` + strings.Repeat("9", 500_000): true,
	} {
		m := node.Message{Payload: []byte(`{"v":` + v + `}`)}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		got, err := plain.Filter(&m)
		runtime.ReadMemStats(&after)
		if err != nil || got != want {
			t.Errorf("%.30s: %v, %v", v, got, err)
		}
		if n := after.TotalAlloc - before.TotalAlloc; len(v) < 100 && n > 100_000 {
			t.Errorf("%s: the answer takes %d bytes", v, n)
		}
		if _, err := left.Filter(&m); !errors.Is(err, errExtreme) {
			t.Errorf("%.30s: %v", v, err)
		}
	}
}

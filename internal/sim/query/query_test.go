package query

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

func TestParseRefusesMalformedQueries(t *testing.T) {
	for _, text := range []string{
		"", "*", "SELECT", "SELECT *", "SELECT * FROM", "SELECT * FROM things", "SELECT * FROM devices WHERE", "SELECT * FROM devices WHERE a =",
		"SELECT * FROM devices WHERE a = 'x", "SELECT * FROM devices nonsense", "SELECT * FROM devices WHERE a IN 'x'", "SELECT * FROM devices WHERE a IN ['x'",
		"SELECT * FROM devices WHERE (a = 1", "SELECT * FROM devices WHERE f(a)", "SELECT TOP x * FROM devices", "SELECT , FROM devices", "SELECT a. FROM devices",
		"SELECT * FROM devices WHERE startswith(a)", "SELECT * FROM devices WHERE is_defined(a, b)", "SELECT * FROM devices GROUP BY a", "SELECT MEDIAN(a) FROM devices",
		"SELECT * FROM devices WHERE " + strings.Repeat("(", 10_000) + "a", "SELECT * FROM devices WHERE " + strings.Repeat("NOT ", 10_000) + "a",
		"SELECT * FROM devices WHERE " + strings.Repeat("is_defined(", 10_000) + "a",
	} {
		if _, err := Parse(text); err == nil {
			t.Errorf("%.60q was taken", text)
		}
	}
}

// A query that can be read can be evaluated, whatever the document is like.
func FuzzQuery(f *testing.F) {
	for _, text := range []string{
		"SELECT * FROM devices", "select deviceId, tags.a AS b from devices where NOT (tags.a['x'] IN ['1', 2, true, null] AND a >= -1.5e3) OR startswith(b, 'c')",
		"SELECT TOP 3 tags.kind, COUNT() AS n, AVG(a.b) FROM devices WHERE is_defined(tags) GROUP BY tags.kind, x",
	} {
		f.Add(text)
	}
	documents := []any{map[string]any{"deviceId": "a", "tags": map[string]any{"a": []any{1}, "b": nil}, "a": true}, map[string]any{}}
	f.Fuzz(func(t *testing.T, text string) {
		q, err := Parse(text)
		if err != nil {
			return
		}
		if q.source != Devices && q.source != Modules || !q.all && len(q.columns) == 0 {
			t.Errorf("%q: %+v", text, q)
		}
		for _, document := range documents {
			if q.where != nil {
				_ = q.where(document)
			}
			_ = fmt.Sprint(q.project(document))
		}
		if !q.all {
			if _, err := json.Marshal(q.group(documents)); err != nil {
				t.Error(err)
			}
		}
	})
}

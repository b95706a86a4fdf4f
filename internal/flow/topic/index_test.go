package topic

import (
	"math/rand/v2"
	"strings"
	"testing"
)

// TestIndexFindsWhatMatchFinds compares an index with one filter after the other.
func TestIndexFindsWhatMatchFinds(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	text := func(names []string) string {
		parts := make([]string, 1+r.IntN(4))
		for i := range parts {
			parts[i] = names[r.IntN(len(names))]
		}
		return strings.Join(parts, "/")
	}
	hits := 0
	for range 3000 {
		var x Index
		var filters []string
		for range r.IntN(20) {
			f := text([]string{"a", "b", "", "+", "+", "$x"})
			switch r.IntN(8) {
			case 0, 1:
				f += "/#"
			case 2:
				f = "#"
			case 3:
				f = "$shared/group/" + f
			}
			if ValidFilter(f) != nil {
				continue
			}
			x.Add(f, len(filters))
			filters = append(filters, f)
		}
		for range 20 {
			topic := text([]string{"a", "b", "", "$x"})
			want, found := 0, false
			for i, f := range filters {
				if Match(f, topic) {
					want, found = i, true
					break
				}
			}
			if got, ok := x.First(topic); ok != found || ok && got != want {
				t.Fatalf("%q in %q: %d %v, want %d %v", topic, filters, got, ok, want, found)
			}
			if found {
				hits++
			}
		}
	}
	if hits < 1000 {
		t.Errorf("only %d topics fitted a filter: this proves little", hits)
	}
}

func BenchmarkIndex(b *testing.B) {
	var x Index
	for i := range 1000 {
		x.Add("factory/+/line-"+strings.Repeat("1", i%7)+"x"+string(rune('a'+i%26))+"/#", i)
	}
	b.ReportAllocs()
	for b.Loop() {
		x.First("factory/7/line-1xb/temperature")
	}
}

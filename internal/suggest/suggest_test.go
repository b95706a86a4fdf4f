package suggest

import "testing"

func TestDistanceCountsSlips(t *testing.T) {
	for _, v := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"", "abc", 3}, {"abc", "", 3}, {"same", "same", 0},
		{"devce-id", "device-id", 1}, {"device-idd", "device-id", 1}, {"device_id", "device-id", 1}, {"deivce-id", "device-id", 1},
		{"ba", "abc", 2}, {"Schema", "schema", 1}, {"kitten", "sitting", 3},
	} {
		if got := Distance(v.a, v.b); got != v.want {
			t.Errorf("from %q to %q: %d slips, not %d", v.a, v.b, got, v.want)
		}
		if got := Distance(v.b, v.a); got != v.want {
			t.Errorf("from %q to %q: %d slips, not %d", v.b, v.a, got, v.want)
		}
	}
}

func TestNearestIsTheFirstOfTheNearestWords(t *testing.T) {
	known := []string{"cart", "card", "care", "far"}
	for _, v := range []struct {
		word  string
		limit int
		want  string
	}{
		{"car", 2, "cart"}, {"card", 2, "card"}, {"car", 1, ""}, {"zzz", 3, ""}, {"fat", 3, "far"},
	} {
		if got := Nearest(v.word, known, v.limit); got != v.want {
			t.Errorf("%q below %d slips: %q, not %q", v.word, v.limit, got, v.want)
		}
	}
}

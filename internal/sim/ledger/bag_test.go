package ledger

import (
	"testing"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
)

func TestPropertyBagsAreDecodedOnce(t *testing.T) {
	s := func(v string) *string { return &v }
	for bag, want := range map[string]map[string]*string{
		"":                       {},
		"a&b=&c=%24x":            {"a": nil, "b": s(""), "c": s("$x")},
		"%24.mid=m1&a=b%20c":     {"$.mid": s("m1"), "a": s("b c")},
		"a=1+2&b=%2B":            {"a": s("1+2"), "b": s("+")},
		"a=%2525":                {"a": s("%25")},
		"a=%zz&b=%4":             {"a": s("%zz"), "b": s("%4")},
		"a=1&a=2":                {"a": s("1")},
		"a=b=c&&d=e":             {"a": s("b=c"), "d": s("e")},
		"%24%2e%6D%69d=x&$.cid=": {"$.mid": s("x"), "$.cid": s("")},
	} {
		got := azure.ParseBag(bag)
		if len(got) != len(want) {
			t.Errorf("%q: %v", bag, got)
		}
		for k, v := range want {
			g, ok := got[k]
			if !ok || (g == nil) != (v == nil) || g != nil && *g != *v {
				t.Errorf("%q: %s is %v", bag, k, g)
			}
		}
		mid := ""
		if v := want["$.mid"]; v != nil {
			mid = *v
		}
		if m := string(findMid(nil, []byte(bag))); m != mid {
			t.Errorf("%q: mid %q", bag, m)
		}
	}
}

func FuzzPropertyBag(f *testing.F) {
	f.Add("%24.mid=m1&a=b%20c")
	f.Fuzz(func(t *testing.T, bag string) {
		mid := ""
		if v := azure.ParseBag(bag)["$.mid"]; v != nil {
			mid = *v
		}
		if got := string(findMid(nil, []byte(bag))); got != mid {
			t.Fatalf("%q: mid %q and %q", bag, got, mid)
		}
		if got := azure.Unescape(azure.Escape(bag)); got != bag {
			t.Fatalf("%q comes back as %q", bag, got)
		}
	})
}

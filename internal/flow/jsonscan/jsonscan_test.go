package jsonscan

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"testing"
)

func TestWhatIsNoJSONIsRefusedWithItsPlace(t *testing.T) {
	deep := strings.Repeat("[", MaxDepth+1) + strings.Repeat("]", MaxDepth+1)
	for _, c := range []struct {
		text   string
		offset int
		reason string
	}{
		{"", 0, "ends where"}, {" ", 1, "ends where"}, {"{", 1, "a key"}, {"{1:2}", 1, "a key"}, {`{"a"}`, 4, "colon"}, {`{"a":}`, 5, "no value begins"},
		{`{"a":1,}`, 7, "a key"}, {`{"a":1 2}`, 7, "comma or }"}, {`{"a":1`, 6, "inside of an object"}, {"[1,]", 3, "no value begins"},
		{"[1 2]", 3, "comma or ]"}, {"[1", 2, "inside of an array"}, {"1 2", 2, "follows"}, {"{} x", 3, "follows"}, {"tru", 0, "no value begins"},
		{"nul", 0, "no value begins"}, {"01", 0, "one 0"}, {"-", 1, "one 0"}, {"1.", 2, "point"}, {"1e", 2, "exponent"}, {"1e+", 3, "exponent"}, {".5", 0, "no value begins"},
		{"\"a", 2, "inside of a string"}, {"\"a\nb\"", 2, "control character"}, {`"\x"`, 1, "escape"}, {`"\u12"`, 1, "escape"}, {`"\ud800"`, 1, "escape"}, {`"\udc00"`, 1, "escape"},
		{`"\ud800\u0041"`, 1, "escape"}, {"\"a\xff\"", 2, "UTF-8"}, {deep, MaxDepth, "too deeply"}, {strings.Repeat(`{"a":`, MaxDepth+1), 5 * MaxDepth, "too deeply"}, {"NaN", 0, "no value begins"},
		{"\ufeff{}", 0, "no value begins"},
	} {
		var d Document
		err := d.Scan([]byte(c.text))
		var syntax *SyntaxError
		if !errors.As(err, &syntax) || syntax.Offset != c.offset || !strings.Contains(syntax.Reason, c.reason) {
			t.Errorf("%.30q: %v, want byte %d and %q", c.text, err, c.offset, c.reason)
		}
	}
}

func TestValuesAreFoundByTheirKeys(t *testing.T) {
	var d Document
	if err := d.Scan([]byte(` {"a" : {"b":[1, {"c":2}], "":"x"}, "\u0061b":true, "a\"":null, "ä":-1.50e1} `)); err != nil {
		t.Fatal(err)
	}
	a := d.Find(0, MakeKey("a"))
	for _, c := range []struct {
		in        int
		key, want string
	}{{0, "a", `{"b":[1, {"c":2}], "":"x"}`}, {a, "b", `[1, {"c":2}]`}, {a, "", `"x"`}, {0, "ab", "true"}, {0, `a"`, "null"}, {0, "ä", "-1.50e1"}} {
		i := d.Find(c.in, MakeKey(c.key))
		if i < 0 || string(d.Raw(i)) != c.want || string(d.Key(i)) != c.key {
			t.Errorf("%q is %d", c.key, i)
		}
	}
	if d.Find(0, MakeKey("c")) >= 0 || d.Find(d.Find(a, MakeKey("b")), MakeKey("c")) >= 0 {
		t.Error("found what is not there")
	}
}

func TestTheLastOfEqualKeysCounts(t *testing.T) {
	many := make([]string, 0, 200)
	for i := range 100 {
		many = append(many, fmt.Sprintf(`"k%d":0`, i))
	}
	for i := range 100 {
		many = append(many, fmt.Sprintf(`"k%d":%d`, i, i+1))
	}
	for _, c := range []struct {
		text, key, want string
		duplicates      bool
	}{
		{`{"a":1,"b":2,"a":3}`, "a", "3", true}, {`{"a":1,"\u0061":{"a":2}}`, "a", `{"a":2}`, true}, {`{"a":1,"b":{"a":2}}`, "a", "1", false},
		{"{" + strings.Join(many, ",") + "}", "k41", "42", true}, {"{" + strings.Join(many[:100], ",") + "}", "k41", "0", false},
	} {
		var d Document
		if err := d.Scan([]byte(c.text)); err != nil {
			t.Fatal(err)
		}
		if i := d.Find(0, MakeKey(c.key)); i < 0 || string(d.Raw(i)) != c.want || d.Duplicates != c.duplicates {
			t.Errorf("%.30s: %s is node %d, duplicates %v", c.text, c.key, i, d.Duplicates)
		}
	}
}

func TestADocumentIsUsedAgainWithoutAllocations(t *testing.T) {
	text := []byte(`{"a":{"b":[1,2.5,"x\n",null]},"c":true,"a":1}`)
	var d Document
	key := MakeKey("a")
	if n := testing.AllocsPerRun(100, func() {
		if d.Scan(text) != nil || d.Find(0, key) < 0 {
			t.Fatal("no a")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestMemoryOfALargeTextIsGivenBack(t *testing.T) {
	var d Document
	if err := d.Scan([]byte("[" + strings.Repeat("1,", 1<<19) + "1]")); err != nil {
		t.Fatal(err)
	}
	if err := d.Scan([]byte("{}")); err != nil || cap(d.Nodes) > keep {
		t.Error(err, cap(d.Nodes))
	}
}

func TestFloatsAreWrittenAsThePagesShowThem(t *testing.T) {
	for f, want := range map[float64]string{
		0: "0.0", 20: "20.0", -3: "-3.0", 37.77777777777778: "37.77777777777778", 1e15: "1000000000000000.0", 1.5e15: "1500000000000000.0",
		9999999999999998: "9999999999999998.0", 1e16: "1e16", 1.25e20: "1.25e20", 1e-5: "0.00001", 1e-6: "1e-6", 1.5e-7: "1.5e-7", 1e-10: "1e-10", 1e100: "1e100", -1e-300: "-1e-300",
		21.433333333333334: "21.433333333333334", 5e-324: "5e-324", math.MaxFloat64: "1.7976931348623157e308",
	} {
		if got := string(AppendFloat(nil, f)); got != want {
			t.Errorf("%v is written %s, want %s", f, got, want)
		}
	}
	if got := string(AppendFloat(nil, math.Copysign(0, -1))); got != "-0.0" {
		t.Error(got)
	}
}

func FuzzNumbers(f *testing.F) {
	f.Add(uint64(0x3ff0000000000000), "1.50")
	f.Fuzz(func(t *testing.T, bits uint64, text string) {
		if n := math.Float64frombits(bits); !math.IsNaN(n) && !math.IsInf(n, 0) {
			written := AppendFloat(nil, n)
			if again, err := strconv.ParseFloat(string(written), 64); err != nil || again != n || !json.Valid(written) {
				t.Errorf("%v is written %s", n, written)
			}
		}
		var d Document
		if d.Scan([]byte(text)) != nil || d.Nodes[0].Kind != Number {
			return
		}
		raw := d.Raw(0)
		want, err := strconv.ParseFloat(string(raw), 64)
		if got, ok := ParseFloat(raw); ok != (err == nil) || ok && got != want {
			t.Errorf("%s is %v, %v; want %v", raw, got, ok, want)
		}
		if d.Nodes[0].Integer() {
			want, err := strconv.ParseInt(string(raw), 10, 64)
			if got, ok := ParseInt(raw); ok != (err == nil) || ok && got != want {
				t.Errorf("%s is %v, %v; want %v", raw, got, ok, want)
			}
		}
	})
}

func FuzzScan(f *testing.F) {
	for _, s := range []string{`{"a":[1,{"b":"\ud83d\ude00"}],"a":null}`, `[[[]]]`, `"\u00e4"`, `-0.5e-3`, `{"":{}}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var d Document
		err := d.Scan(text)
		depth, most := 0, 0
		for _, c := range text {
			if c == '{' || c == '[' {
				depth++
				most = max(most, depth)
			}
		}
		valid := json.Valid(text)
		if err == nil && !valid {
			t.Fatalf("%q was taken", text)
		}
		if err != nil {
			// The package is stricter: UTF-8, surrogates, depth.
			if valid && most <= MaxDepth && !bytes.Contains(bytes.ToLower(text), []byte(`\ud`)) && bytes.Equal(bytes.ToValidUTF8(text, nil), text) {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		var want any
		if err := json.Unmarshal(text, &want); err != nil {
			return // a number that is too large
		}
		m, ok := want.(map[string]any)
		if !ok {
			return
		}
		for key := range m {
			i := d.Find(0, MakeKey(key))
			if i < 0 {
				t.Fatalf("%q: %q was not found", text, key)
			}
			a, _ := json.Marshal(m[key])
			var again any
			if err := json.Unmarshal(d.Raw(i), &again); err != nil {
				t.Fatal(err)
			}
			if b, _ := json.Marshal(again); !bytes.Equal(a, b) {
				t.Fatalf("%q: %q is %s, want %s", text, key, b, a)
			}
			if quoted := AppendString(nil, key); !json.Valid(quoted) || string(Unescape(nil, quoted[1:len(quoted)-1])) != key {
				t.Fatalf("%q is quoted as %s", key, quoted)
			}
		}
	})
}

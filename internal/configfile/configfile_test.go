package configfile

import (
	"slices"
	"strings"
	"testing"
)

// TestKeysHaveOneOrder: keys come by their lines, and those of one line by the alphabet.
func TestKeysHaveOneOrder(t *testing.T) {
	values := map[string]Value{"z": {Line: 1}}
	want := []string{"z"}
	for key := 'a'; key < 'm'; key++ {
		values[string(key)] = Value{Line: 2}
		want = append(want, string(key))
	}
	if got := ByLine(values); !slices.Equal(got, want) {
		t.Errorf("%q, not %q", got, want)
	}
}

// FuzzConfigFile: no content of a file ends the process. A value that is read is text of the file,
// in one piece if it has no quotes. Every fault names its file, and is one short line.
func FuzzConfigFile(f *testing.F) {
	for _, seed := range []string{
		"device-id: 00012345\nid-scope: '0ne'\n", "a: &x [1, *x]\n---\n<<: *x\n", "{\"a\": 1e3, \"A\": null} x", "a = 0x1F\n[b]\n\"c\" = '''d'''",
		"export A='b' # c\nB=\"d\"\n", "a: |\n b\n c\n", "? a\n: b\n", "%YAML 1.1\n---\na: b\n...\n", "a: b\u0085c: d", "\xef\xbb\xbfa: b",
	} {
		for format := range 4 {
			f.Add(format, []byte(seed))
		}
	}
	endings := []string{".yaml", ".json", ".toml", ".env"}
	f.Fuzz(func(t *testing.T, format int, content []byte) {
		ending := endings[uint(format)%uint(len(endings))]
		d := NewDecoder("c"+ending, "HUBHOP_")
		into := map[string]any{}
		if err := d.Decode(content, into); err != nil {
			t.Fatal(err)
		}
		for _, fault := range d.faults {
			if text := fault.Error(); !strings.HasPrefix(text, "c"+ending) || len(text) > 1000 || strings.ContainsAny(text, "\n\r\x1b\x00") {
				t.Fatalf("%q", text)
			}
		}
		for key, value := range into {
			v := value.(Value)
			if key != strings.ToLower(key) || v.Line < 1 || v.Line > 1+strings.Count(string(content), "\n")+strings.Count(string(content), "\r") {
				t.Fatalf("%q: %+v", key, v)
			}
			if !slices.ContainsFunc([]string{`"`, "'", "|", ">"}, func(q string) bool { return strings.Contains(string(content), q) }) &&
				!strings.Contains(string(content), v.Text) {
				t.Fatalf("%q was not there: %q", v.Text, content)
			}
		}
	})
}

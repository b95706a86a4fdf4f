package cmd

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/hubhop-iot/hubhop/internal/configfile"
)

// readConfig reads the content of a configuration file with a name of this ending.
func readConfig(ending, content string) (map[string]configfile.Value, error) {
	d, into := configfile.NewDecoder("c"+ending, envPrefix), map[string]any{}
	if err := d.Decode([]byte(content), into); err != nil {
		return nil, err
	}
	values := map[string]configfile.Value{}
	for key, value := range into {
		values[key] = value.(configfile.Value)
	}
	return values, d.Faults()
}

// oddValues look like other types than text in some format.
var oddValues = []string{
	"00012345", "0o17", "0x1F", "0b11", "1e3", "1.50", "+5", "-0", ".5", "1_000", "123456789012345678901234567890",
	"true", "True", "yes", "on", "Off", "n", "null", "Null", "~", "inf", ".inf", "nan", ".NaN", "2026-01-02", "2026-01-02T03:04:05Z",
	"12:30:45", "190:20:30", "0ne00ABCDEF", "0e0", "<<", "=", "dev-1", "dtmi:Sample:Failover;1", "a b", "a#b", "a:b", "C:\\keys\\a.pem",
	"HostName=h;DeviceId=d;SharedAccessKey=a2V5PQ==", "@x", "%x", "ä", "5s", "", "é", "🦎", "[a]", "{a}", "*a", "&a", "!a", "|", ">", "- a",
	"? a", "a # b", "'", "\"", "`", "$HOME", "a\tb", "--- a", "#a", "trailing ",
}

// TestValuesArriveAsTheyStandThere: in every format and under every key, a value arrives as its
// text, or is refused with its line and what to do. In quotes it always arrives.
func TestValuesArriveAsTheyStandThere(t *testing.T) {
	var keys []string
	s := &settings{env: &Env{}}
	s.addFlags(pflag.NewFlagSet("", pflag.ContinueOnError))
	s.fs.VisitAll(func(f *pflag.Flag) { keys = append(keys, f.Name) })
	if len(keys) < 30 {
		t.Fatalf("only %d keys", len(keys))
	}
	quote := func(v string) string { b, _ := json.Marshal(v); return string(b) }
	single := func(v string) string { return "'" + v + "'" }
	for _, f := range []struct {
		ending, plain, quoted string
		quote                 func(string) string
		most                  int // values that may be refused without quotes
	}{
		{".yaml", "# c\n%s: %s\n", "# c\n%s: %s\n", quote, 28},
		{"", "# c\n%s: %s\n", "# c\n%s: %s\n", quote, 28},
		{".json", "{\n\"%s\": %s}\n", "{\n\"%s\": %s}\n", quote, len(oddValues)},
		{".toml", "# c\n%s = %s\n", "# c\n%s = %s\n", quote, len(oddValues)},
		{".env", "# c\nHUBHOP_%s=%s\n", "# c\n%s=%s\n", single, 8},
	} {
		refused := map[string]bool{}
		for i, value := range oddValues {
			for _, key := range []string{keys[i%len(keys)], "device-id", "group-key"} {
				spelled := key
				if f.ending == ".env" {
					spelled = strings.ToUpper(strings.ReplaceAll(key, "-", "_"))
				}
				values, err := readConfig(f.ending, fmt.Sprintf(f.plain, spelled, value))
				got, there := values[key]
				switch {
				case err == nil && there && (got.Text == value || got.Text == strings.TrimRight(value, " ")) && got.Line == 2:
				case err == nil && there && f.ending != ".json" && strings.Contains(value, "#"): // a comment in this format
				case err == nil && there && len(value) > 1 && value[0] == value[len(value)-1] && strings.ContainsAny(value[:1], `'"`):
				case err != nil && strings.Contains(err.Error(), ":2: "):
					refused[value] = true
				case f.ending != ".json" && f.ending != ".toml" && strings.HasPrefix(value, "#") && err != nil:
				default:
					t.Errorf("%s %s: %s: %+v, %v", f.ending, key, value, values, err)
				}
				if f.ending == ".env" && strings.ContainsAny(value, "'\n") {
					continue
				}
				values, err = readConfig(f.ending, fmt.Sprintf(f.quoted, spelled, f.quote(value)))
				if err != nil || values[key].Text != value || values[key].Line != 2 {
					t.Errorf("%s %s: %s in quotes: %+v, %v", f.ending, key, value, values, err)
				}
			}
		}
		if len(refused) > f.most {
			t.Errorf("%s refuses %d: %q", f.ending, len(refused), slices.Sorted(maps.Keys(refused)))
		}
	}
	// The device that this is about.
	values, err := readConfig(".yaml", "device-id: 00012345\n")
	if err != nil || values["device-id"].Text != "00012345" {
		t.Error(values, err)
	}
}

// unknownKeys is a configuration with unknown keys only.
func unknownKeys(n int) string {
	var b strings.Builder
	for i := range n {
		_, _ = fmt.Fprintf(&b, "k%d: 1\n", i)
	}
	return b.String()
}

// TestNothingInAFileIsPassedOver: a part that cannot become a value is a fault with its line, and
// no fault quotes a possible secret.
func TestNothingInAFileIsPassedOver(t *testing.T) {
	const secret = "AAECAwQFBgcICQoLDA0ODw=="
	const longSecret = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYX+BkaGxwdHh8gISIjJCUmJygpKissLS4v" // 48 bytes, so without =
	for _, c := range []struct{ ending, content, says string }{
		{".yaml", "device-id: a\n---\ndevice-id: b\n", ":2: a second document"},
		{".yaml", "device-id: a\nid-scope: x\nDevice-ID: b\n", ":3: Device-ID is given twice, first in line 1"},
		{".yaml", "device-id: a\nx: &k b\n", ":2: anchors"},
		{".yaml", "device-id: *" + secret + "\n", ":1: this is no YAML: anchors"},
		{".yaml", "a: b\ngroup-key: *AAECAwQFBgcI\n", ":2: this is no YAML: anchors"},
		{".yaml", "a: >-\n  b\n  c\n", ":1: the value of a goes over several lines"},
		{".yaml", "c: d\na: \"b\n  e\"\n", ":2: the value of a goes over several lines"},
		{".yaml", "a: 'b''\n  e'\n", ":1: the value of a goes over several lines"},
		{".yaml", "a: \"b\\\n  e\"\n", ":1: the value of a goes over several lines"},
		{".yaml", "a: |\n", ":1: the value of a goes over"},
		{".yaml", "a: ~\nfoo: 1\n", "unknown key foo"}, // beside the fault of a
		{".yaml", "group-key: !" + secret + "\n", ":1: tags"},
		{".yaml", "a: !!str 5\n", ":1: tags"},
		{".yaml", "<<: {a: b}\n", ":1: a key is one word"},
		{".yaml", "group-key:\n  - " + secret + "\n", ":2: group-key must be one value"},
		{".yaml", "group-key:\n  key: " + secret + "\n", ":2: group-key must be one value"},
		{".yaml", "device-id:\n", ":1: device-id has no value"},
		{".yaml", "device-id: ~\n", "put it in quotes"},
		{".yaml", "device-id: null\n", "put it in quotes"},
		{".yaml", "device-id: a\n  b\n", "several lines"},
		{".yaml", "- a\n", ":1: this is not a list of keys"},
		{".yaml", secret + "\n", ":1: this is not a list of keys"},
		{".yaml", "a: b\n" + secret + "\n", "no YAML: could not find expected"},
		{".yaml", "a: b\ngroup-key " + secret + "\nc: d\n", "no YAML"},
		{".yaml", "group-key: " + secret + ": x\n", "no YAML: mapping values are not allowed"},
		{".yaml", "group-key: \"" + secret + "\n", "no YAML"},
		{".yaml", "group-key: \"" + secret + "\\q\"\n", "no YAML"},
		{".yaml", secret + ": x\n", "unknown key (what looks like a secret)"},
		{".yaml", "? [a]\n: b\n", ":1: a key is one word"},
		{".yaml", "a: b\u2028c\n", ":1: there is a line separator"},
		{".yaml", "a: \"b\\0c\"\n", ":1: the value of a contains a NUL"},
		{".yaml", "\xff\xfea\x00", "is UTF-16 text; save it as UTF-8"},
		{".yaml", "a: \xff\n", "is not UTF-8"},
		{".json", `{"a":"b"} {"c":"d"}`, ":1: something stands behind the end"},
		{".json", "{\"a\":\"b\",\n\"A\":\"c\"}", ":2: A is given twice, first in line 1"},
		{".json", `{"a":null}`, ":1: the value of a stands for nothing"},
		{".json", `{"group-key":["` + secret + `"]}`, ":1: group-key must be one value"},
		{".json", `{"group-key":{"a":"` + secret + `"}}`, ":1: group-key must be one value"},
		{".json", `["` + secret + `"]`, ":1: this is not a JSON object"},
		{".json", `{"group-key":"` + secret + `"`, "no JSON"},
		{".json", `{"group-key":` + secret + `}`, "no JSON"},
		{".json", `{"a":"\ud800"}`, ":1: the text of a has an escape"},
		{".toml", "a = \"b\"\nA = \"c\"\n", ":2: A is given twice, first in line 1"},
		{".toml", "a = \"b\"\na = \"c\"\n", ":2: a is given twice"},
		{".toml", "[t]\na = \"" + secret + "\"\n", ":1: tables ([t]) are not read"},
		{".toml", "a.b = \"c\"\n", ":1: a must be one value"},
		{".toml", "a = [\"" + secret + "\"]\n", ":1: a must be one value"},
		{".toml", "a = {b = 1}\n", ":1: a must be one value"},
		{".toml", "device-id = 00012345\n", ":1: this is no TOML: expected newline but got U+0030 '0'; put texts in quotes"},
		{".toml", "\ngroup-key = " + secret + "\n", ":2: this is no TOML"},
		{".toml", "group-key = \"" + secret + "\n", ":1: this is no TOML"},
		{".env", "a b\n" + secret + "\n", ":2: this is not KEY=value"},
		{".env", "GROUP_KEY=\"" + secret + "\n", ":1: the value of group-key has a quote"},
		{".env", "DEVICE_ID=a\nHUBHOP_DEVICE_ID=b\n", ":2: device-id is given twice"},
		{".env", "DEVICE_ID=\n", ":1: device-id has no value"},
		{".env", "DEVICE_ID=$HOST\n", ":1: the value of device-id"},
		{".conf", "a=b\n", "is no format that is read"},
		{".yaml", strings.Repeat("#", maxConfigBytes+1), "more than 64 kB"},
		{".toml", "a = " + strings.Repeat("[", maxConfigBytes-10), ":1: there are hundreds of brackets"},
		{".toml", "a = " + strings.Repeat("{a=", maxConfigBytes/4), ":1: there are hundreds of brackets"},
		{".toml", "a = " + strings.Repeat("[\n", maxConfigBytes/4), ":501: there are hundreds of brackets"},
		{".toml", "b = 1\n" + strings.Repeat("a.", maxConfigBytes/4) + "a = 1", ":2: there are hundreds of brackets"},
		{".toml", strings.Repeat("[", 498) + secret, ":1: this is no TOML"},
		{".yaml", "a: " + strings.Repeat("[", maxConfigBytes-10), "no YAML: exceeded max depth"},
		{".json", strings.Repeat(`{"a":`, maxConfigBytes/6), "no JSON"},
		{".env", strings.Repeat("x\n", maxConfigBytes/2), ":21: more is wrong from here on"},
		{".yaml", strings.Repeat("a: 1\n", maxConfigBytes/8), ":22: more is wrong from here on"},
		{".yaml", unknownKeys(5000), ":21: more keys from here on are unknown"},
		{".yaml", "id-scope: a\ntelemetry-source: " + longSecret + "\n", "telemetry-source is (what looks like a secret)"},
		{".yaml", "provisioning-host: " + longSecret + "\n", "provisioning-host: what was given looks like a secret"},
		{".yaml", "device-id: " + longSecret + "\n", "device-id: what was given looks like a secret"},
		{".yaml", "connection-string: HostName=" + longSecret + ";DeviceId=d;SharedAccessKey=eA==\n", "HostName in the connection string: what looks like a secret"},
		{".yaml", "connection-string: HostName=h.x;DeviceId=" + longSecret + ";SharedAccessKey=eA==\n", "DeviceId in the connection string: what looks like a secret"},
		{".yaml", "log-level: " + longSecret + "\n", "log-level is (what looks like a secret)"},
	} {
		s := &settings{env: &Env{Hostname: func() (string, error) { return "host", nil }}, builtin: []byte("[]")}
		s.addFlags(pflag.NewFlagSet("", pflag.ContinueOnError))
		s.config = filepath.Join(t.TempDir(), "c"+c.ending)
		if err := os.WriteFile(s.config, []byte(c.content), 0o600); err != nil {
			t.Fatal(err)
		}
		err := s.load()
		if strings.Contains(c.content, longSecret) { // a value that can be read, and must then be refused
			if s.connectionString == "" {
				s.groupKey = "AAECAwQFBgcICQoLDA0ODw=="
			}
			_, bad := s.device("test")
			_, noLog := s.logger(said)
			err = errors.Join(err, bad, noLog)
		}
		switch {
		case err == nil || !strings.Contains(err.Error(), c.says):
			t.Errorf("%s %.80q: %v", c.ending, c.content, err)
		case strings.Contains(strings.ToLower(err.Error()), strings.ToLower(secret[:12])):
			t.Errorf("%s %.80q: the error quotes the secret: %v", c.ending, c.content, err)
		}
	}
	for ending, content := range map[string]string{
		".yaml": "# nothing\n", ".yml": "---\n", ".json": " \n", ".toml": "\n", ".env": "# nothing\n\n",
	} {
		if values, err := readConfig(ending, content); err != nil || len(values) > 0 {
			t.Errorf("%s: %v %v", ending, values, err)
		}
	}
	for ending, content := range map[string]string{ // as Windows writes them
		".yaml": "\xef\xbb\xbfdevice-id: a\r\nid-scope: b\r\n",
		".json": "\xef\xbb\xbf{\"device-id\":\"a\",\r\n\"id-scope\":\"b\"}\r\n",
		".toml": "\xef\xbb\xbfdevice-id = \"a\"\r\nid-scope = \"b\"\r\n",
		".env":  "\xef\xbb\xbfDEVICE_ID=a\r\nexport ID_SCOPE=b # c\r\n",
	} {
		values, err := readConfig(ending, content)
		if err != nil || values["device-id"].Text != "a" || values["id-scope"].Text != "b" || values["id-scope"].Line != 2 {
			t.Errorf("%s: %+v %v", ending, values, err)
		}
	}
}

package sim

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/simtest"
)

// recorded is a request to a simulator of an earlier version, and its answer. See the README
// beside.
type recorded struct {
	Of     string          `json:"of"` // control, hub-a, hub-b, dps or central
	Method string          `json:"method"`
	Path   string          `json:"path"`
	Body   json.RawMessage `json:"body"`
	Status int             `json:"status"`
	Answer string          `json:"answer"`
}

// enqueued matches a property that is made from the distance between the clocks of cloud and
// machine, which is large in virtual time.
var enqueued = regexp.MustCompile(`"iothub-enqueuedtime":"[^"]*"`)

// later matches fields of answers that earlier versions did not have.
var later = regexp.MustCompile(`"missing":\d+,`)

// A state directory that an earlier version wrote is read whole: the cloud tells its clients what
// it told them before, it answers every question byte for byte as before, new fields aside, and a
// device that was there goes on with its session.
func TestStateOfAnEarlierVersionIsReadWhole(t *testing.T) {
	const from = "testdata/state-v1"
	state := simtest.Killed(t, filepath.Join(from, "state"))
	change := func(c *Config) {
		c.Layout, c.ControlAddr, c.StateDir, c.LedgerKeep = LayoutPorts, "127.0.0.1:0", state, 12
		then := time.Date(2026, 11, 30, 6, 10, 0, 0, time.UTC)
		c.ClockOffset = time.Until(then) // so that nothing has expired
	}
	inWorld(t, change, func(w *world) {
		var was Info
		text, err := os.ReadFile(filepath.Join(from, "sim.json"))
		must(t, err)
		must(t, json.Unmarshal(text, &was))
		is := w.Info()
		was.Control, was.CAFile = is.Control, is.CAFile
		if was, is := asText(t, was), asText(t, is); was != is {
			t.Errorf("clients were told\n%s\nand are told\n%s", was, is)
		}
		lines, err := os.ReadFile(filepath.Join(from, "answers.jsonl"))
		must(t, err)
		for line := range bytes.Lines(lines) {
			var r recorded
			must(t, json.Unmarshal(line, &r))
			a := w.again(r)
			was, is := enqueued.ReplaceAllString(r.Answer, ""), later.ReplaceAllString(enqueued.ReplaceAllString(a.text, ""), "")
			if a.status != r.Status || was != is {
				t.Errorf("%s %s %s was answered\n%d %s\nand is answered\n%d %s", r.Of, r.Method, r.Path, r.Status, was, a.status, is)
			}
		}
		c, present, code := w.tryHub(w.hubOptions(w.info.Hubs[0].Host, "dev-1"), w.info.Hubs[0].Host)
		if code != 0 || !present {
			t.Fatalf("CONNACK %d, session present %v", code, present)
		}
		if topic, body := c.wantPublish(); !strings.Contains(topic, "/messages/devicebound/%24.mid=mail-2&") || body != `{"n": 2}` {
			t.Errorf("the waiting message is %s %s", topic, body)
		}
	})
}

// again sends a recorded request.
func (w *world) again(r recorded) httpAnswer {
	w.t.Helper()
	token := func(connection string) string {
		return tokenFor(w.t, connection, time.Now().Add(w.config.ClockOffset).Add(time.Hour))
	}
	var base, auth, version string
	switch r.Of {
	case "control":
		base = w.info.Control
	case "hub-a":
		base, auth, version = "https://"+w.info.Hubs[0].HTTPS, token(w.info.Hubs[0].ConnectionString), "2021-04-12"
	case "hub-b":
		base, auth, version = "https://"+w.info.Hubs[1].HTTPS, token(w.info.Hubs[1].ConnectionString), "2021-04-12"
	case "dps":
		base, auth, version = "https://"+w.info.DPS.HTTPS, token(w.info.DPS.ConnectionString), "2021-10-01"
	case "central":
		base, auth, version = "https://"+w.info.DPS.HTTPS, w.info.Central.APIToken, "2022-07-31"
	default:
		w.t.Fatalf("nobody is %q", r.Of)
	}
	if version != "" {
		r.Path += "?api-version=" + version
	}
	client := w.httpClient()
	defer client.CloseIdleConnections()
	header := []string{"Content-Type", "application/json"}
	if auth != "" {
		header = append(header, "Authorization", auth)
	}
	return w.mustDo(client, r.Method, base+r.Path, string(r.Body), header...)
}

func asText(t *testing.T, v any) string {
	t.Helper()
	text, err := json.MarshalIndent(v, "", " ")
	must(t, err)
	return string(text)
}

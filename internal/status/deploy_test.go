package status

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/hubhop-iot/hubhop/internal/journal"
)

const (
	alertsFile     = "../../deploy/prometheus/alerts.yaml"
	alertsTestFile = "../../deploy/prometheus/alerts_test.yaml"
	dashboardFile  = "../../deploy/grafana/hubhop.json"
)

// promtool runs the program promtool. Without it the test is skipped, and in CI it fails.
func promtool(t *testing.T, input string, args ...string) (output string, err error) {
	t.Helper()
	path, err := exec.LookPath("promtool")
	if err != nil {
		const how = "promtool is not installed: it is in the Debian package prometheus (apt-get install -y prometheus)"
		if os.Getenv("CI") == "true" {
			t.Fatal(how)
		}
		t.Skip(how)
	}
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestPromtoolAcceptsAScrape has it check everything that can be served, in the format that it
// reads.
func TestPromtoolAcceptsAScrape(t *testing.T) {
	m := full()
	for _, kind := range journal.Kinds {
		m.Take(journal.Event{Kind: kind, Rule: "H07", Signal: "link reset", Name: `a "name"\`, From: "a"})
	}
	m.Answered("\"\n\\", 200, 0)
	text, _ := scraped(t, m.Handler(), "text/plain")
	if out, err := promtool(t, text, "check", "metrics"); err != nil || out != "" {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
	if out, err := promtool(t, "hubhop_things_total 1\n", "check", "metrics"); err == nil {
		t.Errorf("promtool finds no fault with a metric without help: %s", out)
	}
}

// TestAlertsDoWhatTheirTestsSay runs alerts_test.yaml, and sees to it that each alert is seen both
// silent and firing there.
func TestAlertsDoWhatTheirTestsSay(t *testing.T) {
	if out, err := promtool(t, "", "test", "rules", alertsTestFile); err != nil || !strings.Contains(out, "SUCCESS") {
		t.Errorf("promtool test rules: %v\n%s", err, out)
	}
	var tests struct {
		Tests []struct {
			Rules []struct {
				Alert  string `yaml:"alertname"`
				Expect []any  `yaml:"exp_alerts"`
			} `yaml:"alert_rule_test"`
		}
	}
	read(t, alertsTestFile, &tests)
	silent, fires := map[string]bool{}, map[string]bool{}
	for _, one := range tests.Tests {
		for _, r := range one.Rules {
			if len(r.Expect) == 0 {
				silent[r.Alert] = true
			} else {
				fires[r.Alert] = true
			}
		}
	}
	document, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	alerts := alerts(t)
	if len(alerts) < 10 {
		t.Errorf("only %d alerts", len(alerts))
	}
	for name := range alerts {
		if !silent[name] || !fires[name] {
			t.Errorf("alerts_test.yaml must see %s both silent and firing", name)
		}
		if !bytes.Contains(document, []byte("| `"+name+"` |")) {
			t.Errorf("docs/metrics.md does not say what to do about %s", name)
		}
	}
}

// TestAlertFailsItsTestWhenItIsWrong replaces each rule by one that never fires, then by one that
// always does, and expects promtool to find fault with every one of them.
func TestAlertFailsItsTestWhenItIsWrong(t *testing.T) {
	tests, err := os.ReadFile(alertsTestFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, wrong := range []string{"vector(0) > 1", "vector(1)"} {
		var rules struct {
			Groups []struct {
				Name  string
				Rules []map[string]any
			}
		}
		read(t, alertsFile, &rules)
		for _, g := range rules.Groups {
			for _, r := range g.Rules {
				r["expr"] = wrong
				delete(r, "for")
			}
		}
		b, err := yaml.Marshal(rules)
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		for name, b := range map[string][]byte{"alerts.yaml": b, "alerts_test.yaml": tests} {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		out, err := promtool(t, "", "test", "rules", filepath.Join(dir, "alerts_test.yaml"))
		for name := range alerts(t) {
			if err == nil || !strings.Contains(out, "alertname: "+name+",") {
				t.Errorf("%s passes its test with %s instead of its rule", name, wrong)
			}
		}
	}
}

// TestQueriesNameWhatIsServed compares the series and labels of the dashboard and of the alerts
// with those that are served.
func TestQueriesNameWhatIsServed(t *testing.T) {
	served := families(t, full())
	queries := dashboard(t)
	maps.Copy(queries, alerts(t))
	if len(queries) < 50 {
		t.Errorf("only %d queries", len(queries))
	}
	all := ""
	for title, query := range queries {
		all += query
		for _, use := range regexp.MustCompile(`(hubhop_\w+)(\{[^}]*\})?`).FindAllStringSubmatch(query, -1) {
			name := use[1]
			f, there := served[name]
			if !there {
				for _, suffix := range []string{"_bucket", "_count", "_sum"} {
					if short, cut := strings.CutSuffix(name, suffix); cut && served[short].kind == "histogram" {
						f, there = served[short], true
						f.labels = append(slices.Clone(f.labels), "le")
					}
				}
			}
			if !there {
				t.Errorf("%s asks for %s, which is not served", title, name)
				continue
			}
			for _, label := range regexp.MustCompile(`(\w+)\s*(=~|!~|!=|=)`).FindAllStringSubmatch(use[2], -1) {
				if !slices.Contains(append(f.labels, "job", "instance"), label[1]) {
					t.Errorf("%s asks %s for the label %s, which it does not have", title, name, label[1])
				}
			}
		}
	}
	for _, must := range []string{"hubhop_backlog_oldest_age_seconds", "hubhop_decision_info", "hubhop_next_attempt_timestamp_seconds", "hubhop_needs_person",
		"hubhop_recovery_seconds", "hubhop_failovers_total", "hubhop_dps_registrations_total", "hubhop_outbox_fsync_seconds", "hubhop_clock_offset_seconds",
		"hubhop_credential_expiry_timestamp_seconds"} {
		if !strings.Contains(all, must) {
			t.Errorf("nothing asks for %s", must)
		}
	}
}

// read reads a file of YAML, or of JSON.
func read(t *testing.T, file string, into any) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err == nil {
		err = yaml.Unmarshal(b, into)
	}
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

// alerts returns the expressions of the alerts by name.
func alerts(t *testing.T) map[string]string {
	t.Helper()
	var rules struct {
		Groups []struct {
			Rules []struct{ Alert, Expr string }
		}
	}
	read(t, alertsFile, &rules)
	all := map[string]string{}
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			all[r.Alert] = r.Expr
		}
	}
	return all
}

// dashboard returns the queries of the dashboard by panel.
func dashboard(t *testing.T) map[string]string {
	t.Helper()
	b, err := os.ReadFile(dashboardFile)
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		Panels []struct {
			ID          int
			Type, Title string
			Description string
			Targets     []struct{ Expr, RefID string }
		}
		Annotations struct{ List []struct{ Name, Expr string } }
	}
	if err := json.Unmarshal(b, &board); err != nil {
		t.Fatal(err)
	}
	all, ids := map[string]string{}, map[int]bool{}
	for i, p := range board.Panels {
		if ids[p.ID] {
			t.Errorf("two panels have the id %d", p.ID)
		}
		ids[p.ID] = true
		if p.Type != "row" && (p.Description == "" || len(p.Targets) == 0) {
			t.Errorf("the panel %s has no description, or no query", p.Title)
		}
		if i >= 1 && i <= 4 && !strings.HasSuffix(p.Title, "?") {
			t.Errorf("panel %d is %s, and not one of the four answers", i, p.Title)
		}
		for _, q := range p.Targets {
			all[fmt.Sprintf("%s (%s)", p.Title, q.RefID)] = q.Expr
		}
	}
	for _, a := range board.Annotations.List {
		all["annotation "+a.Name] = a.Expr
	}
	return all
}

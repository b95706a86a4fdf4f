package cmd

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// needsCommand makes a script fail in CI if a program is missing: needs PROGRAM PACKAGE. Elsewhere
// a condition of the script skips it.
func needsCommand(ts *testscript.TestScript, _ bool, args []string) {
	if _, err := exec.LookPath(args[0]); err != nil && os.Getenv("CI") == "true" {
		ts.Fatalf("%s is not installed: it is in the Debian package %s (apt-get install -y %s)", args[0], args[1], args[1])
	}
}

// metricsAddress returns the address at which a device says that its status is.
func metricsAddress(ts *testscript.TestScript, name string) string {
	pattern := regexp.MustCompile(`the status is at http://([^/]+)/`)
	var found []string
	if !until(func() bool {
		log, _ := os.ReadFile(ts.MkAbs(name + ".log"))
		found = pattern.FindStringSubmatch(string(log))
		return found != nil
	}) {
		ts.Fatalf("%s does not say where its status is", name)
	}
	return found[1]
}

// scrapeCommand writes what a device's /metrics answers to stdout: scrape NAME FILE.
func scrapeCommand(ts *testscript.TestScript, _ bool, args []string) {
	body, err := get("http://" + metricsAddress(ts, args[0]) + "/metrics")
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), body, 0o600))
}

func get(address string) ([]byte, error) {
	resp, err := http.Get(address)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, body)
	}
	return body, err
}

// prometheusCommand starts a Prometheus that scrapes a device and has the alerts of deploy/:
// prometheus NAME.
func prometheusCommand(ts *testscript.TestScript, _ bool, args []string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	address := l.Addr().String()
	ts.Check(l.Close())
	ts.Check(os.WriteFile(ts.MkAbs("prometheus.yml"), fmt.Appendf(nil, `
global: {scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 1s}
rule_files: [%q]
scrape_configs: [{job_name: hubhop, static_configs: [{targets: [%q]}]}]
`, filepath.Join(deployDir(ts), "prometheus", "alerts.yaml"), metricsAddress(ts, args[0])), 0o600))
	path, err := exec.LookPath("prometheus")
	ts.Check(err)
	cmd := exec.Command(path, "--config.file", ts.MkAbs("prometheus.yml"), "--storage.tsdb.path", ts.MkAbs("prometheus"),
		"--web.listen-address", address, "--log.level", "warn")
	log, err := os.Create(ts.MkAbs("prometheus.log"))
	ts.Check(err)
	cmd.Stdout, cmd.Stderr = log, log
	start(ts, "prometheus", cmd)
	ts.Setenv("PROMETHEUS", "http://"+address)
	if !until(func() bool {
		_, all := rangeOf(ts, `hubhop_build_info`, time.Minute)
		return all > 1
	}) {
		b, _ := os.ReadFile(ts.MkAbs("prometheus.log"))
		ts.Fatalf("Prometheus scrapes nothing: %s", b)
	}
}

func deployDir(ts *testscript.TestScript) string {
	return filepath.Join(filepath.Dir(ts.Getenv("SCRIPTS")), "deploy")
}

// rangeOf executes a query as Grafana does, over the time until now. It returns why it failed, if
// it did, and how many values came.
func rangeOf(ts *testscript.TestScript, query string, back time.Duration) (fault string, values int) {
	now := time.Now()
	ask := url.Values{"query": {query}, "step": {"1"}, "start": {epoch(now.Add(-back))}, "end": {epoch(now)}}
	resp, err := http.PostForm(ts.Getenv("PROMETHEUS")+"/api/v1/query_range", ask)
	if err != nil {
		return err.Error(), 0
	}
	defer func() { _ = resp.Body.Close() }()
	var answer struct {
		Status, Error string
		Data          struct{ Result []struct{ Values []any } }
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return err.Error(), 0
	}
	for _, r := range answer.Data.Result {
		values += len(r.Values)
	}
	if answer.Status != "success" {
		return answer.Error, 0
	}
	return "", values
}

func epoch(t time.Time) string { return strconv.FormatFloat(float64(t.UnixMilli())/1000, 'f', 3, 64) }

// answeredCommand executes every query of the dashboard, until each has an answer that is not
// empty, flows excepted: a device without flows has no such series. Then it looks whether
// Prometheus can evaluate every alert.
func answeredCommand(ts *testscript.TestScript, _ bool, _ []string) {
	b, err := os.ReadFile(filepath.Join(deployDir(ts), "grafana", "hubhop.json"))
	ts.Check(err)
	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
		Annotations struct{ List []struct{ Name, Expr string } }
	}
	ts.Check(json.Unmarshal(b, &board))
	open := map[string]string{} // query → panel
	for _, p := range board.Panels {
		for _, q := range p.Targets {
			open[q.Expr] = p.Title
		}
	}
	for _, a := range board.Annotations.List {
		open[a.Expr] = a.Name
	}
	if len(open) < 30 {
		ts.Fatalf("only %d queries in the dashboard", len(open))
	}
	variables := strings.NewReplacer("$job", ".*", "$instance", ".*", "$__rate_interval", "1m", "$__interval", "10s")
	if !until(func() bool {
		for query, panel := range open {
			fault, values := rangeOf(ts, variables.Replace(query), time.Minute)
			if fault != "" {
				ts.Fatalf("panel %s: %s: %s", panel, query, fault)
			}
			if values > 0 || strings.Contains(query, "hubhop_flow_") {
				delete(open, query)
			}
		}
		return len(open) == 0
	}) {
		ts.Fatalf("no answer to %q", slices.Sorted(maps.Keys(open)))
	}
	var rules struct {
		Data struct {
			Groups []struct {
				Rules []struct{ Name, Health, LastError string }
			}
		}
	}
	healthy := 0
	if !until(func() bool {
		b, err := get(ts.Getenv("PROMETHEUS") + "/api/v1/rules")
		ts.Check(err)
		ts.Check(json.Unmarshal(b, &rules))
		healthy = 0
		for _, g := range rules.Data.Groups {
			for _, r := range g.Rules {
				if r.LastError != "" {
					ts.Fatalf("alert %s: %s", r.Name, r.LastError)
				}
				if r.Health == "ok" {
					healthy++
				}
			}
		}
		return healthy >= 20
	}) {
		ts.Fatalf("only %d alerts are evaluated: %+v", healthy, rules)
	}
}

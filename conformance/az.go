package main

import (
	"encoding/json"
	"os/exec"
	"strings"
)

// azTable has a row for each group of requests the Azure CLI was seen to send: the subtests of
// TestAz in internal/sim.
var azTable = table{
	title: "Azure CLI, replayed",
	clients: []client{
		{id: "az-address", name: "az (replay), by address", about: "the requests Azure CLI 2.45.0 with azure-iot 0.23.1 was seen to send: method, headers and bodies as they were, answers judged as it judges them (`TestAz` in `internal/sim`)"},
		{id: "az-proxy", name: "az (replay), by proxy", about: "the same under Azure's names, through `--connect-proxy`"},
	},
	scenarios: azScenarios(
		"central-device-manual-failover",
		"central-device-manual-failover-refused",
		"central-device-show-and-list",
		"central-device-create-update-delete",
		"central-device-credentials-and-registration-info",
		"central-device-twin",
		"central-device-command",
		"central-device-telemetry",
		"central-device-attestation",
		"central-device-c2d-purge-and-edge",
		"central-query-and-templates",
		"hub-device-identity",
		"hub-query",
		"hub-device-twin",
		"hub-invoke-device-method",
		"hub-module-identity",
		"device-c2d-receive-and-simulate-http",
		"dps-enrollment",
		"dps-enrollment-group",
		"device-registration-create",
	),
}

func azScenarios(ids ...string) (all []scenario) {
	for _, id := range ids {
		all = append(all, scenario{id: id, name: "az " + strings.ReplaceAll(id, "-", " ")})
	}
	return all
}

// az runs the replay, which is a test of the simulator, and takes its subtests for scenarios:
// TestAz/az/SCENARIO/ROUTE.
func (s *suite) az(root string) {
	run := "^TestAz$"
	if s.only != "" {
		run += "/^az$/^" + s.only + "$"
	}
	tests := exec.Command("go", "test", "-json", "-count=1", "-run", run, "./internal/sim")
	tests.Dir = root
	out, err := tests.Output()
	said := map[string]string{}
	for line := range strings.Lines(string(out)) {
		var e struct {
			Action, Test, Output string
			Elapsed              float64
		}
		if json.Unmarshal([]byte(line), &e) != nil {
			continue
		}
		said[e.Test] += e.Output
		part := strings.Split(e.Test, "/")
		if len(part) != 4 || e.Action != "pass" && e.Action != "fail" && e.Action != "skip" {
			continue
		}
		r := result{Client: "az-" + part[3], Scenario: part[2], OK: e.Action == "pass", MS: int64(e.Elapsed * 1000)}
		if !r.OK {
			r.Why = said[e.Test]
		}
		s.out.add(r)
	}
	if err != nil {
		s.out.add(result{Client: "az-address", Scenario: "end", Why: "go test: " + err.Error()})
	}
}

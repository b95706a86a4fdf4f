package report

import (
	"fmt"
	"time"
)

// sample is the report of a run of 90 s with three faults.
func sample() Report {
	start := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	r := Report{
		Verdict: Passed, Reason: "900 samples made, every one of them received, in order; back after each of 3 faults, at the latest in 3.41 s",
		Scenario: "giant-lizard", Seed: 42, StartedAt: start, EndedAt: start.Add(90 * time.Second), Device: "dev-1", Target: "embedded",
		Title: "The giant lizard", Description: "A hub dies, the device moves to the other hub, and comes home when the first hub works again.",
		Speed: "virtual", WallMs: 840, RanAt: time.Date(2026, 11, 30, 10, 0, 0, 0, time.UTC), Client: "hubhop 0.11.0", Proof: ByLedger,
		Samples: Samples{Made: 900, Received: 903, Duplicated: 3}, RTO: RTO{WorstMs: 3410, BudgetMs: 10_000}, RPO: RPO{}, Commands: Commands{Sent: 4, Answered: 4},
		Versions:    map[string]string{"hubhop": "0.11.0", "go": "go1.26.0"},
		Environment: map[string]string{"os": "linux", "arch": "amd64", "cpus": "2"},
		Hubs:        []string{"hub-a", "hub-b"},
		Recoveries: []Recovery{
			{Step: "kill hub-a", Fault: "kill rst", From: "hub-a", To: "hub-b", DetectedMs: 1, AssignedMs: 3002, ConnectedMs: 3009, FirstPubackMs: 3012, Duplicated: 2, AtMs: 12_000, Rule: "H07"},
			{Step: "silence", Fault: "blackhole", From: "hub-b", To: "hub-a", DetectedMs: 380, AssignedMs: 3390, ConnectedMs: 3400, FirstPubackMs: 3410, Duplicated: 1, AtMs: 40_000, Rule: "H11"},
			{Step: "failover", Fault: "failover", From: "hub-a", To: "hub-b", DetectedMs: 3, AssignedMs: 1010, ConnectedMs: 1016, FirstPubackMs: 1018, AtMs: 65_000, Rule: "H02"},
		},
		Expectations: []Expectation{
			{Step: "kill hub-a", Text: "back on hub-b within 10 s", Held: true, Seen: "3.01 s"},
			{Step: "kill hub-a", Text: "lost = 0", Held: true, Seen: "0"},
			{Step: "silence", Text: "back on hub-a within 10 s", Held: true, Seen: "3.41 s"},
			{Step: "failover", Text: "command echo answered within 5 s", Held: true, Seen: "12 ms"},
		},
		Steps: []Step{{Name: "kill hub-a", Text: "hub-a resets its connections and refuses new ones", AtMs: 12_000, TookMs: 20_000, Held: true},
			{Name: "silence", Text: "hub-b answers nothing", AtMs: 40_000, TookMs: 15_000, Held: true}, {Name: "failover", Text: "the operator moves the device", AtMs: 65_000, TookMs: 5000, Held: true}},
		Faults: []Span{{Where: "hub-a", What: "kill rst", Step: "kill hub-a", FromMs: 12_000, UntilMs: 32_000}, {Where: "hub-b", What: "blackhole", Step: "silence", FromMs: 40_000, UntilMs: 55_000},
			{Where: "dps", What: "throttle", Step: "kill hub-a", FromMs: 13_000, UntilMs: 14_000}},
		Links: []Span{{Where: "hub-a", FromMs: 1010, UntilMs: 12_001}, {Where: "hub-b", FromMs: 15_009, UntilMs: 40_380}, {Where: "hub-a", FromMs: 43_400, UntilMs: 65_003},
			{Where: "hub-b", FromMs: 66_016, UntilMs: 90_000}},
		Decisions: []Mark{{AtMs: 12_001, Hub: "hub-a", Rule: "H07", Action: "reprovision", Text: "hub-a: connection refused; reprovision"},
			{AtMs: 40_380, Hub: "hub-b", Rule: "H11", Action: "reprovision", Text: "hub-b: no answer for 3 s; reprovision", Times: 2},
			{AtMs: 65_003, Hub: "hub-a", Rule: "H02", Action: "reprovision", Text: "hub-a: CONNACK 5; reprovision"}},
		Series:  &Series{},
		History: &Proof{Lines: 312, Sum: "0123456789abcdef"},
		Ledger: []Account{{Hub: "hub-a", Received: 330, Distinct: 329, Duplicated: 1, First: "00000000000000ab-1", Last: "00000000000000ab-640"},
			{Hub: "hub-b", Received: 573, Distinct: 571, Duplicated: 2, First: "00000000000000ab-121", Last: "00000000000000ab-900"},
			{Outbox: "00000000000000ab", Received: 903, Distinct: 900, Duplicated: 3, First: "00000000000000ab-1", Last: "00000000000000ab-900"}},
	}
	backlog := uint64(0)
	for t := time.Duration(0); t < 90*time.Second; t += 100 * time.Millisecond {
		up := false
		for _, l := range r.Links {
			up = up || t.Milliseconds() >= l.FromMs && t.Milliseconds() < l.UntilMs
		}
		backlog++
		if up {
			r.Series.Arrive(t, t, backlog)
			backlog = 0
		}
		r.Series.Wait(t, backlog)
	}
	return r
}

// broken is the report of a run that failed in each way.
func brokenSample() Report {
	r := sample()
	r.Verdict, r.Reason = Failed, "3 of 900 samples never arrived at any hub: 00000000000000ab-121..123"
	r.Samples.Lost, r.RPO.Lost = 3, 3
	r.Recoveries[0].Lost = 3
	r.Recoveries[1].FirstPubackMs, r.Recoveries[1].ConnectedMs, r.RTO.WorstMs = 12_400, 12_390, 24_000
	r.Recoveries[2] = Recovery{Step: "failover", Fault: "failover", From: "hub-a", DetectedMs: 3, AtMs: 66_000, Open: true, Rule: "H02"}
	r.Expectations[0].Held, r.Expectations[0].Seen = false, "never"
	r.Steps[0].Held = false
	r.Findings = []Finding{{"lost", r.Reason}, {"not-back", `failover: after the fault "failover" the device did not come back in the 24 s until the end of the run`},
		{"unmet", "kill hub-a: expected back on hub-b within 10 s, but never"}}
	r.Ledger[2].Lost, r.Ledger[2].LostIDs = 3, "00000000000000ab-121..123"
	return r
}

// long is the report of a run of three days, with as much of everything as a drill can have.
func long(n int) Report {
	r := sample()
	r.EndedAt = r.StartedAt.Add(72 * time.Hour)
	step := (72 * time.Hour).Milliseconds() / int64(n)
	r.Recoveries, r.Faults, r.Links, r.Decisions, r.Expectations = nil, nil, nil, nil, nil
	r.Series = &Series{}
	for i := range n {
		at := int64(i) * step
		hub := r.Hubs[i%2]
		r.Faults = append(r.Faults, Span{Where: hub, What: "kill rst", Step: fmt.Sprintf("step %d", i), FromMs: at, UntilMs: at + step/2})
		r.Links = append(r.Links, Span{Where: r.Hubs[(i+1)%2], FromMs: at + 1000, UntilMs: at + step})
		r.Recoveries = append(r.Recoveries, Recovery{Step: fmt.Sprintf("step %d", i), Fault: "kill rst", From: hub, To: r.Hubs[(i+1)%2], DetectedMs: 1, AssignedMs: 900, ConnectedMs: 990, FirstPubackMs: 1000, AtMs: at})
		r.Decisions = append(r.Decisions, Mark{AtMs: at, Hub: hub, Rule: "H07", Action: "reprovision", Text: "refused"})
		r.Expectations = append(r.Expectations, Expectation{Step: fmt.Sprintf("step %d", i), Text: "back within 10 s", Held: true, Seen: "1 s"})
		r.Series.Arrive(time.Duration(at)*time.Millisecond, time.Duration(at+step)*time.Millisecond, uint64(10*step/1000))
	}
	return r
}

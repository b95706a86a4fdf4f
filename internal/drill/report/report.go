// Package report holds what a drill found, and shows it: as a page, a picture, Markdown, JSON,
// JUnit XML, lines on a terminal, and a history from which the verdict can be repeated.
//
// A drill tells everything that happens as a stream of entries ([Entry]). The live view, the
// history and the [Report] are made from that one stream.
//
//   - entry.go: the stream; fold.go: how it stays small
//   - report.go, series.go: what was found; compare.go: what changed since another run
//   - write.go: the files of a report
//   - history.go: the stream as a file, each line chained to the one before
//   - page.go, pageparts.go, page.css, view.go: the page; markdown.go, junit.go: the other documents
//   - picture.go: the picture; timeline.go: the time line in it; canvas.go: the SVG they draw on
//   - live.go, board.go: what a terminal shows meanwhile
package report

import "time"

// Outcome is a verdict in one word.
type Outcome string

// The outcomes.
const (
	Passed  Outcome = "passed"
	Failed  Outcome = "failed"
	Unknown Outcome = "unknown" // the proof itself failed: no ledger, no device
)

// What samples can be judged by.
const (
	ByLedger           = "ledger"           // the list of what the hubs have received
	ByAcknowledgements = "acknowledgements" // what the device says that the hubs have acknowledged: its outbox does not hold it any more
)

// Report is what a drill found. Its JSON form is a promise to scripts:
// docs/drill-report.schema.json. Times that end with Ms are milliseconds. Offsets count from
// StartedAt. The fields from Title on are optional, so a report of an earlier version can be read
// and compared.
type Report struct {
	Verdict      Outcome       `json:"verdict"`
	Reason       string        `json:"reason"` // one sentence
	Scenario     string        `json:"scenario"`
	Seed         uint64        `json:"seed"`
	StartedAt    time.Time     `json:"startedAt"` // virtual, if Speed is "virtual"
	Device       string        `json:"device"`
	Target       string        `json:"target"` // embedded, URL of a simulator, central, hubs
	Samples      Samples       `json:"samples"`
	RTO          RTO           `json:"rto"`
	RPO          RPO           `json:"rpo"`
	Recoveries   []Recovery    `json:"recoveries"`
	Commands     Commands      `json:"commands"`
	Expectations []Expectation `json:"expectations"`

	Title       string            `json:"title,omitempty"`       // of the scenario
	Description string            `json:"description,omitempty"` // what the scenario is about
	EndedAt     time.Time         `json:"endedAt,omitzero"`
	Speed       string            `json:"speed,omitempty"`       // virtual, real
	RanAt       time.Time         `json:"ranAt,omitzero"`        // on the wall clock
	WallMs      int64             `json:"wallMs,omitempty"`      // how long the run took on the wall clock
	Proof       string            `json:"proof,omitempty"`       // what the samples were judged by: [ByLedger], [ByAcknowledgements]
	Client      string            `json:"client,omitempty"`      // the program under test: "hubhop 1.2.0", "azure-iot-device 1.18.4 (Node.js)"
	Versions    map[string]string `json:"versions,omitempty"`    // of hubhop, Go, SDKs
	Environment map[string]string `json:"environment,omitempty"` // os, arch, cpus
	Findings    []Finding         `json:"findings,omitempty"`    // why the verdict is not good; a bounded number
	Steps       []Step            `json:"steps,omitempty"`
	Hubs        []string          `json:"hubs,omitempty"` // names, in the order of their rows
	Faults      []Span            `json:"faults,omitempty"`
	Links       []Span            `json:"links,omitempty"`
	Decisions   []Mark            `json:"decisions,omitempty"`
	Series      *Series           `json:"series,omitempty"`
	Ledger      []Account         `json:"ledger,omitempty"`
	History     *Proof            `json:"history,omitempty"`
	Comparison  *Comparison       `json:"comparison,omitempty"`
}

// Samples are counted where they are made and where they arrive.
type Samples struct {
	Made       uint64 `json:"made"`
	Received   uint64 `json:"received"`   // by the hubs, duplicates included
	Lost       uint64 `json:"lost"`       // made and never received
	Duplicated uint64 `json:"duplicated"` // messages that had arrived before
	Reordered  uint64 `json:"reordered"`  // first arrivals behind a newer sample
}

// RTO compares the slowest recovery with its budget: from the fault to the first telemetry that a
// hub acknowledged.
type RTO struct {
	WorstMs  int64 `json:"worstMs"`
	BudgetMs int64 `json:"budgetMs"` // 0: the scenario has none
}

// RPO compares what was lost with its budget, in samples.
type RPO struct {
	Lost   uint64 `json:"lost"`
	Budget uint64 `json:"budget"`
}

// Recovery is how the device came back after one fault. The times count from the fault; 0 says that
// this did not happen, and what happened at once counts as 1.
type Recovery struct {
	Step          string `json:"step"`
	Fault         string `json:"fault"` // "kill rst", "blackhole", "failover"
	From          string `json:"from"`  // name of a hub
	To            string `json:"to"`    // may be the same hub
	DetectedMs    int64  `json:"detectedMs"`
	AssignedMs    int64  `json:"assignedMs"` // DPS named a hub
	ConnectedMs   int64  `json:"connectedMs"`
	FirstPubackMs int64  `json:"firstPubackMs"` // telemetry flows
	Lost          uint64 `json:"lost"`
	Duplicated    uint64 `json:"duplicated"`

	AtMs     int64  `json:"atMs,omitempty"`     // offset of the fault
	BudgetMs int64  `json:"budgetMs,omitempty"` // what the step itself asks for, beside the RTO; 0: nothing
	Rule     string `json:"rule,omitempty"`     // of the first decision after the fault
	Open     bool   `json:"open,omitempty"`     // the device was not back when the run ended

	// Early says that the recovery is counted from the end of a fault, and the device was back
	// before it: it had gone elsewhere, or the fault did not keep it out. Then no time is known.
	Early bool `json:"early,omitempty"`
}

// Timed says how many recoveries have a time: those that are not early.
func (r Report) Timed() (n int) {
	for _, x := range r.Recoveries {
		if !x.Early {
			n++
		}
	}
	return n
}

// Commands are methods, desired changes and queued commands.
type Commands struct {
	Sent     int `json:"sent"`
	Answered int `json:"answered"`
}

// Expectation is what a scenario asks for, and what was seen.
type Expectation struct {
	Step string `json:"step"`
	Text string `json:"text"`
	Held bool   `json:"held"`
	Seen string `json:"seen"`
}

// Finding is one reason why a verdict is not good.
type Finding struct {
	Kind string `json:"kind"` // of drill.Kind
	Text string `json:"text"` // one sentence
}

// Step is one step of the scenario.
type Step struct {
	Name   string `json:"name"`
	Text   string `json:"text,omitempty"` // what is done
	AtMs   int64  `json:"atMs"`           // offset
	TookMs int64  `json:"tookMs,omitempty"`
	Held   bool   `json:"held"` // each of its expectations
}

// Span is a time in which something was so: a fault was on, a link was up.
type Span struct {
	Where       string `json:"where"`          // name of a hub, or "dps", "network", "device"
	What        string `json:"what,omitempty"` // the fault
	Step        string `json:"step,omitempty"`
	FromMs      int64  `json:"fromMs"`
	UntilMs     int64  `json:"untilMs"`
	Provisional bool   `json:"provisional,omitempty"` // a link that DPS had not confirmed
}

// Mark is a decision of the device.
type Mark struct {
	AtMs   int64  `json:"atMs"`
	Hub    string `json:"hub,omitempty"`
	Rule   string `json:"rule,omitempty"`
	Action string `json:"action,omitempty"`
	Text   string `json:"text"`
	Times  uint64 `json:"times,omitempty"` // how many decisions this one stands for; 0 for itself alone
}

// Account is what the ledger says of one place: of a hub, or of one outbox of the device.
type Account struct {
	Hub        string `json:"hub,omitempty"`
	Outbox     string `json:"outbox,omitempty"` // id
	Received   uint64 `json:"received"`
	Distinct   uint64 `json:"distinct"`
	Duplicated uint64 `json:"duplicated"`
	Reordered  uint64 `json:"reordered"`
	Queued     uint64 `json:"queued,omitempty"`
	Announced  uint64 `json:"announced,omitempty"` // missing, and the device says so
	Lost       uint64 `json:"lost"`
	First      string `json:"first,omitempty"` // message ids
	Last       string `json:"last,omitempty"`
	LostIDs    string `json:"lostIds,omitempty"` // some of them
}

// Proof names the history that belongs to a report.
type Proof struct {
	Lines uint64 `json:"lines"`
	Sum   string `json:"sum"` // of its last line; see [History]
}

// Comparison sets a report beside an earlier one.
type Comparison struct {
	With   Run   `json:"with"`
	Rows   []Row `json:"rows"`
	Better int   `json:"better"` // rows
	Worse  int   `json:"worse"`

	apart bool // the two played different scenarios
}

// Run says which run a report is of.
type Run struct {
	Verdict   Outcome   `json:"verdict"`
	Scenario  string    `json:"scenario"`
	Seed      uint64    `json:"seed"`
	Device    string    `json:"device"`
	Client    string    `json:"client,omitempty"`
	Target    string    `json:"target"`
	StartedAt time.Time `json:"startedAt"`
	RanAt     time.Time `json:"ranAt,omitzero"`
}

// Row is one line of a comparison.
type Row struct {
	What string `json:"what"`
	Then string `json:"then"`
	Now  string `json:"now"`
	Sign int    `json:"sign"` // 1 better now, -1 worse, 0 the same or neither
	Note string `json:"note,omitempty"`
}

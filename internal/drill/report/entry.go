package report

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/internal/journal"
)

// EntryKind says what an entry tells. The comment names the fields that it has besides At.
type EntryKind string

// The kinds of entries.
const (
	Began    EntryKind = "began"       // Begin. It comes first, and once
	StepOn   EntryKind = "step"        // Step, Text: what is done. A step begins
	StepOff  EntryKind = "step-over"   // Step
	FaultOn  EntryKind = "fault"       // Step, Where, Fault, Text. Move says that the device has to come back, BudgetMs how soon
	FaultOff EntryKind = "fault-over"  // Step, Where, Fault
	Returned EntryKind = "back"        // Step, Hub: a hub has a sample again, so the recoveries of the step are over
	Happened EntryKind = "event"       // Event: one event of the device's journal
	Arrived  EntryKind = "arrived"     // Hub, ID, Gap; Until and Last if it stands for several messages
	Gauge    EntryKind = "gauge"       // State: what the device shows of itself
	Asked    EntryKind = "command"     // Step, Name: a method, desired change or queued command is sent
	Answered EntryKind = "answer"      // Step, Name: it is answered
	Expected EntryKind = "expectation" // Expectation
	Holds    EntryKind = "outbox"      // Outbox: what the device's outbox holds
	Objected EntryKind = "finding"     // Finding: a fault that no other entry shows
	Spoiled  EntryKind = "spoiled"     // Text: the proof itself failed, so the verdict is unknown
	Ended    EntryKind = "ended"       // End. It comes last, and once
)

// Entry is one thing that happened in a drill, and one line of its history. All entries of a run
// together say the verdict.
type Entry struct {
	N    uint64    `json:"n"` // number of the line, from 1 on; [History] sets it
	At   time.Time `json:"at"`
	Kind EntryKind `json:"kind"`

	Step  string `json:"step,omitempty"`
	Where string `json:"where,omitempty"` // name of a hub, or "dps", "network", "device"
	Fault string `json:"fault,omitempty"` // "kill rst", "blackhole", "failover", …
	Move  bool   `json:"move,omitempty"`  // FaultOn: the device must come back from it, so it counts as a recovery
	Hub   string `json:"hub,omitempty"`   // name
	Name  string `json:"name,omitempty"`
	Text  string `json:"text,omitempty"`

	// FaultOn with Move: how long the step lets the recovery take; 0: it does not say.
	BudgetMs int64 `json:"budgetMs,omitempty"`

	// FaultOn with Move: the device is back already; see [Recovery.Early].
	Early bool `json:"early,omitempty"`

	// Arrived: one message, by the id that its outbox gave it ("<outbox id>-<seq>"). Last says that
	// the messages up to that seq arrived too, one after the other, without a gap, until Until.
	// For a device that has no outbox of ours the target makes such an id from the sequence field.
	ID    string    `json:"id,omitempty"`
	Last  uint64    `json:"last,omitempty"`
	Until time.Time `json:"until,omitzero"`
	Gap   string    `json:"gap,omitempty"` // the seqs that the message says are given up, "3-5"

	Begin       *Begin         `json:"begin,omitempty"`
	Event       *journal.Event `json:"event,omitempty"`
	State       *State         `json:"state,omitempty"`
	Expectation *Expectation   `json:"expectation,omitempty"`
	Outbox      *Outbox        `json:"outbox,omitempty"`
	Finding     *Finding       `json:"finding,omitempty"`
	End         *End           `json:"end,omitempty"`
}

// HistoryFile is the name of a history in the directory of a report.
const HistoryFile = "history.jsonl"

// Format is the version of the history. Another one is refused.
const Format = 1

// Begin says what is run, and by which measure it is judged.
type Begin struct {
	Format      int               `json:"format"` // of the history: [Format]
	Scenario    string            `json:"scenario"`
	Title       string            `json:"title,omitempty"`
	Description string            `json:"description,omitempty"`
	Seed        uint64            `json:"seed"`
	Device      string            `json:"device"`
	Client      string            `json:"client,omitempty"`
	Target      string            `json:"target"`
	Speed       string            `json:"speed,omitempty"`
	Hubs        []string          `json:"hubs,omitempty"`  // names
	Names       map[string]string `json:"names,omitempty"` // of the hubs, by host: events name hosts
	Steps       []string          `json:"steps,omitempty"` // names, for the live view
	LastsMs     int64             `json:"lastsMs,omitempty"`
	RTOMs       int64             `json:"rtoMs"` // budget; 0: none
	RPO         uint64            `json:"rpo"`   // budget, samples
	Allow       Allowance         `json:"allow"`
	Proof       string            `json:"proof,omitempty"` // [ByLedger] if empty
	RanAt       time.Time         `json:"ranAt,omitzero"`  // on the wall clock; drill.Record sets it
	Versions    map[string]string `json:"versions,omitempty"`
	Environment map[string]string `json:"environment,omitempty"`
}

// Short writes the names of the hubs instead of their hosts.
func (b *Begin) Short(text string) string {
	hosts := slices.Collect(maps.Keys(b.Names))
	slices.SortFunc(hosts, func(x, y string) int { return cmp.Or(cmp.Compare(len(y), len(x)), cmp.Compare(x, y)) }) // 127.0.0.22 before 127.0.0.2
	for _, host := range hosts {
		if host != "" {
			text = strings.ReplaceAll(text, host, b.Names[host])
		}
	}
	return text
}

// Allowance says what a run may do to its samples and still be good, as drill.Allowance does.
type Allowance struct {
	Reordered bool `json:"reordered,omitempty"`
	GivenUp   bool `json:"givenUp,omitempty"`
	Waiting   bool `json:"waiting,omitempty"`
	Outboxes  bool `json:"outboxes,omitempty"`
	Foreign   bool `json:"foreign,omitempty"`
}

// State is what a device shows of itself at one time.
type State struct {
	Made    uint64 `json:"made"`              // samples so far, over all lives of the device
	Backlog uint64 `json:"backlog"`           // samples that wait
	Counted bool   `json:"counted,omitempty"` // Made is final: each of them is asked for in the verdict
}

// Outbox is what one look into an outbox found. The texts are ranges,
// "<outbox id>-<first>..<last>".
type Outbox struct {
	ID      string   `json:"id"` // of what is appended next
	LastSeq uint64   `json:"lastSeq"`
	Held    bool     `json:"held,omitempty"` // a process has it open
	Queued  []string `json:"queued,omitempty"`
	Gaps    []string `json:"gaps,omitempty"`  // given up
	Aside   []string `json:"aside,omitempty"` // in the quarantine
}

// End is what the run itself concluded.
type End struct {
	Verdict Outcome `json:"verdict"`
	Reason  string  `json:"reason"`
	Samples Samples `json:"samples"`
	WorstMs int64   `json:"worstMs"`
	WallMs  int64   `json:"wallMs,omitempty"`
}

// Watch is told of every entry as it happens, in order. It must be quick.
type Watch func(Entry)

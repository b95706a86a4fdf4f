// Package status shows what a running device does: as JSON, as metrics, as health, as a stream of
// events and as a page. A [Server] serves all of them over HTTP, on a socket in the device's
// directory and, if asked, on a TCP address. [Client] reads them.
//
// The package asks nothing of the device: what it shows comes through [Shown], and what happens
// comes from the journal through [Events]. docs/status.md is the contract.
package status

import "time"

// State says in one word how a device stands to its cloud.
type State string

// The states.
const (
	Connected   State = "connected"   // a link is at work
	Provisional State = "provisional" // a link to a known hub is at work, which DPS has not confirmed
	Connecting  State = "connecting"  // no link; a dial or a registration is under way
	Waiting     State = "waiting"     // no link; the next try has its time
	Refused     State = "refused"     // no link; the cloud refuses the device until a person acts
	Stopping    State = "stopping"    // the device is to stop
	Local       State = "local"       // data flows run without a hub, as they shall
)

// States are all states.
var States = []State{Connected, Provisional, Connecting, Waiting, Refused, Stopping, Local}

// Linked says whether a link is at work, or none is wanted: then the device is ready. A device that
// stops has still its link if View.Hub is not empty.
func (s State) Linked() bool { return s == Connected || s == Provisional || s == Local }

// View is the JSON of GET /status. Its names are a promise to scripts. Times are those of this
// machine's clock. A pointer is null where there is nothing to say, and a list is never null.
type View struct {
	Version      string     `json:"version"`
	Device       string     `json:"device"`
	State        State      `json:"state"`
	Started      time.Time  `json:"started"`   // of the device in this process
	Hub          string     `json:"hub"`       // of the link at work, else empty
	Since        time.Time  `json:"since"`     // of the link, or of its loss; before the first link, of the start
	Transport    string     `json:"transport"` // mqtt
	Why          *Why       `json:"why"`       // the last failure; it is kept after the recovery until the next
	NextTry      *time.Time `json:"nextTry"`   // null: a link is at work, or a try is under way
	Failovers    uint64     `json:"failovers"` // how often a link came up on another hub than the one before
	LastFailover *Failover  `json:"lastFailover"`
	Outbox       Outbox     `json:"outbox"`
	Telemetry    Telemetry  `json:"telemetry"`
	Commands     Commands   `json:"commands"`
	Link         Link       `json:"link"`
	DPS          DPS        `json:"dps"`
	Clock        Clock      `json:"clock"`
	Credential   Credential `json:"credential"`
	Flows        []Flow     `json:"flows"`
	Assets       []Asset    `json:"assets"`
}

// Why says why there is no link, or why there was none the last time.
type Why struct {
	Rule     string    `json:"rule"`     // of the decision table, such as H07
	Signal   string    `json:"signal"`   // what happened, in the words of the table
	Action   string    `json:"action"`   // what the device does about it
	Text     string    `json:"text"`     // a sentence
	Cause    string    `json:"cause"`    // the part of it that says where it happened and what
	Also     string    `json:"also"`     // without a link: the cause of the other one of hub and DPS, if that fails too; else empty
	Hint     string    `json:"hint"`     // what a person can do
	Evidence string    `json:"evidence"` // the error as it came
	At       time.Time `json:"at"`
}

// Failover is a change from one hub to another.
type Failover struct {
	From   string    `json:"from"`
	To     string    `json:"to"`
	Rule   string    `json:"rule"`   // of the failure that began it; of the last decision if nothing had failed
	TookMs int64     `json:"tookMs"` // from the loss of the old link to the new one; 0 if there was no gap
	At     time.Time `json:"at"`     // when the new link was up
}

// Outbox says what waits.
type Outbox struct {
	Queued           uint64  `json:"queued"`           // messages that no hub has acknowledged
	Bytes            int64   `json:"bytes"`            // that they take of the outbox
	OldestAgeSeconds float64 `json:"oldestAgeSeconds"` // of the oldest of them; 0 if none waits
	LastSeq          uint64  `json:"lastSeq"`          // of the newest message
	Dropped          uint64  `json:"dropped"`          // since the start, for room, for age, or by damage to the disk
	Quarantined      uint64  `json:"quarantined"`      // since the start
	Degraded         bool    `json:"degraded"`         // the disk does not work
	Text             string  `json:"text"`             // what is wrong with the disk; empty if nothing
}

// Telemetry counts messages since the start.
type Telemetry struct {
	Made         uint64  `json:"made"`
	Acknowledged uint64  `json:"acknowledged"`
	Repeated     uint64  `json:"repeated"`  // sent once more, because no acknowledgement had come
	PerSecond    float64 `json:"perSecond"` // acknowledged, over about the last ten seconds
}

// Commands counts what the cloud has asked since the start.
type Commands struct {
	Methods uint64 `json:"methods"`
	C2D     uint64 `json:"c2d"`
	Desired uint64 `json:"desired"`
	Failed  uint64 `json:"failed"` // of all three, with a status of 400 or more
}

// Link says how the link at work does. All is zero without one.
type Link struct {
	RTTMs    float64 `json:"rttMs"` // from a message to its acknowledgement, smoothed
	InFlight int     `json:"inFlight"`
	Window   int     `json:"window"`
}

// DPS counts registrations since the start.
type DPS struct {
	Registrations uint64     `json:"registrations"` // that have reached DPS
	LastAt        *time.Time `json:"lastAt"`        // when DPS last named a hub
	StillNames    string     `json:"stillNames"`    // that hub, if it had failed and there is no link since; else empty
}

// Clock says whether this machine's clock is believed.
type Clock struct {
	Trusted  bool  `json:"trusted"`
	OffsetMs int64 `json:"offsetMs"` // how far the time that the device goes by is ahead of this machine's clock
}

// Credential says how the device proves who it is.
type Credential struct {
	Kind    string     `json:"kind"`    // group-key, device-key, certificate or connection-string
	Expires *time.Time `json:"expires"` // of the certificate, or of the token of the link at work
}

// Flow is one data flow.
type Flow struct {
	Name             string  `json:"name"`
	State            string  `json:"state"` // running, stopped or failed
	In               uint64  `json:"in"`
	Out              uint64  `json:"out"`
	Dropped          uint64  `json:"dropped"`
	Errors           uint64  `json:"errors"`
	InFlight         int     `json:"inFlight"`
	OldestAgeSeconds float64 `json:"oldestAgeSeconds"`
	Gaps             uint64  `json:"gaps"`  // times a broker had lost what it kept for the flow
	Fault            string  `json:"fault"` // what a person must see to; empty: nothing
	Text             string  `json:"text"`  // the fault, and what else a person should know

	ClientIDs []string `json:"clientIds"` // at MQTT brokers
}

// Asset is one asset of a connector.
type Asset struct {
	Name  string `json:"name"`
	State string `json:"state"` // ok, invalid or unavailable
	Text  string `json:"text"`
}

// Shown is what a [Server] shows. Its methods may be called from any goroutine. They take
// snapshots: they wait neither for the network nor for a disk.
type Shown interface {
	View() View
	Beats() []Beat
}

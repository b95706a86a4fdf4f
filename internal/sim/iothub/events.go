package iothub

import (
	"time"
)

// Event is one thing that happened in the cloud. Events are for pages and people. Take proofs from
// the ledger, because a slow reader misses events.
type Event struct {
	At     time.Time `json:"at"` // by this machine's clock, whatever Config.ClockOffset says
	Kind   string    `json:"kind"`
	Hub    string    `json:"hub,omitempty"`
	Device string    `json:"device,omitempty"`
	Reason string    `json:"reason,omitempty"` // disconnect, refuse: why; fault, heal: its kind; register: the status DPS answers, or why it refuses; operator: what is done to the device
	Count  int64     `json:"count,omitempty"`  // telemetry: messages since the event before
}

// The kinds of events.
const (
	EventConnect    = "connect"
	EventDisconnect = "disconnect"
	EventRefuse     = "refuse"
	EventRegister   = "register"
	EventTelemetry  = "telemetry"
	EventFault      = "fault"
	EventHeal       = "heal"
	EventMove       = "move"
	EventOperator   = "operator"
	EventMissed     = "missed" // this reader was too slow, and did not get Count events
)

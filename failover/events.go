package failover

import "time"

// Event is what a machine is told. The set is closed.
//
//sumtype:decl
type Event interface{ event() }

// The events. An ID is that of the effect which the event answers.
type (
	// Start begins: with the cached hub if there is one, else with a question to DPS.
	Start struct{}
	// TLSUp says that an attempt has got through TCP and TLS.
	TLSUp struct{ ID int }
	// Up says that an attempt has become a link, and how long that took.
	Up struct {
		ID   int
		Took time.Duration
	}
	// DialFailed says that an attempt has failed.
	DialFailed struct {
		ID     int
		Signal Signal
		Err    error
	}
	// Lost says that a link has ended. Acked means that it had carried a PUBACK.
	Lost struct {
		ID     int
		Signal Signal
		Err    error
		Acked  bool
	}
	// Assigned is DPS's decision.
	Assigned struct {
		ID            int
		Hub, DeviceID string
		Substatus     string
	}
	// RegisterFailed says that a registration has ended without a decision.
	RegisterFailed struct {
		ID         int
		Signal     Signal
		Err        error
		RetryAfter time.Duration // negative: DPS did not say
		Counted    bool          // the registration reached DPS, so DPS has counted it
	}
	// Tick says that the time has come which NextWake had named.
	Tick struct{}
)

func (Start) event()          {}
func (TLSUp) event()          {}
func (Up) event()             {}
func (DialFailed) event()     {}
func (Lost) event()           {}
func (Assigned) event()       {}
func (RegisterFailed) event() {}
func (Tick) event()           {}

// Effect is what a machine wants done. The set is closed.
//
//sumtype:decl
type Effect interface{ effect() }

// The effects.
type (
	// Dial starts an attempt. With Early the first messages may leave together with CONNECT;
	// otherwise they wait until the link is served.
	Dial struct {
		ID                int
		Host, DeviceID    string
		Sequential, Early bool
	}
	// GiveUp ends an attempt or a link at once, with a reset.
	GiveUp struct{ ID int }
	// Retire ends a link in order: another one has taken over.
	Retire struct{ ID int }
	// Serve puts a link to work. The work on the link before ends first.
	Serve struct {
		ID          int
		Provisional bool // it is a known hub that DPS has not confirmed
	}
	// Register starts a registration. Patience is how long DPS may be silent.
	Register struct {
		ID         int
		Patience   time.Duration
		Sequential bool
	}
	// CancelRegister ends a registration that is not needed any more.
	CancelRegister struct{ ID int }
	// OpenDPS opens a connection to DPS and sends nothing on it. If a registration follows, it
	// uses that connection.
	OpenDPS struct{}
	// CloseDPS closes that connection: no registration came.
	CloseDPS struct{}
	// Save keeps the machine's State for the next run: the assignment has changed.
	Save struct{}
	// Decided tells of a decision.
	Decided struct{ Decision }
)

func (Dial) effect()           {}
func (GiveUp) effect()         {}
func (Retire) effect()         {}
func (Serve) effect()          {}
func (Register) effect()       {}
func (CancelRegister) effect() {}
func (OpenDPS) effect()        {}
func (CloseDPS) effect()       {}
func (Save) effect()           {}
func (Decided) effect()        {}

// Decision is one row of the table, applied to something that happened.
type Decision struct {
	Rule Rule
	Host string        // the hub concerned; empty for DPS
	Err  error         // what happened, if it was an error
	Wait time.Duration // until the next try that the action speaks of; 0 is at once
	Anew bool          // SlowDown: this decision begins the slow mode
}

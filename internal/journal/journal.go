// Package journal is the one record of what happens to a device. Logs and reports are views of it.
//
// An [Event] is emitted once, by the package that knows it. [Journal.Emit] hands it to every sink
// before it returns. So each sink sees every event, in order, and a slow sink delays the device.
package journal

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"
)

// Kind says what an event tells.
type Kind string

// The kinds of events.
const (
	Started       Kind = "started"
	Stopping      Kind = "stopping"
	Stopped       Kind = "stopped"
	Dialing       Kind = "dialing"
	Connected     Kind = "connected"
	Acknowledged  Kind = "acknowledged" // the first PUBACK of a link: telemetry flows
	Lost          Kind = "link-lost"
	Renewed       Kind = "token-renewed"
	Confirmed     Kind = "confirmed"
	Asking        Kind = "asking-dps"
	Waiting       Kind = "waiting-for-dps" // DPS has not answered yet; told after 10 s, 20 s, 40 s and so on
	Assigned      Kind = "assigned"
	AssignedAgain Kind = "assigned-again" // DPS names the hub that has just failed
	StillDown     Kind = "still-down"     // no link for 1 min, 2 min, 4 min and so on, then once an hour
	BacklogSent   Kind = "backlog-sent"   // the samples that had waited for a link have been sent
	Decision      Kind = "decision"
	OutboxProblem Kind = "outbox"
	Warning       Kind = "warning"
	BadLine       Kind = "bad-line"
	DesiredChange Kind = "desired"
	MethodCall    Kind = "method"
	CloudMessage  Kind = "c2d"
	ClockWrong    Kind = "clock-wrong" // the system clock is not believed
	ClockRight    Kind = "clock-right"
	Resumed       Kind = "resumed" // after a suspension of the machine
	Bug           Kind = "bug"     // a panic that was contained: Name is the path it stopped, Error its stack
	Packet        Kind = "packet"  // one MQTT packet, sent or received; only if asked for
)

// Event is one record. Which fields are set depends on its kind. Text is always a sentence for
// people.
type Event struct {
	Time        time.Time     `json:"time"`
	Device      string        `json:"device"`
	Kind        Kind          `json:"kind"`
	Hub         string        `json:"hub,omitempty"`
	Peer        string        `json:"peer,omitempty"`   // Connected, Renewed, Lost: the hub's name if Hub is an address, its address if Hub is a name
	From        string        `json:"from,omitempty"`   // Connected: the hub before, if the device has moved
	Rule        string        `json:"rule,omitempty"`   // of the decision table; Connected with From: what began the move
	Signal      string        `json:"signal,omitempty"` // what happened
	Action      string        `json:"action,omitempty"` // what is done about it
	Name        string        `json:"name,omitempty"`   // of a method, property, field
	Status      int           `json:"status,omitempty"` // of an answer or acknowledgement
	Took        time.Duration `json:"tookNs,omitempty"`
	Wait        time.Duration `json:"waitNs,omitempty"`
	Outage      time.Duration `json:"outageNs,omitempty"` // Connected: how long there had been no link
	Lost        uint64        `json:"lost,omitempty"`     // Connected, Stopped: samples dropped or damaged meanwhile; OutboxProblem: how many it is about
	Times       uint64        `json:"times,omitempty"`    // how many events this one stands for; 0 for itself alone
	Queued      uint64        `json:"queued,omitempty"`   // Stopping, StillDown: samples that wait; BacklogSent: samples that waited
	Provisional bool          `json:"provisional,omitempty"`
	Person      bool          `json:"person,omitempty"`    // the trouble goes on until a person acts
	Routine     bool          `json:"routine,omitempty"`   // Acknowledged: a renewal of the token made the link
	Unchanged   bool          `json:"unchanged,omitempty"` // Assigned: DPS named the same hub as before; CloudMessage: it was handled before
	Error       string        `json:"error,omitempty"`
	Body        string        `json:"body,omitempty"` // Packet: its content; only if asked for
	Text        string        `json:"text"`
}

// Journal hands events to sinks. It may be used from any goroutine. The zero value is ready.
type Journal struct {
	mu    sync.Mutex
	sinks []func(Event)
	busy  atomic.Pointer[time.Time]
}

// Sink adds a function that is called with every event. It must be quick, and must not emit.
func (j *Journal) Sink(f func(Event)) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.sinks = append(j.sinks, f)
}

// Once returns a sink that calls f at the first event of a kind, in a goroutine of its own.
func Once(kind Kind, f func()) func(Event) {
	call := sync.OnceFunc(func() { go f() })
	return func(e Event) {
		if e.Kind == kind {
			call()
		}
	}
}

// Emit records an event. It sets the time of an event that has none.
func (j *Journal) Emit(e Event) {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	now := time.Now()
	j.busy.Store(&now)
	defer j.busy.Store(nil)
	for _, sink := range j.sinks {
		sink(e)
	}
}

// Busy returns since when the sinks have been taking an event; zero if they take none. It does not
// wait for them.
func (j *Journal) Busy() time.Time {
	if since := j.busy.Load(); since != nil {
		return *since
	}
	return time.Time{}
}

// Duration writes a time in words: 3.2 ms, 0.31 s, 12 s, 4 min, 6 h, 4 d.
func Duration(d time.Duration) string {
	switch {
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.1f ms", d.Seconds()*1000)
	case d < 100*time.Millisecond:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < 10*time.Second:
		return strings.TrimSuffix(fmt.Sprintf("%.2f", d.Seconds()), "0") + " s"
	case d < 2*time.Minute:
		return fmt.Sprintf("%.0f s", d.Seconds())
	case d < 3*time.Hour:
		return fmt.Sprintf("%.0f min", d.Minutes())
	case d < 72*time.Hour:
		return fmt.Sprintf("%.0f h", d.Hours())
	default:
		return fmt.Sprintf("%.0f d", d.Hours()/24)
	}
}

// Clip bounds a peer's text to most bytes, and appends the number of bytes that the whole text has.
// It cuts no character in two.
func Clip(s string, most int) string {
	if len(s) <= most {
		return s
	}
	for most > 0 && !utf8.RuneStart(s[most]) {
		most--
	}
	return fmt.Sprintf("%s… (%d bytes in all)", s[:most], len(s))
}

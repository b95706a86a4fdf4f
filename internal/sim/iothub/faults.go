package iothub

import (
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/wire"
)

// Fault says what goes wrong with a hub.
type Fault struct {
	Kind          string  `json:"kind"`
	Close         string  `json:"close,omitempty"`   // how connections end: "rst" (default) or "fin"
	Seconds       float64 `json:"seconds,omitempty"` // when it ends by itself; 0 means never
	DelayMs       int     `json:"delayMs,omitempty"` // slow: before every packet, default 1000; throttle: before CONNACK and PUBACK, default 5000
	DPSKnows      *bool   `json:"dpsKnows,omitempty"`
	DPSLagSeconds float64 `json:"dpsLagSeconds,omitempty"` // how long DPS needs to notice
	WhenOver      string  `json:"whenOver,omitempty"`      // blackhole, syndrop: connections that waited are "answer"ed (default) or "reset"
	Empty         bool    `json:"empty,omitempty"`         // the hub comes back without identities, twins and messages
}

// The kinds of faults of a hub.
//
// A new kind needs a constant here and in internal/sim/api.go, a row in faultKinds, what it does
// (apply: a wire.Mode below TLS, or a conduct above), and a word in docs/control-api.md. Drills
// draw their faults in internal/drill/schedule.go. A new field of conduct is obeyed where conduct
// is read: in session.go and the files beside it for MQTT, in device_rest.go for HTTPS.
const (
	FaultKill       = "kill"        // all connections are closed, dials refused
	FaultBlackhole  = "blackhole"   // connections stay and are accepted, nothing is answered
	FaultSYNDrop    = "syndrop"     // connections fall silent, new SYNs are not answered
	FaultConnack3   = "connack3"    // all connections are closed, CONNECTs refused with code 3
	FaultConnack5   = "connack5"    // the same with code 5
	FaultClose      = "close"       // all connections are closed, new ones accepted and closed
	FaultSlow       = "slow"        // every packet is late
	FaultDropPuback = "drop-puback" // telemetry is received and not acknowledged
	FaultThrottle   = "throttle"    // CONNACK and PUBACK are late, twin requests get 429
)

// faultKind says what follows from a kind of fault alone.
type faultKind struct {
	name     string
	dpsKnows bool // DPS learns of it and assigns other hubs, unless Fault.DPSKnows says otherwise
	cutOff   bool // nobody can talk to the hub
	silent   bool // connections wait, so Fault.WhenOver has a meaning
}

// faultKinds is all kinds of faults, in the order in which a refusal names them.
var faultKinds = []faultKind{
	{name: FaultKill, dpsKnows: true, cutOff: true},
	{name: FaultBlackhole, dpsKnows: true, cutOff: true, silent: true},
	{name: FaultSYNDrop, dpsKnows: true, cutOff: true, silent: true},
	{name: FaultConnack3, dpsKnows: true},
	{name: FaultConnack5, dpsKnows: true},
	{name: FaultClose},
	{name: FaultSlow},
	{name: FaultDropPuback},
	{name: FaultThrottle},
}

// kindsWith returns the names of the kinds of faults that are so.
func kindsWith(so func(faultKind) bool) (names []string) {
	for _, k := range faultKinds {
		if so(k) {
			names = append(names, k.name)
		}
	}
	return names
}

// isKind reports whether a kind of fault is so. An unknown kind, or none, is not.
func isKind(name string, so func(faultKind) bool) bool {
	return slices.ContainsFunc(faultKinds, func(k faultKind) bool { return k.name == name && so(k) })
}

func every(faultKind) bool      { return true }
func dpsKnows(k faultKind) bool { return k.dpsKnows }
func cutOff(k faultKind) bool   { return k.cutOff }
func silent(k faultKind) bool   { return k.silent }

// conduct is how a hub serves its clients under a fault above TLS. The zero value is healthy.
type conduct struct {
	refuse     byte          // CONNACK for everybody
	delay      time.Duration // before every packet
	dropPuback bool          // telemetry is not acknowledged
	throttle   time.Duration // before CONNACK and PUBACK; twin requests get 429
}

// These values of WhenOver say what happens, at the end of a silence, to the connections that
// waited.
const (
	WaitingAnswer = "answer" // their requests are served, as after some lost packets
	WaitingReset  = "reset"  // they are reset, and their requests are not served
)

// MaxFaultSeconds bounds all times of a fault.
const MaxFaultSeconds = 366 * 24 * 3600

const (
	throttleDelayMs = 5000
	maxFaultDelayMs = 10 * 60 * 1000
)

// CheckKind returns an [azure.Error] unless the kind is one of the known ones.
func CheckKind(kind string, known ...string) error {
	switch {
	case slices.Contains(known, kind):
		return nil
	case kind == "":
		return azure.Errorf(400, "", "a fault needs a kind: %s", strings.Join(known, ", "))
	default:
		return azure.Errorf(400, "", "unknown kind of fault %q: there are %s; DELETE ends a fault", kind, strings.Join(known, ", "))
	}
}

func (f *Fault) check() error {
	if err := CheckKind(f.Kind, kindsWith(every)...); err != nil {
		return err
	}
	if f.Close != "" && f.Close != "rst" && f.Close != "fin" {
		return azure.Errorf(400, "", `close is %q, must be "rst" or "fin"`, f.Close)
	}
	if err := CheckWhenOver(f.WhenOver, f.Kind, kindsWith(silent)...); err != nil {
		return err
	}
	if f.DPSLagSeconds < 0 || f.DPSLagSeconds > MaxFaultSeconds {
		return azure.Errorf(400, "", "dpsLagSeconds is %v, must be 0 to %d", f.DPSLagSeconds, MaxFaultSeconds)
	}
	return CheckTimes(f.Seconds, f.DelayMs)
}

// CheckWhenOver returns an [azure.Error] unless whenOver is empty, or one of its two values in a
// fault of a silent kind.
func CheckWhenOver(whenOver, kind string, silent ...string) error {
	switch {
	case whenOver == "":
		return nil
	case whenOver != WaitingAnswer && whenOver != WaitingReset:
		return azure.Errorf(400, "", "whenOver is %.64q, must be %q or %q", whenOver, WaitingAnswer, WaitingReset)
	case !slices.Contains(silent, kind):
		return azure.Errorf(400, "", "whenOver belongs to %s: under %s nobody waits", strings.Join(silent, " and "), kind)
	}
	return nil
}

// CheckTimes returns an [azure.Error] if a time of a fault is negative or too long.
func CheckTimes(seconds float64, delayMs int) error {
	if seconds < 0 || seconds > MaxFaultSeconds {
		return azure.Errorf(400, "", "seconds is %v, must be 0 to %d", seconds, MaxFaultSeconds)
	}
	if delayMs < 0 || delayMs > maxFaultDelayMs {
		return azure.Errorf(400, "", "delayMs is %d, must be 0 to %d", delayMs, maxFaultDelayMs)
	}
	return nil
}

// dpsKnows reports whether DPS learns of the fault.
func (f *Fault) dpsKnows() bool {
	if f.DPSKnows != nil {
		return *f.DPSKnows
	}
	return isKind(f.Kind, dpsKnows)
}

func (f *Fault) hangUp() wire.HangUp {
	if f.Close == "fin" {
		return wire.FIN
	}
	return wire.RST
}

// FaultError gives an error of [wire.FaultState] the form of a refusal.
func FaultError(err error) error {
	if errors.Is(err, wire.ErrStopped) {
		return azure.Errorf(409, "", "%v", err)
	}
	return err
}

// DelayOr returns a delay in milliseconds as a duration, the fallback if it is 0.
func DelayOr(ms, fallback int) time.Duration {
	if ms == 0 {
		ms = fallback
	}
	return time.Duration(ms) * time.Millisecond
}

// Fault makes the hub misbehave. It replaces the fault in force. Its error is an [azure.Error].
func (h *Hub) Fault(f Fault) error {
	if err := f.check(); err != nil {
		return err
	}
	if f.Kind == FaultSYNDrop {
		for _, e := range h.endpoints {
			if !e.CanDropSYNs() {
				return azure.Errorf(400, "", "%v", wire.ErrNoSYNDrop)
			}
		}
	}
	err := FaultError(h.faults.Begin(f, f.Kind, f.Seconds, func() error { return h.apply(f) }, h.undo))
	if err == nil {
		FaultBegun(h.log, h.options.Tell, h.name, f.Kind, f.Seconds)
	}
	return err
}

func (h *Hub) apply(f Fault) error {
	var (
		m   wire.Mode
		c   conduct
		how = wire.Keep
	)
	switch f.Kind {
	case FaultKill:
		m.Door, how = wire.DoorShut, f.hangUp()
	case FaultBlackhole:
		m.Mute, m.Resets = true, f.WhenOver == WaitingReset
	case FaultSYNDrop:
		m.Mute, m.Door, m.Resets = true, wire.DoorDeaf, f.WhenOver == WaitingReset
	case FaultConnack3:
		c.refuse, how = wire.ConnackUnavailable, f.hangUp()
	case FaultConnack5:
		c.refuse, how = wire.ConnackNotAuthorized, f.hangUp()
	case FaultClose:
		m.TurnAway, how = f.hangUp(), f.hangUp()
	case FaultSlow:
		c.delay = DelayOr(f.DelayMs, 1000)
	case FaultDropPuback:
		c.dropPuback = true
	case FaultThrottle:
		c.throttle = DelayOr(f.DelayMs, throttleDelayMs)
	}
	h.conduct.Store(&c)
	for _, e := range h.endpoints {
		if err := e.Enter(m, how, "fault "+f.Kind); err != nil {
			_ = h.undo() // rather no fault than half a fault
			return azure.Errorf(409, "", "%s: %v", h.name, err)
		}
	}
	h.losesAll = h.losesAll || f.Empty // a later fault does not bring back what is lost
	return nil
}

// FaultKind returns the kind of the hub's fault, "" if it has none.
func (h *Hub) FaultKind() string { return h.faults.Kind() }

// Heal ends the hub's fault, if it has one. An error says that a listener cannot come back.
func (h *Hub) Heal() error { return FaultError(h.faults.End(h.undo)) }

func (h *Hub) undo() error {
	if h.losesAll {
		h.loseAll()
	}
	for _, e := range h.endpoints {
		if err := e.Enter(wire.Mode{}, wire.Keep, ""); err != nil {
			return azure.Errorf(409, "", "%s cannot come back: %v", h.name, err)
		}
	}
	h.losesAll = false
	h.conduct.Store(nil)
	return nil
}

// loseAll empties the hub. A device is back when it registers with DPS.
func (h *Hub) loseAll() {
	for _, i := range h.All() {
		_ = h.Delete(i.id, "the hub has lost its identities") // the store has logged the error
	}
}

// FaultBegun logs that a fault of a hub or of DPS has begun, and tells the event.
func FaultBegun(log zerolog.Logger, tell func(Event), hub, kind string, seconds float64) {
	tell(Event{Kind: EventFault, Hub: hub, Reason: kind})
	line := log.Info().Str("hub", hub).Str("kind", kind)
	if seconds > 0 {
		line = line.Float64("seconds", seconds)
	}
	line.Msg("fault")
}

// FaultOver returns a function that logs the end of a fault of a hub or of DPS, and tells the
// event.
func FaultOver(log zerolog.Logger, tell func(Event), hub string) func(kind string) {
	return func(kind string) {
		tell(Event{Kind: EventHeal, Hub: hub, Reason: kind})
		log.Info().Str("hub", hub).Str("kind", kind).Msg("fault is over")
	}
}

// Reachable reports whether the hub can be talked to. It cannot under a fault that cuts it off.
func (h *Hub) Reachable() bool { return !isKind(h.faults.Kind(), cutOff) }

// DeadForDPS reports whether DPS knows that the hub cannot be used.
func (h *Hub) DeadForDPS() bool {
	a := h.faults.Now.Load()
	return a != nil && a.Fault.dpsKnows() && time.Since(a.Since) >= azure.Seconds(a.Fault.DPSLagSeconds)
}

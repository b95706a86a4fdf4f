package sim

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/wire"
)

// Fault is what goes wrong with a hub.
type Fault struct {
	Kind          string  `json:"kind"`
	Close         string  `json:"close,omitempty"`   // how connections end: "rst" (default) or "fin"
	Seconds       float64 `json:"seconds,omitempty"` // heals by itself; 0 is until healed
	DelayMs       int     `json:"delayMs,omitempty"` // slow: before every packet, default 1000; throttle: before CONNACK and PUBACK, default 5000
	DPSKnows      *bool   `json:"dpsKnows,omitempty"`
	DPSLagSeconds float64 `json:"dpsLagSeconds,omitempty"` // how long DPS needs to notice
	WhenOver      string  `json:"whenOver,omitempty"`      // blackhole, syndrop: connections that waited are "answer"ed (default) or "reset"
	Empty         bool    `json:"empty,omitempty"`         // the hub comes back without identities, twins and messages
}

// The kinds of hub faults. Under the first five DPS knows of the fault unless DPSKnows is false, and assigns other hubs.
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

// DPSFault is what goes wrong with DPS.
type DPSFault struct {
	Kind       string  `json:"kind"`
	Seconds    float64 `json:"seconds,omitempty"`
	RetryAfter *int    `json:"retryAfter,omitempty"` // throttle: seconds; without it Config.RetryAfter counts
	DelayMs    int     `json:"delayMs,omitempty"`    // slow: before every answer, default 1000
	WhenOver   string  `json:"whenOver,omitempty"`   // blackhole: connections that waited are "answer"ed (default) or "reset"
}

// The kinds of DPS faults. Down and blackhole hit the whole HTTPS address, so the IoT Central façade goes with them.
const (
	DPSDown         = "down"         // dials are refused
	DPSBlackhole    = "blackhole"    // connections are accepted, nothing is answered
	DPSDrop         = "drop"         // the connection is closed in the middle of a registration
	DPSThrottle     = "throttle"     // 429
	DPSError500     = "error500"     // 500
	DPSStuck        = "stuck"        // assigning for ever
	DPSSlow         = "slow"         // answers are late
	DPSUnauthorized = "unauthorized" // 401 for everybody
	DPSStray        = "stray"        // MQTT: every answer is preceded by one to a question nobody asked, and comes twice
)

// These values of WhenOver say what happens, at the end of a silence, to the connections that
// waited.
const (
	WaitingAnswer = "answer" // their requests are served, as after some lost packets
	WaitingReset  = "reset"  // they are reset, and their requests are not served
)

const (
	throttleDelayMs = 5000
	maxFaultSeconds = 366 * 24 * 3600
	maxFaultDelayMs = 10 * 60 * 1000
)

func checkKind(kind string, known ...string) error {
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
	if err := checkKind(f.Kind, FaultKill, FaultBlackhole, FaultSYNDrop, FaultConnack3, FaultConnack5, FaultClose, FaultSlow, FaultDropPuback,
		FaultThrottle); err != nil {
		return err
	}
	if f.Close != "" && f.Close != "rst" && f.Close != "fin" {
		return azure.Errorf(400, "", `close is %q, must be "rst" or "fin"`, f.Close)
	}
	if err := checkWhenOver(f.WhenOver, f.Kind, FaultBlackhole, FaultSYNDrop); err != nil {
		return err
	}
	if f.DPSLagSeconds < 0 || f.DPSLagSeconds > maxFaultSeconds {
		return azure.Errorf(400, "", "dpsLagSeconds is %v, must be 0 to %d", f.DPSLagSeconds, maxFaultSeconds)
	}
	return checkTimes(f.Seconds, f.DelayMs)
}

func (f *DPSFault) check() error {
	if err := checkKind(f.Kind, DPSDown, DPSBlackhole, DPSDrop, DPSThrottle, DPSError500, DPSStuck, DPSSlow, DPSUnauthorized, DPSStray); err != nil {
		return err
	}
	if r := f.RetryAfter; r != nil && (*r < 0 || *r > maxFaultSeconds) {
		return azure.Errorf(400, "", "retryAfter is %d, must be 0 to %d", *r, maxFaultSeconds)
	}
	if err := checkWhenOver(f.WhenOver, f.Kind, DPSBlackhole); err != nil {
		return err
	}
	return checkTimes(f.Seconds, f.DelayMs)
}

func checkWhenOver(whenOver, kind string, silent ...string) error {
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

func checkTimes(seconds float64, delayMs int) error {
	if seconds < 0 || seconds > maxFaultSeconds {
		return azure.Errorf(400, "", "seconds is %v, must be 0 to %d", seconds, maxFaultSeconds)
	}
	if delayMs < 0 || delayMs > maxFaultDelayMs {
		return azure.Errorf(400, "", "delayMs is %d, must be 0 to %d", delayMs, maxFaultDelayMs)
	}
	return nil
}

func (f *Fault) dpsKnows() bool {
	if f.DPSKnows != nil {
		return *f.DPSKnows
	}
	return slices.Contains([]string{FaultKill, FaultBlackhole, FaultSYNDrop, FaultConnack3, FaultConnack5}, f.Kind)
}

func (f *Fault) hangUp() wire.HangUp {
	if f.Close == "fin" {
		return wire.FIN
	}
	return wire.RST
}

func delayOr(ms, fallback int) time.Duration {
	if ms == 0 {
		ms = fallback
	}
	return time.Duration(ms) * time.Millisecond
}

// active is a fault in force.
type active[F any] struct {
	fault F
	kind  string
	since time.Time
	timer *time.Timer // heals it; nil if somebody has to
}

// faultState is the fault of one hub or of DPS, if any.
type faultState[F any] struct {
	over     func(kind string) // called when a fault has ended, with changing held
	changing sync.Mutex        // held while a fault begins or ends
	now      atomic.Pointer[active[F]]
	closed   bool
}

func (s *faultState[F]) kind() string {
	if a := s.now.Load(); a != nil {
		return a.kind
	}
	return ""
}

// begin replaces the present fault. apply makes it felt; undo heals, and is called when the time is up unless another fault has begun.
func (s *faultState[F]) begin(f F, kind string, secs float64, apply func() error, undo func() error) error {
	s.changing.Lock()
	defer s.changing.Unlock()
	if s.closed {
		return azure.Errorf(409, "", "the simulator has stopped")
	}
	old := s.now.Load()
	a := &active[F]{fault: f, kind: kind, since: time.Now()}
	s.now.Store(a)
	old.stop()
	if err := apply(); err != nil {
		s.now.Store(nil) // apply has put everything back to healthy
		if old != nil {
			s.over(old.kind)
		}
		return err
	}
	if secs > 0 {
		a.timer = time.AfterFunc(azure.Seconds(secs), func() { s.expire(a, undo) })
	}
	return nil
}

// expire heals a, if it is still the present fault. What cannot be healed, because somebody has taken the address, is tried again.
func (s *faultState[F]) expire(a *active[F], undo func() error) {
	s.changing.Lock()
	defer s.changing.Unlock()
	if s.closed || s.now.Load() != a {
		return
	}
	s.now.Store(nil)
	if undo() != nil {
		s.now.Store(a)
		a.timer.Reset(time.Second)
		return
	}
	s.over(a.kind)
}

// end heals the present fault.
func (s *faultState[F]) end(undo func() error) error {
	s.changing.Lock()
	defer s.changing.Unlock()
	if s.closed {
		return azure.Errorf(409, "", "the simulator has stopped")
	}
	old := s.now.Load()
	if old == nil {
		return nil
	}
	s.now.Store(nil)
	if err := undo(); err != nil {
		s.now.Store(old)
		return err
	}
	old.stop()
	s.over(old.kind)
	return nil
}

func (a *active[F]) stop() {
	if a != nil && a.timer != nil {
		a.timer.Stop()
	}
}

// close forgets the timed healing; the one that runs is waited for.
func (s *faultState[F]) close() {
	s.changing.Lock()
	defer s.changing.Unlock()
	s.closed = true
	s.now.Load().stop()
}

// fault makes the hub misbehave.
func (h *hub) fault(f Fault) error {
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
	err := h.faults.begin(f, f.Kind, f.Seconds, func() error { return h.apply(f) }, h.undo)
	if err == nil {
		faultBegun(h.log, h.tell, h.name, f.Kind, f.Seconds)
	}
	return err
}

func (h *hub) apply(f Fault) error {
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
		c.delay = delayOr(f.DelayMs, 1000)
	case FaultDropPuback:
		c.dropPuback = true
	case FaultThrottle:
		c.throttle = delayOr(f.DelayMs, throttleDelayMs)
	}
	h.conduct.Store(&c)
	for _, e := range h.endpoints {
		if err := e.Enter(m, how, "fault "+f.Kind); err != nil {
			_ = h.undo() // half a fault would be nobody's wish
			return azure.Errorf(409, "", "%s: %v", h.name, err)
		}
	}
	h.losesAll = h.losesAll || f.Empty // what is lost stays lost, whatever fault comes next
	return nil
}

// faultKind is the kind of the hub's fault, empty if it has none.
func (h *hub) faultKind() string { return h.faults.kind() }

// heal ends the hub's fault, if it has one.
func (h *hub) heal() error { return h.faults.end(h.undo) }

func (h *hub) undo() error {
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

// loseAll empties the hub; a device is back when it registers with DPS.
func (h *hub) loseAll() {
	for _, i := range h.all() {
		_ = h.delete(i.id, "the hub has lost its identities") // nobody is told that it is done; the store has logged the error
	}
}

// faultBegun logs the beginning of a fault of a hub or of DPS, with its length if it has one, and
// emits its event.
func faultBegun(log zerolog.Logger, tell func(Event), hub, kind string, seconds float64) {
	tell(Event{Kind: EventFault, Hub: hub, Reason: kind})
	line := log.Info().Str("hub", hub).Str("kind", kind)
	if seconds > 0 {
		line = line.Float64("seconds", seconds)
	}
	line.Msg("fault")
}

// faultOver returns a function that logs the end of a fault of a hub or of DPS, and emits its
// event.
func faultOver(log zerolog.Logger, tell func(Event), hub string) func(kind string) {
	return func(kind string) {
		tell(Event{Kind: EventHeal, Hub: hub, Reason: kind})
		log.Info().Str("hub", hub).Str("kind", kind).Msg("fault is over")
	}
}

// deadForDPS says whether DPS knows that the hub is of no use.
func (h *hub) deadForDPS() bool {
	a := h.faults.now.Load()
	return a != nil && a.fault.dpsKnows() && time.Since(a.since) >= azure.Seconds(a.fault.DPSLagSeconds)
}

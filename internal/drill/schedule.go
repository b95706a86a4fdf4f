package drill

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim"
)

// Schedule says what happens to a device and its cloud, and when. It is a text, so that a schedule
// that has found a fault can be kept as a file:
//
//	# a comment
//	with {"interval":"1s","retryAfter":3}
//	12.3s hub-a {"kind":"kill","seconds":20}
//	15s dps {"kind":"throttle","retryAfter":5,"seconds":10}
//	20s device failover 30s
//	30s cut hub-b 4s
//	31s delay 80ms 10s
//	33s weather 500ms 0.05 20s
//	35s handover 3s
//	37s path dps portal 5s
//	38s storm 10 200ms
//	39s rival 15s
//	40s crash rst 2s
//	50s restart 1s
//	55s clock -2h 20s
//	60s desired
//
// The first word of a step is the time since the start, and the last one is how long the step
// lasts. Steps may overlap.
type Schedule struct {
	With  Settings
	Steps []Step
}

// Settings are how a world is set up before the first step. A zero value stands for the default.
type Settings struct {
	Seed       uint64 `json:"seed"`                 // of the device's own chance
	Interval   string `json:"interval,omitempty"`   // between two samples, a duration
	RetryAfter *int   `json:"retryAfter,omitempty"` // what DPS asks for, seconds; nil: nothing
	Polls      int    `json:"polls,omitempty"`      // how often DPS answers "assigning" first
	Hubs       int    `json:"hubs,omitempty"`
	SASTTL     string `json:"sasTTL,omitempty"` // of the device's tokens, a duration
	Pipeline   string `json:"pipeline,omitempty"`
	Transport  string `json:"transport,omitempty"` // to DPS
	NoKnown    bool   `json:"noKnown,omitempty"`
	Window     int    `json:"window,omitempty"` // messages in flight
	FreshFirst bool   `json:"freshFirst,omitempty"`
	SyncEvery  string `json:"syncEvery,omitempty"`  // of the outbox, a duration
	Move       string `json:"move,omitempty"`       // what a hub does with an identity that leaves it
	Refusal    byte   `json:"refusal,omitempty"`    // the CONNACK for a disabled identity
	Delay      string `json:"delay,omitempty"`      // one way, a duration
	BackWithin string `json:"backWithin,omitempty"` // how long the first sample may take in the end, a duration

	OutboxBytes int64  `json:"outboxBytes,omitempty"`
	Certificate string `json:"certificate,omitempty"` // life of the device's X.509 certificate, a duration; "": it has a key
	Paced       bool   `json:"paced,omitempty"`       // the rate of the samples is changed while the device runs
}

// Step is one line of a schedule.
type Step struct {
	At   time.Duration // since the start
	What string        // its words
}

func (s Schedule) String() string {
	with, err := json.Marshal(s.With)
	if err != nil {
		panic(err) // a struct of strings and numbers always has JSON
	}
	var b strings.Builder
	fmt.Fprintf(&b, "with %s\n", with)
	for _, st := range s.Steps {
		fmt.Fprintf(&b, "%v %s\n", st.At, st.What)
	}
	return b.String()
}

// ParseSchedule reads the text of a schedule. An error names the line.
func ParseSchedule(text string) (s Schedule, err error) {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		first, rest, _ := strings.Cut(line, " ")
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case first == "with":
			err = json.Unmarshal([]byte(rest), &s.With)
		default:
			st := Step{What: rest}
			if st.At, err = time.ParseDuration(first); err == nil {
				_, err = st.Deed()
			}
			s.Steps = append(s.Steps, st)
		}
		if err != nil {
			return s, fmt.Errorf("%s: %w", line, err)
		}
	}
	return s, nil
}

// Lasts returns how long all steps last together.
func (s Schedule) Lasts() (sum time.Duration) {
	for _, st := range s.Steps {
		if d, err := st.Deed(); err == nil {
			sum += d.Lasts
		}
	}
	return sum
}

// Draw makes the schedule of a seed. The same seed always makes the same schedule.
func Draw(seed uint64) Schedule {
	d := draw{rand.New(rand.NewPCG(seed, 1))}
	s := Schedule{With: d.settings(seed)}
	at := time.Duration(0)
	if d.IntN(2) == 0 { // then the device knows two hubs, and is at home in the second
		s.Steps = append(s.Steps, Step{12 * time.Second, `hub-a {"kind":"kill","seconds":10}`})
		at = 30 * time.Second
	}
	for n := 1 + d.IntN(9); n > 0; n-- {
		switch d.IntN(4) {
		case 0: // at the time of the step before
		case 1:
			at += time.Duration(d.IntN(3000)) * time.Millisecond
		default:
			at += time.Duration(d.IntN(40_000)) * time.Millisecond
		}
		hub := "hub-" + string(rune('a'+d.IntN(s.With.Hubs)))
		if d.IntN(2) == 0 {
			hub = "hub-a"
		}
		s.Steps = append(s.Steps, Step{at, d.step(hub)})
	}
	// Each of the following has chance of its own, so that the rest of a seed's schedule stays what
	// it was before there was this kind of step.
	if c := (draw{rand.New(rand.NewPCG(seed, 2))}); c.IntN(3) == 0 {
		from := millis(time.Duration(c.IntN(2)*c.IntN(60_000)) * time.Millisecond) // half of them from the start
		off := []string{"1970", "-2h", "2h", "-30m", "720h"}[c.IntN(5)]
		s.Steps = append(s.Steps, Step{from, fmt.Sprintf("clock %s %v", off, millis(time.Duration(1+c.IntN(90_000))*time.Millisecond))})
	}
	if c := (draw{rand.New(rand.NewPCG(seed, 3))}); c.IntN(5) == 0 {
		from, lasts := millis(time.Duration(c.IntN(60_000))*time.Millisecond), millis(time.Duration(1+c.IntN(40_000))*time.Millisecond)
		how := fmt.Sprintf("weather %v %.2f", millis(time.Duration(c.IntN(2000))*time.Millisecond), c.Float64()/10)
		if c.IntN(2) == 0 {
			how = "handover"
		}
		s.Steps = append(s.Steps, Step{from, how + " " + lasts.String()})
	}
	return s
}

// draw is the chance that makes a schedule. The order of its calls decides what a seed means.
type draw struct{ *rand.Rand }

func (d draw) some(all ...string) string { return all[d.IntN(len(all))] }

// long returns a time of any order of magnitude between 50 ms and 70 s.
func (d draw) long() time.Duration {
	return millis(time.Duration(50*float64(time.Millisecond)) << d.IntN(11) * time.Duration(100+d.IntN(40)) / 100)
}

func (d draw) seconds() float64 { return d.long().Seconds() }

func millis(d time.Duration) time.Duration { return d.Round(time.Millisecond) }

func (d draw) settings(seed uint64) Settings {
	s := Settings{
		Seed: seed, Interval: d.some("1s", "1s", "1s", "200ms", "5s"), Hubs: 2 + d.IntN(4)/3, SASTTL: d.some("1h", "1h", "1m40s", "3m"),
		Pipeline: d.some("", "", "", "off", "on"), Transport: d.some("mqtt", "mqtt", "mqtt", "https"), NoKnown: d.IntN(6) == 0,
		Window: []int{0, 0, 1, 8}[d.IntN(4)], FreshFirst: d.IntN(8) == 0, SyncEvery: d.some("", "", "", "1s"), Move: d.some("", "", "delete"),
		Refusal: []byte{0, 0, 5}[d.IntN(3)], Delay: d.some("", "", "5ms", "40ms", "150ms"), Polls: d.IntN(4) / 3,
	}
	if s.Window == 1 && (s.Interval == "200ms" || s.Delay == "150ms") {
		s.Window = 8 // one message at a time would not catch up
	}
	if n := []int{-1, 0, 1, 3, 3, 5}[d.IntN(6)]; n >= 0 {
		s.RetryAfter = &n
	}
	return s
}

// step draws the words of a step. hub is the hub that it may be about.
func (d draw) step(hub string) string {
	switch k := d.IntN(33); {
	case k < 9:
		f := sim.Fault{Kind: d.some(sim.FaultKill, sim.FaultKill, sim.FaultBlackhole, sim.FaultSYNDrop, sim.FaultConnack3, sim.FaultConnack5,
			sim.FaultClose, sim.FaultSlow, sim.FaultDropPuback, sim.FaultThrottle), Close: d.some("", "fin"), Seconds: d.seconds()}
		if d.IntN(2) == 0 {
			f.DPSKnows = new(d.IntN(2) == 0)
		}
		if d.IntN(3) == 0 {
			f.DPSLagSeconds = d.seconds()
		}
		if f.Kind == sim.FaultSlow || f.Kind == sim.FaultThrottle {
			f.DelayMs = 1 + d.IntN(8000)
		}
		f.Empty = d.IntN(12) == 0
		return hub + " " + document(f)
	case k < 14:
		f := sim.DPSFault{Kind: d.some(sim.DPSDown, sim.DPSBlackhole, sim.DPSDrop, sim.DPSThrottle, sim.DPSError500, sim.DPSStuck, sim.DPSSlow,
			sim.DPSUnauthorized, sim.DPSStray), Seconds: d.seconds()}
		if f.Kind == sim.DPSThrottle {
			f.RetryAfter = new(d.IntN(12))
		}
		if f.Kind == sim.DPSSlow {
			f.DelayMs = 1 + d.IntN(8000)
		}
		return "dps " + document(f)
	case k < 18:
		return "device " + d.some("failover", "failover", "failback", "disconnect", "disable", "block", "identity", "delete") + " " + d.long().String()
	case k < 20:
		return "cut " + d.some(hub, hub, "dps", "all") + " " + d.long().String()
	case k < 21:
		return "delay " + millis(time.Duration(d.IntN(600))*time.Millisecond).String() + " " + d.long().String()
	case k < 23:
		return d.some("crash rst", "crash fin", "restart") + " " + d.long().String()
	case k < 26:
		return "path " + d.some(hub, hub, "dps", "all") + " " + d.some("nxdomain", "no-dns", "unreachable", "refused", "portal", "reset", "hang") + " " + d.long().String()
	case k < 27:
		return fmt.Sprintf("storm %d %v", 2+d.IntN(20), millis(time.Duration(1+d.IntN(900))*time.Millisecond))
	case k < 28:
		return "rival " + d.long().String()
	default:
		return d.some("desired", "c2d", "method")
	}
}

// document writes a fault as the control API has it.
func document(fault any) string {
	b, err := json.Marshal(fault)
	if err != nil {
		panic(err) // a struct of strings and numbers always has JSON
	}
	return string(b)
}

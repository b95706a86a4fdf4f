package play

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/internal/drill"
	"github.com/hubhop-iot/hubhop/internal/drill/scenario"
	"github.com/hubhop-iot/hubhop/internal/sim"
)

// scene is an action of a scenario, as the runner plays it.
type scene struct {
	where string // for reports: a hub, "dps", "network", "device"
	what  string // in a word: "kill rst", "failover"
	text  string // in a sentence's part: "kill hub-a (rst) for 20s"
	needs []drill.Need
	line  int
	at    time.Duration // since the beginning of the step
	fault bool          // it breaks something, so it is shown as a fault
	all   bool          // it is about all devices
	drill.Deed
	command *command // it is a command; then the deed does nothing
}

// command is a method, a message or a desired change.
type command struct {
	name    string // in reports
	method  *scenario.Command
	message *scenario.Command
	desired map[string]scenario.JSON
}

// scenes are the actions of a step.
func scenes(step *scenario.Step, chaos drill.Schedule) (all []scene, err error) {
	for i := range step.Do {
		a := &step.Do[i]
		if a.Chaos != nil {
			more, err := chaosScenes(chaos, a.Line)
			if err != nil {
				return nil, err
			}
			all = append(all, more...)
			continue
		}
		s, err := newScene(a)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", a.Line, err)
		}
		s.line = a.Line
		if a.Failover != nil && step.Expect.BackOnceOver == 0 {
			s.Lasts = 0 // nobody waits for the return
		}
		all = append(all, s)
	}
	return all, nil
}

// chaosScenes are the steps of a schedule.
func chaosScenes(s drill.Schedule, line int) (all []scene, err error) {
	for _, st := range s.Steps {
		d, err := st.Deed()
		if err != nil {
			return nil, fmt.Errorf("%v %s: %w", st.At, st.What, err)
		}
		where, what, _ := strings.Cut(st.What, " ")
		switch {
		case where == "dps" || strings.HasPrefix(where, "hub-"):
		case where == "cut" || where == "delay" || where == "weather" || where == "handover" || where == "path":
			where, what = "network", st.What
		default:
			where, what = "device", st.What
		}
		all = append(all, scene{where: where, what: what, text: st.What, at: st.At, line: line, fault: true, Deed: d, needs: []drill.Need{
			drill.NeedHubFaults, drill.NeedDPSFaults, drill.NeedPaths, drill.NeedWeather, drill.NeedMoves, drill.NeedOperator, drill.NeedMethods, drill.NeedMail, drill.NeedTwin, drill.NeedProcess, drill.NeedKill, drill.NeedClock, drill.NeedRival,
		}})
	}
	return all, nil
}

// lasting makes a text of an action and its time.
func lasting(text string, d time.Duration) string {
	if d <= 0 {
		return text
	}
	return text + " for " + short(d)
}

// short writes a duration without its zeros: 1m0s is 1m.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// newScene reads one action.
func newScene(a *scenario.Action) (scene, error) {
	for _, read := range []func(*scenario.Action) (scene, bool, error){cloudScene, networkScene, operatorScene, commandScene, processScene} {
		if s, mine, err := read(a); mine {
			return s, err
		}
	}
	return scene{}, errors.New("this action cannot be played")
}

// cloudScene is a fault of the cloud, or its end.
func cloudScene(a *scenario.Action) (s scene, mine bool, err error) {
	switch {
	case a.Fault != nil:
		f := a.Fault
		doc := sim.Fault{Kind: f.Kind, Close: f.Close, Seconds: f.For.Seconds(), DelayMs: int(f.Delay.Milliseconds()), DPSKnows: f.DPSKnows,
			DPSLagSeconds: f.DPSLag.Seconds(), WhenOver: f.WhenOver, Empty: f.Empty}
		s = scene{where: f.Hub, what: strings.TrimSpace(f.Kind + " " + f.Close), needs: []drill.Need{drill.NeedHubFaults}, fault: true}
		s.text = lasting(fmt.Sprintf("%s %s", f.Hub, s.what), f.For)
		s.Deed = drill.Deed{Lasts: f.For,
			Begin: func(ctx context.Context, st *drill.Stage) error { return st.Cloud.FaultHub(ctx, f.Hub, doc) },
			End:   healHub(f.Hub)}
	case a.DPS != nil:
		f := a.DPS
		doc := sim.DPSFault{Kind: f.Kind, Seconds: f.For.Seconds(), DelayMs: int(f.Delay.Milliseconds()), WhenOver: f.WhenOver}
		if f.RetryAfter != nil {
			doc.RetryAfter = new(int(f.RetryAfter.Seconds()))
		}
		s = scene{where: "dps", what: f.Kind, text: lasting("dps "+f.Kind, f.For), needs: []drill.Need{drill.NeedDPSFaults}, fault: true}
		s.Deed = drill.Deed{Lasts: f.For,
			Begin: func(ctx context.Context, st *drill.Stage) error { return st.Cloud.FaultDPS(ctx, doc) },
			End:   func(ctx context.Context, st *drill.Stage) error { return st.Cloud.HealDPS(ctx) }}
	case a.Heal != "":
		place := a.Heal
		s = scene{where: place, what: "heal", text: "heal " + place}
		if place != "dps" {
			s.needs = append(s.needs, drill.NeedHubFaults)
		}
		if place == "dps" || place == "all" {
			s.needs = append(s.needs, drill.NeedDPSFaults)
		}
		s.Begin = func(ctx context.Context, st *drill.Stage) error {
			switch place {
			case "dps":
				return st.Cloud.HealDPS(ctx)
			case "all":
				return drill.Heal(ctx, st.Cloud)
			}
			return st.Cloud.HealHub(ctx, place)
		}
	default:
		return s, false, nil
	}
	return s, true, nil
}

func healHub(name string) func(context.Context, *drill.Stage) error {
	return func(ctx context.Context, st *drill.Stage) error { return st.Cloud.HealHub(ctx, name) }
}

// networkScene is a fault of the way between the device and its cloud.
func networkScene(a *scenario.Action) (s scene, mine bool, err error) {
	words, lasts := "", time.Duration(0)
	need := drill.NeedPaths
	switch {
	case a.Cut != nil:
		words, lasts = "cut "+a.Cut.Place, a.Cut.For
	case a.Delay != nil:
		words, lasts, need = fmt.Sprintf("delay %v", a.Delay.By), a.Delay.For, drill.NeedWeather
	case a.Weather != nil:
		words, lasts, need = fmt.Sprintf("weather %v %v", a.Weather.Jitter, a.Weather.Loss), a.Weather.For, drill.NeedWeather
	case a.Handover != nil:
		words, lasts = "handover", a.Handover.For
	case a.Path != nil:
		words, lasts = "path "+a.Path.Place+" "+a.Path.How, a.Path.For
	default:
		return s, false, nil
	}
	s = scene{where: "network", what: words, text: lasting(words, lasts), needs: []drill.Need{need}, fault: true}
	s.Deed, err = drill.Step{What: words + " " + lasts.String()}.Deed()
	return s, true, err
}

// operatorScene is what an operator does to a device.
func operatorScene(a *scenario.Action) (s scene, mine bool, err error) {
	verb, lasts, need, all := "", time.Duration(0), drill.NeedOperator, ""
	switch {
	case a.Failover != nil:
		verb, lasts, need, all = "failover", a.Failover.For, drill.NeedMoves, a.Failover.Devices
	case a.Failback != nil:
		verb, need, all = "failback", drill.NeedMoves, a.Failback.Devices
	case a.Disconnect != nil:
		verb = "disconnect"
	case a.Delete != nil:
		verb = "delete"
	case a.Disable != nil:
		verb, lasts = "disable", a.Disable.For
	case a.DisableIdentity != nil:
		verb, lasts = "identity", a.DisableIdentity.For
	case a.Block != nil:
		verb, lasts = "block", a.Block.For
	case a.Enable != nil:
		return actScene("enable", drill.Enable), true, nil
	case a.Unblock != nil:
		return actScene("unblock", drill.Unblock), true, nil
	case a.Storm != nil:
		words := fmt.Sprintf("storm %d %v", a.Storm.Times, a.Storm.Every)
		s = scene{where: "device", what: "storm", text: fmt.Sprintf("disconnect %d times, every %s", a.Storm.Times, short(a.Storm.Every)),
			needs: []drill.Need{drill.NeedOperator}, fault: true}
		s.Deed, err = drill.Step{What: words}.Deed()
		return s, true, err
	default:
		return s, false, nil
	}
	s = scene{where: "device", what: verb, text: lasting(verb, lasts), needs: []drill.Need{need}, fault: true, all: all == "all"}
	if s.all {
		s.text = "all devices: " + s.text
	}
	s.Deed, err = drill.Step{What: "device " + verb + " " + lasts.String()}.Deed()
	return s, true, err
}

func actScene(verb string, a drill.Act) scene {
	return scene{where: "device", what: verb, text: verb, needs: []drill.Need{drill.NeedOperator}, Deed: drill.Deed{
		Begin: func(ctx context.Context, st *drill.Stage) error { return st.Cloud.Act(ctx, st.Device, a) }}}
}

// commandScene is a command or a desired change.
func commandScene(a *scenario.Action) (s scene, mine bool, err error) {
	nothing := func(context.Context, *drill.Stage) error { return nil }
	s = scene{where: "device", Deed: drill.Deed{Begin: nothing}}
	switch {
	case a.Method != nil:
		s.what, s.needs, s.command = "method", []drill.Need{drill.NeedMethods}, &command{name: "method " + a.Method.Name, method: a.Method}
	case a.Message != nil:
		s.what, s.needs, s.command = "message", []drill.Need{drill.NeedMail}, &command{name: "message " + a.Message.Name, message: a.Message}
	case a.Desired != nil:
		text, err := json.Marshal(a.Desired)
		if err != nil {
			return s, true, err
		}
		s.what, s.needs, s.command = "desired", []drill.Need{drill.NeedTwin}, &command{name: "desired " + string(text), desired: a.Desired}
	default:
		return s, false, nil
	}
	s.text = s.command.name
	return s, true, nil
}

// processScene is what is done to the device as a program, to its load, and to its machine.
func processScene(a *scenario.Action) (s scene, mine bool, err error) {
	do := func(f func(*drill.Stage)) func(context.Context, *drill.Stage) error {
		return func(_ context.Context, st *drill.Stage) error { f(st); return nil }
	}
	start := do(func(st *drill.Stage) { st.Process.Start() })
	switch {
	case a.Rate != nil:
		rate := *a.Rate
		s = scene{what: "rate", text: fmt.Sprintf("%v samples a second", rate), needs: []drill.Need{drill.NeedLoad}}
		s.Begin = func(_ context.Context, st *drill.Stage) error {
			paced, ok := st.Process.(drill.Paced)
			if !ok {
				return errors.New("the rate of this device cannot be changed")
			}
			paced.SetRate(rate)
			return nil
		}
	case a.Crash != nil:
		how := cmp.Or(a.Crash.Close, "rst")
		s = scene{what: "crash " + how, text: lasting("crash ("+how+")", a.Crash.For), needs: []drill.Need{drill.NeedProcess, drill.NeedKill}, fault: true}
		s.Deed = drill.Deed{Lasts: a.Crash.For, Begin: do(func(st *drill.Stage) { st.Process.Crash(how == "rst") }), End: start}
	case a.Restart != nil:
		s = scene{what: "restart", text: lasting("restart, off", a.Restart.For), needs: []drill.Need{drill.NeedProcess}, fault: true}
		s.Deed = drill.Deed{Lasts: a.Restart.For, Begin: do(func(st *drill.Stage) { st.Process.Stop() }), End: start}
	case a.Halt != nil:
		s = scene{what: "halt", text: "halt", needs: []drill.Need{drill.NeedProcess}, Deed: drill.Deed{Begin: do(func(st *drill.Stage) { st.Process.Stop() })}}
	case a.Start != nil:
		s = scene{what: "start", text: "start", needs: []drill.Need{drill.NeedProcess}, Deed: drill.Deed{Begin: start}}
	case a.Renew != nil:
		s = scene{what: "new certificate", text: "new certificate, " + short(a.Renew.Life) + " long", needs: []drill.Need{drill.NeedProcess, drill.NeedCerts}}
		life := a.Renew.Life
		s.Begin = func(_ context.Context, st *drill.Stage) error {
			c, ok := st.Process.(drill.Certified)
			if !ok {
				return errors.New("this device has no certificate that can be replaced")
			}
			if err := c.Certify(life); err != nil {
				return err
			}
			st.Process.Stop()
			st.Process.Start()
			return nil
		}
	case a.Clock != nil:
		c := a.Clock
		s = scene{what: "clock " + c.Ahead, text: lasting("clock ahead by "+c.Ahead, c.For), needs: []drill.Need{drill.NeedClock}, fault: true}
		s.Deed, err = drill.Step{What: "clock " + c.Ahead + " " + c.For.String()}.Deed()
	case a.Rival != nil:
		s = scene{what: "rival", text: lasting("a rival", a.Rival.For), needs: []drill.Need{drill.NeedRival}, fault: true}
		s.Deed, err = drill.Step{What: "rival " + a.Rival.For.String()}.Deed()
	default:
		return s, false, nil
	}
	s.where = "device"
	return s, true, err
}

// settings are how a scenario sets the world up. chaos is what the seed's schedule wants.
func settings(s *scenario.Scenario, seed uint64) (c drill.Settings, chaos drill.Schedule) {
	c.Seed = seed
	c.RetryAfter = new(3)
	for i := range s.Steps {
		for _, a := range s.Steps[i].Do {
			if a.Chaos != nil {
				chaos = drill.Draw(seed)
				c = chaos.With
			}
			c.Paced = c.Paced || a.Rate != nil
		}
	}
	text := func(to *string, d time.Duration) {
		if d > 0 {
			*to = d.String()
		}
	}
	word := func(to *string, s string) { *to = cmp.Or(s, *to) }
	text(&c.Interval, s.Device.Interval)
	text(&c.SASTTL, s.Device.TokenLife)
	text(&c.SyncEvery, s.Device.SyncEvery)
	text(&c.Certificate, s.Device.Certificate)
	text(&c.Delay, s.Cloud.Delay)
	c.Delay = cmp.Or(c.Delay, "1ms") // where nothing takes time, a device that tries again at once would stop the clock
	word(&c.Move, s.Cloud.Move)
	word(&c.Pipeline, s.Device.Pipeline)
	word(&c.Transport, s.Device.Transport)
	c.Polls, c.Window = cmp.Or(s.Cloud.Polls, c.Polls), cmp.Or(s.Device.Window, c.Window)
	c.Hubs = max(cmp.Or(s.Cloud.Hubs, c.Hubs), scenario.DefaultHubs)
	c.FreshFirst = c.FreshFirst || s.Device.Order == "fresh-first"
	c.OutboxBytes = int64(s.Device.OutboxBytes)
	switch s.Cloud.Refusal {
	case "connack3":
		c.Refusal = 3
	case "connack5":
		c.Refusal = 5
	}
	if r := s.Cloud.RetryAfter; r.Given {
		c.RetryAfter = nil
		if !r.None {
			c.RetryAfter = new(int(r.Wait.Seconds()))
		}
	}
	if c.Transport == "" {
		c.Transport = "mqtt"
	}
	return c, chaos
}

// Check says what a target lacks to play a scenario, one line for each fault, with the line of the
// scenario's file.
func Check(s *scenario.Scenario, file string, t drill.Target, virtual bool, seed uint64) error {
	var all []error
	lacks := func(line int, who string, needs ...drill.Need) {
		for _, n := range needs {
			if why := t.Lacks(n); why != "" {
				all = append(all, fmt.Errorf("%s:%d: %s needs %s, and the target %s has none: %s", file, max(1, line), who, n, t.Name(), why))
			}
		}
	}
	if virtual {
		lacks(s.Line, "it", drill.NeedVirtual)
	}
	_, chaos := settings(s, seed)
	if s.Device.Others > 0 {
		lacks(s.Line, "it", drill.NeedOthers)
	}
	if s.Device.Certificate > 0 {
		lacks(s.Line, "it", drill.NeedCerts)
	}
	for i := range s.Steps {
		step := &s.Steps[i]
		played, err := scenes(step, chaos)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		seen := map[drill.Need]bool{}
		for _, p := range played {
			p.needs = slices.DeleteFunc(slices.Clone(p.needs), func(n drill.Need) bool { return seen[n] })
			for _, n := range p.needs {
				seen[n] = true
			}
			lacks(p.line, "it", p.needs...)
		}
	}
	for _, a := range asks(s) {
		if need := judgedBy[a.key]; need != anywhere {
			lacks(a.line, a.key, need)
		}
	}
	return errors.Join(all...)
}

// CloudNote says in one line that a target does not set up the cloud as the scenario says, why, and
// what to do about it. It is empty if the target does, and if the scenario says nothing. That is no
// reason to refuse a scenario: its expectations say what counts.
func CloudNote(s *scenario.Scenario, file string, t drill.Target) string {
	why := t.Lacks(drill.NeedCloudSetup)
	if s.Cloud.Line == 0 || why == "" {
		return ""
	}
	advice := "the embedded target sets it up, or leave it out"
	if t.Lacks(drill.NeedHubFaults) == "" { // it is a simulator
		advice = simAdvice(&s.Cloud)
	}
	return fmt.Sprintf("%s:%d: the cloud is not set up as the scenario says: %s; %s", file, s.Cloud.Line, why, advice)
}

// simAdvice says how a simulator is started that is what the scenario says.
func simAdvice(c *scenario.Cloud) string {
	text := "start it with hubhop sim"
	flag := func(given bool, name string, value any) {
		if given {
			text += fmt.Sprintf(" --%s %v", name, value)
		}
	}
	flag(c.Hubs > 0, "hubs", c.Hubs)
	flag(c.RetryAfter.None, "retry-after", "none")
	flag(c.RetryAfter.Given && !c.RetryAfter.None, "retry-after", c.RetryAfter.Wait)
	flag(c.Polls > 0, "polls", c.Polls)
	flag(c.Move != "", "move", c.Move)
	flag(c.Refusal != "", "disabled-refusal", strings.TrimPrefix(c.Refusal, "connack"))
	if c.Delay > 0 {
		text += "; only the embedded target has a network with a delay"
	}
	return text
}

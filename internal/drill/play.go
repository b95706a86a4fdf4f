package drill

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim"
)

// Stage is what a schedule is played on: a device, its cloud, and what is between them.
type Stage struct {
	Device  string // its id
	Cloud   Cloud
	Network Network
	Process Process

	// Wait returns when the time has come, or with the error of ctx. It may look after what must
	// hold at any time.
	Wait func(ctx context.Context, until time.Time) error

	// Before hears the words of each step, and of its end, when it comes.
	Before func(what string)

	// Refused hears what the cloud refuses to do. That is no failure: a step may make no sense at
	// its moment, such as a disconnect of a device that is offline.
	Refused func(error)

	Began time.Time // when the first step began; Play sets it
}

// Network is what a schedule does to the way between a device and its cloud. A place is the name of
// a hub, "dps", or "all".
type Network interface {
	Cut(place string) // whatever is sent, on old and new connections, gets lost
	Mend(place string)
	SetDelay(oneWay time.Duration)
	ResetDelay()                                   // to what it was in the beginning
	SetWeather(jitter time.Duration, loss float64) // loss is a share of the segments; 0, 0 is fair

	// SetPath lets new connections fail, as one of nxdomain, no-dns, unreachable, refused, portal,
	// reset, hang; "" lets them succeed again.
	SetPath(place, how string)

	// HandOver takes the device's address away: old connections go silent for good, and new ones
	// are unreachable until SetPath("all", "").
	HandOver()
}

// Process is what a schedule does to the device as a program, and to its machine.
type Process interface {
	Start() // does nothing if it runs
	Stop()  // in order; does nothing if it does not run

	// Crash ends the program as a kill does. With hard its connections are reset, else they end
	// with a FIN.
	Crash(hard bool)

	SetClock(ahead time.Duration)
	StartRival() // another program with the same identity, on another machine
	StopRival()
}

// Deed is what a step does.
type Deed struct {
	Begin func(context.Context, *Stage) error
	End   func(context.Context, *Stage) error // nil: it ends by itself
	Lasts time.Duration
	Times int // how often it begins; each time it lasts its share of Lasts
}

// errStep is a step that nobody understands.
var errStep = errors.New("this is no step of a schedule")

// Deed reads the words of a step.
func (st Step) Deed() (Deed, error) {
	words := strings.Fields(st.What)
	if len(words) == 0 {
		return Deed{}, errStep
	}
	verb, args := words[0], words[1:]
	lasts := time.Duration(0)
	if len(args) > 0 {
		lasts = Span(args[len(args)-1], 0)
	}
	_, doc, _ := strings.Cut(st.What, " ")
	arg := func(i int) string {
		if i < len(args) {
			return args[i]
		}
		return ""
	}
	switch {
	case verb == "dps" || strings.HasPrefix(verb, "hub-"):
		return faultDeed(verb, doc)
	case verb == "device":
		return deviceDeed(arg(0), lasts)
	case verb == "desired" || verb == "c2d" || verb == "method":
		return commandDeed(verb), nil
	case verb == "storm":
		times, err := strconv.Atoi(arg(0))
		if err != nil || len(args) != 2 {
			return Deed{}, errStep
		}
		return Deed{Begin: func(ctx context.Context, s *Stage) error { return s.Cloud.Act(ctx, s.Device, Disconnect) },
			Lasts: time.Duration(times) * lasts, Times: times}, nil
	case verb == "clock":
		return clockDeed(arg(0), lasts), nil
	case verb == "crash" || verb == "restart" || verb == "rival":
		return processDeed(verb, arg(0), lasts), nil
	}
	return networkDeed(verb, args, lasts)
}

// faultDeed is a fault of a hub or of DPS, as the control API has it. The cloud heals it by itself.
func faultDeed(where, doc string) (Deed, error) {
	if where == "dps" {
		var f sim.DPSFault
		if err := json.Unmarshal([]byte(doc), &f); err != nil {
			return Deed{}, err
		}
		return Deed{Begin: func(ctx context.Context, s *Stage) error { return s.Cloud.FaultDPS(ctx, f) }, Lasts: seconds(f.Seconds)}, nil
	}
	var f sim.Fault
	if err := json.Unmarshal([]byte(doc), &f); err != nil {
		return Deed{}, err
	}
	return Deed{Begin: func(ctx context.Context, s *Stage) error { return s.Cloud.FaultHub(ctx, where, f) }, Lasts: seconds(f.Seconds)}, nil
}

// deviceDeed is what an operator does to a device.
func deviceDeed(what string, lasts time.Duration) (Deed, error) {
	act := func(a Act) func(context.Context, *Stage) error {
		return func(ctx context.Context, s *Stage) error { return s.Cloud.Act(ctx, s.Device, a) }
	}
	switch what {
	case "failover":
		return Deed{Begin: func(ctx context.Context, s *Stage) error { return s.Cloud.Failover(ctx, s.Device, lasts) }, Lasts: lasts}, nil
	case "failback":
		return Deed{Begin: act(Failback)}, nil
	case "disconnect":
		return Deed{Begin: act(Disconnect)}, nil
	case "delete":
		return Deed{Begin: act(Delete)}, nil
	case "disable":
		return Deed{Begin: act(Disable), End: act(Enable), Lasts: lasts}, nil
	case "identity":
		return Deed{Begin: act(DisableIdentity), End: act(Enable), Lasts: lasts}, nil
	case "block":
		return Deed{Begin: act(Block), End: act(Unblock), Lasts: lasts}, nil
	}
	return Deed{}, errStep
}

// commandDeed is a command or a desired change. What becomes of it is looked at in the end.
func commandDeed(verb string) Deed {
	switch verb {
	case "desired": // each time another value
		return Deed{Begin: func(ctx context.Context, s *Stage) error {
			return s.Cloud.Desire(ctx, s.Device, fmt.Appendf(nil, `{"fanSpeed":%d}`, time.Since(s.Began).Milliseconds()))
		}}
	case "c2d":
		return Deed{Begin: func(ctx context.Context, s *Stage) error {
			_, err := s.Cloud.Send(ctx, s.Device, sim.C2D{Body: json.RawMessage(`true`), Properties: map[string]string{"method-name": "setAlarm"}})
			return err
		}}
	}
	return Deed{Begin: func(ctx context.Context, s *Stage) error {
		go func() { _, _ = s.Cloud.Method(ctx, s.Device, "setAlarm", json.RawMessage(`true`)) }() // steps go on meanwhile
		return nil
	}}
}

func clockDeed(how string, lasts time.Duration) Deed {
	return Deed{
		Begin: func(_ context.Context, s *Stage) error {
			ahead := Span(how, 0)
			if how == "1970" { // as a clock without a battery starts
				ahead = time.Until(time.Unix(20, 0))
			}
			s.Process.SetClock(ahead)
			return nil
		},
		End:   func(_ context.Context, s *Stage) error { s.Process.SetClock(0); return nil },
		Lasts: lasts,
	}
}

func processDeed(verb, how string, lasts time.Duration) Deed {
	do := func(f func(Process)) func(context.Context, *Stage) error {
		return func(_ context.Context, s *Stage) error { f(s.Process); return nil }
	}
	switch verb {
	case "crash":
		return Deed{do(func(p Process) { p.Crash(how == "rst") }), do(Process.Start), lasts, 1}
	case "restart":
		return Deed{do(Process.Stop), do(Process.Start), lasts, 1}
	}
	return Deed{do(Process.StartRival), do(Process.StopRival), lasts, 1}
}

func networkDeed(verb string, args []string, lasts time.Duration) (Deed, error) {
	do := func(f func(Network)) func(context.Context, *Stage) error {
		return func(_ context.Context, s *Stage) error { f(s.Network); return nil }
	}
	switch {
	case verb == "cut" && len(args) == 2:
		return Deed{do(func(n Network) { n.Cut(args[0]) }), do(func(n Network) { n.Mend(args[0]) }), lasts, 1}, nil
	case verb == "delay" && len(args) == 2:
		return Deed{do(func(n Network) { n.SetDelay(Span(args[0], 0)) }), do(Network.ResetDelay), lasts, 1}, nil
	case verb == "weather" && len(args) == 3:
		loss, err := strconv.ParseFloat(args[1], 64)
		if err != nil {
			return Deed{}, err
		}
		return Deed{do(func(n Network) { n.SetWeather(Span(args[0], 0), loss) }), do(func(n Network) { n.SetWeather(0, 0) }), lasts, 1}, nil
	case verb == "handover":
		return Deed{do(Network.HandOver), do(func(n Network) { n.SetPath("all", "") }), lasts, 1}, nil
	case verb == "path" && len(args) == 3:
		return Deed{do(func(n Network) { n.SetPath(args[0], args[1]) }), do(func(n Network) { n.SetPath(args[0], "") }), lasts, 1}, nil
	}
	return Deed{}, errStep
}

// action is something that is done at a time: a step begins, or ends.
type action struct {
	at   time.Duration
	what string
	do   func(context.Context, *Stage) error
}

// actions returns the beginnings and ends of all steps, in order of time.
func (s Schedule) actions() (all []action, err error) {
	for _, st := range s.Steps {
		d, err := st.Deed()
		if err != nil {
			return nil, fmt.Errorf("%v %s: %w", st.At, st.What, err)
		}
		for n := range max(1, d.Times) {
			all = append(all, action{st.At + time.Duration(n)*d.Lasts/time.Duration(max(1, d.Times)), st.What, d.Begin})
		}
		all = append(all, action{st.At + d.Lasts, "end of " + st.What, d.End})
	}
	slices.SortStableFunc(all, func(a, b action) int { return int(a.at - b.at) })
	return all, nil
}

// Play starts the device and does the steps of a schedule. It returns when the last one has ended,
// or when ctx ends. What was broken until healed stays broken.
func (s Schedule) Play(ctx context.Context, stage *Stage) error {
	all, err := s.actions()
	if err != nil {
		return err
	}
	stage.Began = time.Now()
	do := func(a action) {
		if a.do == nil {
			return
		}
		if err := a.do(ctx, stage); err != nil {
			stage.Refused(err)
		}
	}
	for _, a := range all {
		if a.at == 0 && strings.HasPrefix(a.what, "clock") { // it is wrong when the device starts
			do(a)
		}
	}
	stage.Process.Start()
	for _, a := range all {
		if err := stage.Wait(ctx, stage.Began.Add(a.at)); err != nil {
			return err
		}
		stage.Before(a.what)
		do(a)
	}
	return nil
}

// Span reads a duration, and is otherwise if the text is none.
func Span(text string, otherwise time.Duration) time.Duration {
	if d, err := time.ParseDuration(text); err == nil {
		return d
	}
	return otherwise
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

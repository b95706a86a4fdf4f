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

	began time.Time
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

// deed is what a step does.
type deed struct {
	begin func(context.Context, *Stage) error
	end   func(context.Context, *Stage) error // nil: it ends by itself
	lasts time.Duration
	times int // how often it begins; each time it lasts its share of lasts
}

// errStep is a step that nobody understands.
var errStep = errors.New("this is no step of a schedule")

// deed reads the words of a step.
func (st Step) deed() (deed, error) {
	words := strings.Fields(st.What)
	if len(words) == 0 {
		return deed{}, errStep
	}
	verb, args := words[0], words[1:]
	lasts := time.Duration(0)
	if len(args) > 0 {
		lasts = duration(args[len(args)-1], 0)
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
			return deed{}, errStep
		}
		return deed{begin: func(ctx context.Context, s *Stage) error { return s.Cloud.Act(ctx, s.Device, Disconnect) },
			lasts: time.Duration(times) * lasts, times: times}, nil
	case verb == "clock":
		return clockDeed(arg(0), lasts), nil
	case verb == "crash" || verb == "restart" || verb == "rival":
		return processDeed(verb, arg(0), lasts), nil
	}
	return networkDeed(verb, args, lasts)
}

// faultDeed is a fault of a hub or of DPS, as the control API has it. The cloud heals it by itself.
func faultDeed(where, doc string) (deed, error) {
	if where == "dps" {
		var f sim.DPSFault
		if err := json.Unmarshal([]byte(doc), &f); err != nil {
			return deed{}, err
		}
		return deed{begin: func(ctx context.Context, s *Stage) error { return s.Cloud.FaultDPS(ctx, f) }, lasts: seconds(f.Seconds)}, nil
	}
	var f sim.Fault
	if err := json.Unmarshal([]byte(doc), &f); err != nil {
		return deed{}, err
	}
	return deed{begin: func(ctx context.Context, s *Stage) error { return s.Cloud.FaultHub(ctx, where, f) }, lasts: seconds(f.Seconds)}, nil
}

// deviceDeed is what an operator does to a device.
func deviceDeed(what string, lasts time.Duration) (deed, error) {
	act := func(a Act) func(context.Context, *Stage) error {
		return func(ctx context.Context, s *Stage) error { return s.Cloud.Act(ctx, s.Device, a) }
	}
	switch what {
	case "failover":
		return deed{begin: func(ctx context.Context, s *Stage) error { return s.Cloud.Failover(ctx, s.Device, lasts) }, lasts: lasts}, nil
	case "failback":
		return deed{begin: act(Failback)}, nil
	case "disconnect":
		return deed{begin: act(Disconnect)}, nil
	case "delete":
		return deed{begin: act(Delete)}, nil
	case "disable":
		return deed{begin: act(Disable), end: act(Enable), lasts: lasts}, nil
	case "identity":
		return deed{begin: act(DisableIdentity), end: act(Enable), lasts: lasts}, nil
	case "block":
		return deed{begin: act(Block), end: act(Unblock), lasts: lasts}, nil
	}
	return deed{}, errStep
}

// commandDeed is a command or a desired change. What becomes of it is looked at in the end.
func commandDeed(verb string) deed {
	switch verb {
	case "desired": // each time another value
		return deed{begin: func(ctx context.Context, s *Stage) error {
			return s.Cloud.Desire(ctx, s.Device, fmt.Appendf(nil, `{"fanSpeed":%d}`, time.Since(s.began).Milliseconds()))
		}}
	case "c2d":
		return deed{begin: func(ctx context.Context, s *Stage) error {
			_, err := s.Cloud.Send(ctx, s.Device, sim.C2D{Body: json.RawMessage(`true`), Properties: map[string]string{"method-name": "setAlarm"}})
			return err
		}}
	}
	return deed{begin: func(ctx context.Context, s *Stage) error {
		go func() { _, _ = s.Cloud.Method(ctx, s.Device, "setAlarm", json.RawMessage(`true`)) }() // steps go on meanwhile
		return nil
	}}
}

func clockDeed(how string, lasts time.Duration) deed {
	return deed{
		begin: func(_ context.Context, s *Stage) error {
			ahead := duration(how, 0)
			if how == "1970" { // as a clock without a battery starts
				ahead = time.Until(time.Unix(20, 0))
			}
			s.Process.SetClock(ahead)
			return nil
		},
		end:   func(_ context.Context, s *Stage) error { s.Process.SetClock(0); return nil },
		lasts: lasts,
	}
}

func processDeed(verb, how string, lasts time.Duration) deed {
	do := func(f func(Process)) func(context.Context, *Stage) error {
		return func(_ context.Context, s *Stage) error { f(s.Process); return nil }
	}
	switch verb {
	case "crash":
		return deed{do(func(p Process) { p.Crash(how == "rst") }), do(Process.Start), lasts, 1}
	case "restart":
		return deed{do(Process.Stop), do(Process.Start), lasts, 1}
	}
	return deed{do(Process.StartRival), do(Process.StopRival), lasts, 1}
}

func networkDeed(verb string, args []string, lasts time.Duration) (deed, error) {
	do := func(f func(Network)) func(context.Context, *Stage) error {
		return func(_ context.Context, s *Stage) error { f(s.Network); return nil }
	}
	switch {
	case verb == "cut" && len(args) == 2:
		return deed{do(func(n Network) { n.Cut(args[0]) }), do(func(n Network) { n.Mend(args[0]) }), lasts, 1}, nil
	case verb == "delay" && len(args) == 2:
		return deed{do(func(n Network) { n.SetDelay(duration(args[0], 0)) }), do(Network.ResetDelay), lasts, 1}, nil
	case verb == "weather" && len(args) == 3:
		loss, err := strconv.ParseFloat(args[1], 64)
		if err != nil {
			return deed{}, err
		}
		return deed{do(func(n Network) { n.SetWeather(duration(args[0], 0), loss) }), do(func(n Network) { n.SetWeather(0, 0) }), lasts, 1}, nil
	case verb == "handover":
		return deed{do(Network.HandOver), do(func(n Network) { n.SetPath("all", "") }), lasts, 1}, nil
	case verb == "path" && len(args) == 3:
		return deed{do(func(n Network) { n.SetPath(args[0], args[1]) }), do(func(n Network) { n.SetPath(args[0], "") }), lasts, 1}, nil
	}
	return deed{}, errStep
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
		d, err := st.deed()
		if err != nil {
			return nil, fmt.Errorf("%v %s: %w", st.At, st.What, err)
		}
		for n := range max(1, d.times) {
			all = append(all, action{st.At + time.Duration(n)*d.lasts/time.Duration(max(1, d.times)), st.What, d.begin})
		}
		all = append(all, action{st.At + d.lasts, "end of " + st.What, d.end})
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
	stage.began = time.Now()
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
		if err := stage.Wait(ctx, stage.began.Add(a.at)); err != nil {
			return err
		}
		stage.Before(a.what)
		do(a)
	}
	return nil
}

// duration reads a duration, and is otherwise if the text is none.
func duration(text string, otherwise time.Duration) time.Duration {
	if d, err := time.ParseDuration(text); err == nil {
		return d
	}
	return otherwise
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

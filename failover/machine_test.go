package failover

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

var rewrite = flag.Bool("rewrite", false, "accept what the machine does now; read the diff")

// transcript drives one machine by commands and writes down its effects. The files in
// testdata/machine show the language.
type transcript struct {
	t     *testing.T
	start time.Time
	now   time.Time
	o     Options
	state State
	m     *Machine
}

func TestMachineDoesWhatItsTranscriptsSay(t *testing.T) {
	files, err := filepath.Glob("testdata/machine/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
			tr := &transcript{t: t, start: start, now: start, state: State{RegistrationID: "dev"}}
			tr.o.Rand = rand.New(rand.NewPCG(1, 2))
			var out strings.Builder
			for block := range strings.SplitSeq(string(b), "\n\n") {
				commands, _, _ := strings.Cut(strings.TrimRight(block, "\n"), "\n----")
				if strings.TrimSpace(commands) == "" {
					continue
				}
				if out.Len() > 0 {
					out.WriteString("\n")
				}
				out.WriteString(commands + "\n----\n")
				for line := range strings.SplitSeq(commands, "\n") {
					line, _, _ = strings.Cut(line, "#")
					if f := strings.Fields(line); len(f) > 0 {
						out.WriteString(tr.run(f))
					}
				}
			}
			if *rewrite {
				if err := os.WriteFile(file, []byte(out.String()), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got := out.String(); got != string(b) {
				t.Errorf("the machine does something else now; run with -rewrite and read the diff:\n%s", firstDifference(string(b), got))
			}
		})
	}
}

func firstDifference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range max(len(w), len(g)) {
		at := func(s []string) string {
			if i < len(s) {
				return s[i]
			}
			return "(end)"
		}
		if at(w) != at(g) {
			return fmt.Sprintf("line %d\nwant %s\n got %s", i+1, at(w), at(g))
		}
	}
	return "none"
}

// run performs one command and returns what came of it.
func (tr *transcript) run(f []string) string {
	args := map[string]string{}
	var words []string
	for _, a := range f[1:] {
		if k, v, ok := strings.Cut(a, "="); ok {
			args[k] = v
		} else {
			words = append(words, a)
		}
	}
	duration := func(s string) time.Duration {
		d, err := time.ParseDuration(s)
		if err != nil {
			tr.t.Fatalf("%v: %v", f, err)
		}
		return d
	}
	// home and side name the attempt under way. A number names one that has been given up.
	id := func() int {
		switch words[0] {
		case "home":
			return tr.m.home.id
		case "side":
			return tr.m.side.id
		}
		n, err := strconv.Atoi(words[0])
		if err != nil {
			tr.t.Fatalf("%v: %v", f, err)
		}
		return n
	}
	var e Event
	switch f[0] {
	case "options":
		tr.o.NoKnown = args["known"] == "false"
		tr.o.NoDPS = args["dps"] == "false"
		tr.o.Pipeline = Pipeline(args["pipeline"])
		if args["hedge"] != "" {
			tr.o.HedgeDelay = duration(args["hedge"])
		}
		return ""
	case "cached":
		tr.state.AssignedHub = words[0]
		for h := range strings.SplitSeq(args["known"], ",") {
			if h != "" {
				tr.state.KnownHubs = append(tr.state.KnownHubs, KnownHub{Host: h, AssignedAt: tr.now.Add(-time.Hour)})
			}
		}
		return ""
	case "state":
		s := tr.m.State()
		out := "state " + s.AssignedHub + ":"
		for _, k := range s.KnownHubs {
			out += " " + k.Host
			if k.Refused {
				out += " (refused)"
			}
			if k.Sequential {
				out += " (sequential)"
			}
		}
		return out + "\n"
	case "restart": // the next start knows what this run has left
		tr.state = tr.m.State()
		return ""
	case "refused-since": // as the state file has it
		tr.state.RefusedSince = tr.now.Add(duration(words[0]))
		return ""
	case "refused": // time passes, and DPS refuses every registration
		until, out, asked := tr.now.Add(duration(words[0])), "", 0
		for {
			if tr.m.dps.phase == asking {
				asked++
				tr.step(RegisterFailed{ID: tr.m.dps.id, Signal: signalNamed(tr.t, "DPS "+words[1]), RetryAfter: -1, Counted: true})
			}
			next := tr.m.NextWake()
			if next.IsZero() || next.After(until) {
				break
			}
			tr.now = next
			out += tr.step(Tick{})
		}
		tr.now = until
		return out + fmt.Sprintf("%d registrations\n", asked)
	case "start":
		tr.m = NewMachine(tr.o, tr.state)
		e = Start{}
	case "wait": // time passes; whatever is due happens
		until := tr.now.Add(duration(words[0]))
		out := ""
		for next := tr.m.NextWake(); !next.IsZero() && !next.After(until); next = tr.m.NextWake() {
			tr.now = next
			out += tr.step(Tick{})
		}
		tr.now = until
		return out
	case "dead": // time passes; every dial is refused, and DPS always names the cached hub
		until := tr.now.Add(duration(words[0]))
		out, dials, asked := "", 0, 0
		for next := tr.m.NextWake(); !next.IsZero() && !next.After(until); next = tr.m.NextWake() {
			tr.now = next
			out += tr.step(Tick{})
			for tr.m.home.phase == dialing || tr.m.dps.phase == asking {
				if tr.m.home.phase == dialing {
					dials++
					tr.step(DialFailed{ID: tr.m.home.id, Signal: DialRefused})
				}
				if tr.m.dps.phase == asking {
					asked++
					tr.step(Assigned{ID: tr.m.dps.id, Hub: tr.state.AssignedHub})
				}
			}
		}
		tr.now = until
		return out + fmt.Sprintf("%d dials, %d registrations\n", dials, asked)
	case "next": // time passes up to what is due next
		next := tr.m.NextWake()
		if next.IsZero() {
			return "nothing is due\n"
		}
		tr.now = next
		e = Tick{}
	case "tls":
		e = TLSUp{ID: id()}
	case "up":
		e = Up{ID: id(), Took: 10 * time.Millisecond}
	case "fail":
		e = DialFailed{ID: id(), Signal: signalNamed(tr.t, strings.Join(words[1:], " ")), Err: errors.New("test")}
	case "lost":
		e = Lost{ID: id(), Signal: signalNamed(tr.t, strings.Join(words[1:], " ")), Acked: args["acked"] != "false"}
	case "assigned":
		e = Assigned{ID: tr.m.dps.id, Hub: words[0]}
	case "dps":
		r := RegisterFailed{ID: tr.m.dps.id, Signal: signalNamed(tr.t, strings.Join(words, " ")), RetryAfter: -1, Counted: args["counted"] == "true"}
		if args["retry-after"] != "" {
			r.RetryAfter = duration(args["retry-after"])
		}
		e = r
	default:
		tr.t.Fatalf("unknown command %v", f)
	}
	return tr.step(e)
}

func signalNamed(t *testing.T, name string) Signal {
	for s := range signals {
		if s.String() == name {
			return s
		}
	}
	t.Fatalf("no signal is called %q", name)
	return 0
}

func (tr *transcript) step(e Event) string {
	var b strings.Builder
	line := func(format string, a ...any) {
		fmt.Fprintf(&b, "%9s  ", tr.now.Sub(tr.start).Round(time.Millisecond))
		fmt.Fprintf(&b, format+"\n", a...)
	}
	for _, x := range tr.m.Step(tr.now, e) {
		switch x := x.(type) {
		case Dial:
			how := ""
			if x.Sequential {
				how = ", sequential"
			} else if !x.Early {
				how = ", messages wait"
			}
			line("dial %d %s%s", x.ID, x.Host, how)
		case GiveUp:
			line("give up %d", x.ID)
		case Retire:
			line("retire %d", x.ID)
		case Serve:
			if x.Provisional {
				line("serve %d, provisional", x.ID)
			} else {
				line("serve %d", x.ID)
			}
		case Register:
			line("register %d, patience %v", x.ID, x.Patience)
		case CancelRegister:
			line("cancel register %d", x.ID)
		case OpenDPS:
			line("open DPS")
		case CloseDPS:
			line("close DPS")
		case Save:
			line("save")
		case Decided:
			host := x.Host
			if host == "" {
				host = "DPS"
			}
			line("%s %s: %s -> %s in %v", x.Rule.ID, host, x.Rule.Signal, x.Rule.Action, x.Wait.Round(time.Millisecond))
		default:
			tr.t.Fatalf("an effect nobody has thought of: %T", x)
		}
	}
	return b.String()
}

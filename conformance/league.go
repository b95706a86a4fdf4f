package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
)

// The league plays the same faults against a program with the official SDK for Node.js and against
// hubhop. Both are external devices of hubhop drill: each has a cloud of its own on real sockets,
// and is judged by what that cloud received, and by nothing else.

// leagueRounds is how often each fault is played.
const leagueRounds = 3

// leagueSlots is how many drills run at the same time. Most of a drill is waiting.
const leagueSlots = 8

// backLimit is how long a device may take to come back, as the scenarios say it, too. Then the
// drill heals the hub, and what comes later shows nothing.
const backLimit = 8 * time.Minute

// leagueLimit is how long one drill may take: backLimit, and the steady states before and after.
const leagueLimit = backLimit + 5*time.Minute

// faults are the scenarios, in the order of the table's rows.
var faults = []struct{ file, row string }{
	{"lizard", "hub killed: reset, then refused; DPS knows"},
	{"fin", "hub killed: closed in order (FIN), then refused; DPS knows"},
	{"black-hole", "hub silent: nothing is closed, nothing is answered; DPS knows"},
	{"dps-outage", "hub killed, and DPS down for 20 s"},
	{"operator", "operator moves the device: its identity is disabled in the old hub"},
}

// contender is a program of the league.
type contender struct {
	id, name string
	args     []string // of hubhop drill run
}

// outcome is what came of one drill.
type outcome struct {
	back time.Duration // from the fault to the first sample that a hub had; negative: not within the limit
	lost uint64        // samples of the outage that had not arrived when the drill was over
	err  error         // there was no drill
}

// league measures, and writes the table into docs/benchmarks.md.
func league() error {
	began := time.Now()
	root, err := filepath.Abs("..")
	if err != nil {
		return err
	}
	work := filepath.Join(root, "dist", "league")
	if err := errors.Join(os.RemoveAll(filepath.Join(work, "reports")), os.MkdirAll(work, 0o755)); err != nil {
		return err
	}
	binary := filepath.Join(work, "hubhop")
	build := exec.Command("go", "build", "-o", binary, ".")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	node := filepath.Join(work, "node")
	if err := installNode(filepath.Join(root, "conformance", "node"), node); err != nil {
		return err
	}
	versions, err := pinned(filepath.Join(root, "conformance", "node", "package.json"), filepath.Join(root, "conformance", "go.mod"))
	if err != nil {
		return err
	}
	sdk := "azure-iot-device " + versions["azure-iot-device"] + " (Node.js)"
	contenders := []contender{
		{"sdk", sdk, []string{"--client", sdk, "--sequence-field", "seq", "--", "node", filepath.Join(node, "drill.js")}},
		{"hubhop", "hubhop", []string{"--client", "hubhop", "--message-id", "--", binary, "run", "--telemetry-interval", "500ms", "--log-level", "warn"}},
	}
	results := make([][][]outcome, len(faults)) // by fault, contender and round
	slots := make(chan struct{}, leagueSlots)
	var all sync.WaitGroup
	for i, f := range faults {
		results[i] = make([][]outcome, len(contenders))
		for j, c := range contenders {
			results[i][j] = make([]outcome, leagueRounds)
			for n := range leagueRounds {
				all.Go(func() {
					slots <- struct{}{}
					defer func() { <-slots }()
					report := filepath.Join(work, "reports", fmt.Sprintf("%s-%s-%d", f.file, c.id, n+1))
					o := drilled(binary, filepath.Join(root, "conformance", "league", f.file+".yaml"), report, c.args)
					results[i][j][n] = o
					fmt.Printf("%s, %s: back after %s, %d lost %v\n", f.file, c.name, seconds(o.back), o.lost, words(o.err))
				})
			}
		}
	}
	all.Wait()
	text := &strings.Builder{}
	fmt.Fprintf(text, "Measured %s on %s/%s with %d cores, %d rounds, %.0f minutes in all.\n\n    make league\n\n", time.Now().UTC().Format("2006-01-02"), runtime.GOOS, runtime.GOARCH,
		runtime.NumCPU(), leagueRounds, time.Since(began).Minutes())
	fmt.Fprintf(text, "| fault | %s: back after | lost | hubhop: back after | lost |\n|---|---:|---:|---:|---:|\n", sdk)
	var errs []error
	for i, f := range faults {
		fmt.Fprintf(text, "| %s |", f.row)
		for _, rounds := range results[i] {
			fmt.Fprintf(text, " %s |", cell(rounds))
			for _, o := range rounds {
				errs = append(errs, o.err)
			}
		}
		fmt.Fprintln(text)
	}
	fmt.Println("\n" + text.String())
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return insert(filepath.Join(root, "docs", "benchmarks.md"), "league", text.String())
}

func words(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// drilled plays one scenario.
func drilled(binary, scenario, report string, device []string) (o outcome) {
	o.back = -1
	args := append([]string{"drill", "run", scenario, "--quiet", "--device", "external", "--report", report}, device...)
	p := exec.Command(binary, args...)
	late := time.AfterFunc(leagueLimit, func() { _ = p.Process.Signal(os.Interrupt) })
	defer late.Stop()
	said, err := p.CombinedOutput() // a verdict that is failed is an error, too
	b, rerr := os.ReadFile(filepath.Join(report, "report.json"))
	if rerr != nil {
		o.err = fmt.Errorf("%s: %w: %w\n%s", scenario, rerr, err, said)
		return o
	}
	var r struct {
		Verdict, Reason string
		Recoveries      []struct {
			FirstPubackMs int64
			Lost          uint64
			Open          bool
		}
	}
	if err := json.Unmarshal(b, &r); err != nil {
		o.err = fmt.Errorf("%s: %w", report, err)
		return o
	}
	if r.Verdict == "unknown" || len(r.Recoveries) != 1 {
		o.err = fmt.Errorf("%s: the verdict is %s: %s", report, r.Verdict, r.Reason)
		return o
	}
	x := r.Recoveries[0]
	o.lost = x.Lost
	if back := time.Duration(x.FirstPubackMs) * time.Millisecond; !x.Open && back < backLimit {
		o.back = back
	}
	return o
}

func seconds(d time.Duration) string {
	if d < 0 {
		return fmt.Sprintf("more than %.0f min", backLimit.Minutes())
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}

// cell is the median of the rounds with its extremes, and the most samples that were lost.
func cell(rounds []outcome) string {
	var backs []time.Duration
	lost := uint64(0)
	for _, o := range rounds {
		lost = max(lost, o.lost)
		backs = append(backs, o.back)
	}
	slices.SortFunc(backs, func(a, b time.Duration) int { // what is negative is the worst
		return cmp.Or(cmp.Compare(min(b, 0), min(a, 0)), cmp.Compare(a, b))
	})
	text := seconds(backs[len(backs)/2])
	if first, last := seconds(backs[0]), seconds(backs[len(backs)-1]); first != last {
		text += fmt.Sprintf(" (%s to %s)", first, last)
	}
	return fmt.Sprintf("%s | %d", text, lost)
}

// insert writes a text between the marks of a name in a document.
func insert(file, name, text string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	begin, end := "<!-- "+name+": begin -->\n", "<!-- "+name+": end -->"
	before, rest, ok := strings.Cut(string(b), begin)
	_, after, closed := strings.Cut(rest, end)
	if !ok || !closed {
		return fmt.Errorf("%s has no marks for the table %s", file, name)
	}
	return os.WriteFile(file, []byte(before+begin+text+end+after), 0o644)
}

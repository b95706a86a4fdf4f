//go:build linux

package bench

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

// failovers moves a hundred devices to and fro in every possible way, and compares what the cloud
// has received with what each device has numbered. A device registers with DPS at most once in five
// seconds, so many devices are needed.
func failovers(t *testing.T) []number {
	const devices, rounds, window = 100, 10, 64
	ways := []sim.Fault{{Kind: sim.FaultKill}, {Kind: sim.FaultKill, Close: "fin"}, {Kind: sim.FaultConnack3}, {Kind: sim.FaultConnack5}, {Kind: sim.FaultBlackhole}}
	c := newCloud(t, 0)
	defer func() { _ = c.Close() }()
	runs := make([]*run, devices)
	for i := range runs {
		runs[i] = c.run(nil, func(d *plan) {
			d.Sample.Interval, d.Drain.Window, d.DrainTimeout = 20*time.Millisecond, window, 10*time.Second
		})
	}
	for _, r := range runs {
		r.up(t)
	}
	// A healthy hub acknowledges as late as if it were far away, so something is nearly always in
	// flight.
	late := sim.Fault{Kind: sim.FaultThrottle, DelayMs: 6}
	hubs := []string{"hub-a", "hub-b"}
	for _, name := range hubs {
		c.must(c.FaultHub(name, late))
	}
	moved, worst := 0, int64(0)
	before := make([]int64, devices) // duplicates, when the round began
	for round := range rounds {
		for i, r := range runs {
			before[i] = c.Ledger(r.id, false).Duplicates
		}
		from, to := hubs[round%2], c.info.Hubs[(round+1)%2].Host
		c.must(c.FaultHub(from, ways[round/2%len(ways)]))
		for i, r := range runs {
			for r.up(t).Hub != to { // it may have been back for a moment
			}
			moved++
			worst = max(worst, c.Ledger(r.id, false).Duplicates-before[i])
		}
		c.must(c.FaultHub(from, late))
		fmt.Fprintf(os.Stderr, "%d failovers\n", moved)
	}
	var made, lost, inverted float64
	for i, r := range runs {
		r.stop()
		look, err := outbox.Inspect(r.dir)
		if err != nil {
			t.Fatal(err)
		}
		l := c.Ledger(r.id, false)
		made += float64(look.LastSeq)
		lost += float64(look.LastSeq) - float64(look.Queued) - float64(l.Distinct)
		inverted += float64(l.Reordered)
		worst = max(worst, l.Duplicates-before[i]) // what came late in the last round counts, too
	}
	return []number{
		{fmt.Sprintf("samples lost of %.0f, %d devices moved to and fro (reset, FIN, CONNACK 3, CONNACK 5, black hole)", made, devices), moved, nil, figure{lost}, atMost(0)},
		{"samples sent twice by one failover, at most", moved, nil, figure{float64(worst)}, atMost(window)},
		{"samples behind later ones, duplicates taken out", moved, nil, figure{inverted}, atMost(0)},
	}
}

// kills lets the proof that kills processes run, and the one that tears writes.
func kills(t *testing.T) []number {
	result := filepath.Join(t.TempDir(), "result.json")
	cmd := exec.CommandContext(t.Context(), "go", "run", "../crash", "-hubhop", *hubhop, "-kills", "100", "-failovers", "10", "-base-address", near(32), "-result", result)
	cmd.Stderr = os.Stderr
	said, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	var r struct{ Kills, Samples, Lost, Worst, Window float64 }
	text, err := os.ReadFile(result)
	if err == nil {
		err = json.Unmarshal(text, &r)
	}
	if err != nil {
		t.Fatal(err)
	}
	torn, err := exec.CommandContext(t.Context(), "go", "test", "../../telemetry/outbox", "-count=1", "-v", "-run", "^(TestPowerLoss|TestPowerLossExhaustive|TestEveryTornTail)$").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, torn)
	}
	disks := 0
	for _, m := range regexp.MustCompile(`(\d+) disks`).FindAllSubmatch(torn, -1) {
		n, _ := strconv.Atoi(string(m[1]))
		disks += n
	}
	return []number{
		{fmt.Sprintf("samples lost of %.0f, kill -9 of device or cloud", r.Samples), int(r.Kills), nil, figure{r.Lost}, atMost(0)},
		{"samples sent twice by one kill, at most", int(r.Kills), nil, figure{r.Worst}, atMost(r.Window)},
		{"samples lost that were promised, by any subset of what was not synced when the power went", disks, nil, figure{0}, atMost(0)},
	}
}

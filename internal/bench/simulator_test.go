//go:build linux

package bench

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// simulator runs the bench of the simulator, which is a module of its own, and uses its table.
func simulator(t *testing.T) []number {
	program, err := filepath.Abs(*hubhop)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "go", "run", ".", "-hubhop", program, "-json")
	cmd.Dir, cmd.Stderr = "../sim/bench", os.Stderr
	text, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	type figures struct{ KiB, PerSecond float64 }
	var r struct {
		Table                      string
		OpenFiles, Devices, Rounds int
		Floor, Ours                figures
	}
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	out := measured("make bench-sim")
	fmt.Fprintf(out, "\nOpen files are limited to %d.\n\n%s", r.OpenFiles, r.Table)
	write(t, "simulator", out)
	return []number{
		{"KiB of RSS of the simulator per idle TLS connection; floor: TLS and a loop", r.Devices, figure{r.Floor.KiB}, figure{r.Ours.KiB}, atMost(40)},
		{"QoS 1 messages/s that it takes from bare clients over 16 connections; floor: TLS and a loop", r.Rounds, figure{r.Floor.PerSecond}, figure{r.Ours.PerSecond}, atLeast(200_000)},
	}
}

//go:build linux

package bench

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/hub"
)

// idleProcess watches the built program for a minute, with all defaults, against the built
// simulator. A bare program that holds one connection runs beside it. Processor time is what the
// scheduler has counted for each process, so other processes may run meanwhile.
func idleProcess(t *testing.T) []number {
	const minute = time.Minute
	ctx, stop := context.WithCancel(t.Context())
	dir := t.TempDir()
	out := filepath.Join(dir, "out")
	var running []*exec.Cmd
	defer func() {
		stop()
		for _, c := range running {
			_ = c.Wait()
		}
	}()
	start := func(stdin []byte, name string, args ...string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Dir, cmd.Env, cmd.Stdin = dir, []string{"HOME=" + dir, "PATH=" + os.Getenv("PATH")}, bytes.NewReader(stdin)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		running = append(running, cmd)
		return cmd
	}
	program, err := filepath.Abs(*hubhop)
	if err != nil {
		t.Fatal(err)
	}
	c := newCloudAt(t, near(64), 0)
	if err := c.WriteFiles(out); err != nil {
		t.Fatal(err)
	}
	bare := filepath.Join(dir, "hold")
	if text, err := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", bare, "./hold").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	if err := os.WriteFile(filepath.Join(dir, "group.key"), []byte(c.info.GroupKey), 0o600); err != nil {
		t.Fatal(err)
	}
	ours := start(nil, program, "run", "--id-scope", c.info.IDScope, "--provisioning-host", c.info.ProvisioningHost, "--ca-file", filepath.Join(out, "ca.pem"),
		"--group-key-file", filepath.Join(dir, "group.key"), "--device-id", "idle", "--state-dir", filepath.Join(dir, "state"))
	id, key, host := c.device()
	password, _, err := hub.KeyToken(time.Now, key, time.Hour)(host, id)
	if err != nil {
		t.Fatal(err)
	}
	floor := start(opening(host, id, password), bare, net.JoinHostPort(host, "8883"), filepath.Join(out, "ca.pem"))
	time.Sleep(20 * time.Second) // until the beginning is over: a reported property has been sent, too
	before := []float64{onProcessor(ours), onProcessor(floor)}
	time.Sleep(minute)
	used := []float64{onProcessor(ours) - before[0], onProcessor(floor) - before[1]}
	if n := c.Ledger("idle", false).Distinct; n < 12 {
		t.Fatalf("the idle device has sent %d samples: this is not what was to be measured", n)
	}
	return []number{
		{"MiB of RSS of an idle device process, all five paths on; floor: a bare program with one TLS connection", 1, figure{rss(floor)}, figure{rss(ours)}, atMost(25)},
		{"ms of processor time that it takes in a minute, with 12 samples and 4 reports; goal: what top shows as 0.0 %", 1, figure{used[1]}, figure{used[0]}, atMost(0.0005 * float64(minute.Milliseconds()))},
	}
}

// onProcessor is how many ms the threads of a process have run.
func onProcessor(c *exec.Cmd) (ms float64) {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", c.Process.Pid))
	for _, name := range tasks {
		text, _ := os.ReadFile(name)
		line := bufio.NewScanner(bytes.NewReader(text))
		line.Split(bufio.ScanWords)
		line.Scan()
		ns, _ := strconv.ParseFloat(line.Text(), 64)
		ms += ns / 1e6
	}
	return ms
}

// rss is the resident set of a process, in MiB.
func rss(c *exec.Cmd) float64 { return statusField(c, "VmRSS") }

package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/drill"
)

// TestExitCodeFollowsTheVerdict ends runs in every way. Only what passed removes its directory.
func TestExitCodeFollowsTheVerdict(t *testing.T) {
	good := drill.Verdict{}
	good.Close("nothing is lost")
	var bad drill.Verdict
	bad.Object(drill.Lost, "3 samples never arrived")
	bad.Close("")
	for name, c := range map[string]struct {
		v    drill.Verdict
		err  error
		code int
		says []string
	}{
		"passed":                 {good, nil, exitPassed, []string{"verdict: passed"}},
		"failed":                 {bad, nil, exitFailed, []string{"verdict: failed", "3 samples never arrived", "SEED=7"}},
		"a program misbehaves":   {good, errors.New("the device ended by itself"), exitFailed, []string{"verdict: failed", "the device ended by itself"}},
		"stopped at a finding":   {bad, errStopped, exitFailed, []string{"3 samples never arrived", "stopped at the first fault"}},
		"broken off, none found": {drill.Verdict{}, nil, exitFailed, []string{"verdict: failed"}},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			dir := filepath.Join(t.TempDir(), "run")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			r := &trial{options: options{seed: 7}, out: &out, began: time.Now(), dir: dir}
			if code := r.end(c.v, c.err); code != c.code {
				t.Errorf("exit code %d", code)
			}
			for _, text := range c.says {
				if !strings.Contains(out.String(), text) {
					t.Errorf("nobody says %q:\n%s", text, out.String())
				}
			}
			if _, err := os.Stat(dir); (err == nil) != (c.code == exitFailed) {
				t.Errorf("the directory: %v", err)
			}
		})
	}
}

// TestNoVerdictWithoutAProgram: what cannot be run is code 1, what cannot be understood code 2.
func TestNoVerdictWithoutAProgram(t *testing.T) {
	for _, c := range []struct {
		args []string
		code int
	}{
		{[]string{"-hubhop", filepath.Join(t.TempDir(), "none")}, exitError},
		{[]string{"-hubhop", os.Args[0], "-dir", filepath.Join(t.TempDir(), "none")}, exitError},
		{[]string{"-kills", "many"}, exitUsage},
	} {
		if code := run(c.args, io.Discard); code != c.code {
			t.Errorf("%v: exit code %d", c.args, code)
		}
	}
}

// TestProgramThatEndsByItselfFailsTheRun gives programs that are no hubhop.
func TestProgramThatEndsByItselfFailsTheRun(t *testing.T) {
	if _, err := os.Stat("/bin/false"); err != nil {
		t.Skip("this system has no /bin/false, which stands for a hubhop that ends at once")
	}
	for _, mode := range []string{"-kills", "-bursts"} {
		var out bytes.Buffer
		code := run([]string{"-hubhop", "/bin/false", "-dir", t.TempDir(), mode, "1"}, &out)
		if code != exitFailed || !strings.Contains(out.String(), "the simulator ended by itself") || !strings.Contains(out.String(), "verdict: failed") {
			t.Errorf("%s: exit code %d\n%s", mode, code, out.String())
		}
	}
}

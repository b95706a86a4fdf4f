package cmd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/hubhop-iot/hubhop/internal/linequeue"
	"github.com/hubhop-iot/hubhop/internal/sim"
)

// execGrace is how long a command that was asked to end may take before it is killed.
const execGrace = 10 * time.Second

// commandError says that the command of --exec ended with an exit code other than 0, which becomes
// ours.
type commandError struct {
	line string
	code int
}

func (e *commandError) Error() string {
	return fmt.Sprintf("%s: ended with exit code %d", e.line, e.code)
}

// simVariables returns the environment that tells a command about the cloud. dir has the files of
// --out. The SIM_ variables are for any program. With the HUBHOP_ variables `hubhop run` needs no
// flags. NODE_EXTRA_CA_CERTS adds the CA for Node.js, unless it is set already.
func (e *Env) simVariables(info sim.Info, dir string) ([]string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	ca, key := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "group.key")
	vars := []string{
		"SIM_DIR=" + dir, "SIM_JSON=" + filepath.Join(dir, "sim.json"), "SIM_CA_FILE=" + ca, "SIM_GROUP_KEY_FILE=" + key,
		"SIM_ID_SCOPE=" + info.IDScope, "SIM_PROVISIONING_HOST=" + info.ProvisioningHost, "SIM_CONTROL=" + info.Control,
		envPrefix + "ID_SCOPE=" + info.IDScope, envPrefix + "PROVISIONING_HOST=" + info.ProvisioningHost,
		envPrefix + "CA_FILE=" + ca, envPrefix + "GROUP_KEY_FILE=" + key,
	}
	if _, given := e.lookup("NODE_EXTRA_CA_CERTS"); !given {
		vars = append(vars, "NODE_EXTRA_CA_CERTS="+ca)
	}
	for _, other := range []string{"GROUP_KEY", "DEVICE_KEY", "DEVICE_KEY_FILE", "CERT", "KEY", "CONNECTION_STRING"} {
		vars = append(vars, envPrefix+other+"=") // unset, because two proofs of one device would be an error
	}
	for _, h := range info.Hubs {
		vars = append(vars, "SIM_"+strings.ToUpper(strings.ReplaceAll(h.Name, "-", "_"))+"="+h.Host)
	}
	return vars, nil
}

// runCommand runs a shell command with more variables, and waits for its end. When ctx ends, it
// asks the command to end. It returns a *commandError for an exit code other than 0.
func (e *Env) runCommand(ctx context.Context, line string, vars []string) error {
	shell := []string{"sh", "-c", line}
	if runtime.GOOS == "windows" {
		shell = []string{"cmd", "/C", line}
	}
	c := exec.CommandContext(ctx, shell[0], shell[1:]...) //nolint:gosec // running the command of --exec is what the user asks for
	c.Env = append(append([]string{}, e.Environ...), vars...)
	c.Stdin, c.Stdout, c.Stderr = e.Stdin, e.Stdout, e.Stderr
	if q, ok := e.Stderr.(*linequeue.Queue); ok {
		c.Stderr = q.Out() // no line of a command may be dropped
	}
	c.WaitDelay = execGrace
	in, ok := e.Stdin.(*os.File)
	finish := endTogether(c, ok && term.IsTerminal(int(in.Fd())))
	err := c.Run()
	finish()
	ended, ok := errors.AsType[*exec.ExitError](err)
	if !ok {
		if err != nil && !errors.Is(err, exec.ErrWaitDelay) && !errors.Is(err, context.Canceled) {
			return fmt.Errorf("exec: %w", err)
		}
		if c.ProcessState == nil || c.ProcessState.Success() {
			return nil
		}
	}
	code := c.ProcessState.ExitCode()
	if ended != nil && code < 0 { // a signal ended it: shells give this code for that
		if status, ok := ended.Sys().(syscall.WaitStatus); ok {
			code = 128 + int(status.Signal())
		}
	}
	return &commandError{line, code}
}

// simDir is the directory of --out, or a temporary one that clean removes.
func simDir(out string) (dir string, clean func(), err error) {
	if out != "" {
		return out, func() {}, nil
	}
	if dir, err = os.MkdirTemp("", "hubhop-sim-"); err != nil {
		return "", nil, fmt.Errorf("exec: %w; choose a directory with --out", err)
	}
	return dir, func() { _ = os.RemoveAll(dir) }, nil
}

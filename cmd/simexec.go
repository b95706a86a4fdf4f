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

	"github.com/hubhop-iot/hubhop/internal/sim"
)

// execGrace is how long a command that was asked to end may take before it is killed.
const execGrace = 10 * time.Second

// commandError is the end of the command of --exec with an exit code other than 0, which is handed on.
type commandError struct {
	line string
	code int
}

func (e *commandError) Error() string {
	return fmt.Sprintf("%s: ended with exit code %d", e.line, e.code)
}

// simVariables tell a command about the cloud in dir, which has the files of --out. SIM_ variables are for any program;
// those of hubhop make `hubhop run` need no flags; NODE_EXTRA_CA_CERTS adds the CA for Node.js, unless there is one already.
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
		vars = append(vars, envPrefix+other+"=") // unset: of two proofs of who a device is none would count
	}
	for _, h := range info.Hubs {
		vars = append(vars, "SIM_"+strings.ToUpper(strings.ReplaceAll(h.Name, "-", "_"))+"="+h.Host)
	}
	return vars, nil
}

// runCommand runs a line of the shell with further variables until it ends. When ctx ends the command is asked to end too.
// A *commandError says that it ended, and was not successful.
func (e *Env) runCommand(ctx context.Context, line string, vars []string) error {
	shell := []string{"sh", "-c", line}
	if runtime.GOOS == "windows" {
		shell = []string{"cmd", "/C", line}
	}
	c := exec.CommandContext(ctx, shell[0], shell[1:]...) //nolint:gosec // running it is what it was given for
	c.Env = append(append([]string{}, e.Environ...), vars...)
	c.Stdin, c.Stdout, c.Stderr = e.Stdin, e.Stdout, e.Stderr
	if q, ok := e.Stderr.(*logQueue); ok {
		c.Stderr = q.out // what a command says must not be dropped
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
	if ended != nil && code < 0 { // by a signal; the code that shells have for it
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

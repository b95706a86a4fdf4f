package cmd

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"golang.org/x/term"

	"github.com/hubhop-iot/hubhop/internal/linequeue"
	"github.com/hubhop-iot/hubhop/internal/program"
	"github.com/hubhop-iot/hubhop/internal/sim"
)

// runBeside runs a shell command whose environment says where the cloud is, and waits for its end.
// dir has the files of --out. A NODE_EXTRA_CA_CERTS that is set already stays.
func (e *Env) runBeside(ctx context.Context, info sim.Info, dir, line string) error {
	vars, err := info.Environ(dir)
	if err != nil {
		return err
	}
	const node = "NODE_EXTRA_CA_CERTS"
	if _, given := e.lookup(node); given {
		vars = slices.DeleteFunc(vars, func(v string) bool { return strings.HasPrefix(v, node+"=") })
	}
	c := &exec.Cmd{Env: slices.Concat(e.Environ, vars), Stdin: e.Stdin, Stdout: e.Stdout, Stderr: e.Stderr}
	if q, ok := e.Stderr.(*linequeue.Queue); ok {
		c.Stderr = q.Out() // no line of a command may be dropped
	}
	in, ok := e.Stdin.(*os.File)
	return program.Run(ctx, line, c, ok && term.IsTerminal(int(in.Fd())))
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

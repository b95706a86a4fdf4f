// Package program runs programs that a user names, and ends them with all that they have started.
package program

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// Grace is how long a program that was asked to end may take before it is killed.
const Grace = 10 * time.Second

// Error says that a command ended with an exit code other than 0.
type Error struct {
	Line string // the command
	Code int
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s: ended with exit code %d", e.Line, e.Code)
}

// Shell is the program that takes a line as the user's shell does, and its arguments.
func Shell(line string) []string {
	if runtime.GOOS == "windows" {
		return []string{"cmd", "/C", line}
	}
	return []string{"sh", "-c", line}
}

// Run runs the command line of c, whose streams and environment are set, to its end. When ctx ends,
// it asks the command to end. On a terminal the command stays in the foreground. Run returns an
// [Error] for an exit code other than 0.
func Run(ctx context.Context, line string, c *exec.Cmd, terminal bool) error {
	shell := Shell(line)
	run := exec.CommandContext(ctx, shell[0], shell[1:]...) //nolint:gosec // running the command is what the user asks for
	run.Env, run.Stdin, run.Stdout, run.Stderr, run.WaitDelay = c.Env, c.Stdin, c.Stdout, c.Stderr, Grace
	finish := endTogether(run, terminal)
	err := run.Run()
	finish()
	ended, ok := errors.AsType[*exec.ExitError](err)
	if !ok {
		if err != nil && !errors.Is(err, exec.ErrWaitDelay) && !errors.Is(err, context.Canceled) {
			return fmt.Errorf("exec: %w", err)
		}
		if run.ProcessState == nil || run.ProcessState.Success() {
			return nil
		}
	}
	code := run.ProcessState.ExitCode()
	if ended != nil && code < 0 { // a signal ended it: shells give this code for that
		if status, ok := ended.Sys().(syscall.WaitStatus); ok {
			code = 128 + int(status.Signal())
		}
	}
	return &Error{line, code}
}

//go:build unix

package program

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// endTogether makes the end of ctx a request to the command and to every program that it has
// started, because the shell alone would end and leave them behind. On a terminal they stay in the
// foreground, where they can read and Ctrl-C reaches all of them. finish kills those that still run
// after the command was killed.
func endTogether(c *exec.Cmd, terminal bool) (finish func()) {
	if terminal {
		c.Cancel = func() error { return c.Process.Signal(syscall.SIGTERM) }
		return func() {}
	}
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var asked time.Time
	c.Cancel = func() error {
		asked = time.Now()
		if err := syscall.Kill(-c.Process.Pid, syscall.SIGTERM); errors.Is(err, syscall.ESRCH) {
			return os.ErrProcessDone
		} else if err != nil {
			return err
		}
		return nil
	}
	return func() {
		if !asked.IsZero() && time.Since(asked) >= c.WaitDelay {
			_ = syscall.Kill(-c.Process.Pid, syscall.SIGKILL)
		}
	}
}

// Together makes a program and all that it starts one group, so that none of them is left behind.
func Together(c *exec.Cmd) { c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

// Terminate asks a program and all that it has started to end.
func Terminate(c *exec.Cmd) { _ = syscall.Kill(-c.Process.Pid, syscall.SIGTERM) }

// Kill ends a program and all that it has started.
func Kill(c *exec.Cmd) { _ = syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }

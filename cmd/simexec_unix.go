//go:build unix

package cmd

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// endTogether lets a command and every program that it starts be asked to end together: the shell alone
// would end, and leave what it runs behind. On a terminal they stay in its foreground, where they can read,
// and where Ctrl-C reaches all of them. What still runs when the command had to be killed is killed by finish.
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

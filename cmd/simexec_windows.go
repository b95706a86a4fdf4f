package cmd

import "os/exec"

// endTogether lets a command be ended; Windows cannot ask it to.
func endTogether(c *exec.Cmd, _ bool) (finish func()) {
	c.Cancel = func() error { return c.Process.Kill() }
	return func() {}
}

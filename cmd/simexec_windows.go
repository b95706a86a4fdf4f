package cmd

import "os/exec"

// endTogether kills the command at the end of ctx, because Windows cannot ask it to end.
func endTogether(c *exec.Cmd, _ bool) (finish func()) {
	c.Cancel = func() error { return c.Process.Kill() }
	return func() {}
}

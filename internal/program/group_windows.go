package program

import "os/exec"

// endTogether kills the command at the end of ctx, because Windows cannot ask it to end.
func endTogether(c *exec.Cmd, _ bool) (finish func()) {
	c.Cancel = func() error { return c.Process.Kill() }
	return func() {}
}

// Together does nothing: Windows has no groups that can be ended.
func Together(*exec.Cmd) {}

// Terminate kills the program, because Windows cannot ask it to end.
func Terminate(c *exec.Cmd) { Kill(c) }

// Kill ends a program.
func Kill(c *exec.Cmd) { _ = c.Process.Kill() }

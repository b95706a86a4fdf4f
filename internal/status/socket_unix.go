//go:build !windows

package status

import (
	"io/fs"
	"os"
	"syscall"
)

// private lets a socket begin with a mode that keeps others out, where the system can do that:
// between its making and a chmod others could open it. Where it cannot, the mode of the directory
// keeps them out.
func private(_, _ string, c syscall.RawConn) error {
	return c.Control(func(fd uintptr) { _ = syscall.Fchmod(int(fd), 0o600) })
}

func isSocket(info fs.FileInfo) bool { return info.Mode().Type() == fs.ModeSocket }

// isOwn says whether only this user may use a directory.
func isOwn(info fs.FileInfo) bool {
	owner, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(owner.Uid) == os.Getuid() && info.Mode().Perm()&0o077 == 0
}

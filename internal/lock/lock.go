// Package lock locks files and directories against other processes. A lock may be held for years by
// each device of a fleet, so it costs a file descriptor and next to no memory.
package lock

import "errors"

// ErrTaken says that another process has the lock.
var ErrTaken = errors.New("taken")

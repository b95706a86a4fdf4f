//go:build !linux && !windows

package disk

import "syscall"

// damages are the errors of the system that mean bad data.
var damages = []error{syscall.EIO, syscall.EBADMSG}

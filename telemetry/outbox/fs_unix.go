//go:build !linux && !windows

package outbox

import "syscall"

// damages are what the system says of a disk whose data is bad.
var damages = []error{syscall.EIO, syscall.EBADMSG}

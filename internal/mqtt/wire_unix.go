//go:build unix

package mqtt

import "syscall"

const canTry = true

// writeNow writes to a socket what it takes without waiting. Go's sockets never wait by themselves.
func writeNow(fd uintptr, b []byte) int {
	n, _ := syscall.Write(int(fd), b)
	return n
}

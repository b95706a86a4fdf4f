//go:build !linux

package wire

import "net"

// dropsSYNs reports whether dropSYNs works here.
const dropsSYNs = false

func dropSYNs(*net.TCPListener) (restore func() error, err error) { return nil, ErrNoSYNDrop }

// wasReset cannot be told here: what arrived before the reset is still read.
func wasReset(net.Conn) bool { return false }

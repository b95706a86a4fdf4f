package wire

import (
	"context"
	"fmt"
	"net"
	"syscall"
	"time"
)

// dropsSYNs reports whether dropSYNs works here.
const dropsSYNs = true

// wasReset reports whether the other side has reset the connection. Linux still hands out what
// arrived before the reset.
func wasReset(c net.Conn) bool {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return false
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return false
	}
	pending := 0
	err = raw.Control(func(fd uintptr) {
		pending, _ = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_ERROR)
	})
	return err == nil && pending != 0
}

// dropSYNs makes the kernel ignore further SYNs to a listening socket, without firewall or
// privilege. It shrinks the backlog to nothing and fills the accept queue with connections of our
// own. The kernel drops a SYN that finds the queue full in silence.
func dropSYNs(l *net.TCPListener) (restore func() error, err error) {
	backlog := func(n int) error {
		raw, err := l.SyscallConn()
		if err != nil {
			return err
		}
		var listenErr error
		if err := raw.Control(func(fd uintptr) { listenErr = syscall.Listen(int(fd), n) }); err != nil {
			return err
		}
		return listenErr
	}
	var fillers []net.Conn
	restore = func() error {
		for _, c := range fillers {
			_ = c.Close()
		}
		if err := backlog(4096); err != nil { // the kernel caps it at net.core.somaxconn
			return err
		}
		return l.SetDeadline(time.Time{})
	}
	if err := l.SetDeadline(time.Unix(1, 0)); err != nil { // the accept loop must not empty the queue
		return nil, err
	}
	if err := backlog(0); err != nil {
		_ = restore()
		return nil, err
	}
	dialer := net.Dialer{Timeout: 150 * time.Millisecond}
	for unanswered := 0; unanswered < 2; { // twice, for an accept that was under way may have made room after the first
		c, err := dialer.DialContext(context.Background(), "tcp", l.Addr().String())
		if err != nil {
			unanswered++
			continue
		}
		unanswered = 0
		if fillers = append(fillers, c); len(fillers) == 16 {
			_ = restore()
			return nil, fmt.Errorf("sim: %s goes on answering SYNs", l.Addr())
		}
	}
	return restore, nil
}

package mqtt5

import (
	"context"
	"errors"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// broken is a connection whose writes fail after CONNECT, while what the server has sent comes
// late.
type broken struct {
	net.Conn
	greeted bool
	reads   chan []byte
	closed  chan struct{}
}

func (b *broken) Write(p []byte) (int, error) {
	if !b.greeted {
		b.greeted = true
		return len(p), nil
	}
	return 0, &net.OpError{Op: "write", Err: os.NewSyscallError("write", syscall.EPIPE)}
}

func (b *broken) Read(p []byte) (int, error) {
	select {
	case data := <-b.reads:
		return copy(p, data), nil
	case <-b.closed:
		return 0, net.ErrClosed
	}
}

func (b *broken) Close() error {
	select {
	case <-b.closed:
	default:
		close(b.closed)
	}
	return nil
}

func (b *broken) SetWriteDeadline(time.Time) error { return nil }

// TestTheReasonOfTheServerCountsMoreThanAFailedWrite: a server that says why it hangs up breaks the
// writes at the same time.
func TestTheReasonOfTheServerCountsMoreThanAFailedWrite(t *testing.T) {
	for name, says := range map[string]bool{"the server says why": true, "it does not": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				conn := &broken{reads: make(chan []byte, 2), closed: make(chan struct{})}
				conn.reads <- []byte{0x20, 3, 0, 0, 0}
				s, err := Open(context.Background(), conn, &Hello{ReceiveMaximum: 1}, 100)
				if err != nil {
					t.Fatal(err)
				}
				ended := make(chan error, 1)
				go func() { ended <- s.Serve(func(*Packet) error { return nil }, func() {}) }()
				s.Send(func(out []byte) []byte { return AppendPuback(out, 1) })
				time.Sleep(goodbyeLimit / 2)
				if says {
					conn.reads <- AppendDisconnect(nil, NotAuthorized)
				}
				err = <-ended
				s.Close(Success, nil)
				r, refused := errors.AsType[*ReasonError](err)
				if refused != says || says && r.Reason != NotAuthorized || !says && !errors.Is(err, syscall.EPIPE) {
					t.Errorf("the session has ended with %v", err)
				}
			})
		})
	}
}

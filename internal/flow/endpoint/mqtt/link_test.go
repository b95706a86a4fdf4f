package mqtt

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/hubhop-iot/hubhop/internal/flow/endpoint/endtest"
	"github.com/hubhop-iot/hubhop/internal/flow/node"
)

// TestLostConnectionSaysWhatToDo: what a person reads of a connection that failed or ended has no
// error number alone, but the next step.
func TestLostConnectionSaysWhatToDo(t *testing.T) {
	reset := &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", syscall.ECONNRESET)}
	for _, c := range []struct {
		name  string
		err   error
		plain bool
		want  []string
	}{
		{"nobody listens", &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}, true,
			[]string{"b:1883: no connection: connect: connection refused; nobody listens there: start the broker"}},
		{"the name is wrong", &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "no such host", Name: "b"}}, true,
			[]string{"no such host; check the name in host"}},
		{"no TLS towards a port with TLS", io.EOF, true, []string{"before its answer; a port with TLS does this", "tls.mode: Enabled"}},
		{"no TLS towards a port with TLS, by a reset", reset, true, []string{"before its answer; a port with TLS does this"}},
		{"TLS towards a port without TLS", fmt.Errorf("TLS: %w", reset), false, []string{"a port without TLS does this", "tls.mode: Disabled"}},
		{"the session is ended", ended(fmt.Errorf("read: %w", io.EOF)), true,
			[]string{"the broker has ended the connection without a reason", `the client id "hubhop-f-in"`, "clientIdPrefix"}},
		{"a write breaks", &net.OpError{Op: "write", Net: "tcp", Source: &net.TCPAddr{Port: 40001}, Addr: &net.TCPAddr{Port: 1883}, Err: os.NewSyscallError("write", syscall.EPIPE)}, true,
			[]string{"b:1883: the connection broke: write: broken pipe"}},
		{"the session is reset", ended(reset), false, []string{"without a reason", "clientIdPrefix"}},
	} {
		config := &Config{Host: "b:1883", ClientID: "hubhop-f-in"}
		if !c.plain {
			config.TLS = func() (*tls.Config, error) { return &tls.Config{}, nil }
		}
		for _, want := range c.want {
			if got := config.describe(c.err); !strings.Contains(got, want) {
				t.Errorf("%s: %q does not say %q", c.name, got, want)
			}
		}
	}
	if err := errors.New("another"); !errors.Is(ended(err), err) || isEnded(ended(err)) {
		t.Error("another error is not that of a broker that ended the connection")
	}
}

// TestLogSaysThatTheBrokerIsThereAgain: who reads that a connection was lost also reads that it is
// back. An outage is a warning, and the first connection is not one again.
func TestLogSaysThatTheBrokerIsThereAgain(t *testing.T) {
	port := freePort(t)
	var refused, first, lost, again atomic.Bool
	c := plainConfig(t, port, "in")
	c.Log = func(warning bool, text string) {
		switch down := strings.Contains(text, "without a reason") || strings.Contains(text, "no connection"); {
		case strings.HasSuffix(text, ": connected again"):
			again.Store(lost.Load() && !warning)
		case strings.HasSuffix(text, ": connected"):
			first.Store(refused.Load() && !warning)
		case down && first.Load():
			lost.Store(warning)
		case down:
			refused.Store(warning)
		}
	}
	s := newSource(t, c, "a/#")
	start(t, func(ctx context.Context) error { return s.Run(ctx, func(node.Delivery) bool { return true }) })
	endtest.Until(t, "the sentence that nobody listens", refused.Load)
	broker := newMosquitto(t, plainListener(port))
	endtest.Until(t, "the subscription", s.subscribed)
	endtest.Until(t, "the sentence about the first connection", first.Load)
	broker.stop()
	endtest.Until(t, "the sentence about the loss", lost.Load)
	broker.start()
	endtest.Until(t, "the sentence about the return", again.Load)
}

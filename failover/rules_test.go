package failover

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/dps"
	"github.com/hubhop-iot/hubhop/hub"
)

func TestEverySignalHasARow(t *testing.T) {
	ids := map[string]bool{}
	plain := map[Signal]bool{}
	for _, r := range Rules {
		if ids[r.ID] {
			t.Errorf("two rows are called %s", r.ID)
		}
		ids[r.ID] = true
		if r.Why == "" {
			t.Errorf("%s does not say why", r.ID)
		}
		if r.When == Always {
			if plain[r.Signal] {
				t.Errorf("%s can never be reached", r.ID)
			}
			plain[r.Signal] = true
		} else if plain[r.Signal] {
			t.Errorf("%s stands behind a row that always fits", r.ID)
		}
	}
	for s := range signals {
		if !plain[s] {
			t.Errorf("%s has no row without condition", s)
		}
		if s.String() == "" {
			t.Errorf("signal %d has no name", s)
		}
	}
	for a := range actions {
		if actionNames[a] == "" {
			t.Errorf("action %d has no name", a)
		}
	}
}

// TestRulesFollowThePublishedPractices: the table leads back to DPS where the best practices that
// IoT Central publishes say so, and nowhere else.
func TestRulesFollowThePublishedPractices(t *testing.T) {
	leadsToDPS := map[Action]bool{Reprovision: true, FreshToken: true}
	keeps := map[Action]bool{BackOffDPS: true, BackOffKnown: true}
	want := map[string]map[Action]bool{
		"unreachable endpoint": leadsToDPS, "expired token": leadsToDPS, "device disabled": leadsToDPS,
		"operator blocked": keeps, "internal error 500": keeps,
	}
	seen := map[string]bool{}
	for _, r := range Rules {
		if r.Practice == "" {
			continue
		}
		seen[r.Practice] = true
		if !want[r.Practice][r.Action] {
			t.Errorf("%s (%s) does %s", r.ID, r.Practice, r.Action)
		}
	}
	for practice := range want {
		if !seen[practice] {
			t.Errorf("no row implements %q", practice)
		}
	}
}

func opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Err: os.NewSyscallError("connect", err)}
}

func TestEachErrorHasItsSignal(t *testing.T) {
	at := func(p hub.Phase, err error) error { return &hub.Error{Phase: p, Host: "h", Err: err} }
	dpsAt := func(e dps.Error) error { e.RetryAfter = -1; return &e }
	expired := &tls.CertificateVerificationError{Err: x509.CertificateInvalidError{Reason: x509.Expired}}
	unknownCA := &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}
	timeout := &net.OpError{Op: "dial", Net: "tcp", Err: os.ErrDeadlineExceeded}
	for _, v := range []struct {
		err  error
		want Signal
	}{
		{errors.New("?"), Unknown},
		{nil, Unknown},
		{at(hub.PhaseDial, opError("dial", syscall.ECONNREFUSED)), DialRefused},
		{at(hub.PhaseDial, opError("dial", syscall.ECONNRESET)), DialReset},
		{at(hub.PhaseDial, opError("dial", syscall.ENETUNREACH)), NetworkDown},
		{at(hub.PhaseDial, opError("dial", syscall.EHOSTUNREACH)), NetworkDown},
		{at(hub.PhaseDial, timeout), DialSilent},
		{at(hub.PhaseDial, opError("dial", syscall.ETIMEDOUT)), DialSilent},
		// A dialler's own timeout claims to be a context's deadline; it must not stop a device.
		{at(hub.PhaseDial, context.DeadlineExceeded), DialSilent},
		{at(hub.PhaseDial, &net.DNSError{Err: "no such host", IsNotFound: true}), NameNotFound},
		{at(hub.PhaseDial, &net.DNSError{Err: "server misbehaving", IsTemporary: true}), NetworkDown},
		{at(hub.PhaseTLS, unknownCA), TLSFailed},
		{at(hub.PhaseTLS, expired), ClockOff},
		{at(hub.PhaseTLS, fmt.Errorf("%w in 10s", hub.ErrSilent)), DialSilent},
		{at(hub.PhaseTLS, io.EOF), DialReset},
		{at(hub.PhaseTLS, tls.RecordHeaderError{Msg: "not TLS"}), TLSFailed},
		{at(hub.PhaseTLS, tls.AlertError(40)), TLSFailed},
		{at(hub.PhaseConnect, io.EOF), ClosedEarly},
		{at(hub.PhaseConnect, opError("read", syscall.ECONNRESET)), ClosedEarly},
		{at(hub.PhaseConnect, fmt.Errorf("%w in 2s", hub.ErrSilent)), ConnackSilent},
		{at(hub.PhaseConnect, hub.ErrProtocol), HubProtocol},
		{&hub.Error{Phase: hub.PhaseConnect, Code: 1, Err: errors.New("x")}, ConnackOther},
		{&hub.Error{Phase: hub.PhaseConnect, Code: 2, Err: errors.New("x")}, ConnackOther},
		{&hub.Error{Phase: hub.PhaseConnect, Code: 3, Err: errors.New("x")}, Connack3},
		{&hub.Error{Phase: hub.PhaseConnect, Code: 4, Err: errors.New("x")}, ConnackOther},
		{&hub.Error{Phase: hub.PhaseConnect, Code: 5, Err: errors.New("x")}, Connack5},
		{&hub.Error{Phase: hub.PhaseConnect, Code: 77, Err: errors.New("x")}, ConnackOther},
		{at(hub.PhaseSubscribe, hub.ErrSubscription), SubscribeRefused},
		{at(hub.PhaseSession, io.EOF), LinkClosed},
		{at(hub.PhaseSession, io.ErrUnexpectedEOF), LinkClosed},
		{at(hub.PhaseSession, opError("read", syscall.ECONNRESET)), LinkReset},
		{at(hub.PhaseSession, opError("write", syscall.EPIPE)), LinkReset},
		{at(hub.PhaseSession, os.ErrDeadlineExceeded), LinkSilent},
		{at(hub.PhaseSession, hub.ErrSilent), LinkSilent},
		{at(hub.PhaseSession, hub.ErrUnacked), LinkUnacked},
		{at(hub.PhaseSession, hub.ErrRenewal), TokenRenewal},
		{at(hub.PhaseSession, fmt.Errorf("%w: %w", hub.ErrTokenExpired, io.EOF)), TokenExpired},
		{fmt.Errorf("wrapped: %w", at(hub.PhaseSession, io.EOF)), LinkClosed},

		{dpsAt(dps.Error{Step: dps.StepDial, Err: opError("dial", syscall.ECONNREFUSED)}), DPSUnreachable},
		{dpsAt(dps.Error{Step: dps.StepDial, Err: &net.DNSError{IsNotFound: true}}), DPSUnreachable},
		{dpsAt(dps.Error{Step: dps.StepDial, Err: timeout}), DPSSilent},
		{dpsAt(dps.Error{Step: dps.StepTLS, Err: fmt.Errorf("%w in 5s", dps.ErrSilent)}), DPSSilent},
		{dpsAt(dps.Error{Step: dps.StepTLS, Err: unknownCA}), DPSTLS},
		{dpsAt(dps.Error{Step: dps.StepTLS, Err: expired}), DPSClock},
		{dpsAt(dps.Error{Step: dps.StepConnect, Err: io.EOF}), DPSUnreachable},
		{dpsAt(dps.Error{Step: dps.StepConnect, Err: io.EOF, Pipelined: true}), DPSEarly},
		{dpsAt(dps.Error{Step: dps.StepRegister, Err: io.EOF, Counted: true}), DPSDropped},
		{dpsAt(dps.Error{Step: dps.StepPoll, Err: opError("read", syscall.ECONNRESET), Counted: true}), DPSDropped},
		{dpsAt(dps.Error{Step: dps.StepPoll, Err: dps.ErrSilent, Counted: true}), DPSDropped},
		{dpsAt(dps.Error{Step: dps.StepPoll, Err: dps.ErrStuck, Status: 202, Counted: true}), DPSStuck},
		{dpsAt(dps.Error{Step: dps.StepConnect, Connack: 3}), DPSError},
		{dpsAt(dps.Error{Step: dps.StepConnect, Connack: 5}), DPSRefusedConnect},
		{dpsAt(dps.Error{Status: 401, Code: 401000}), DPSUnauthorized},
		{dpsAt(dps.Error{Status: 403}), DPSUnauthorized},
		{dpsAt(dps.Error{Status: 404, Code: 404201}), DPSNotFound},
		{dpsAt(dps.Error{Status: 404, Code: 404202, Step: dps.StepPoll}), DPSLostOperation},
		{dpsAt(dps.Error{Status: 409}), DPSConflict},
		{dpsAt(dps.Error{Status: 400, Code: 400004}), DPSBadRequest},
		{dpsAt(dps.Error{Status: 429, Code: 429001}), DPSThrottled},
		{dpsAt(dps.Error{Status: 500}), DPSError},
		{dpsAt(dps.Error{Status: 503}), DPSError},
		{dpsAt(dps.Error{Status: 200, State: "failed", Code: 400209}), DPSBlocked},
		{dpsAt(dps.Error{Status: 200, State: "failed", Code: 400207}), DPSFailed},
		{dpsAt(dps.Error{Status: 200, State: "failed", Code: 401002}), DPSFailed},
		{dpsAt(dps.Error{Status: 200, State: "disabled"}), DPSDisabled},
	} {
		if got := Classify(t.Context(), v.err); got != v.want {
			t.Errorf("%v: %s, not %s", v.err, got, v.want)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if got := Classify(ended, at(hub.PhaseDial, syscall.ECONNREFUSED)); got != Stopping {
		t.Errorf("with its own context ended: %s", got)
	}
}

func TestBudgetComesBackOneByOne(t *testing.T) {
	now := time.Unix(0, 0)
	b := budget{allowed: &allowance{2, 5 * time.Second}}
	taken := func(at time.Time) (n int) {
		for b.take(at) {
			n++
		}
		return n
	}
	if n := taken(now); n != 2 {
		t.Fatalf("%d in hand, not 2", n)
	}
	if w := b.wait(now.Add(time.Second)); w < 4*time.Second || w > 4*time.Second+time.Millisecond {
		t.Errorf("the next one is there in %v", w)
	}
	if !b.take(now.Add(5 * time.Second)) {
		t.Error("one is back after 5 s")
	}
	b.giveBack(now.Add(5 * time.Second))
	if !b.take(now.Add(5 * time.Second)) {
		t.Error("one that was given back is there")
	}
	if n := taken(now.Add(time.Hour)); n != 2 {
		t.Errorf("after an hour it holds %d", n)
	}
}

func TestDelaysStayBelowTheirCaps(t *testing.T) {
	m := NewMachine(Options{}, State{})
	for n := range 40 {
		top := min(backoffMax, backoffMin<<min(n, 20))
		for range 200 {
			if d := backoff(n, m.o.Rand); d < 0 || d >= top {
				t.Fatalf("backoff(%d) = %v", n, d)
			}
		}
	}
	for lasted, top := range map[time.Duration]time.Duration{
		0: 500 * time.Millisecond, time.Minute: 1500 * time.Millisecond, time.Hour: time.Minute, 1000 * time.Hour: time.Minute,
	} {
		for range 200 {
			if d := dpsRetry(lasted, m.o.Rand); d < 0 || d >= top {
				t.Fatalf("dpsRetry(%v) = %v", lasted, d)
			}
		}
	}
}

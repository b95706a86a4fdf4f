package failover

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"syscall"

	"github.com/hubhop-iot/hubhop/dps"
	"github.com/hubhop-iot/hubhop/hub"
)

// ErrClockSet marks a failure that a wrong clock may have caused. The part of a device that has
// learnt the right time since then wraps it around that failure.
var ErrClockSet = errors.New("the time is known now")

// Classify says what an error of package hub or dps means. What a device does about it is decided
// by [Rules], in rules.go. ctx is the session's own. Only its end
// means that this side is stopping: a dial that timed out also claims to be a context's deadline.
// An error that Classify does not recognise is [Unknown], and that never stops a device.
func Classify(ctx context.Context, err error) Signal {
	if ctx.Err() != nil {
		return Stopping
	}
	if e, ok := errors.AsType[*hub.Error](err); ok {
		if errors.Is(err, ErrClockSet) {
			return ClockSet
		}
		return classifyHub(e)
	}
	if e, ok := errors.AsType[*dps.Error](err); ok {
		if errors.Is(err, ErrClockSet) {
			return DPSClockSet
		}
		return classifyDPS(e)
	}
	return Unknown
}

func classifyHub(e *hub.Error) Signal {
	switch {
	case e.Code == 3:
		return Connack3
	case e.Code == 5:
		return Connack5
	case e.Code != 0:
		return ConnackOther
	case errors.Is(e, hub.ErrRenewal):
		return TokenRenewal
	case errors.Is(e, hub.ErrTokenExpired):
		return TokenExpired
	case errors.Is(e, hub.ErrSubscription):
		return SubscribeRefused
	case errors.Is(e, hub.ErrProtocol):
		return HubProtocol
	case errors.Is(e, hub.ErrUnacked):
		return LinkUnacked
	}
	cause := network(e)
	switch e.Phase {
	case hub.PhaseDial, hub.PhaseTLS:
		return cause
	case hub.PhaseConnect:
		switch cause {
		case DialSilent:
			return ConnackSilent
		case DialReset:
			return ClosedEarly
		default:
			return Unknown
		}
	case hub.PhaseSubscribe, hub.PhaseSession:
		switch {
		case cause == DialSilent:
			return LinkSilent
		case errors.Is(e, io.EOF) || errors.Is(e, io.ErrUnexpectedEOF):
			return LinkClosed
		case cause == DialReset:
			return LinkReset
		}
	}
	return Unknown
}

func classifyDPS(e *dps.Error) Signal {
	switch {
	case e.Connack == 3:
		return DPSError
	case e.Connack != 0:
		return DPSRefusedConnect
	case errors.Is(e, dps.ErrStuck):
		return DPSStuck
	case errors.Is(e, dps.ErrNonsense):
		return DPSNonsense
	case e.Code == dps.CodeBlocked:
		return DPSBlocked
	case e.State == "disabled":
		return DPSDisabled
	case e.Code == dps.CodeUnknownOperation && e.Step == dps.StepPoll:
		return DPSLostOperation
	case e.State != "":
		return DPSFailed
	case e.Status == 429:
		return DPSThrottled
	case e.Status == 401 || e.Status == 403:
		return DPSUnauthorized
	case e.Status == 404:
		return DPSNotFound
	case e.Status == 409:
		return DPSConflict
	case e.Status >= 500:
		return DPSError
	case e.Status >= 400:
		return DPSBadRequest
	case e.Status != 0:
		return DPSFailed // a success without an assignment
	}
	switch network(e) {
	case DialSilent:
		if e.Counted {
			return DPSDropped
		}
		return DPSSilent
	case TLSFailed:
		return DPSTLS
	case ClockOff:
		return DPSClock
	case DialReset:
		switch {
		case e.Pipelined:
			return DPSEarly
		case e.Counted:
			return DPSDropped
		}
		return DPSUnreachable
	case DialRefused, NameNotFound, NetworkDown:
		return DPSUnreachable
	default:
		return Unknown
	}
}

// network sorts the errors of the operating system and of TLS. Its answers have the names of a
// failed dial; the callers turn them into what they mean in another phase.
func network(err error) Signal {
	if d, ok := errors.AsType[*net.DNSError](err); ok {
		if d.IsNotFound {
			return NameNotFound
		}
		return NetworkDown
	}
	if c, ok := errors.AsType[x509.CertificateInvalidError](err); ok && c.Reason == x509.Expired {
		return ClockOff
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return TLSFailed
	}
	for _, one := range []struct {
		err error
		is  Signal
	}{
		{syscall.ECONNREFUSED, DialRefused},
		{syscall.ECONNRESET, DialReset}, {syscall.EPIPE, DialReset}, {syscall.ECONNABORTED, DialReset},
		{io.EOF, DialReset}, {io.ErrUnexpectedEOF, DialReset}, {net.ErrClosed, DialReset},
		{syscall.ENETUNREACH, NetworkDown}, {syscall.EHOSTUNREACH, NetworkDown}, {syscall.ENETDOWN, NetworkDown},
		{syscall.EADDRNOTAVAIL, NetworkDown},
		{hub.ErrSilent, DialSilent}, {dps.ErrSilent, DialSilent},
		{syscall.ETIMEDOUT, DialSilent}, {os.ErrDeadlineExceeded, DialSilent}, {context.DeadlineExceeded, DialSilent},
	} {
		if errors.Is(err, one.err) {
			return one.is
		}
	}
	if t, ok := errors.AsType[net.Error](err); ok && t.Timeout() {
		return DialSilent
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return TLSFailed
	}
	if _, ok := errors.AsType[tls.AlertError](err); ok {
		return TLSFailed
	}
	return Unknown
}

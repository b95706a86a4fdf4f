package credentials

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
)

// LocalError is a fault on this machine, such as a secret that cannot be read: nothing was sent
// because of it.
type LocalError struct{ Err error }

func (e *LocalError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *LocalError) Unwrap() error { return e.Err }

// Local returns err as a [LocalError], and nil for nil.
func Local(err error) error {
	if err == nil {
		return nil
	}
	return &LocalError{err}
}

// IsLocal reports whether err is, or wraps, a [LocalError].
func IsLocal(err error) bool {
	_, ok := errors.AsType[*LocalError](err)
	return ok
}

// alerted reports whether the server has ended TLS with an alert. With TLS 1.3 that comes after the
// handshake.
func alerted(err error) bool {
	e, ok := errors.AsType[*net.OpError](err)
	return ok && e.Op == "remote error"
}

// IsTLS reports whether a connection failed because one side does not accept the certificate of the
// other, or because the server speaks no TLS.
func IsTLS(err error) bool {
	_, verify := errors.AsType[*tls.CertificateVerificationError](err)
	_, header := errors.AsType[tls.RecordHeaderError](err)
	return alerted(err) || verify || header
}

// Hint returns the next step after a fault for which [IsTLS] holds; empty for any other error.
func Hint(err error) string {
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return "set tls.trustedCaCertificateConfigMapRef to a config map with the CA that has signed the server's certificate"
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return "use a host name that the server's certificate has"
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return "the port seems to be one without TLS: set tls.mode: Disabled, or use the server's TLS port"
	}
	if alerted(err) {
		return "the server refuses the TLS session: check the client certificate and its chain"
	}
	return ""
}

// Shown returns what to check beside a next step when the connection has shown a client
// certificate. A server that refuses it says so by an alert, but after this side has begun to
// write, so that the alert may be lost behind the error of a write.
func Shown(certificate bool) string {
	if !certificate {
		return ""
	}
	return ", and that the client certificate and its chain are accepted there"
}

package dps

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// AskTime asks the service what time it is. It sends an HTTPS request without any credential or
// name, and returns the Date of the answer. A device whose clock fits no certificate may ask
// nothing else. TLS.Time is the earliest time that it can be. If the server's chain is good but for
// its dates, it is verified once more, as of a moment that is inside the leaf's validity and not
// before TLS.Time. The Date must lie inside the leaf's validity, and the whole chain must be good
// at it. docs/adr/0007-trusted-clock.md says what that leaves to an attacker.
func (c *Client) AskTime(ctx context.Context) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, timePatience)
	defer cancel()
	addr, now := c.TimeAddress(), c.now()
	if c.TLS != nil && c.TLS.Time != nil {
		now = c.TLS.Time()
	}
	conf := c.anonymousTLS(addr)
	date, err := c.askTimeAt(ctx, addr, conf, now)
	if shown, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		if begun, ok := beginning(shown.UnverifiedCertificates, conf, now); ok {
			date, err = c.askTimeAt(ctx, addr, conf, begun)
		}
	}
	if e, ok := errors.AsType[*Error](err); ok {
		e.Host = c.host()
	}
	return date, err
}

// anonymousTLS returns what is needed to verify the server at an address, and nothing else: a
// client certificate or a session ticket would say which device asks.
func (c *Client) anonymousTLS(addr string) *tls.Config {
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.TLS != nil {
		conf.RootCAs, conf.ServerName = c.TLS.RootCAs, c.TLS.ServerName
	}
	if conf.ServerName == "" {
		conf.ServerName, _, _ = net.SplitHostPort(addr)
	}
	return conf
}

// askTimeAt asks over a connection that is verified as of a time, and then as of the Date.
func (c *Client) askTimeAt(ctx context.Context, addr string, conf *tls.Config, at time.Time) (time.Time, error) {
	anonymous := Client{DialContext: c.DialContext, TLS: conf.Clone()}
	anonymous.TLS.Time = func() time.Time { return at }
	raw, secure, err := anonymous.connect(ctx, addr, timePatience)
	if err != nil {
		return time.Time{}, err
	}
	defer func() { _ = raw.Close() }()
	defer context.AfterFunc(ctx, func() { _ = raw.SetDeadline(time.Unix(1, 0)) })()
	date, err := askDate(ctx, secure, addr)
	if err == nil {
		err = verify(secure.ConnectionState().PeerCertificates, conf, date)
	}
	if err != nil {
		return time.Time{}, &Error{Step: StepTime, RetryAfter: -1, Err: err}
	}
	return date, nil
}

// beginning returns a moment after now at which a chain is good that is not good yet. A leaf whose
// validity is over is not helped: whoever shows it may have stolen it.
func beginning(certs []*x509.Certificate, conf *tls.Config, now time.Time) (time.Time, bool) {
	for _, c := range certs {
		if at := c.NotBefore; at.After(now) && verify(certs, conf, at) == nil {
			return at, true
		}
	}
	return now, false
}

// verify checks a chain as of a time, as crypto/tls does.
func verify(certs []*x509.Certificate, conf *tls.Config, at time.Time) error {
	between := x509.NewCertPool()
	for _, c := range certs[1:] {
		between.AddCert(c)
	}
	_, err := certs[0].Verify(x509.VerifyOptions{Roots: conf.RootCAs, Intermediates: between, DNSName: conf.ServerName, CurrentTime: at})
	return err
}

// timePatience is how long the whole question may take.
const timePatience = 5 * time.Second

// TimeAddress returns where AskTime asks, which is DPS's port for HTTPS. If the client's transport
// is MQTT, a port in Host is not that one.
func (c *Client) TimeAddress() string {
	if host, _, err := net.SplitHostPort(c.host()); err == nil && c.Transport != HTTPS {
		return net.JoinHostPort(host, "443")
	}
	return c.address("443")
}

// askDate makes the request. Any answer will do: a 404 has a Date as well.
func askDate(ctx context.Context, conn net.Conn, addr string) (time.Time, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+addr+"/", nil)
	if err != nil {
		return time.Time{}, err
	}
	req.Header.Set("User-Agent", "") // none: it would tell what is asking
	req.Close = true
	if err := req.Write(conn); err != nil {
		return time.Time{}, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(io.LimitReader(conn, maxHeader)), req)
	if err != nil {
		return time.Time{}, err
	}
	_ = resp.Body.Close()
	date, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		return time.Time{}, fmt.Errorf("an answer without a Date: %w", err)
	}
	return date, nil
}

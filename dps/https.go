package dps

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
)

const (
	httpsAPIVersion = "2021-06-01"
	maxHeader       = 64 << 10 // of an answer
)

// httpsExchange is a registration over HTTPS. One connection carries the register request and the
// polls.
type httpsExchange struct {
	c       *Client
	r       Request
	client  *http.Client
	token   string
	counted bool
	ready   atomic.Pointer[tls.Conn] // the connection for the first request, which takes it
}

func (x *httpsExchange) register(ctx context.Context, body []byte) (answer, error) {
	token, err := x.c.token(x.c.now())
	if err != nil {
		return answer{}, &Error{Step: StepRegister, RetryAfter: -1, Err: err}
	}
	x.token = token
	_, secure, err := x.c.admitted(ctx, x.r)
	if err != nil {
		return answer{}, err
	}
	x.ready.Store(secure)
	x.client = &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialTLSContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
				if secure := x.ready.Swap(nil); secure != nil {
					return secure, nil
				}
				_, secure, err := x.c.connect(ctx, addr, x.r.Patience)
				if err != nil {
					return nil, err
				}
				return secure, nil
			},
			DisableCompression:     true,
			MaxResponseHeaderBytes: maxHeader,
		},
	}
	return x.ask(ctx, StepRegister, http.MethodPut, x.c.path("/register"), body)
}

func (x *httpsExchange) poll(ctx context.Context, operationID string) (answer, error) {
	return x.ask(ctx, StepPoll, http.MethodGet, x.c.path("/operations/"+url.PathEscape(operationID)), nil)
}

func (x *httpsExchange) wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (x *httpsExchange) close() {
	if x.client != nil {
		x.client.CloseIdleConnections()
	}
	if secure := x.ready.Swap(nil); secure != nil {
		_ = secure.Close()
	}
}

func (x *httpsExchange) ask(ctx context.Context, step Step, method, path string, body []byte) (answer, error) {
	// The limit is for connection, request, head and body together.
	ctx, end := context.WithTimeout(ctx, x.r.Patience)
	defer end()
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteRequest: func(i httptrace.WroteRequestInfo) { x.counted = x.counted || i.Err == nil },
	})
	target := "https://" + x.c.endpoint() + path + "?api-version=" + httpsAPIVersion
	req, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(body))
	if err != nil {
		return answer{}, &Error{Step: step, RetryAfter: -1, Err: err}
	}
	if body == nil {
		// A body that cannot be read twice keeps net/http from repeating a GET whose connection
		// broke. Only one layer of the program may try again.
		req.Body, req.GetBody = io.NopCloser(strings.NewReader("")), nil
	}
	req.Header.Set("User-Agent", x.c.Agent)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if x.token != "" {
		req.Header.Set("Authorization", x.token)
	}
	resp, err := x.client.Do(req)
	if err != nil {
		return answer{}, x.fail(step, err)
	}
	defer func() { _ = resp.Body.Close() }()
	doc, err := io.ReadAll(io.LimitReader(resp.Body, maxDocument+1))
	if err != nil {
		return answer{}, x.fail(step, err)
	}
	if len(doc) > maxDocument {
		return answer{}, &Error{Step: step, Status: resp.StatusCode, RetryAfter: -1, Counted: true, Err: fmt.Errorf("%w: more than %d bytes", ErrNonsense, maxDocument)}
	}
	ans := answer{status: resp.StatusCode, body: doc, retryAfter: -1}
	date, err := http.ParseTime(resp.Header.Get("Date"))
	if s := resp.Header.Get("Retry-After"); s != "" {
		since := date
		if err != nil {
			since = x.c.now()
		}
		ans.retryAfter = retryAfter(s, since)
	}
	if err == nil {
		ans.skew = date.Sub(x.c.now())
		if x.c.Heard != nil && resp.TLS != nil && verify(resp.TLS.PeerCertificates, x.c.anonymousTLS(x.c.endpoint()), date) == nil {
			x.c.Heard(date)
		}
	}
	return ans, nil
}

func (x *httpsExchange) fail(step Step, err error) error {
	if e, ok := errors.AsType[*Error](err); ok { // connect has said it already
		e.Counted = x.counted
		return e
	}
	if ue, ok := errors.AsType[*url.Error](err); ok {
		err = ue.Err // the URL would only repeat the host
	}
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
		err = fmt.Errorf("%w in %v", ErrSilent, x.r.Patience)
	}
	return &Error{Step: step, RetryAfter: -1, Counted: x.counted, Err: err}
}

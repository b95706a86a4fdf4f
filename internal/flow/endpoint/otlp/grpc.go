package otlp

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/hubhop-iot/hubhop/internal/flow/endpoint/credentials"
)

// The package google.golang.org/grpc would do this, and make the program 5 MB larger: all that OTLP
// needs of gRPC is one request and one answer over HTTP/2 (the document "gRPC over HTTP2").

// The codes of gRPC that matter here.
const (
	codeOK                 = 0
	codeUnknown            = 2
	codeInvalidArgument    = 3
	codeNotFound           = 5
	codeAlreadyExists      = 6
	codePermissionDenied   = 7
	codeFailedPrecondition = 9
	codeUnimplemented      = 12
	codeInternal           = 13
	codeUnavailable        = 14
	codeUnauthenticated    = 16
)

// The methods, with the names of OTLP's services.
const (
	exportMetrics = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"
	exportLogs    = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"
)

// maxAnswer bounds the answer of a collector.
const maxAnswer = 1 << 20

// statusError is the refusal of a collector.
type statusError struct {
	code int
	text string
}

func (e *statusError) Error() string { return fmt.Sprintf("%s (gRPC code %d)", e.text, e.code) }

// codeOf returns the code of an error; codeUnavailable if it is none of gRPC's.
func codeOf(err error) int {
	if s, ok := errors.AsType[*statusError](err); ok {
		return s.code
	}
	return codeUnavailable
}

// connection sends requests to a collector.
type connection struct {
	client http.Client
	config func() (*tls.Config, error)
	base   string
	shows  atomic.Bool // a client certificate
}

// connect returns a connection, which is opened by its first request, and anew when it was lost.
// config makes the configuration of each; nil: they are not encrypted.
func connect(target string, config func() (*tls.Config, error)) *connection {
	c, scheme := &connection{config: config}, "http"
	if config != nil {
		scheme = "https"
	}
	c.client = http.Client{Transport: c.transport(), CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	c.base = (&url.URL{Scheme: scheme, Host: target}).String()
	return c
}

// transport returns a transport without a connection.
func (c *connection) transport() *http.Transport {
	t := &http.Transport{Protocols: new(http.Protocols), DisableCompression: true, IdleConnTimeout: 2 * time.Minute}
	if c.config == nil {
		t.Protocols.SetUnencryptedHTTP2(true)
	} else {
		t.Protocols.SetHTTP2(true)
		t.DialTLSContext = c.dialTLS
	}
	return t
}

// renew leaves the connection, so that the next request opens another one: HTTP/2 would go on with
// one whose other end is gone without a word, as after a change of networks. What is left of the
// old one ends when it has been idle for a while.
func (c *connection) renew() {
	c.close()
	c.client.Transport = c.transport()
}

// dialTLS opens one connection. The certificates are those of this moment.
func (c *connection) dialTLS(ctx context.Context, network, addr string) (net.Conn, error) {
	conf, err := c.config()
	if err != nil {
		return nil, credentials.Local(err)
	}
	conf.NextProtos = []string{"h2"}
	c.shows.Store(len(conf.Certificates) > 0)
	conn, err := (&tls.Dialer{Config: conf}).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	if conn.(*tls.Conn).ConnectionState().NegotiatedProtocol != "h2" {
		_ = conn.Close()
		return nil, errors.New("the server there speaks TLS, but no HTTP/2, which OTLP/gRPC needs")
	}
	return conn, nil
}

// close closes what is open.
func (c *connection) close() { c.client.CloseIdleConnections() }

// call sends a request and returns the answer, or a *statusError, or an error of the network.
// Requests go one after the other.
func (c *connection) call(ctx context.Context, method, token string, m proto.Message) (answer []byte, err error) {
	body, err := proto.MarshalOptions{}.MarshalAppend(make([]byte, frameHead), m)
	if err != nil {
		return nil, &statusError{codeInvalidArgument, err.Error()}
	}
	binary.BigEndian.PutUint32(body[1:], uint32(len(body)-frameHead))
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+method, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header = http.Header{"Content-Type": {"application/grpc"}, "Te": {"trailers"}, "User-Agent": {"hubhop"}}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := c.client.Do(r)
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err // without the address, which the sentence has already
	}
	if err != nil {
		c.renew()
		return nil, err
	}
	answer, err = io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	_ = res.Body.Close()
	switch {
	case err != nil:
		c.renew()
		return nil, err
	case len(answer) > maxAnswer:
		return nil, fmt.Errorf("the collector answers with more than %d bytes", maxAnswer)
	}
	if err := outcome(res); err != nil {
		return nil, err
	}
	if len(answer) < frameHead || answer[0] != 0 || int64(binary.BigEndian.Uint32(answer[1:])) != int64(len(answer)-frameHead) {
		return nil, errors.New("the collector answers with something that is no message of gRPC")
	}
	return answer[frameHead:], nil
}

// frameHead is how many bytes stand before a message: whether it is compressed, and its length.
const frameHead = 5

// outcome returns the error that an answer tells of; nil: there is none.
func outcome(res *http.Response) error {
	status, text := res.Trailer.Get("Grpc-Status"), res.Trailer.Get("Grpc-Message")
	if status == "" { // an answer without a message has them in its header
		status, text = res.Header.Get("Grpc-Status"), res.Header.Get("Grpc-Message")
	}
	if code, err := strconv.Atoi(status); err == nil {
		if code == codeOK {
			return nil
		}
		if plain, err := url.PathUnescape(text); err == nil {
			text = plain
		}
		return &statusError{code, fmt.Sprintf("%.200s", text)}
	}
	// A proxy answers, or a server that speaks no gRPC. Its codes mean what gRPC's document
	// "HTTP to gRPC Status Code Mapping" says.
	text = "HTTP status " + res.Status
	switch res.StatusCode {
	case http.StatusUnauthorized:
		return &statusError{codeUnauthenticated, text}
	case http.StatusForbidden:
		return &statusError{codePermissionDenied, text}
	case http.StatusNotFound:
		return &statusError{codeUnimplemented, text}
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return &statusError{codeUnavailable, text}
	default:
		return &statusError{codeUnknown, text}
	}
}

// rejected reads the answer of a collector: how many points or records it did not take, and why.
func rejected(answer []byte) (n int64, why string) {
	partial, _ := field(answer, 1)
	count, number := field(partial, 1)
	if count != nil {
		return 0, ""
	}
	text, _ := field(partial, 2)
	return int64(number), string(text)
}

// field returns a field of a message of Protocol Buffers: its bytes, or its number.
func field(m []byte, want protowire.Number) (text []byte, number uint64) {
	for len(m) > 0 {
		num, kind, n := protowire.ConsumeTag(m)
		if n < 0 {
			return nil, 0
		}
		m = m[n:]
		size := protowire.ConsumeFieldValue(num, kind, m)
		if size < 0 {
			return nil, 0
		}
		if num == want {
			switch kind {
			case protowire.BytesType:
				text, _ = protowire.ConsumeBytes(m)
			case protowire.VarintType:
				number, _ = protowire.ConsumeVarint(m)
			default:
			}
		}
		m = m[size:]
	}
	return text, number
}

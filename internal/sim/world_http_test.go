package sim

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

func (w *world) httpClient(certs ...tls.Certificate) *http.Client {
	tr := &http.Transport{
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return w.net.DialContext(ctx, network, addr)
		},
		TLSClientConfig: &tls.Config{RootCAs: w.CAPool(), Certificates: certs, Time: func() time.Time {
			return time.Now().Add(w.config.ClockOffset)
		}},
	}
	w.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

type httpAnswer struct {
	status int
	header http.Header
	body   map[string]any
	text   string
}

func (w *world) do(c *http.Client, method, url, body string, header ...string) (a httpAnswer, err error) {
	r, err := http.NewRequestWithContext(w.t.Context(), method, url, strings.NewReader(body))
	must(w.t, err)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	if host := r.Header.Get("Host"); host != "" {
		r.Host = host
	}
	res, err := c.Do(r)
	if err != nil {
		return a, err
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	a = httpAnswer{status: res.StatusCode, header: res.Header, text: string(b)}
	_ = json.Unmarshal(b, &a.body)
	return a, err
}

func (w *world) mustDo(c *http.Client, method, url, body string, header ...string) httpAnswer {
	w.t.Helper()
	a, err := w.do(c, method, url, body, header...)
	must(w.t, err)
	return a
}

// connectionParts takes a connection string apart.
func connectionParts(t testing.TB, s string) (host, policy string, key []byte) {
	t.Helper()
	fields := map[string]string{}
	for part := range strings.SplitSeq(s, ";") {
		k, v, _ := strings.Cut(part, "=")
		fields[k] = v
	}
	key, err := base64.StdEncoding.DecodeString(fields["SharedAccessKey"])
	if err != nil || len(key) != 32 || fields["HostName"] == "" {
		t.Fatalf("connection string %s", s)
	}
	return fields["HostName"], fields["SharedAccessKeyName"], key
}

// tokenFor returns a token that a service client makes from a connection string.
func tokenFor(t testing.TB, connection string, until time.Time) string {
	t.Helper()
	host, policy, key := connectionParts(t, connection)
	return sasFor(key, host, until, policy)
}

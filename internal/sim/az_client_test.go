package sim

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/iothub"
)

// az is the CLI on one of its ways to a simulator.
type az struct {
	*world
	t *testing.T
	// how hosts are called on this way
	central, hub, dps string
	byName            bool
}

// azAnswer is what came back over the wire.
type azAnswer struct {
	status int
	header http.Header
	body   string
}

// send opens a connection as the CLI does for each request, TLS and all, and writes the request as
// it stands.
func (z *az) send(host, method, target string, header []string, body string) azAnswer {
	z.t.Helper()
	address := host
	var raw net.Conn
	var err error
	if z.byName {
		address = net.JoinHostPort(host, "443")
		var refused string
		if raw, refused = z.realTunnel(address); raw == nil {
			z.t.Fatalf("%s: %s", address, refused)
		}
	} else if raw, err = net.Dial("tcp", strings.Replace(address, "localhost:", "127.0.0.1:", 1)); err != nil {
		z.t.Fatal(err)
	}
	defer func() { _ = raw.Close() }()
	_ = raw.SetDeadline(time.Now().Add(time.Minute))
	c := tls.Client(raw, &tls.Config{RootCAs: z.CAPool(), ServerName: hostOf(address)}) // an address gets no SNI
	text := method + " " + target + " HTTP/1.1\r\nHost: " + host + "\r\n" + strings.Join(header, "\r\n") + "\r\n\r\n" + body
	if _, err := c.Write([]byte(text)); err != nil {
		z.t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	if err != nil {
		z.t.Fatalf("%s %s: %v", method, target, err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		z.t.Fatal(err)
	}
	return azAnswer{res.StatusCode, res.Header, string(b)}
}

func (z *az) realTunnel(target string) (net.Conn, string) {
	raw, err := net.Dial("tcp", strings.TrimPrefix(z.info.ConnectProxy, "http://"))
	must(z.t, err)
	fmt.Fprintf(raw, "CONNECT %s HTTP/1.0\r\n\r\n", target) // urllib3 says no more
	res, err := http.ReadResponse(bufio.NewReader(raw), &http.Request{Method: http.MethodConnect})
	if err != nil || res.StatusCode != http.StatusOK {
		_ = raw.Close()
		return nil, fmt.Sprint(res, err)
	}
	return raw, ""
}

// application sends a request to IoT Central. A body of "none" sends nothing, one of "empty" a
// length of 0.
func (z *az) application(method, target, body string) azAnswer {
	z.t.Helper()
	return z.applicationWith(z.info.Central.APIToken, method, target, body)
}

func (z *az) applicationWith(token, method, target, body string) azAnswer {
	z.t.Helper()
	header := []string{
		"User-Agent: IoTPlatformCliExtension/0.23.1", "Accept-Encoding: gzip, deflate", "Accept: */*", "Connection: keep-alive",
		"Authorization: " + token, "x-ms-client-request-id: " + azRequestID,
	}
	switch body {
	case "none":
		body = ""
	case "empty":
		body = ""
		header = append(header, "Content-Length: 0")
	default:
		header = append(header, fmt.Sprintf("Content-Length: %d", len(body)), "Content-Type: application/json")
	}
	return z.send(z.central, method, target, header, body)
}

// judged is what a user of `az iot central` sees.
type judged struct {
	exit    int
	printed any
	stderr  string
}

func (j judged) object() map[string]any { m, _ := j.printed.(map[string]any); return m }

func (a azAnswer) judge() judged {
	if a.status == http.StatusCreated || a.status == http.StatusNoContent {
		return judged{printed: map[string]any{"result": "success"}}
	}
	var v any
	if json.Unmarshal([]byte(a.body), &v) != nil {
		return judged{exit: 1, stderr: "Error parsing response body"}
	}
	switch v := v.(type) {
	case map[string]any:
		if e, has := v["error"]; has {
			return judged{exit: 1, stderr: fmt.Sprint(e)}
		}
	case []any, string:
	default:
		return judged{exit: 1, stderr: "TypeError"}
	}
	return judged{printed: v}
}

// judgeCommand is the exception for commands that are run.
func (a azAnswer) judgeCommand() judged {
	if a.status != http.StatusCreated {
		return a.judge()
	}
	var v any
	if json.Unmarshal([]byte(a.body), &v) != nil {
		return judged{exit: 1, stderr: "traceback"}
	}
	return judged{printed: v}
}

// succeeds wants an answer that the CLI prints, and returns it.
func (z *az) succeeds(a azAnswer) map[string]any {
	z.t.Helper()
	j := a.judge()
	if j.exit != 0 || a.status >= 400 || j.object() == nil {
		z.t.Fatalf("%d %s: %+v", a.status, a.body, j)
	}
	return j.object()
}

// fails wants an answer that the CLI takes for an error.
func (z *az) fails(status int, a azAnswer) {
	z.t.Helper()
	if j := a.judge(); a.status != status || j.exit != 1 || !strings.Contains(j.stderr, "code:") || !strings.Contains(j.stderr, "message:") {
		z.t.Errorf("%d %s: %+v, want an error with %d", a.status, a.body, j, status)
	}
}

// resource sends a request to the REST of a hub or of DPS by the SDK the CLI uses for both.
func (z *az) resource(host, policy string, key []byte, method, target, body string, more ...string) azAnswer {
	z.t.Helper()
	return z.sendMSREST(host, sasFor(key, host, time.Now().Add(10*time.Minute), policy), method, target, body, more...)
}

func (z *az) sendMSREST(host, token, method, target, body string, more ...string) azAnswer {
	header := []string{
		"User-Agent: python/3.11.2 (Linux-6.1-x86_64-with-glibc2.36) msrest/0.6.21 iothub/0.23.1", "Accept-Encoding: gzip, deflate",
		"Accept: application/json", "Connection: keep-alive", "Content-Type: application/json; charset=utf-8", "accept-language: en-US",
		"x-ms-client-request-id: " + azRequestID, "Authorization: " + token,
	}
	if body != "" || method == http.MethodDelete {
		header = append(header, fmt.Sprintf("Content-Length: %d", len(body)))
	}
	return z.send(host, method, target, append(header, more...), body)
}

// hubRequest is resource for hub-a, with the policy of its connection string.
func (z *az) hubRequest(method, path, body string, more ...string) azAnswer {
	z.t.Helper()
	_, policy, key := connectionParts(z.t, z.info.Hubs[0].ConnectionString)
	return z.resource(z.hub, policy, key, method, path+"?api-version=2021-04-12", body, more...)
}

func (z *az) dpsRequest(method, path, body string, more ...string) azAnswer {
	z.t.Helper()
	_, policy, key := connectionParts(z.t, z.info.DPS.ConnectionString)
	return z.resource(z.dps, policy, key, method, path+"?api-version=2021-10-01", body, more...)
}

// exit is that of `az iot hub` and `az iot dps`.
func (a azAnswer) exit() int {
	switch {
	case a.status == http.StatusNotFound:
		return 3
	case a.status >= 400:
		return 1
	}
	return 0
}

func (z *az) exits(want int, a azAnswer) (body map[string]any) {
	z.t.Helper()
	if a.exit() != want || a.status >= 400 && !json.Valid([]byte(a.body)) {
		z.t.Fatalf("exit %d, want %d: %d %s", a.exit(), want, a.status, a.body)
	}
	_ = json.Unmarshal([]byte(a.body), &body)
	return body
}

func (z *az) exitsWithList(a azAnswer) (list []map[string]any) {
	z.t.Helper()
	if err := json.Unmarshal([]byte(a.body), &list); err != nil || a.status != 200 {
		z.t.Fatalf("%d %s", a.status, a.body)
	}
	return list
}

// waitOffline waits until the cloud has noticed that a device has gone.
func (w *world) waitOffline(id string) {
	events, cancel := w.Watch()
	defer cancel()
	if w.device(id).ConnectedHub == "" {
		return
	}
	for e := range events {
		if e.Kind == iothub.EventDisconnect && e.Device == id {
			return
		}
	}
}

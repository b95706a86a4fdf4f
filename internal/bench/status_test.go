//go:build linux

package bench

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// answering is the role of a bare server of net/http: it gives every request the same bytes.
const answering = "answering"

// answerAll is that server. Nobody ends it but whoever started it.
func answerAll(j job) error {
	body := bytes.Repeat([]byte("x"), j.Messages)
	return http.ListenAndServe(j.Host, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		_, _ = w.Write(body)
	}))
}

// statusServer asks a device that runs for its metrics as Prometheus does, and a bare server of
// net/http beside it, which has as many bytes for an answer. What the device takes without any
// scrape is taken off. Then it opens the readers of the events.
func statusServer(t *testing.T) []number {
	const (
		perSecond = 50
		span      = 10 * time.Second
		readers   = 1000
	)
	d := startDevice(t)
	page := "http://" + d.address + "/metrics"
	size := scrapes(t, page, perSecond, 3*time.Second)
	floor := startProcess(t, os.Args[0], []string{jobVariable + "=" + fmt.Sprintf(`{"Role":%q,"Host":%q,"Messages":%d}`, answering, near(67)+":8099", size)})
	bare := "http://" + near(67) + ":8099/"
	untilWell(t, bare)
	scrapes(t, bare, perSecond, 3*time.Second)

	share := func(c *exec.Cmd, f func()) float64 {
		before, began := onProcessor(c), time.Now()
		f()
		return (onProcessor(c) - before) / float64(time.Since(began).Milliseconds()) * 100
	}
	var ours, least figure
	rest := share(d.Cmd, func() { time.Sleep(span) })
	for range 3 {
		ours = append(ours, share(d.Cmd, func() { scrapes(t, page, perSecond, span) })-rest)
		least = append(least, share(floor, func() { scrapes(t, bare, perSecond, span) }))
	}

	before := rss(d.Cmd)
	for range readers {
		follow(t, d.address)
	}
	grown := rss(d.Cmd) - before
	all := []number{
		{fmt.Sprintf("%% of a core for %d scrapes a second of a device's metrics, %d kB each; floor: a bare server of net/http with as many bytes", perSecond, size/1000), len(ours),
			least, ours, medianAtMost(1)},
		{fmt.Sprintf("MB of RSS more with %d readers of the events", readers), readers, nil, figure{grown * (1 << 20) / 1e6}, atMost(20)},
	}
	out := measured("make bench-status")
	out.numbers(all)
	write(t, "status", out)
	return all
}

// running is a device of the built program.
type running struct {
	*exec.Cmd
	address string // of its --http
}

// startDevice runs a device with all defaults and --http, until it has a link.
func startDevice(t *testing.T) running {
	t.Helper()
	dir := t.TempDir()
	out := filepath.Join(dir, "out")
	c := newCloudAt(t, near(65), 0)
	if err := c.WriteFiles(out); err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(dir, "group.key")
	if err := os.WriteFile(key, []byte(c.info.GroupKey), 0o600); err != nil {
		t.Fatal(err)
	}
	program, err := filepath.Abs(*hubhop)
	if err != nil {
		t.Fatal(err)
	}
	d := running{address: near(66) + ":8098"}
	d.Cmd = startProcess(t, program, []string{"HOME=" + dir, "PATH=" + os.Getenv("PATH")}, "run", "--id-scope", c.info.IDScope, "--provisioning-host", c.info.ProvisioningHost,
		"--ca-file", filepath.Join(out, "ca.pem"), "--group-key-file", key, "--device-id", "watched", "--state-dir", filepath.Join(dir, "state"), "--http", d.address)
	untilWell(t, "http://"+d.address+"/readyz")
	return d
}

// untilWell waits until a server that was just started answers that all is well.
func untilWell(t *testing.T, url string) {
	t.Helper()
	for range 100 {
		if _, err := get(t.Context(), http.DefaultClient, url); err == nil {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatalf("%s does not answer", url)
}

// startProcess starts a program, which ends with the test.
func startProcess(t *testing.T, name string, env []string, args ...string) *exec.Cmd {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = env
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop()
		_ = cmd.Wait()
	})
	return cmd
}

// get returns how many bytes an answer has that is no error.
func get(ctx context.Context, c *http.Client, url string) (size int, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	r.Header.Set("Accept", "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3")
	r.Header.Set("Accept-Encoding", "gzip")
	a, err := c.Do(r)
	if err != nil {
		return 0, err
	}
	n, err := io.Copy(io.Discard, a.Body)
	_ = a.Body.Close()
	if err == nil && a.StatusCode != http.StatusOK {
		err = errors.New(a.Status)
	}
	return int(n), err
}

// scrapes asks over one connection for a while, and returns how many bytes the last answer had.
func scrapes(t *testing.T, url string, perSecond int, span time.Duration) (size int) {
	t.Helper()
	c := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1}}
	defer c.CloseIdleConnections()
	due := time.NewTicker(time.Second / time.Duration(perSecond))
	defer due.Stop()
	for range int(span.Seconds() * float64(perSecond)) {
		<-due.C
		var err error
		if size, err = get(t.Context(), c, url); err != nil {
			t.Fatal(err)
		}
	}
	return size
}

// follow opens a stream of events, and returns when the device has begun it.
func follow(t *testing.T, address string) {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if _, err := io.WriteString(conn, "GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(conn)
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), ":") {
			return
		}
	}
	t.Fatalf("no stream of events: %v", lines.Err())
}

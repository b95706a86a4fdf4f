package status

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/internal/journal"
)

const (
	askLimit  = 5 * time.Second // for one answer
	maxAnswer = 4 << 20         // bytes of one
)

// Client asks a server on its control socket.
type Client struct {
	path string
	http http.Client
}

// NewClient returns a client of the socket at a path. It connects when it asks.
func NewClient(path string) *Client {
	c := &Client{path: path}
	c.http.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", c.path)
	}}
	c.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return c
}

// Close closes the connections that nobody uses.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Status asks for GET /status. raw is the document as it came.
func (c *Client) Status(ctx context.Context) (v View, raw []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	body, err := c.get(ctx, "/status")
	if err != nil {
		return v, nil, err
	}
	defer func() { _ = body.Close() }()
	if raw, err = io.ReadAll(io.LimitReader(body, maxAnswer)); err != nil {
		return v, nil, err
	}
	if err = json.Unmarshal(raw, &v); err != nil {
		return v, nil, fmt.Errorf("the answer is no status: %w", err)
	}
	if !slices.Contains(States, v.State) {
		return v, nil, fmt.Errorf("the answer is no status that this hubhop knows: its state is %q", journal.Clip(string(v.State), maxName))
	}
	return v, raw, nil
}

// Watch calls tell for each event, until ctx ends or the server goes away. It calls tell also when
// the stream has begun, because something may have happened since its caller looked.
func (c *Client) Watch(ctx context.Context, tell func()) error {
	body, err := c.get(ctx, "/events")
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }()
	tell()
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, maxAnswer)
	for lines.Scan() {
		if bytes.HasPrefix(lines.Bytes(), []byte("data:")) {
			tell()
		}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	return io.EOF
}

func (c *Client) get(ctx context.Context, path string) (io.ReadCloser, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://hubhop"+path, http.NoBody)
	if err != nil {
		return nil, err
	}
	answer, err := c.http.Do(r)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode != http.StatusOK {
		defer func() { _ = answer.Body.Close() }()
		said, _ := io.ReadAll(io.LimitReader(answer.Body, maxName))
		return nil, fmt.Errorf("GET %s: %s: %s", path, answer.Status, strings.TrimSpace(string(said)))
	}
	return answer.Body, nil
}

package central

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
)

// Exchange is one request to a REST service of Azure.
type Exchange struct {
	Method string
	Host   string // host or host:port; it is asked over HTTPS
	Path   string // with its query
	Header map[string]string
	Body   any   // JSON; nil for none
	Most   int64 // bytes of the answer that are read
}

// Reply is what was answered to an [Exchange].
type Reply struct {
	Status int // of HTTP
	Header http.Header
	Body   []byte // its first bytes, at most as many as the exchange says
}

// Send sends the request one time, and returns what was answered, whatever the status is. It
// follows no redirection. An error says that there was no whole answer, and names the host; it has
// neither the path nor a header in it.
func (x Exchange) Send(ctx context.Context, client *http.Client) (Reply, error) {
	var text []byte
	if x.Body != nil {
		var err error
		if text, err = json.Marshal(x.Body); err != nil {
			return Reply{}, err
		}
	}
	req, err := http.NewRequestWithContext(ctx, x.Method, "https://"+x.Host+x.Path, bytes.NewReader(text))
	if err != nil {
		return Reply{}, fmt.Errorf("%s: %w", x.Host, err)
	}
	for name, value := range x.Header {
		req.Header.Set(name, value)
	}
	careful := *client
	careful.CheckRedirect = Stay
	resp, err := careful.Do(req)
	if err != nil {
		if failed, ok := errors.AsType[*url.Error](err); ok { // its text repeats the whole address
			err = failed.Err
		}
		return Reply{}, fmt.Errorf("no answer from https://%s: %w", x.Host, err)
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, x.Most))
	if err != nil {
		return Reply{}, fmt.Errorf("the answer of https://%s broke off: %w", x.Host, err)
	}
	return Reply{resp.StatusCode, resp.Header, answer}, nil
}

// Stay makes a redirection an answer like any other; it is an [http.Client]'s CheckRedirect. If a
// redirection were followed, the token would go where the answer says, also without TLS, and what
// answers there would count as the service.
func Stay(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

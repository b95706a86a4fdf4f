package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/hubhop-iot/hubhop/cmd/cli"
	"github.com/hubhop-iot/hubhop/internal/drill"
	"github.com/hubhop-iot/hubhop/internal/namedfile"
)

// ledgerPath is where the simulator's control API has its ledger.
const ledgerPath = "/api/ledger"

// openLedger opens what --ledger names: a file, - for standard input, a URL, or the control address
// of a simulator.
func openLedger(ctx context.Context, env *Env, where, deviceID string) (*drill.Ledger, error) {
	where = strings.TrimSpace(where)
	if lower := strings.ToLower(where); !strings.HasPrefix(lower, "http://") && !strings.HasPrefix(lower, "https://") {
		if where == "-" {
			return &drill.Ledger{Name: "the standard input", ReadCloser: io.NopCloser(env.Stdin)}, nil
		}
		f, err := namedfile.Open("ledger", where)
		if err != nil {
			return nil, usage(err)
		}
		return &drill.Ledger{Name: where, ReadCloser: f}, nil
	}
	u, err := url.Parse(where)
	if err != nil {
		return nil, usage(fmt.Errorf("ledger: %w", err))
	}
	if err := cli.CheckHost("ledger", u.Host); err != nil {
		return nil, usage(err)
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = ledgerPath
	}
	if q := u.Query(); strings.HasSuffix(u.Path, ledgerPath) {
		if q.Get("device") == "" {
			if deviceID == "" {
				return nil, usage(errors.New("ledger: whose messages? give --device-id"))
			}
			q.Set("device", deviceID)
		}
		q.Set("messages", "1")
		u.RawQuery = q.Encode()
	}
	transport := &http.Transport{DialContext: env.DialContext, Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true}
	l, err := drill.FetchLedger(ctx, &http.Client{Transport: transport}, u)
	if errors.Is(err, drill.ErrLedger) {
		err = usage(err)
	}
	return l, err
}

// isLive says whether a ledger comes from a running simulator, so that it is as new as the outbox.
// A file is older.
func isLive(where string) bool {
	u, err := url.Parse(strings.TrimSpace(where))
	return err == nil && strings.HasPrefix(strings.ToLower(u.Scheme), "http") && (u.Path == "" || u.Path == "/" || strings.HasSuffix(u.Path, ledgerPath))
}

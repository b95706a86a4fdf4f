// Package identity gets access tokens of managed identities without Azure libraries: from a program
// that the user names, or from the identity endpoint of the machine. That endpoint is the one of
// Azure Arc or of Azure App Service where IDENTITY_ENDPOINT names it, and else that of a virtual
// machine (Microsoft's pages "Authenticate against Azure resources with Azure Arc-enabled servers"
// and "How to use managed identities for Azure resources on an Azure VM to acquire an access
// token").
package identity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/internal/namedfile"
	"github.com/hubhop-iot/hubhop/internal/plain"
	"github.com/hubhop-iot/hubhop/internal/program"
)

const (
	maxAnswer = 256 << 10
	maxSecret = 4096 // Arc's secret files have at most so many bytes
	limit     = 20 * time.Second
	// OfVM is the identity endpoint of a virtual machine in Azure.
	OfVM = "http://169.254.169.254/metadata/identity/oauth2/token"
)

// Request says which token is wanted.
type Request struct {
	Audience string // the resource, such as https://eventgrid.azure.net
	ClientID string // of a user-assigned identity; empty: the system's
	TenantID string // told to a program only
	Scope    string // told to a program only; empty: Audience with /.default
}

// Source is where tokens come from. It is only read.
type Source struct {
	// Program, if set, prints a token, or JSON with accessToken or access_token, such as az account
	// get-access-token does. It gets the request in the environment: HUBHOP_AUDIENCE,
	// HUBHOP_CLIENT_ID, HUBHOP_TENANT_ID, HUBHOP_SCOPE.
	Program []string
	// Endpoint is the identity endpoint, empty for none: what IDENTITY_ENDPOINT says, or OfVM.
	Endpoint string
	// Header is what IDENTITY_HEADER says, on App Service; empty elsewhere.
	Header string
	// SecretDir is where Arc keeps the files that prove that a caller is local. A challenge that
	// names a file elsewhere is refused.
	SecretDir string
	// Client stands for an http.Client without a proxy if it is nil.
	Client *http.Client
	// Environ is the environment of the program.
	Environ []string
}

// Token returns an access token. The error says what to do.
func (s *Source) Token(ctx context.Context, r Request) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	switch {
	case len(s.Program) > 0:
		return s.run(ctx, r)
	case s.Endpoint != "":
		return s.ask(ctx, r)
	}
	return "", errors.New("there is no source of tokens: name a token program, or run where IDENTITY_ENDPOINT is set")
}

func (s *Source) run(ctx context.Context, r Request) (string, error) {
	scope := r.Scope
	if scope == "" {
		scope = strings.TrimSuffix(r.Audience, "/") + "/.default"
	}
	c := exec.CommandContext(ctx, s.Program[0], s.Program[1:]...) //nolint:gosec // the user names the program
	c.Env = append(append([]string(nil), s.Environ...), "HUBHOP_AUDIENCE="+r.Audience, "HUBHOP_CLIENT_ID="+r.ClientID,
		"HUBHOP_TENANT_ID="+r.TenantID, "HUBHOP_SCOPE="+scope)
	program.Together(c)
	c.Cancel = func() error {
		program.Kill(c)
		return nil
	}
	c.WaitDelay = time.Second
	var out bounded
	c.Stdout = &out
	if err := c.Run(); err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("it did not end in %v", limit)
		}
		return "", fmt.Errorf("the token program %s: %w; run it by hand to see why", s.Program[0], err)
	}
	text := strings.TrimSpace(string(out.b))
	if strings.HasPrefix(text, "{") {
		return parse([]byte(text), "the token program "+s.Program[0])
	}
	if text == "" || strings.ContainsAny(text, " \t\r\n") {
		return "", fmt.Errorf("the token program %s does not print one token; it must print the token, or JSON with accessToken", s.Program[0])
	}
	return text, nil
}

// bounded keeps the beginning of what is written.
type bounded struct{ b []byte }

func (w *bounded) Write(b []byte) (int, error) {
	w.b = append(w.b, b[:min(len(b), maxAnswer-len(w.b))]...)
	return len(b), nil
}

// ask asks the identity endpoint. Arc answers the first time with the name of a file that only who
// may have a token can read.
func (s *Source) ask(ctx context.Context, r Request) (string, error) {
	answer, status, challenge, err := s.get(ctx, r, "")
	if err != nil {
		return "", err
	}
	if status == http.StatusUnauthorized && challenge != "" {
		secret, err := s.secret(challenge)
		if err != nil {
			return "", err
		}
		if answer, status, _, err = s.get(ctx, r, "Basic "+secret); err != nil {
			return "", err
		}
	}
	if status != http.StatusOK {
		return "", fmt.Errorf("the identity endpoint %s answers %d: %s; check that the identity exists and may ask for %s",
			s.Endpoint, status, plain.Line(string(answer), 200), r.Audience)
	}
	return parse(answer, "the identity endpoint "+s.Endpoint)
}

func (s *Source) get(ctx context.Context, r Request, proof string) (answer []byte, status int, challenge string, err error) {
	version := "2018-02-01"
	switch {
	case s.Header != "":
		version = "2019-08-01"
	case s.SecretDir != "":
		version = "2020-06-01"
	}
	q := url.Values{"api-version": {version}, "resource": {r.Audience}}
	if r.ClientID != "" {
		q.Set("client_id", r.ClientID)
	}
	join := "?"
	if strings.Contains(s.Endpoint, "?") {
		join = "&"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.Endpoint+join+q.Encode(), nil)
	if err != nil {
		return nil, 0, "", fmt.Errorf("the identity endpoint %q is no URL: %w", s.Endpoint, err)
	}
	req.Header.Set("Metadata", "true")
	if s.Header != "" {
		req.Header.Set("X-IDENTITY-HEADER", s.Header)
	}
	if proof != "" {
		req.Header.Set("Authorization", proof)
	}
	client := s.Client
	if client == nil { // the endpoint is on this machine: a proxy cannot reach it
		client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, 0, "", fmt.Errorf("the identity endpoint does not answer: %w; it exists in Azure and on machines with Azure Arc", err)
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	return answer, resp.StatusCode, resp.Header.Get("WWW-Authenticate"), err
}

// secret reads the file of a challenge, which must be where Arc keeps such files.
func (s *Source) secret(challenge string) (string, error) {
	_, path, ok := strings.Cut(challenge, "realm=")
	path = filepath.Clean(strings.Trim(path, `" `))
	if !ok || s.SecretDir == "" || filepath.Dir(path) != filepath.Clean(s.SecretDir) || filepath.Ext(path) != ".key" {
		return "", fmt.Errorf("the identity endpoint %s names the file %s as proof, which is not one of %q", s.Endpoint, plain.Quoted(path), s.SecretDir)
	}
	b, err := namedfile.Read("the proof for the identity endpoint", path, maxSecret)
	if err != nil {
		return "", fmt.Errorf("%w; the user of hubhop must be in the group himds", err)
	}
	return strings.TrimSpace(string(b)), nil
}

func parse(b []byte, from string) (string, error) {
	var a struct {
		Cli string `json:"accessToken"`
		Web string `json:"access_token"`
	}
	if err := json.Unmarshal(b, &a); err != nil || a.Cli+a.Web == "" {
		return "", fmt.Errorf("%s gives JSON without accessToken or access_token", from)
	}
	if a.Cli != "" {
		return a.Cli, nil
	}
	return a.Web, nil
}

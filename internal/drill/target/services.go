package target

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/amenzhinsky/iothub/common"
	"github.com/amenzhinsky/iothub/iotservice"
	"github.com/amenzhinsky/iothub/logger"

	"github.com/hubhop-iot/hubhop/internal/central"
	"github.com/hubhop-iot/hubhop/internal/plain"
)

const (
	dpsVersion = "2021-10-01" // of the service API of DPS, as the Azure CLI asks for it
	hubVersion = "2021-04-12" // of the service API of hubs
	maxAnswer  = 4 << 20      // bytes of an answer
	askLimit   = 30 * time.Second
)

// service is one service of Azure, asked over REST with a shared access policy.
type service struct {
	key    *common.SharedAccessKey
	client *http.Client
}

// newService reads a connection string of a service. The error never shows it.
func newService(text string, client *http.Client) (*service, error) {
	key, err := iotservice.ParseConnectionString(strings.TrimSpace(text))
	if err != nil || key.HostName == "" {
		return nil, errors.New("it must be HostName=…;SharedAccessKeyName=…;SharedAccessKey=…, as the portal shows it under Shared access policies")
	}
	if _, err := key.Token(key.HostName, time.Minute); err != nil {
		return nil, errors.New("its SharedAccessKey is not base64; copy it again")
	}
	return &service{key, client}, nil
}

// refusal is what a service answers to a request that it does not fulfil.
type refusal struct {
	host   string
	status int
	code   string
	text   string
}

func (r *refusal) Error() string {
	text := fmt.Sprintf("%s answers %d", r.host, r.status)
	if r.code != "" {
		text += " " + r.code
	}
	if r.text != "" {
		text += ": " + r.text
	}
	if r.status == http.StatusUnauthorized || r.status == http.StatusForbidden {
		text += "; is the policy allowed to do this, and is its key still right?"
	}
	return text
}

// missing says whether an error is the answer 404.
func missing(err error) bool {
	r, ok := errors.AsType[*refusal](err)
	return ok && r.status == http.StatusNotFound
}

// ask sends one request. The body and the answer are JSON, nil for none; match is the header
// If-Match, "" for none.
func (s *service) ask(ctx context.Context, method, path, version, match string, body, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	token, err := s.key.Token(s.key.HostName, time.Hour)
	if err != nil {
		return errors.New("the key of the policy is not base64") // the library's error would quote a part of it
	}
	header := map[string]string{"Authorization": token.String(), "Content-Type": "application/json; charset=utf-8"}
	if match != "" {
		header["If-Match"] = match
	}
	reply, err := central.Exchange{Method: method, Host: s.key.HostName, Path: path + "?api-version=" + version, Header: header, Body: body, Most: maxAnswer}.Send(ctx, s.client)
	if err != nil {
		return err
	}
	if reply.Status/100 != 2 {
		return s.refused(reply.Status, reply.Body)
	}
	if answer == nil || len(reply.Body) == 0 {
		return nil
	}
	if err := json.Unmarshal(reply.Body, answer); err != nil {
		return fmt.Errorf("%s answers %d with something that is not the JSON asked for: %q", s.key.HostName, reply.Status, plain.Line(string(reply.Body), 80))
	}
	return nil
}

// refused reads an error document: of DPS, or of a hub.
func (s *service) refused(status int, b []byte) error {
	var said struct {
		ErrorCode  int    `json:"errorCode"`
		Message    string `json:"message"`
		HubMessage string `json:"Message"`
	}
	r := &refusal{host: s.key.HostName, status: status}
	if json.Unmarshal(b, &said) != nil {
		r.text = plain.Line(strings.TrimSpace(string(b)), plain.Most)
		return r
	}
	if said.ErrorCode != 0 {
		r.code = strconv.Itoa(said.ErrorCode)
	}
	r.text = plain.Line(said.HubMessage+said.Message, plain.Most)
	return r
}

// bounded bounds the bodies that a client reads, for a library that reads them whole.
type bounded struct{ http.RoundTripper }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := b.RoundTripper.RoundTrip(r)
	if err == nil {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(resp.Body, maxAnswer), resp.Body}
	}
	return resp, err
}

// registry returns the library's client for the identities and twins of a hub.
func (s *service) registry() (*iotservice.Client, error) {
	transport := s.client.Transport
	if transport == nil {
		transport = http.DefaultTransport
	}
	return iotservice.New(s.key, iotservice.WithHTTPClient(&http.Client{Transport: bounded{transport}, Timeout: askLimit, CheckRedirect: central.Stay}),
		iotservice.WithLogger(logger.New(logger.LevelOff, nil)))
}

// identityMissing says whether the library's error is the answer 404.
func identityMissing(err error) bool {
	e, ok := errors.AsType[*iotservice.RequestError](err)
	return ok && e.Code == http.StatusNotFound
}

// plainly makes the library's error fit for a line.
func plainly(host string, err error) error {
	if e, ok := errors.AsType[*iotservice.RequestError](err); ok {
		return (&service{key: &common.SharedAccessKey{HostName: host}}).refused(e.Code, e.Body)
	}
	return fmt.Errorf("%s: %w", host, err)
}

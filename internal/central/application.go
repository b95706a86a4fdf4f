// Package central asks an IoT Central application to move a device between its hubs, and where the
// device is now. [Application] asks over the application's REST API, [CLI] lets the Azure CLI ask.
//
// The requests and answers are those of the Azure CLI's azure-iot extension, which is public:
// github.com/Azure/azure-iot-cli-extension, azext_iot/central/services/device.py.
package central

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/dps"
	"github.com/hubhop-iot/hubhop/internal/plain"
)

// MaxFailover is the longest time that IoT Central lets a device stay away before it moves the
// device back by itself. The shortest is a minute.
const MaxFailover = 30 * time.Minute

// ErrRefused says that IoT Central does not accept the token, or that the token may not do this. A
// person must act.
var ErrRefused = errors.New("refused")

// Answer is what IoT Central says to a move that it has accepted.
type Answer struct {
	// HubIdentifier names a hub by 64 hex digits, without its host. Microsoft does not say which
	// of the two hubs it is, and public samples contradict each other, so nothing may rely on it.
	HubIdentifier string `json:"hubIdentifier"`
	Message       string `json:"message"` // for people; it says when the device returns by itself
}

// Application is one IoT Central application, behind its REST API.
type Application struct {
	Host  string // host or host:port, such as myapp.azureiotcentral.com
	Token string // the whole Authorization header: an API token, or "Bearer " and a token of Entra ID

	// ProvisioningHost is where the application's DPS answers over HTTPS: host or host:port.
	// Where needs it.
	ProvisioningHost string

	Client *http.Client

	// Waiting hears that the service asks to come back after a time, and why. It may be nil.
	Waiting func(d time.Duration, why error)

	tokens registrationTokens
}

// CheckToken returns an error for a text that cannot be the Authorization header of a request.
func CheckToken(token string) (header string, err error) {
	token = strings.TrimSpace(token)
	switch {
	case token == "":
		return "", errors.New("it is empty")
	case strings.ContainsFunc(token, func(r rune) bool { return r < ' ' || r > '~' }):
		return "", errors.New("it has characters or lines that no token has; copy it again, as one line")
	case strings.HasPrefix(token, "SharedAccessSignature ") || strings.HasPrefix(token, "Bearer "):
		return token, nil
	case strings.HasPrefix(token, "eyJ") && strings.Count(token, ".") == 2: // a JWT, as az account get-access-token prints it
		return "Bearer " + token, nil
	}
	return "", errors.New("it is neither an API token, which begins with SharedAccessSignature, nor a token of Entra ID, which begins with eyJ; " +
		"IoT Central makes API tokens under Permissions, API tokens")
}

// Failover moves a device to another hub. IoT Central moves it back by itself after ttl, which is
// whole minutes up to MaxFailover; 0 leaves the time to IoT Central.
func (a *Application) Failover(ctx context.Context, device string, ttl time.Duration) (Answer, error) {
	body := map[string]int{}
	if ttl > 0 {
		body["ttl"] = int(ttl / time.Minute)
	}
	return a.move(ctx, device, "manual-failover", body)
}

// Failback moves a device that was failed over back to its first hub.
func (a *Application) Failback(ctx context.Context, device string) (Answer, error) {
	return a.move(ctx, device, "manual-failback", nil)
}

func (a *Application) move(ctx context.Context, device, how string, body any) (answer Answer, err error) {
	err = a.ask(ctx, request{http.MethodPost, a.Host, "/system/iothub/devices/" + url.PathEscape(device) + "/" + how, a.Token, body, &answer})
	if err == nil {
		return answer, nil
	}
	if _, answered := errors.AsType[*Error](err); !answered {
		return answer, fmt.Errorf("%w; it is not known whether the device was moved", err)
	}
	return answer, err
}

// Error is what a service answers to a request that it does not fulfil.
type Error struct {
	Service string // who answers: IoT Central, DPS
	Status  int    // of HTTP
	Code    string // as the service names it; "" if it does not
	Message string // one line
}

func (e *Error) Error() string {
	text := fmt.Sprintf("%s answers %d", e.Service, e.Status)
	if e.Code != "" {
		text += " " + e.Code
	}
	if e.Message != "" {
		text += ": " + strings.TrimSuffix(e.Message, ".")
	}
	if next := e.next(); next != "" {
		text += "; " + next
	}
	return text
}

// next is what a person can do about the error.
func (e *Error) next() string {
	switch e.Status {
	case http.StatusUnauthorized:
		return "is the token of this application, and not expired? IoT Central makes tokens under Permissions, API tokens"
	case http.StatusForbidden:
		return "the token's role may not do this: make one with the role App Administrator or App Operator"
	case http.StatusNotFound:
		return "is the device id spelled as in IoT Central, and is this the device's application?"
	case http.StatusConflict, http.StatusBadRequest, http.StatusUnprocessableEntity:
		return "a device can be moved if it is provisioned and no IoT Edge device, and if the application has two hubs"
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return "try again later"
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return "it sends the request to another address, where the token must not go; is this the host of an IoT Central application?"
	}
	return ""
}

// Is makes refusals recognisable.
func (e *Error) Is(target error) bool {
	return target == ErrRefused && (e.Status == http.StatusUnauthorized || e.Status == http.StatusForbidden)
}

// serviceDPS is how errors call the device provisioning service.
const serviceDPS = "DPS"

const (
	maxAnswer    = 1 << 20          // bytes of an answer that are read
	requestLimit = 60 * time.Second // for one request and its answer
	maxTries     = 5                // of one request, where the service asks to come back
	maxWait      = 5 * time.Minute  // for a service that asks to come back later than that, nobody waits
	maxShown     = 400              // bytes of a service's sentence that an error shows
)

// request is one request and where its answer goes.
type request struct {
	method, host, path, token string
	body                      any // JSON; nil for none
	into                      any // JSON
}

// ask sends a request. It sends it again only if the service says when: 429 or 503 with
// Retry-After.
func (a *Application) ask(ctx context.Context, r request) error {
	for try := 1; ; try++ {
		again, err := a.once(ctx, r)
		if err == nil || again < 0 || again > maxWait || try == maxTries {
			return err
		}
		if a.Waiting != nil {
			a.Waiting(again, err)
		}
		if err := pause(ctx, again); err != nil {
			return err
		}
	}
}

// once sends a request one time. If it fails, again is when the service asks to come back, and
// negative if it does not.
func (a *Application) once(ctx context.Context, r request) (again time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestLimit)
	defer cancel()
	header := map[string]string{"Authorization": r.token}
	if r.body != nil {
		header["Content-Type"] = "application/json"
	}
	reply, err := Exchange{Method: r.method, Host: r.host, Path: r.path, Header: header, Body: r.body, Most: maxAnswer}.Send(ctx, a.Client)
	if err != nil {
		return -1, err
	}
	service := "IoT Central"
	if r.host != a.Host {
		service = serviceDPS
	}
	if failure := judge(service, reply); failure != nil {
		return retryAfter(reply, time.Now()), failure
	}
	if len(bytes.TrimSpace(reply.Body)) == 0 {
		return -1, nil
	}
	if err := json.Unmarshal(reply.Body, r.into); err != nil {
		return -1, fmt.Errorf("%s answers %d with something that is not the JSON asked for, %q; is %s the host of an IoT Central application?",
			service, reply.Status, plain.Line(string(reply.Body), 80), r.host)
	}
	return -1, nil
}

// judge returns the error of an answer, nil for a good one. An object with the key "error" is an
// error whatever its status and whatever stands in it, as the Azure CLI has it. So is one with the
// key "errorCode", except of DPS, whose answers have a status of their own.
func judge(service string, reply Reply) error {
	var said map[string]json.RawMessage
	isObject := json.Unmarshal(reply.Body, &said) == nil
	failure, code := said["error"], shown(said["errorCode"])
	if string(failure) == "null" {
		failure = nil
	}
	if code == "0" {
		code = ""
	}
	if reply.Status/100 == 2 && failure == nil && (code == "" || service == serviceDPS) {
		return nil
	}
	e := &Error{Service: service, Status: reply.Status, Code: code, Message: shown(said["message"])}
	switch {
	case failure != nil:
		e.Code, e.Message = sentence(failure, "code"), sentence(failure, "message")
		if e.Code+e.Message == "" {
			e.Message = shown(failure)
		}
	case !isObject:
		e.Message = plain.Line(strings.TrimSpace(string(reply.Body)), maxShown)
	}
	return e
}

// sentence is the value of a key of a JSON object, as shown writes it.
func sentence(object json.RawMessage, key string) string {
	var fields map[string]json.RawMessage
	_ = json.Unmarshal(object, &fields) // what is no object has no key
	return shown(fields[key])
}

// shown writes a JSON value for people, in one line: a text without its quotes, nothing for null.
func shown(value json.RawMessage) string {
	var text string
	switch {
	case len(value) == 0 || string(value) == "null":
		return ""
	case json.Unmarshal(value, &text) == nil:
		return plain.Line(text, maxShown)
	}
	return plain.Line(string(value), maxShown)
}

// retryAfter returns when a service that has refused asks to come back, and -1 if it does not.
func retryAfter(reply Reply, now time.Time) time.Duration {
	text := reply.Header.Get("Retry-After")
	if text == "" || reply.Status != http.StatusTooManyRequests && reply.Status != http.StatusServiceUnavailable {
		return -1
	}
	if seconds, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(0, at.Sub(now))
	}
	return -1
}

// pause waits, or returns the error of ctx.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Place says where a device is.
type Place struct {
	Hub       string // host or name of the hub that it belongs to
	Connected bool   // it has a link to that hub
}

// Where asks where a device is. DPS tells the hub that it has assigned, and IoT Central's twin
// tells whether the device has a link. IoT Central itself names no hub to anybody. The device must
// prove itself by a symmetric key, because IoT Central hands out no other credentials.
func (a *Application) Where(ctx context.Context, device string) (Place, error) {
	token, scope, err := a.registrationToken(ctx, device)
	if err != nil {
		return Place{}, err
	}
	var registered struct {
		Status      string `json:"status"`
		AssignedHub string `json:"assignedHub"`
	}
	path := "/" + url.PathEscape(scope) + "/registrations/" + url.PathEscape(device) + "?api-version=2019-03-31"
	err = a.ask(ctx, request{http.MethodPost, a.ProvisioningHost, path, token, map[string]string{"registrationId": device}, &registered})
	if err != nil {
		return Place{}, err
	}
	if registered.AssignedHub == "" {
		return Place{}, fmt.Errorf("DPS has assigned no hub to the device, its status is %q", plain.Line(registered.Status, maxShown))
	}
	var twin struct {
		ConnectionState string `json:"connectionState"`
	}
	err = a.ask(ctx, request{http.MethodGet, a.Host, "/system/iothub/devices/" + url.PathEscape(device) + "/get-twin?extendedInfo=true", a.Token, nil, &twin})
	if err != nil {
		return Place{}, err
	}
	return Place{registered.AssignedHub, twin.ConnectionState == "Connected"}, nil
}

// registrationTokens keep the token of the device that was asked for last, so that each question
// costs two requests and not three.
type registrationTokens struct {
	device, token, scope string
	until                time.Time
}

// registrationToken returns a token with which DPS answers about a device, and the ID scope.
func (a *Application) registrationToken(ctx context.Context, device string) (token, scope string, err error) {
	if t := a.tokens; t.device == device && time.Now().Before(t.until) {
		return t.token, t.scope, nil
	}
	var credentials struct {
		IDScope      string `json:"idScope"`
		SymmetricKey struct {
			PrimaryKey string `json:"primaryKey"`
		} `json:"symmetricKey"`
	}
	err = a.ask(ctx, request{http.MethodGet, a.Host, "/api/devices/" + url.PathEscape(device) + "/credentials?api-version=2022-07-31", a.Token, nil, &credentials})
	if err != nil {
		return "", "", err
	}
	if credentials.SymmetricKey.PrimaryKey == "" {
		return "", "", errors.New("IoT Central has no symmetric key of the device, without which DPS says nothing about it")
	}
	token, err = dps.Token(credentials.IDScope, device, credentials.SymmetricKey.PrimaryKey, time.Now())
	if err != nil {
		return "", "", fmt.Errorf("the credentials that IoT Central has of the device: %w", err)
	}
	a.tokens = registrationTokens{device, token, credentials.IDScope, time.Now().Add(dps.TokenLife / 2)}
	return token, credentials.IDScope, nil
}

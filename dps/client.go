package dps

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hubhop-iot/hubhop/internal/mqtt"
)

// Transport is how a registration travels.
type Transport string

// The transports. Both carry the same documents.
const (
	MQTT  Transport = "mqtt"  // TLS on port 8883
	HTTPS Transport = "https" // port 443
)

// DefaultHost is the global endpoint of every DPS.
const DefaultHost = "global.azure-devices-provisioning.net"

const (
	defaultRetryAfter = 2 * time.Second   // when DPS names none, as the official SDKs do
	maxRetryAfter     = 300 * time.Second // a longer one is cut: the C SDK calls it invalid

	// If DPS wants to be polled again at once, the first poll follows at once. The pause before the
	// next ones begins with firstPollSpacing and doubles up to maxPollSpacing.
	firstPollSpacing = 50 * time.Millisecond
	maxPollSpacing   = 2 * time.Second

	maxDocument = 128 << 10 // bytes; DPS limits a message to 96 KB

	// After so long in the state "assigning", a new registration is better than more polls.
	stuckAfter      = 150 * time.Second
	defaultPatience = 10 * time.Second // for one answer of DPS
)

// Client registers one device at one DPS. It has no state but the connection that Open holds ready.
// Its methods may be called from any goroutine.
type Client struct {
	Host           string // host or host:port; the port defaults by transport (8883, 443)
	Transport      Transport
	IDScope        string
	RegistrationID string // used for the key and the signature exactly as it is
	Key            string // the device's key, base64; empty when TLS carries a client certificate
	ModelID        string // DTDL model to announce in the payload; empty for none
	Agent          string // name and version of this client, free text
	TLS            *tls.Config
	DialContext    func(ctx context.Context, network, addr string) (net.Conn, error)
	Now            func() time.Time // the time that tokens are made by; nil: time.Now
	// Heard, if set, is called with the Date of an HTTPS answer if the server's certificate is
	// valid at that date.
	Heard func(date time.Time)

	spare atomic.Pointer[spare] // nil: none is held ready
}

func (c *Client) now() time.Time {
	if c.Now == nil {
		return time.Now()
	}
	return c.Now()
}

// Assignment is DPS's decision.
type Assignment struct {
	Hub string // host, or host:port in the simulator's layout "ports"
	// DeviceID is the name at the hub. With an individual enrollment it may differ from the
	// registration id.
	DeviceID string
	// Substatus is initialAssignment, deviceDataMigrated, deviceDataReset or
	// reprovisionedToInitialAssignment.
	Substatus string
}

// Request is what may differ from one registration to the next.
type Request struct {
	// Admit is called once, right before the registration is sent, and may wait. A process uses it
	// to keep to its rate. Connections may be opened before. Nil admits at once.
	Admit func(ctx context.Context) error
	// Patience is how long each step may take as a whole, however many packets or bytes come
	// meanwhile. The steps are: TCP with TLS; the register request with the packets before it on
	// the connection; each poll. 0 means 10 s.
	Patience time.Duration
	// Progress, if set, is called with the step that the client waits for now.
	Progress func(Step)
	// Sequential waits for CONNACK and SUBACK before it sends on. Otherwise everything leaves in
	// one write. It counts over MQTT only.
	Sequential bool
}

// Register makes one registration and polls until DPS has decided. Between polls it waits exactly
// as long as DPS asks, 0 included, but at most 300 s. It waits 2 s if DPS asks for nothing. However
// DPS behaves, Register ends at most 150 s after the first answer. Before that come the wait of
// [Request].Admit, one Patience to connect and one for the first answer. Every failure is an
// [*Error], except the end of ctx, an error of Admit and an unknown Transport.
func (c *Client) Register(ctx context.Context, r Request) (Assignment, error) {
	if r.Patience <= 0 {
		r.Patience = defaultPatience
	}
	if r.Admit == nil {
		r.Admit = func(context.Context) error { return nil }
	}
	if r.Progress == nil {
		r.Progress = func(Step) {}
	}
	var do exchange
	switch c.Transport {
	case HTTPS:
		do = &httpsExchange{c: c, r: r}
	case MQTT, "":
		do = &mqttExchange{c: c, r: r}
	default:
		return Assignment{}, fmt.Errorf("unknown provisioning transport %q", c.Transport)
	}
	defer do.close()
	a, err := c.negotiate(ctx, do, r.Progress)
	if ctx.Err() != nil {
		return Assignment{}, ctx.Err()
	}
	if e, ok := errors.AsType[*Error](err); ok {
		e.Host = c.host()
	}
	return a, err
}

// exchange is one conversation with DPS. Both transports carry the same documents.
type exchange interface {
	register(ctx context.Context, body []byte) (answer, error)
	poll(ctx context.Context, operationID string) (answer, error)
	// wait waits until the next poll is due. It fails at once when the connection does.
	wait(ctx context.Context, d time.Duration) error
	close()
}

// answer is one document of DPS with what came around it.
type answer struct {
	status     int
	retryAfter time.Duration // negative when absent
	skew       time.Duration // 0 when unknown
	body       []byte
}

// negotiate registers, and polls until DPS has decided.
func (c *Client) negotiate(ctx context.Context, do exchange, progress func(Step)) (Assignment, error) {
	ans, err := do.register(ctx, c.payload())
	began := time.Now()
	within, end := context.WithDeadline(ctx, began.Add(stuckAfter))
	defer end()
	step := StepRegister
	operation := ""
	spacing := time.Duration(0)
	for {
		if err != nil {
			return Assignment{}, err
		}
		doc, perr := parse(ans)
		switch {
		case perr != nil:
			return Assignment{}, &Error{Step: step, Status: ans.status, RetryAfter: -1, Counted: true, Err: perr}
		case ans.status >= 300 && step == StepPoll && (ans.status == 429 || ans.status >= 500):
			// A poll that is throttled says nothing about the registration, so the polls go on.
			doc.OperationID, doc.Status = operation, "assigning"
		case ans.status >= 300:
			return Assignment{}, doc.refusal(step, ans)
		}
		switch strings.ToLower(doc.Status) {
		case "assigned":
			if doc.State.AssignedHub == "" {
				return Assignment{}, &Error{Step: step, Status: ans.status, RetryAfter: -1, Counted: true, Err: fmt.Errorf("%w: assigned, but no hub is named", ErrNonsense)}
			}
			id := doc.State.DeviceID
			if id == "" {
				id = c.RegistrationID
			}
			return Assignment{Hub: doc.State.AssignedHub, DeviceID: id, Substatus: doc.State.Substatus}, nil
		case "assigning", "unassigned":
		default: // failed, disabled, and what nobody has thought of yet
			return Assignment{}, doc.refusal(step, ans)
		}
		if doc.OperationID != "" {
			operation = doc.OperationID
		}
		if operation == "" {
			return Assignment{}, &Error{Step: step, Status: ans.status, RetryAfter: -1, Counted: true, Err: fmt.Errorf("%w: assigning, but no operation is named", ErrNonsense)}
		}
		wait := ans.retryAfter
		switch {
		case wait < 0:
			wait = defaultRetryAfter
		case wait == 0:
			wait = spacing
			spacing = min(max(firstPollSpacing, 2*spacing), maxPollSpacing)
		}
		stuck := func() (Assignment, error) {
			return Assignment{}, &Error{Step: StepPoll, Status: ans.status, RetryAfter: -1, Counted: true,
				Err: fmt.Errorf("%w after %v", ErrStuck, time.Since(began).Round(time.Second))}
		}
		if time.Since(began)+wait > stuckAfter {
			return stuck()
		}
		step = StepPoll
		progress(step)
		err = do.wait(within, wait)
		if err == nil {
			ans, err = do.poll(within, operation)
		}
		if err != nil && ctx.Err() == nil && time.Since(began) >= stuckAfter {
			return stuck()
		}
	}
}

func (c *Client) host() string {
	if c.Host == "" {
		return DefaultHost
	}
	return c.Host
}

// address returns the host, with the port of the transport if the host has none.
func (c *Client) address(port string) string { return mqtt.WithPort(c.host(), port) }

// staleAfter is how long a connection may wait for the rate of the process before it is replaced.
// DPS closes a connection on which nothing is sent.
const staleAfter = 5 * time.Second

// admitted returns a connection over which a registration may be sent now. It opens the connection
// before it asks for admission, so that a DPS out of reach costs the process no registration.
func (c *Client) admitted(ctx context.Context, r Request) (net.Conn, *tls.Conn, error) {
	r.Progress(StepDial)
	raw, secure, err := c.line(ctx, c.endpoint(), r.Patience)
	if err != nil {
		return nil, nil, err
	}
	began := time.Now()
	r.Progress(StepAdmit)
	if err := r.Admit(ctx); err != nil {
		_ = raw.Close()
		return nil, nil, err
	}
	if time.Since(began) > staleAfter {
		_ = raw.Close()
		r.Progress(StepDial)
		if raw, secure, err = c.connect(ctx, c.endpoint(), r.Patience); err != nil {
			return nil, nil, err
		}
	}
	r.Progress(StepRegister)
	return raw, secure, nil
}

// connect opens TCP and TLS, both within patience.
func (c *Client) connect(ctx context.Context, addr string, patience time.Duration) (raw net.Conn, secure *tls.Conn, err error) {
	short, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	to := mqtt.Endpoint{Address: addr, TLS: c.TLS, DialContext: c.DialContext}
	if raw, err = to.Dial(short); err != nil {
		return nil, nil, &Error{Step: StepDial, RetryAfter: -1, Err: err}
	}
	if secure, err = to.Secure(short, raw); err != nil {
		_ = raw.Close()
		return nil, nil, &Error{Step: StepTLS, RetryAfter: -1, Err: mqtt.Overdue(ctx, short, patience, err)}
	}
	return raw, secure, nil
}

// payload returns the document of the register request (Microsoft: "Device Provisioning Service
// REST API", "Register Device"). IoT Central reads modelId.
func (c *Client) payload() []byte {
	type model struct {
		ModelID string `json:"modelId"`
	}
	doc := struct {
		RegistrationID string `json:"registrationId"`
		Payload        *model `json:"payload,omitempty"`
	}{RegistrationID: c.RegistrationID}
	if c.ModelID != "" {
		doc.Payload = &model{c.ModelID}
	}
	body, _ := json.Marshal(doc) // two strings: it cannot fail
	return body
}

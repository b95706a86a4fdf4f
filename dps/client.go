package dps

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
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
	defaultRetryAfter = 2 * time.Second       // when DPS names none, as the official SDKs do
	maxRetryAfter     = 300 * time.Second     // a longer one is cut: the C SDK calls it invalid
	firstPollSpacing  = 50 * time.Millisecond // repeated polls at retry-after 0 are spaced, doubling
	maxPollSpacing    = 2 * time.Second       // to this
	maxDocument       = 128 << 10             // DPS limits a message to 96 KB
	stuckAfter        = 150 * time.Second     // of assigning: a new registration is better than more polls
	defaultPatience   = 10 * time.Second      // of silence while an answer is owed
)

// Client knows one device and one DPS. It keeps no state but the connection that Open holds ready; its methods may be called from any
// goroutine.
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
	Now            func() time.Time     // the time that tokens are made by; nil: time.Now
	Heard          func(date time.Time) // is told the Date of each HTTPS answer at which its certificate is good; may be nil

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
	Hub       string // host, or host:port in the simulator's layout "ports"
	DeviceID  string // the name at the hub; it may differ from the registration id in individual enrollments
	Substatus string // initialAssignment, deviceDataMigrated, deviceDataReset, reprovisionedToInitialAssignment
}

// Request is what may differ from one registration to the next.
type Request struct {
	// Admit is called once, right before the registration is sent, and may wait: here a process keeps to its rate. Connections may
	// be opened before. Nil admits at once.
	Admit func(ctx context.Context) error
	// Patience is how long DPS may be silent while it owes an answer. 0 means 10 s.
	Patience time.Duration
	// Sequential waits for CONNACK and SUBACK before it sends on; otherwise everything goes out in one write (MQTT only).
	Sequential bool
}

// Register makes one registration and polls until DPS has decided. It honours retry-after exactly as sent, 0 included; absent
// means 2 s, and more than 300 s are cut. It ends after 150 s of assigning. Every failure but the end of ctx is an [*Error].
func (c *Client) Register(ctx context.Context, r Request) (Assignment, error) {
	if r.Patience <= 0 {
		r.Patience = defaultPatience
	}
	if r.Admit == nil {
		r.Admit = func(context.Context) error { return nil }
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
	a, err := c.negotiate(ctx, do)
	if ctx.Err() != nil {
		return Assignment{}, ctx.Err()
	}
	if e, ok := errors.AsType[*Error](err); ok {
		e.Host = c.host()
	}
	return a, err
}

// exchange is one conversation with DPS: both transports carry the same documents.
type exchange interface {
	register(ctx context.Context, body []byte) (answer, error)
	poll(ctx context.Context, operationID string) (answer, error)
	// wait passes the time until the next poll, or fails at once when the connection does.
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

// negotiate is the conversation itself.
func (c *Client) negotiate(ctx context.Context, do exchange) (Assignment, error) {
	began := time.Now()
	ans, err := do.register(ctx, c.payload())
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
			return Assignment{}, &Error{Step: step, Status: ans.status, RetryAfter: ans.retryAfter, Counted: true, Err: perr}
		case ans.status >= 300 && step == StepPoll && (ans.status == 429 || ans.status >= 500):
			// A poll that is throttled says nothing about the registration: it goes on, and so do the polls.
			doc.OperationID, doc.Status = operation, "assigning"
		case ans.status >= 300:
			return Assignment{}, doc.refusal(step, ans)
		}
		switch strings.ToLower(doc.Status) {
		case "assigned":
			if doc.State.AssignedHub == "" {
				return Assignment{}, &Error{Step: step, Status: ans.status, RetryAfter: -1, Counted: true, Err: errors.New("assigned, but no hub is named")}
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
			return Assignment{}, &Error{Step: step, Status: ans.status, RetryAfter: -1, Counted: true, Err: errors.New("assigning, but no operation is named")}
		}
		wait := ans.retryAfter
		switch {
		case wait < 0:
			wait = defaultRetryAfter
		case wait == 0:
			wait = spacing
			spacing = min(max(firstPollSpacing, 2*spacing), maxPollSpacing)
		}
		if time.Since(began)+wait > stuckAfter {
			return Assignment{}, &Error{Step: StepPoll, Status: ans.status, RetryAfter: ans.retryAfter, Counted: true,
				Err: fmt.Errorf("%w after %v", ErrStuck, time.Since(began).Round(time.Second))}
		}
		if err := do.wait(ctx, wait); err != nil {
			return Assignment{}, err
		}
		step = StepPoll
		ans, err = do.poll(ctx, operation)
	}
}

func (c *Client) host() string {
	if c.Host == "" {
		return DefaultHost
	}
	return c.Host
}

// address is the host with the port of the transport where none is given.
func (c *Client) address(port string) string {
	h := c.host()
	if _, _, err := net.SplitHostPort(h); err == nil {
		return h
	}
	return net.JoinHostPort(strings.Trim(h, "[]"), port)
}

// connect opens TCP and TLS.
func (c *Client) connect(ctx context.Context, addr string, patience time.Duration) (raw net.Conn, secure *tls.Conn, err error) {
	short, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	dial := c.DialContext
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	raw, err = dial(short, "tcp", addr)
	if err != nil {
		return nil, nil, &Error{Step: StepDial, RetryAfter: -1, Err: err}
	}
	conf := c.TLS.Clone()
	if conf == nil {
		conf = &tls.Config{}
	}
	conf.MinVersion = max(conf.MinVersion, tls.VersionTLS12)
	if conf.ServerName == "" {
		conf.ServerName, _, _ = net.SplitHostPort(addr)
	}
	secure = tls.Client(raw, conf)
	if err := secure.HandshakeContext(short); err != nil {
		_ = raw.Close()
		if short.Err() != nil && ctx.Err() == nil {
			err = fmt.Errorf("%w in %v", ErrSilent, patience)
		}
		return nil, nil, &Error{Step: StepTLS, RetryAfter: -1, Err: err}
	}
	return raw, secure, nil
}

// payload is the register document (DPS documentation, "Register Device"; IoT Central reads modelId).
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

// document is any body of DPS: the registration's state (protocol §1.6) or an error (§1.7).
type document struct {
	OperationID string `json:"operationId"`
	Status      string `json:"status"`
	State       struct {
		AssignedHub  string `json:"assignedHub"`
		DeviceID     string `json:"deviceId"`
		Status       string `json:"status"`
		Substatus    string `json:"substatus"`
		ErrorCode    int    `json:"errorCode"`
		ErrorMessage string `json:"errorMessage"`
	} `json:"registrationState"`
	ErrorCode  int    `json:"errorCode"`
	TrackingID string `json:"trackingId"`
	Message    string `json:"message"`
}

func parse(a answer) (document, error) {
	var d document
	if len(a.body) == 0 && a.status >= 300 {
		return d, nil // an error may come without a document
	}
	if err := json.Unmarshal(a.body, &d); err != nil {
		if a.status >= 300 {
			return d, nil // a proxy's HTML page; the status says enough
		}
		return d, fmt.Errorf("an answer that is not the JSON of DPS: %w", err)
	}
	return d, nil
}

// refusal is the answer as an error.
func (d document) refusal(step Step, a answer) *Error {
	e := &Error{Step: step, Status: a.status, Code: d.ErrorCode, Message: d.Message, TrackingID: d.TrackingID,
		RetryAfter: a.retryAfter, Skew: a.skew, Counted: true}
	if d.Status != "" {
		e.State, e.Code, e.Message = strings.ToLower(d.Status), d.State.ErrorCode, d.State.ErrorMessage
		e.Message = plainMessage(e.Message)
	}
	return e
}

// plainMessage takes the sentence out of an errorMessage that is itself a JSON document, as DPS sends when it lost a linked hub.
func plainMessage(s string) string {
	var inner struct{ Message string }
	if strings.HasPrefix(s, "{") && json.Unmarshal([]byte(s), &inner) == nil && inner.Message != "" {
		return inner.Message
	}
	return s
}

// retryAfter reads the seconds DPS asks for: a whole number, cut at 300 s; anything else counts as absent.
func retryAfter(s string) time.Duration {
	n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
	if err != nil || n < 0 {
		return -1
	}
	return time.Duration(min(n, int64(maxRetryAfter/time.Second))) * time.Second
}

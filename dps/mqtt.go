package dps

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/internal/mqtt"
)

const (
	apiVersion     = "2019-03-31" // what every SDK's MQTT client announces
	responseFilter = "$dps/registrations/res/#"
	readBuffer     = 4 << 10 // bytes that are read ahead

	// keepAlive is longer than any wait between two polls, so that no PINGREQ is needed.
	keepAlive = 10 * time.Minute
)

// mqttExchange is a registration over one MQTT connection. It has no goroutine of its own, because
// whoever waits reads.
type mqttExchange struct {
	c    *Client
	r    Request
	raw  net.Conn
	conn net.Conn
	in   *mqtt.Reader
	stop func() bool // ends the watch over ctx
	owed time.Time   // when the answer to the last request must be here

	step    Step // what has been reached, for errors
	counted bool
	connack bool
	rid     int
	pid     uint16
}

func (x *mqttExchange) register(ctx context.Context, body []byte) (answer, error) {
	password, err := x.c.token(x.c.now())
	if err != nil {
		return answer{}, &Error{Step: StepConnect, RetryAfter: -1, Err: err}
	}
	raw, secure, err := x.c.admitted(ctx, x.r)
	if err != nil {
		return answer{}, err
	}
	x.raw, x.conn, x.in = raw, secure, mqtt.NewReader(secure, maxDocument, readBuffer)
	x.owe(ctx, x.r.Patience)
	x.stop = context.AfterFunc(ctx, func() { _ = raw.SetDeadline(time.Unix(1, 0)) })
	x.step = StepConnect
	if x.r.Sequential {
		if err := x.sequence(ctx, password); err != nil {
			return answer{}, err
		}
	}
	var out []byte
	if !x.r.Sequential {
		out = x.appendSubscribe(x.appendConnect(nil, password))
	}
	return x.ask(out, StepRegister, "PUT/iotdps-register/", "", body)
}

// sequence begins carefully: each packet waits for the answer to the one before.
func (x *mqttExchange) sequence(ctx context.Context, password string) error {
	if err := x.send(x.appendConnect(nil, password)); err != nil {
		return err
	}
	for !x.connack {
		if _, err := x.read(""); err != nil {
			return err
		}
	}
	x.step = StepSubscribe
	if err := x.send(x.appendSubscribe(nil)); err != nil {
		return err
	}
	for x.step == StepSubscribe {
		if _, err := x.read(""); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// owe sets when DPS must have answered the next request, however many packets come meanwhile.
func (x *mqttExchange) owe(ctx context.Context, patience time.Duration) {
	x.owed = time.Now().Add(patience)
	if end, ok := ctx.Deadline(); ok && end.Before(x.owed) {
		x.owed = end
	}
	x.arm(ctx, x.owed)
}

// arm sets the deadline of all reads and writes of the connection. If ctx has ended, the deadline
// is in the past, because the end of ctx must not be undone.
func (x *mqttExchange) arm(ctx context.Context, at time.Time) {
	_ = x.raw.SetDeadline(at)
	if ctx.Err() != nil {
		_ = x.raw.SetDeadline(time.Unix(1, 0))
	}
}

func (x *mqttExchange) poll(ctx context.Context, operationID string) (answer, error) {
	x.owe(ctx, x.r.Patience)
	return x.ask(nil, StepPoll, "GET/iotdps-get-operationstatus/", "&operationId="+operationID, nil)
}

// ask sends one request, behind whatever is in out already, and reads until its own answer comes.
func (x *mqttExchange) ask(out []byte, step Step, verb, query string, body []byte) (answer, error) {
	x.rid++
	rid := strconv.Itoa(x.rid)
	m := mqtt.Message{Topic: "$dps/registrations/" + verb + "?$rid=" + rid + query, Body: body, QoS: 1}
	x.pid++
	if err := x.send(m.Append(out, x.pid, false)); err != nil {
		return answer{}, err
	}
	if x.connack {
		x.step, x.counted = step, true
	}
	for {
		ans, err := x.read(rid)
		if err != nil || ans != nil {
			if ans == nil {
				ans = new(answer)
			}
			return *ans, err
		}
		// Everything left in one write. With its CONNACK, DPS has taken all of it.
		if x.connack && x.step == StepConnect {
			x.step, x.counted = step, true
		}
	}
}

// wait waits, but notices at once when DPS closes the connection.
func (x *mqttExchange) wait(ctx context.Context, d time.Duration) error {
	until := time.Now().Add(d)
	for {
		x.arm(ctx, until)
		err := x.in.Await()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, os.ErrDeadlineExceeded) || err == nil && !time.Now().Before(until):
			return nil
		case err != nil:
			return x.fail(err)
		}
		x.owe(ctx, x.r.Patience) // for the rest of the packet
		if _, err := x.read(""); err != nil {
			return err
		}
	}
}

func (x *mqttExchange) close() {
	if x.conn == nil {
		return
	}
	x.stop()
	_ = x.raw.SetDeadline(time.Now().Add(time.Second))
	_, _ = x.conn.Write(mqtt.AppendDisconnect(nil))
	_ = x.conn.Close()
}

func (x *mqttExchange) appendConnect(out []byte, password string) []byte {
	c := mqtt.Connect{
		ClientID: x.c.RegistrationID,
		Username: x.c.IDScope + "/registrations/" + x.c.RegistrationID + "/api-version=" + apiVersion +
			"&ClientVersion=" + strings.ReplaceAll(url.QueryEscape(x.c.Agent), "+", "%20"),
		Password: password, KeepAlive: keepAlive,
		CleanStart: true, // DPS keeps no sessions
	}
	return c.Append(out)
}

func (x *mqttExchange) appendSubscribe(out []byte) []byte {
	x.pid++
	return mqtt.AppendSubscribe(out, x.pid, mqtt.Filter{Topic: responseFilter, QoS: 1})
}

func (x *mqttExchange) send(out []byte) error {
	if _, err := x.conn.Write(out); err != nil {
		return x.fail(err)
	}
	return nil
}

// read takes one packet. It returns an answer if the packet is the one to rid, and nil for any
// other packet that is in order.
func (x *mqttExchange) read(rid string) (*answer, error) {
	p, err := x.next()
	// Packets that arrive fast enough never meet the deadline of a read.
	if err == nil && !time.Now().Before(x.owed) {
		err = os.ErrDeadlineExceeded
	}
	if err != nil {
		return nil, x.fail(err)
	}
	switch p.Kind {
	case mqtt.Connack:
		if p.Code != 0 {
			return nil, &Error{Step: StepConnect, Connack: p.Code, RetryAfter: -1, Err: &mqtt.RefusalError{Code: p.Code}}
		}
		x.connack = true
	case mqtt.Suback:
		if len(p.Codes) != 1 || p.Refused() != 0 {
			return nil, &Error{Step: StepSubscribe, RetryAfter: -1, Counted: x.counted, Err: errors.New("DPS refused the subscription")}
		}
		if x.step == StepSubscribe {
			x.step = StepRegister
		}
	case mqtt.Publish:
		if p.QoS == 1 {
			if err := x.send(mqtt.AppendPuback(nil, p.ID)); err != nil {
				return nil, err
			}
		}
		ans, got, ok := parseResponse(p.Topic, p.Body, x.c.now())
		if ok && rid != "" && got == rid { // else a late or foreign answer
			return &ans, nil
		}
	default: // PUBACKs and the like say nothing new
	}
	return nil, nil
}

// next reads one packet of at most maxDocument bytes. What no server may send is nonsense.
func (x *mqttExchange) next() (mqtt.Packet, error) {
	p, err := x.in.Next()
	if errors.Is(err, mqtt.ErrProtocol) {
		err = fmt.Errorf("%w: %s", ErrNonsense, sentence(err.Error()))
	}
	return p, err
}

// fail says at which step a network error came.
func (x *mqttExchange) fail(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = fmt.Errorf("%w in %v", ErrSilent, x.r.Patience)
	}
	return &Error{Step: x.step, RetryAfter: -1, Counted: x.counted, Pipelined: !x.r.Sequential && !x.connack, Err: err}
}

package dps

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

const (
	apiVersion     = "2019-03-31" // what every SDK's MQTT client announces
	responseFilter = "$dps/registrations/res/#"
	keepAlive      = 10 * time.Minute // longer than any wait between two polls, so that no PINGREQ is needed
)

// mqttExchange is a registration over one MQTT connection. No goroutine runs beside it: the caller
// that waits reads.
type mqttExchange struct {
	c    *Client
	r    Request
	raw  net.Conn
	conn net.Conn
	in   *bufio.Reader
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
	x.raw, x.conn, x.in = raw, secure, bufio.NewReader(secure)
	x.owe(ctx, x.r.Patience)
	x.stop = context.AfterFunc(ctx, func() { _ = raw.SetDeadline(time.Unix(1, 0)) })
	x.step = StepConnect
	if x.r.Sequential {
		if err := x.sequence(ctx, password); err != nil {
			return answer{}, err
		}
	}
	var out bytes.Buffer
	if !x.r.Sequential {
		x.writeConnect(&out, password)
		x.writeSubscribe(&out)
	}
	return x.ask(&out, StepRegister, "PUT/iotdps-register/", "", body)
}

// sequence is the careful beginning: each packet waits for the answer to the one before.
func (x *mqttExchange) sequence(ctx context.Context, password string) error {
	var out bytes.Buffer
	x.writeConnect(&out, password)
	if err := x.send(&out); err != nil {
		return err
	}
	for !x.connack {
		if _, err := x.read(""); err != nil {
			return err
		}
	}
	out.Reset()
	x.step = StepSubscribe
	x.writeSubscribe(&out)
	if err := x.send(&out); err != nil {
		return err
	}
	for x.step == StepSubscribe {
		if _, err := x.read(""); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// owe sets how long DPS has to answer the next request, however many packets come meanwhile.
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
	return x.ask(new(bytes.Buffer), StepPoll, "GET/iotdps-get-operationstatus/", "&operationId="+operationID, nil)
}

// ask sends one request, behind whatever is in out already, and reads until its own answer comes.
func (x *mqttExchange) ask(out *bytes.Buffer, step Step, verb, query string, body []byte) (answer, error) {
	x.rid++
	rid := strconv.Itoa(x.rid)
	p := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	p.Qos = 1
	p.TopicName = "$dps/registrations/" + verb + "?$rid=" + rid + query
	x.pid++
	p.MessageID = x.pid
	p.Payload = body
	_ = p.Write(out) // a bytes.Buffer does not fail
	if err := x.send(out); err != nil {
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
		if x.connack && x.step == StepConnect { // everything went out in one write; now DPS has taken it
			x.step, x.counted = step, true
		}
	}
}

// wait passes the time, but notices at once when DPS closes the connection.
func (x *mqttExchange) wait(ctx context.Context, d time.Duration) error {
	until := time.Now().Add(d)
	for {
		x.arm(ctx, until)
		_, err := x.in.Peek(1)
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
	_ = packets.NewControlPacket(packets.Disconnect).Write(x.conn)
	_ = x.conn.Close()
}

func (x *mqttExchange) writeConnect(out *bytes.Buffer, password string) {
	p := packets.NewControlPacket(packets.Connect).(*packets.ConnectPacket)
	p.ProtocolName, p.ProtocolVersion = "MQTT", 4
	p.CleanSession = true // DPS keeps no sessions
	p.Keepalive = uint16(keepAlive / time.Second)
	p.ClientIdentifier = x.c.RegistrationID
	p.UsernameFlag = true
	p.Username = x.c.IDScope + "/registrations/" + x.c.RegistrationID + "/api-version=" + apiVersion +
		"&ClientVersion=" + strings.ReplaceAll(url.QueryEscape(x.c.Agent), "+", "%20")
	if password != "" {
		p.PasswordFlag, p.Password = true, []byte(password)
	}
	_ = p.Write(out)
}

func (x *mqttExchange) writeSubscribe(out *bytes.Buffer) {
	p := packets.NewControlPacket(packets.Subscribe).(*packets.SubscribePacket)
	x.pid++
	p.MessageID = x.pid
	p.Topics, p.Qoss = []string{responseFilter}, []byte{1}
	_ = p.Write(out)
}

func (x *mqttExchange) send(out *bytes.Buffer) error {
	if _, err := x.conn.Write(out.Bytes()); err != nil {
		return x.fail(err)
	}
	return nil
}

// read takes one packet. It returns an answer when the packet is the one to rid, nil for everything else that is in order.
func (x *mqttExchange) read(rid string) (*answer, error) {
	packet, err := readPacket(x.in)
	if err == nil && !time.Now().Before(x.owed) { // packets that arrive fast enough never meet the deadline of a read
		err = os.ErrDeadlineExceeded
	}
	if err != nil {
		return nil, x.fail(err)
	}
	switch p := packet.(type) {
	case *packets.ConnackPacket:
		if p.ReturnCode != 0 {
			return nil, &Error{Step: StepConnect, Connack: p.ReturnCode, RetryAfter: -1, Err: connackError(p.ReturnCode)}
		}
		x.connack = true
	case *packets.SubackPacket:
		if len(p.ReturnCodes) != 1 || p.ReturnCodes[0] > 2 {
			return nil, &Error{Step: StepSubscribe, RetryAfter: -1, Counted: x.counted, Err: errors.New("DPS refused the subscription")}
		}
		if x.step == StepSubscribe {
			x.step = StepRegister
		}
	case *packets.PublishPacket:
		if p.Qos == 1 {
			ack := packets.NewControlPacket(packets.Puback).(*packets.PubackPacket)
			ack.MessageID = p.MessageID
			if err := ack.Write(x.conn); err != nil {
				return nil, x.fail(err)
			}
		}
		ans, got, ok := parseResponse(p.TopicName, p.Payload, x.c.now())
		if ok && rid != "" && got == rid { // else a late or foreign answer
			return &ans, nil
		}
	}
	return nil, nil
}

// fail gives a network error its place.
func (x *mqttExchange) fail(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = fmt.Errorf("%w in %v", ErrSilent, x.r.Patience)
	}
	return &Error{Step: x.step, RetryAfter: -1, Counted: x.counted, Pipelined: !x.r.Sequential && !x.connack, Err: err}
}

func connackError(code byte) error {
	if s, ok := packets.ConnackReturnCodes[code]; ok && code <= packets.ErrRefusedNotAuthorised {
		return errors.New(strings.ToLower(s))
	}
	return fmt.Errorf("unknown CONNACK code %d", code)
}

// readPacket reads one packet whose announced length is checked before anything is allocated for it.
func readPacket(in *bufio.Reader) (packets.ControlPacket, error) {
	size, head := 0, 2
	for i := 1; ; i++ {
		seen, err := in.Peek(i + 1)
		if err != nil {
			if errors.Is(err, io.EOF) && len(seen) > 0 {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		b := seen[i]
		head = i + 1
		size |= int(b&0x7f) << (7 * (i - 1))
		if b&0x80 == 0 {
			break
		}
		if i == 4 {
			return nil, fmt.Errorf("%w: a malformed MQTT packet length", ErrNonsense)
		}
	}
	if size > maxDocument {
		return nil, fmt.Errorf("%w: an MQTT packet of %d bytes, DPS sends at most %d", ErrNonsense, size, maxDocument)
	}
	whole := make([]byte, head+size)
	if _, err := io.ReadFull(in, whole); err != nil {
		return nil, err
	}
	packet, err := packets.ReadPacket(bytes.NewReader(whole))
	if err != nil { // io.EOF too: here it means a packet that ends early, not a closed connection
		return nil, fmt.Errorf("%w: a malformed MQTT packet: %s", ErrNonsense, sentence(err.Error()))
	}
	return packet, nil
}

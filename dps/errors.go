package dps

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/internal/mqtt"
)

// maxSkew is how far two clocks may be apart before an error mentions it. The service accepts
// tokens for five minutes longer than they say.
const maxSkew = 5 * time.Minute

// Step names the part of a registration that failed.
type Step string

// The steps of a registration, in their order.
const (
	StepDial Step = "dial" // TCP
	StepTLS  Step = "TLS"  // handshake
	// StepAdmit waits for the rate of this process. No [*Error] has this step.
	StepAdmit     Step = "admit"
	StepConnect   Step = "connect"   // MQTT CONNECT to CONNACK
	StepSubscribe Step = "subscribe" // MQTT SUBSCRIBE to SUBACK
	StepRegister  Step = "register"  // the register request
	StepPoll      Step = "poll"      // asking for the result
	StepTime      Step = "time"      // no part of a registration: asking what time it is
)

// Codes of DPS that decide what to do (Microsoft: "Device Provisioning Service error codes"). Code
// 400209 is also IoT Central's "waiting for approval or blocked by an operator".
const (
	CodeBlocked          = 400209
	CodeUnknownOperation = 404202
)

// ErrStuck is wrapped when DPS was still assigning at the end of the patience of one registration.
var ErrStuck = errors.New("DPS was still assigning")

// ErrSilent is wrapped when DPS owed an answer and sent nothing.
var ErrSilent = mqtt.ErrSilent

// Error is any failure of a registration.
type Error struct {
	Step Step
	Host string // the DPS endpoint
	// Status is the status of DPS's answer: 200 if the registration ended as failed or disabled,
	// else 4xx or 5xx; 0 if no answer came.
	Status     int
	Code       int           // DPS error code, for example 401000; 0 if none came
	State      string        // status of the registration where there is one: failed, disabled
	Connack    byte          // MQTT CONNACK code, 0 if none came or it was good
	Message    string        // DPS's own words
	TrackingID string        // what Azure support asks for
	RetryAfter time.Duration // what DPS asked for; negative when it did not say
	Counted    bool          // a registration reached DPS, so DPS counts it against its limits
	Pipelined  bool          // the requests went out before CONNACK, and none came
	// Skew is how far DPS's clock is ahead of this machine's. It is known over HTTPS only, else 0.
	Skew time.Duration
	Err  error // the cause below, nil when DPS's answer is the failure
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("DPS")
	if e.Host != "" {
		b.WriteString(" " + e.Host)
	}
	fmt.Fprintf(&b, ": %s", e.Step)
	switch {
	case e.Connack != 0:
		fmt.Fprintf(&b, " refused with CONNACK %d", e.Connack)
	case e.State != "":
		fmt.Fprintf(&b, " ended as %s", e.State)
	case e.Status != 0:
		fmt.Fprintf(&b, " answered %d", e.Status)
	}
	if e.Code != 0 {
		fmt.Fprintf(&b, " (%d)", e.Code)
	}
	if e.Message != "" {
		fmt.Fprintf(&b, " %q", e.Message)
	}
	if e.Err != nil {
		fmt.Fprintf(&b, ": %v", short(e.Err))
	}
	switch skew := e.Skew.Round(time.Second); {
	case skew > maxSkew:
		fmt.Fprintf(&b, " (this machine's clock is %v behind that of DPS)", skew)
	case skew < -maxSkew:
		fmt.Fprintf(&b, " (this machine's clock is %v ahead of that of DPS)", -skew)
	}
	return b.String()
}

// short leaves out the addresses in an error of package net, because the message begins with the
// host.
func short(err error) error {
	if oe, ok := errors.AsType[*net.OpError](err); ok && oe.Err != nil {
		return oe.Err
	}
	return err
}

func (e *Error) Unwrap() error { return e.Err }

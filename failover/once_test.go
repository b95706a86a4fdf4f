package failover

import (
	"context"
	"errors"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/dps"
)

func TestProvisionReturnsTheFirstAssignment(t *testing.T) {
	refused := &dps.Error{Step: dps.StepDial, Host: "d", RetryAfter: -1, Err: syscall.ECONNREFUSED}
	throttled := &dps.Error{Step: dps.StepRegister, Host: "d", Status: 429, RetryAfter: 7 * time.Second, Counted: true}
	for name, v := range map[string]struct {
		answers []error // then an assignment
		forever bool    // the last one again and again
		is      error
		says    string
		atLeast time.Duration
		atMost  time.Duration
	}{
		"at once":                    {},
		"after a refused connection": {answers: []error{refused, refused}, atMost: 2 * time.Second},
		"when DPS says":              {answers: []error{throttled}, atLeast: 7 * time.Second, atMost: 7 * time.Second},
		"unreachable":                {answers: []error{refused}, forever: true, is: ErrUnreachable, says: "--provisioning-host", atLeast: 58 * time.Second, atMost: time.Minute},
		"throttled beyond the limit": {answers: []error{&dps.Error{Status: 429, RetryAfter: 2 * time.Minute, Counted: true}}, is: ErrUnreachable, says: "429"},
		"wrong key":                  {answers: []error{&dps.Error{Status: 401, Code: 401000, RetryAfter: -1, Counted: true}}, is: ErrRefused, says: "clock"},
		"blocked":                    {answers: []error{&dps.Error{Status: 200, State: "failed", Code: 400209, RetryAfter: -1, Counted: true}}, is: ErrRefused, says: "approve or unblock"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began, calls := time.Now(), 0
				register := func(context.Context, dps.Request) (dps.Assignment, error) {
					n := calls
					calls++
					if v.forever {
						return dps.Assignment{}, v.answers[0]
					}
					if n < len(v.answers) {
						return dps.Assignment{}, v.answers[n]
					}
					return dps.Assignment{Hub: "hub-a"}, nil
				}
				a, err := Provision(t.Context(), register, time.Minute, Proof{}, nil)
				took := time.Since(began)
				if !errors.Is(err, v.is) || v.is == nil && a.Hub != "hub-a" {
					t.Errorf("%+v %v", a, err)
				}
				if v.is != nil && !strings.Contains(err.Error(), v.says) {
					t.Errorf("%v does not say %q", err, v.says)
				}
				if took < v.atLeast || took > v.atMost {
					t.Errorf("it took %v", took)
				}
			})
		})
	}
}

func TestProvisionEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := Provision(ctx, func(context.Context, dps.Request) (dps.Assignment, error) {
			return dps.Assignment{}, &dps.Error{Err: syscall.ECONNREFUSED, RetryAfter: -1}
		}, time.Minute, Proof{}, nil)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}

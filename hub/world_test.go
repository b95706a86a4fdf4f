package hub

import (
	"crypto/tls"
	"errors"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/mqtt/mqtttest"
	"github.com/hubhop-iot/hubhop/telemetry/message"
)

// world is a network in virtual time with one or more scripted hubs.
type world struct {
	*mqtttest.World
	dialer *Dialer
}

type (
	peer   = mqtttest.Peer
	acks   = mqtttest.Acks
	ledger = mqtttest.Ledger
)

// bubble runs a test in virtual time. Everything that was started must have ended at its end, or
// the bubble fails.
func bubble(t *testing.T, f func(t *testing.T, w *world)) {
	t.Helper()
	mqtttest.Bubble(t, "$iothub/twin/GET/", func(w *mqtttest.World) {
		f(w.T, &world{w, &Dialer{
			TLS: &tls.Config{RootCAs: w.Roots}, DialContext: w.Net.DialContext, Agent: "test", KeepAlive: 20 * time.Second,
			Desired: true, Methods: true, C2D: true, Twin: true,
		}})
	})
}

func (w *world) attempt(host string) Attempt { return Attempt{Host: host, DeviceID: "dev-1"} }

// dial makes a link or fails.
func (w *world) dial(host string) *Link {
	w.T.Helper()
	l, err := w.dialer.Dial(w.T.Context(), w.attempt(host))
	if err != nil {
		w.T.Fatal(err)
	}
	return l
}

func offer(t *testing.T, l *Link, a *acks, mid string) {
	t.Helper()
	if err := l.Publish(outgoing("{}", mid), a.Done(mid)); err != nil {
		t.Errorf("%s: %v", mid, err)
	}
}

// earlyAttempt publishes some messages while the attempt is made, and tells which of them fitted.
func (w *world) earlyAttempt(host string, a *acks, body []byte, mids ...string) (attempt Attempt, fitted *[]string) {
	attempt, fitted = w.attempt(host), new([]string)
	attempt.Early = func(l *Link) {
		for _, mid := range mids {
			err := l.Publish(outgoing(string(body), mid), a.Done(mid))
			if err != nil && !errors.Is(err, ErrNoRoom) {
				w.T.Errorf("%s: %v", mid, err)
			}
			if err != nil {
				break
			}
			*fitted = append(*fitted, mid)
		}
	}
	return attempt, fitted
}

// outgoing is a message with a body and an id.
func outgoing(body, id string) message.Outgoing {
	return message.Outgoing{Message: message.Message{Body: []byte(body)}, ID: id}
}

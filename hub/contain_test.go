package hub

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"github.com/hubhop-iot/hubhop/telemetry/message"
)

// broken is a sender that panics in each call.
type broken struct{ told int }

func (b *broken) Done([]uint64, error) {
	b.told++
	panic("a sender's bug")
}

// TestSenderThatPanics: a sender that panics in the reader's goroutine loses its link and nothing
// more. The link ends like others, and its error names the panic.
func TestSenderThatPanics(t *testing.T) {
	for _, test := range []struct {
		name  string
		acked bool // else the link ends first
	}{{"over an acknowledgement", true}, {"over the end of the link", false}} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				stop := w.hub("10.0.0.1", func(p *peer) {
					p.welcome()
					for {
						m, ok := p.read().(*packets.PublishPacket)
						if !ok {
							return
						}
						if test.acked {
							p.puback(m.MessageID)
						}
					}
				})
				defer stop()
				l := w.dial("10.0.0.1")
				sender, other := new(broken), new(acks)
				if _, err := l.Send([]message.Outgoing{{Message: message.Message{Body: []byte("1")}, Ticket: 1}}, sender); err != nil {
					t.Fatal(err)
				}
				offer(t, l, other, "2")
				if test.acked {
					select {
					case <-l.Done():
					case <-time.After(time.Second):
						t.Fatal("the link goes on")
					}
				}
				l.Abort()
				found, ok := errors.AsType[*BugError](l.Err())
				if !ok || !strings.Contains(found.Error(), "a sender's bug") || !strings.Contains(string(found.Stack), "Done") {
					t.Errorf("the link ended with %v", l.Err())
				}
				if sender.told != 1 || len(other.of("2")) != 1 {
					t.Errorf("told %d times, the other sender %d times", sender.told, len(other.of("2")))
				}
				if _, err := l.Send([]message.Outgoing{outgoing("3", "")}, sender); err == nil {
					t.Error("a link that has ended takes a message")
				}
			})
		})
	}
}

// TestParseTwin: a twin has two parts, and versions that are numbers.
func TestParseTwin(t *testing.T) {
	for body, want := range map[string]int64{
		`{"desired":{"$version":4,"a":1},"reported":{"$version":1}}`: 4,
		`{"desired":{},"reported":{}}`:                               0,
		`{"desired":{"$version":9223372036854775807},"reported":{}}`: 0,
		`{"desired":{"$version":1e30},"reported":{}}`:                0,
		`{"desired":{"$version":-1},"reported":{}}`:                  0,
		`{"desired":null,"reported":{}}`:                             -1,
		`{"desired":{},"reported":null}`:                             -1,
		`{"reported":{}}`:                                            -1,
		`[]`:                                                         -1,
		``:                                                           -1,
	} {
		doc, err := parseTwin([]byte(body))
		switch {
		case want < 0 && !errors.Is(err, ErrTwin):
			t.Errorf("%s: %v", body, err)
		case want >= 0 && (err != nil || doc.DesiredVersion != want || doc.Desired == nil || doc.Reported == nil):
			t.Errorf("%s: %+v %v", body, doc, err)
		}
	}
}

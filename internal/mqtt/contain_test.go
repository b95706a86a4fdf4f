package mqtt

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
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
				if _, err := l.Send([]Outgoing{{Body: []byte("1"), Ticket: 1}}, sender); err != nil {
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
				l.Abort(nil)
				found, ok := errors.AsType[*BugError](l.Err())
				if !ok || !strings.Contains(found.Error(), "a sender's bug") || !strings.Contains(string(found.Stack), "Done") {
					t.Errorf("the link ended with %v", l.Err())
				}
				if sender.told != 1 || len(other.of("2")) != 1 {
					t.Errorf("told %d times, the other sender %d times", sender.told, len(other.of("2")))
				}
				if _, err := l.Send([]Outgoing{{Body: []byte("3")}}, sender); err == nil {
					t.Error("a link that has ended takes a message")
				}
			})
		})
	}
}

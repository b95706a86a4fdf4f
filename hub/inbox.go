package hub

import (
	"context"
	"strconv"

	"github.com/hubhop-iot/hubhop/internal/mqtt"
)

// Inbound is what comes from the cloud: [*Desired], [*Method] or [*Message].
//
//sumtype:decl
type Inbound interface {
	Size() int // bytes of memory that it holds, so that a queue can bound them
	inbound()
}

// Desired is a change of desired properties. It carries the changed part only; a hub repeats none
// of it.
type Desired struct {
	Version int64  // of the desired properties, within this hub's twin
	Body    []byte // JSON object, with $version; nil if Missed
	Missed  bool   // the change was too large to be kept: read the twin
}

// Method is a direct method call. Its answer must go over the link it came by.
type Method struct {
	Name    string // printable text of 256 bytes at most: a longer one, which no hub sends, is cut
	Payload []byte // any JSON value, or empty
	rid     string
}

// ID returns the hub's id of the call, which is unique on its link only.
func (m *Method) ID() string { return m.rid }

// Message is a cloud-to-device message.
type Message struct {
	Properties Properties
	Body       []byte
	Duplicate  bool // DUP: it was delivered before
	receipt    *mqtt.Receipt
}

// overhead is roughly the memory of a value beside its texts, in bytes.
const overhead = 256

// Size implements [Inbound].
func (d *Desired) Size() int { return len(d.Body) + overhead }

// Size implements [Inbound].
func (m *Method) Size() int { return len(m.Name) + len(m.Payload) + len(m.rid) + overhead }

// Size implements [Inbound].
func (m *Message) Size() int { return 2*len(m.Properties) + len(m.Body) + overhead } // the body's memory begins with the topic

func (*Desired) inbound() {}
func (*Method) inbound()  {}
func (*Message) inbound() {}

// Receive returns the next inbound value, in order of arrival. It waits until there is one, ctx
// ends or the link ends, and returns the error of the last two. Its caller must not wait for
// anything else: when about 1 MiB waits here, the link stops reading from the hub, PUBACKs too.
func (l *Link) Receive(ctx context.Context) (Inbound, error) {
	for {
		l.mu.Lock()
		if len(l.inbox) > 0 {
			in := l.inbox[0]
			l.inbox[0] = nil
			l.inbox = l.inbox[1:]
			l.waiting -= in.Size()
			l.mu.Unlock()
			l.session.Hold(-in.Size())
			return in, nil
		}
		l.mu.Unlock()
		select {
		case <-l.arrived:
		case <-l.Done():
			return nil, l.Err()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Respond answers a direct method: status is the device's own (200, 404, …), body a JSON value or empty.
func (l *Link) Respond(m *Method, status int, body []byte) error {
	return l.session.Publish(&mqtt.Message{Topic: methodAnswer + strconv.Itoa(status) + "/?$rid=" + m.rid, Body: body})
}

// Complete acknowledges a cloud-to-device message: the hub deletes it. The PUBACK leaves when those of all earlier messages have.
func (l *Link) Complete(m *Message) error { return l.session.Ack(m.receipt) }

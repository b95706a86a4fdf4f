package hub

import (
	"fmt"
	"strconv"

	"github.com/hubhop-iot/hubhop/internal/mqtt"
)

// inbound is what comes from the cloud: [*Desired], [*Method] or [*Message].
//
//sumtype:decl
type inbound interface {
	Size() int // bytes of memory that it holds, so that a queue can bound them
	fromCloud()
}

// Desired is a change of desired properties. It carries the changed part only, and the hub sends it
// once.
type Desired struct {
	Version int64  // of the desired properties, within this hub's twin
	Body    []byte // JSON object, with $version; nil if Missed
	Missed  bool   // changes were not kept, because they were too many or too large: read the twin
}

// Method is a call of a direct method. It must be answered on the link on which it came.
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

// Size returns about how many bytes of memory the change holds.
func (d *Desired) Size() int { return len(d.Body) + overhead }

// Size returns about how many bytes of memory the call holds.
func (m *Method) Size() int { return len(m.Name) + len(m.Payload) + len(m.rid) + overhead }

// Size returns about how many bytes of memory the message holds. The properties count twice,
// because the memory of the body begins with the topic.
func (m *Message) Size() int { return 2*len(m.Properties) + len(m.Body) + overhead }

func (*Desired) fromCloud() {}
func (*Method) fromCloud()  {}
func (*Message) fromCloud() {}

// The bounds of a queue, far above what a hub sends: it holds back C2D messages of 64 KB while 50
// are unacknowledged.
const (
	maxQueued      = 1024
	maxQueuedBytes = 4 << 20
)

// Handler is told what happens on a link that is at work. The link calls its methods from its
// reader, from a timer, or in Serve for what happened before. So they must not block. They may call
// any method of the link but Close, Abort and Settle.
type Handler interface {
	// FirstAck is called once, with the first PUBACK and before its message is completed. From then
	// on telemetry is known to flow.
	FirstAck()
	// Method is called with each direct method.
	Method(m *Method)
	// Desired is called when changes of desired properties wait and nobody takes them. It is called
	// again only after TakeDesired has returned nil.
	Desired()
	// Messages is called when cloud-to-device messages wait and nobody takes them. It is called
	// again only after TakeMessages has returned nil.
	Messages()
	// Renew is called once, when 80 to 90 % of the life of the SAS token are over, or earlier if
	// the life is short. It is then time for a planned reconnect. It is never called with a
	// certificate.
	Renew()
}

// inbox is what has come and was not taken yet. The link's lock guards it.
type inbox struct {
	methods  []*Method // only before the link is served
	desired  queue[*Desired]
	messages queue[*Message]
}

// Serve puts the link to work. It tells h what has come before, and from now on h is told what
// comes. It must be called once. Until then the link stops reading when 1 MiB waits for h.
func (l *Link) Serve(h Handler) {
	l.mu.Lock()
	l.handler = h
	first := l.acked
	renew := l.renewDue
	held := l.unserved
	l.unserved = 0
	var methods []*Method
	var desired, messages bool
	if in := l.inbox; in != nil {
		methods, in.methods = in.methods, nil
		desired, messages = in.desired.wake(), in.messages.wake()
	}
	l.mu.Unlock()
	if first {
		h.FirstAck()
	}
	for _, m := range methods {
		h.Method(m)
	}
	if desired {
		h.Desired()
	}
	if messages {
		h.Messages()
	}
	if renew {
		h.Renew()
	}
	l.session.Hold(-held)
}

// arrived keeps what has come for the handler, and tells the handler. If there is no room, changes
// of desired properties are replaced by one that says that the twin must be read. Messages without
// room end the link: PUBACKs go in order, so without this one no later one could be sent. Methods
// are not kept; the handler gets them at once.
func (l *Link) arrived(in inbound) error {
	l.mu.Lock()
	h := l.handler
	if l.inbox == nil {
		l.inbox = new(inbox)
	}
	var tell func()
	switch in := in.(type) {
	case *Method:
		if h != nil {
			l.mu.Unlock()
			h.Method(in)
			return nil
		}
		l.inbox.methods = append(l.inbox.methods, in)
	case *Desired:
		if !l.inbox.desired.put(in) {
			l.inbox.desired.replace(&Desired{Missed: true})
		}
		if h != nil && l.inbox.desired.wake() {
			tell = h.Desired
		}
	case *Message:
		if !l.inbox.messages.put(in) {
			l.mu.Unlock()
			return fmt.Errorf("%w: more than %d messages, or %d MiB of them, are waiting to be handled; a hub sends 50 of 64 KB before it waits",
				ErrProtocol, maxQueued, maxQueuedBytes>>20)
		}
		if h != nil && l.inbox.messages.wake() {
			tell = h.Messages
		}
	}
	if h == nil {
		l.unserved += in.Size()
	}
	l.mu.Unlock()
	switch {
	case h == nil:
		l.session.Hold(in.Size())
	case tell != nil:
		tell()
	}
	return nil
}

// TakeDesired returns and removes all changes of desired properties that wait, in order of arrival.
// If it returns nil, [Handler].Desired is called for the next one. The caller must be done with the
// changes that it took before, because they count against the bounds until this call.
func (l *Link) TakeDesired() []*Desired {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.inbox == nil {
		return nil
	}
	return l.inbox.desired.take()
}

// TakeMessages returns and removes all cloud-to-device messages that wait, in order of arrival. If
// it returns nil, [Handler].Messages is called for the next one. The caller must be done with the
// messages that it took before, because they count against the bounds until this call.
func (l *Link) TakeMessages() []*Message {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.inbox == nil {
		return nil
	}
	return l.inbox.messages.take()
}

// Respond answers a direct method. status is the device's own (200, 404, …). body is a JSON value
// or empty.
func (l *Link) Respond(m *Method, status int, body []byte) error {
	return l.session.Publish(&mqtt.Message{Topic: methodAnswer + strconv.Itoa(status) + "/?$rid=" + m.rid, Body: body})
}

// Complete acknowledges a cloud-to-device message, so that the hub deletes it. Its PUBACK leaves
// after those of all earlier messages.
func (l *Link) Complete(m *Message) error { return l.session.Ack(m.receipt) }

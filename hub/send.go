package hub

import (
	"fmt"

	"github.com/hubhop-iot/hubhop/internal/mqtt"
	"github.com/hubhop-iot/hubhop/telemetry/message"
)

// Send sends messages with QoS 1, in order, and keeps nothing of them but their ids. It returns how
// many it has taken, as soon as they are queued. Each of those is completed exactly once: with nil
// on the real PUBACK, or with the reason of the link's end. An error is about the first message
// that it has not taken. A message no hub would take is a [*MessageError]. While the first write is
// put together (see [Attempt].Early), what does not fit into it is refused with [ErrNoRoom].
//
// If a completion waits for a disk, the link reads nothing meanwhile, but it does not take that for
// silence of the hub.
func (l *Link) Send(messages []message.Outgoing, to message.Completion) (taken int, err error) {
	b, err := l.session.Begin()
	if err != nil {
		return 0, err
	}
	defer b.End()
	for ; taken < len(messages); taken++ {
		if err := l.publish(&b, &messages[taken], to); err != nil {
			return taken, err
		}
	}
	return taken, nil
}

// publish queues one message.
func (l *Link) publish(b *mqtt.Batch, m *message.Outgoing, to message.Completion) error {
	own, common, err := l.bag.encode(m)
	if err != nil {
		return err
	}
	out := event(l.events, own, common, m.Body)
	if err := checkSize(out.TopicLength(), len(m.Body), l.bag.size()); err != nil {
		return err
	}
	return b.Publish(&out, mqtt.Delivery{To: to, Ticket: m.Ticket, Key: m.ID})
}

var ampersand = []byte{'&'}

// event returns a telemetry message. The topic is followed by its property bag, which is in two
// parts; either may be empty.
func event(topic string, own, common, body []byte) mqtt.Message {
	m := mqtt.Message{Topic: topic, Tail: [3][]byte{own, nil, common}, Body: body, QoS: 1}
	if len(own) > 0 && len(common) > 0 {
		m.Tail[1] = ampersand
	}
	return m
}

const (
	// Bytes of body, property names and values: 256 KB less one (NET SDK, docs "quotas and
	// throttling").
	maxMessage = 262143
	maxTopic   = 65535 // bytes of a topic, which holds the property bag
)

// checkSize refuses a message for which a hub would close the connection. topic and body are
// lengths in bytes. props is the length of all names and values of properties, before they were
// escaped.
func checkSize(topic, body, props int) error {
	switch {
	case body+props > maxMessage:
		return &MessageError{fmt.Sprintf("%d bytes with its properties; IoT Hub takes %d", body+props, maxMessage)}
	case topic > maxTopic:
		return &MessageError{fmt.Sprintf("its properties make a topic of %d bytes; MQTT takes %d", topic, maxTopic)}
	}
	// Beside topic and body the packet has the length of the topic and the packet id.
	if packet := topic + body + 4; packet > maxMessage+1 {
		return &MessageError{fmt.Sprintf("its packet has %d bytes; IoT Hub takes %d", packet, maxMessage+1)}
	}
	return nil
}

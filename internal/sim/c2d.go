package sim

import (
	"encoding/json"
	"slices"
	"strings"
	"time"
)

// C2D is a cloud-to-device message to send.
type C2D struct {
	Body       json.RawMessage   `json:"body,omitempty"`       // any JSON value, sent as its JSON text with content type application/json
	Text       *string           `json:"text,omitempty"`       // instead of Body: sent as it is ("@" is IoT Central's command without parameter)
	Properties map[string]string `json:"properties,omitempty"` // "$.mid" overrides the drawn message id
	TTLSeconds int               `json:"ttlSeconds,omitempty"` // 1 to 172800, 0 means 3600
}

// C2DMessage is the fate of one cloud-to-device message.
type C2DMessage struct {
	Mid           string `json:"mid"`
	Hub           string `json:"hub"`
	State         string `json:"state"`
	DeliveryCount int    `json:"deliveryCount"`
}

// The states of a cloud-to-device message.
const (
	C2DEnqueued     = "enqueued"
	C2DDelivered    = "delivered" // sent, not acknowledged yet
	C2DCompleted    = "completed"
	C2DExpired      = "expired"
	C2DPurged       = "purged"       // by the service
	C2DDeadLettered = "deadlettered" // delivered ten times and never acknowledged
)

const (
	c2dQueueDepth  = 50
	c2dMaxDelivery = 10
	c2dMaxBytes    = 64 << 10
	c2dDefaultTTL  = time.Hour
	c2dMaxTTL      = 48 * time.Hour
	c2dHistory     = 1000 // finished messages remembered per device and hub
)

// mailbox is one device's queue in one hub, and the memory of what became of its messages. The identity's mutex guards it.
type mailbox struct {
	messages []*letter // oldest first; finished ones stay for the record
	lastSeq  int       // makes packet ids
}

type letter struct {
	mid           string
	topic         string
	body          []byte
	expires       time.Time
	state         string
	deliveryCount int
	packetID      uint16 // while delivered with QoS 1
}

func (m *letter) pending() bool { return m.state == C2DEnqueued || m.state == C2DDelivered }

// c2dTopic puts the system properties first, then the application's in order of their names.
func c2dTopic(deviceID, mid string, c C2D) string {
	var b strings.Builder
	add := func(key, value string) {
		b.WriteString("&" + key + "=" + escape(value))
	}
	b.WriteString("devices/" + deviceID + "/messages/devicebound/%24.mid=" + escape(mid))
	add("%24.to", "/devices/"+deviceID+"/messages/devicebound")
	if len(c.Body) > 0 {
		add("%24.ct", "application/json")
		add("%24.ce", "utf-8")
	}
	if _, asked := c.Properties["iothub-ack"]; !asked {
		add("iothub-ack", "none")
	}
	keys := make([]string, 0, len(c.Properties))
	for key := range c.Properties {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		if key != "$.mid" {
			add(escape(key), c.Properties[key])
		}
	}
	return b.String()
}

// put appends a message; false means that the queue is full.
func (q *mailbox) put(m *letter, now time.Time) bool {
	q.expire(now)
	waiting := 0
	for _, other := range q.messages {
		if other.pending() {
			waiting++
		}
	}
	if waiting >= c2dQueueDepth {
		return false
	}
	for i, other := range q.messages {
		if len(q.messages) < c2dHistory {
			break
		}
		if !other.pending() {
			q.messages = slices.Delete(q.messages, i, i+1)
			break
		}
	}
	q.messages = append(q.messages, m)
	return true
}

// expire ends the messages nobody fetched in time.
func (q *mailbox) expire(now time.Time) {
	for _, m := range q.messages {
		if m.state == C2DEnqueued && !now.Before(m.expires) {
			m.state = C2DExpired
		}
	}
}

// deliver sends everything that waits, in order. With QoS 0 a message is done when it is sent.
func (q *mailbox) deliver(qos byte, now time.Time, send func(topic string, body []byte, id uint16, dup bool)) {
	q.expire(now)
	for _, m := range q.messages {
		if m.state != C2DEnqueued {
			continue
		}
		m.deliveryCount++
		if qos == 0 {
			send(m.topic, m.body, 0, false)
			m.state = C2DCompleted
			continue
		}
		q.lastSeq++
		m.packetID = uint16(q.lastSeq&0x3FFF) + 1
		m.state = C2DDelivered
		send(m.topic, m.body, m.packetID, m.deliveryCount > 1)
	}
}

// complete takes a PUBACK. Only the oldest message under way can be completed: IoT Hub wants PUBACKs in order and ignores others.
func (q *mailbox) complete(id uint16) {
	for _, m := range q.messages {
		if m.state == C2DDelivered {
			if m.packetID == id {
				m.state = C2DCompleted
			}
			return
		}
	}
}

// giveBack returns what was under way to the queue, when its connection ended.
func (q *mailbox) giveBack(now time.Time) {
	for _, m := range q.messages {
		if m.state == C2DDelivered {
			m.state = C2DEnqueued
			if m.deliveryCount >= c2dMaxDelivery {
				m.state = C2DDeadLettered
			}
		}
	}
	q.expire(now)
}

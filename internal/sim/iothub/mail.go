package iothub

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
)

// C2D is a cloud-to-device message to send.
type C2D struct {
	Body       json.RawMessage   `json:"body,omitempty"`       // any JSON value, sent as its JSON text with content type application/json
	Text       *string           `json:"text,omitempty"`       // instead of Body: sent as it is ("@" is IoT Central's command without parameter)
	Properties map[string]string `json:"properties,omitempty"` // "$.mid" overrides the drawn message id
	TTLSeconds int               `json:"ttlSeconds,omitempty"` // 1 to 172800, 0 means 3600
}

// Check returns an [azure.Error] if no device could get the message.
func (c C2D) Check() error {
	switch {
	case len(c.Body) > 0 && c.Text != nil:
		return azure.Errorf(400, "BadRequest", "a message has a body or a text, not both")
	case len(c.Body) > 0 && !json.Valid(c.Body):
		return azure.Errorf(400, "BadRequest", "the body is not JSON")
	case c.TTLSeconds < 0 || c.TTLSeconds > int(c2dMaxTTL/time.Second):
		return azure.Errorf(400, "BadRequest", "ttlSeconds is %d, must be 1 to %d", c.TTLSeconds, int(c2dMaxTTL/time.Second))
	}
	if mid := c.Properties["$.mid"]; len(mid) > c2dMidLimit {
		return azure.Errorf(400, "BadRequest", "$.mid has %d bytes, a message id has at most %d", len(mid), c2dMidLimit)
	}
	switch ack, given := c.Properties["iothub-ack"]; {
	case !given, ack == "none", ack == "positive", ack == "negative", ack == "full":
	default:
		return azure.Errorf(400, "BadRequest", "iothub-ack is %q, must be none, positive, negative or full", ack)
	}
	return nil
}

// Post queues a message for a device, and returns its message id. Its error is an [azure.Error].
func (i *Identity) Post(c C2D) (mid string, err error) {
	if err := c.Check(); err != nil {
		return "", err
	}
	body := []byte(c.Body)
	if c.Text != nil {
		body = []byte(*c.Text)
	}
	ttl := time.Duration(c.TTLSeconds) * time.Second
	if ttl == 0 {
		ttl = c2dDefaultTTL
	}
	if mid = c.Properties["$.mid"]; mid == "" {
		mid = azure.NewGUID()
	}
	topic := mailTopic(i.id, mid, c)
	if len(body) > c2dMaxBytes || len(topic) > c2dMaxBytes-1 {
		return "", azure.Errorf(413, "MessageTooLarge", "the message is larger than %d bytes", c2dMaxBytes)
	}
	i.mu.Lock()
	defer func() { _ = i.saveAndUnlock() }() // only the delivery may be lost; a restart delivers it again
	now := i.hub.now()
	if !i.mail.put(&letter{mid: mid, topic: topic, body: body, ack: c.Properties["iothub-ack"], expires: now.Add(ttl)}, now) {
		return "", azure.Errorf(403, "DeviceMaximumQueueDepthExceeded", "%d messages wait for device %s already", c2dQueueDepth, i.id)
	}
	if err := i.keep(); err != nil {
		i.mail.messages = i.mail.messages[:len(i.mail.messages)-1]
		return "", azure.Unconfirmed(err)
	}
	if i.session != nil {
		i.session.deliverMail()
	}
	return mid, nil
}

// C2DMessage is the fate of one cloud-to-device message.
type C2DMessage struct {
	Mid           string `json:"mid"`
	Hub           string `json:"hub"`
	State         string `json:"state"`
	DeliveryCount int    `json:"deliveryCount"`
	Feedback      string `json:"feedback,omitempty"` // what the sender was told, if it had asked for it with iothub-ack
}

// The feedback that a sender gets.
const (
	FeedbackSuccess   = "Success"
	FeedbackExpired   = "Expired"
	FeedbackExhausted = "DeliveryCountExceeded"
	FeedbackRejected  = "Rejected"
	FeedbackPurged    = "Purged"
)

// The states of a cloud-to-device message.
const (
	C2DEnqueued     = "enqueued"
	C2DDelivered    = "delivered" // sent, and not acknowledged yet
	C2DCompleted    = "completed"
	C2DExpired      = "expired"
	C2DPurged       = "purged"       // by the service
	C2DDeadLettered = "deadlettered" // rejected, or delivered ten times and never acknowledged
)

const (
	c2dQueueDepth  = 50
	c2dMaxDelivery = 10
	c2dMaxBytes    = 64 << 10
	c2dMidLimit    = 128
	c2dDefaultTTL  = time.Hour
	c2dMaxTTL      = 48 * time.Hour
	c2dHistory     = 1000 // messages that a mailbox remembers, finished ones included
)

// mailbox is a device's queue of messages in one hub, and remembers what became of them. The
// identity's mutex guards it.
type mailbox struct {
	messages []*letter // the oldest first, finished ones included
	lastSeq  int
}

// letter is one message in a mailbox. A delivered message is locked: over MQTT until the connection
// ends, and over HTTPS for a time, under a token that the device must show to settle the message.
type letter struct {
	mid           string
	topic         string
	body          []byte
	seq           int    // in the order of arrival; makes the packet id
	ack           string // the feedback that the sender wants: positive, negative, full or none
	enqueued      time.Time
	expires       time.Time
	state         string
	deliveryCount int
	feedback      string
	token         string    // of the lock over HTTPS
	lockedUntil   time.Time // over HTTPS
}

// pending reports whether nobody has settled the message.
func (m *letter) pending() bool { return m.state == C2DEnqueued || m.state == C2DDelivered }

// packetID returns the same id at every delivery, because MQTT wants that of a message sent again.
func (m *letter) packetID() uint16 { return uint16(m.seq&0x3FFF) + 1 }

// end settles a message.
func (m *letter) end(state, outcome string) {
	m.state, m.token, m.body, m.topic = state, "", nil, "" // only the end of the message is remembered
	if m.ack == "full" || m.ack == "positive" && outcome == FeedbackSuccess || m.ack == "negative" && outcome != FeedbackSuccess {
		m.feedback = outcome
	}
}

// release returns a delivered message to the queue, or ends it if it was delivered too often.
func (m *letter) release() {
	m.state, m.token = C2DEnqueued, ""
	if m.deliveryCount >= c2dMaxDelivery {
		m.end(C2DDeadLettered, FeedbackExhausted)
	}
}

// mailTopic returns the topic of a message: the system properties, then those of the application in
// the order of their names.
func mailTopic(deviceID, mid string, c C2D) string {
	system := map[string]string{"$.mid": mid, "$.to": "/devices/" + deviceID + "/messages/devicebound", "iothub-ack": "none"}
	if len(c.Body) > 0 {
		system["$.ct"], system["$.ce"] = "application/json", "utf-8"
	}
	var b strings.Builder
	b.WriteString("devices/" + deviceID + "/messages/devicebound/")
	sep := ""
	add := func(key, value string) {
		b.WriteString(sep + azure.Escape(key) + "=" + azure.Escape(value))
		sep = "&"
	}
	order := []string{"$.mid", "$.cid", "$.uid", "$.to", "$.exp", "$.ct", "$.ce", "iothub-ack"}
	for _, key := range order {
		value, given := c.Properties[key]
		if !given || key == "$.mid" {
			value, given = system[key], system[key] != ""
		}
		if given {
			add(key, value)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(c.Properties)) {
		if !slices.Contains(order, key) {
			add(key, c.Properties[key])
		}
	}
	return b.String()
}

// put appends a message. It returns false if the queue is full.
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
	q.lastSeq++
	m.seq, m.enqueued, m.state = q.lastSeq, now, C2DEnqueued
	q.messages = append(q.messages, m)
	return true
}

// expire returns messages whose lock has ended to the queue, and ends messages whose time is over.
func (q *mailbox) expire(now time.Time) {
	for _, m := range q.messages {
		if m.token != "" && !now.Before(m.lockedUntil) {
			m.release()
		}
		if m.state == C2DEnqueued && !now.Before(m.expires) {
			m.end(C2DExpired, FeedbackExpired)
		}
	}
}

// rejectBefore dead-letters the messages from before the device subscribed, as the documentation
// says that a hub does.
func (q *mailbox) rejectBefore(subscribed time.Time) {
	for _, m := range q.messages {
		if m.state == C2DEnqueued && m.enqueued.Before(subscribed) {
			m.end(C2DDeadLettered, FeedbackRejected)
		}
	}
}

// deliver sends the waiting messages in order, as long as there is room. With QoS 0 a message is
// completed when it is sent.
func (q *mailbox) deliver(qos byte, now time.Time, room func() bool, send func(topic string, body []byte, id uint16, dup bool)) {
	q.expire(now)
	for _, m := range q.messages {
		if m.state != C2DEnqueued {
			continue
		}
		if !room() {
			return
		}
		m.deliveryCount++
		if qos == 0 {
			send(m.topic, m.body, 0, false)
			m.end(C2DCompleted, FeedbackSuccess)
			continue
		}
		m.state = C2DDelivered
		send(m.topic, m.body, m.packetID(), m.deliveryCount > 1)
	}
}

// complete serves a PUBACK. Only the oldest message under way can be completed, because IoT Hub
// wants PUBACKs in order, and ignores others.
func (q *mailbox) complete(id uint16) {
	for _, m := range q.messages {
		if m.state == C2DDelivered && m.token == "" {
			if m.packetID() == id {
				m.end(C2DCompleted, FeedbackSuccess)
			}
			return
		}
	}
}

// giveBack returns the messages under way over MQTT to the queue when their connection has ended.
func (q *mailbox) giveBack(now time.Time) {
	for _, m := range q.messages {
		if m.state == C2DDelivered && m.token == "" {
			m.release()
		}
	}
	q.expire(now)
}

// lock delivers the oldest waiting message over HTTPS. It returns nil if none waits.
func (q *mailbox) lock(now time.Time, timeout time.Duration) *letter {
	q.expire(now)
	for _, m := range q.messages {
		if m.state == C2DEnqueued {
			m.deliveryCount++
			m.state, m.token, m.lockedUntil = C2DDelivered, azure.NewGUID(), now.Add(timeout)
			return m
		}
	}
	return nil
}

// locked returns the message of a lock token, nil if the lock is lost.
func (q *mailbox) locked(token string, now time.Time) *letter {
	q.expire(now)
	for _, m := range q.messages {
		if m.token == token && token != "" {
			return m
		}
	}
	return nil
}

// waiting returns the number of messages that nobody has settled.
func (q *mailbox) waiting(now time.Time) (n int) {
	q.expire(now)
	for _, m := range q.messages {
		if m.pending() {
			n++
		}
	}
	return n
}

// Purge ends every message that nobody has settled, and returns how many there were. An error says
// that this was done but not written down.
func (i *Identity) Purge() (n int, err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	n = i.mail.purge(i.hub.now())
	if lost := i.keep(); lost != nil {
		err = azure.Unconfirmed(lost)
	}
	return n, err
}

// purge is Purge of a mailbox.
func (q *mailbox) purge(now time.Time) (n int) {
	q.expire(now)
	for _, m := range q.messages {
		if m.pending() {
			m.end(C2DPurged, FeedbackPurged)
			n++
		}
	}
	return n
}

// Messages returns what became of the device's messages, the oldest first.
func (i *Identity) Messages() (all []C2DMessage) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.mail.expire(i.hub.now())
	for _, m := range i.mail.messages {
		all = append(all, C2DMessage{m.mid, i.hub.name, m.state, m.deliveryCount, m.feedback})
	}
	return all
}

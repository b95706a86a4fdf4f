package mqtt5

import "encoding/binary"

// Hello is what CONNECT says (MQTT 5 section 3.1).
type Hello struct {
	ClientID       string
	CleanStart     bool   // the server forgets the session of earlier connections
	Username       string // empty: none is sent
	Password       []byte // nil: none is sent
	KeepAlive      uint16 // seconds; 0: none
	SessionExpiry  uint32 // seconds
	ReceiveMaximum uint16 // PUBLISHes of QoS 1 that the server may send without a PUBACK; at least 1
	MaximumPacket  uint32 // bytes
	AliasMaximum   uint16
	AuthMethod     string // empty: no enhanced authentication
	AuthData       []byte
}

// Filter is a topic filter and how it is subscribed to (MQTT 5 section 3.8.3.1). Retain as
// Published is always set. Retain Handling is always 1: retained messages come with a new
// subscription only.
type Filter struct {
	Topic string
	QoS   byte // 0 or 1
}

// Message is a PUBLISH on its way out.
type Message struct {
	Topic         string // empty if only the alias says it
	Payload       []byte
	QoS           byte // 0 or 1
	Retain        bool
	Text          bool
	Expiry        uint32 // seconds; 0: none
	ContentType   string
	ResponseTopic string
	Correlation   []byte // nil: none
	Alias         uint16 // 0: none
	User          []byte // what AppendUser has made
}

func appendText[T string | []byte](out []byte, t T) []byte {
	return append(append(out, byte(len(t)>>8), byte(len(t))), t...)
}

func appendNumber(out []byte, n int) []byte {
	for n > 0x7f {
		out = append(out, byte(n)|0x80)
		n >>= 7
	}
	return append(out, byte(n))
}

func append32(out []byte, id byte, n uint32) []byte {
	return binary.BigEndian.AppendUint32(append(out, id), n)
}

func append16(out []byte, id byte, n uint16) []byte {
	return binary.BigEndian.AppendUint16(append(out, id), n)
}

// appendPacket appends a packet: its first byte, its length, its body.
func appendPacket(out []byte, head byte, body []byte) []byte {
	return append(appendNumber(append(out, head), len(body)), body...)
}

// AppendConnect appends a CONNECT packet.
func AppendConnect(out []byte, h *Hello) []byte {
	var flags byte
	if h.CleanStart {
		flags |= 0x02
	}
	if h.Username != "" {
		flags |= 0x80
	}
	if h.Password != nil {
		flags |= 0x40
	}
	body := append([]byte{0, 4, 'M', 'Q', 'T', 'T', 5, flags}, byte(h.KeepAlive>>8), byte(h.KeepAlive))
	p := append16(append32(nil, propSessionExpiry, h.SessionExpiry), propReceiveMaximum, h.ReceiveMaximum)
	p = append32(p, propMaximumPacket, h.MaximumPacket)
	if h.AliasMaximum > 0 {
		p = append16(p, propAliasMaximum, h.AliasMaximum)
	}
	p = appendAuth(p, h.AuthMethod, h.AuthData)
	body = append(appendNumber(body, len(p)), p...)
	body = appendText(body, h.ClientID)
	if h.Username != "" {
		body = appendText(body, h.Username)
	}
	if h.Password != nil {
		body = appendText(body, h.Password)
	}
	return appendPacket(out, byte(Connect)<<4, body)
}

func appendAuth(p []byte, method string, data []byte) []byte {
	if method == "" {
		return p
	}
	p = appendText(append(p, propAuthMethod), method)
	if data != nil {
		p = appendText(append(p, propAuthData), data)
	}
	return p
}

// AppendAuth appends an AUTH packet.
func AppendAuth(out []byte, r Reason, method string, data []byte) []byte {
	p := appendAuth(nil, method, data)
	return appendPacket(out, byte(Auth)<<4, append(appendNumber([]byte{byte(r)}, len(p)), p...))
}

// AppendSubscribe appends a SUBSCRIBE packet.
func AppendSubscribe(out []byte, id uint16, filters ...Filter) []byte {
	const retainAsPublished, onlyNew = 1 << 3, 1 << 4
	body := []byte{byte(id >> 8), byte(id), 0}
	for _, f := range filters {
		body = append(appendText(body, f.Topic), f.QoS|retainAsPublished|onlyNew)
	}
	return appendPacket(out, byte(Subscribe)<<4|2, body)
}

// AppendUnsubscribe appends an UNSUBSCRIBE packet.
func AppendUnsubscribe(out []byte, id uint16, filters ...string) []byte {
	body := []byte{byte(id >> 8), byte(id), 0}
	for _, f := range filters {
		body = appendText(body, f)
	}
	return appendPacket(out, byte(Unsubscribe)<<4|2, body)
}

// AppendPuback appends a PUBACK packet that says success.
func AppendPuback(out []byte, id uint16) []byte {
	return append(out, byte(Puback)<<4, 2, byte(id>>8), byte(id))
}

// AppendDisconnect appends a DISCONNECT packet.
func AppendDisconnect(out []byte, r Reason) []byte {
	if r == Success {
		return append(out, byte(Disconnect)<<4, 0)
	}
	return append(out, byte(Disconnect)<<4, 1, byte(r))
}

func appendPingreq(out []byte) []byte { return append(out, byte(Pingreq)<<4, 0) }

// AppendUser appends one user property for [Message.User]. Key and value are at most 65,535 bytes.
func AppendUser(out []byte, key, value string) []byte {
	return appendText(appendText(append(out, propUser), key), value)
}

// Size returns how many bytes the PUBLISH has at most.
func (m *Message) Size() int {
	return 48 + len(m.Topic) + len(m.Payload) + len(m.ContentType) + len(m.ResponseTopic) + len(m.Correlation) + len(m.User)
}

// Append appends the PUBLISH packet. id is the packet id, which counts with QoS 1 only. again sets
// DUP. Texts are at most 65,535 bytes.
func (m *Message) Append(out []byte, id uint16, again bool) []byte {
	head := byte(Publish)<<4 | m.QoS<<1
	if again {
		head |= 1 << 3
	}
	if m.Retain {
		head |= 1
	}
	props := m.properties()
	size := 2 + len(m.Topic) + lengthOf(props) + props + len(m.Payload)
	if m.QoS > 0 {
		size += 2
	}
	out = appendText(appendNumber(append(out, head), size), m.Topic)
	if m.QoS > 0 {
		out = append(out, byte(id>>8), byte(id))
	}
	out = appendNumber(out, props)
	if props > 0 {
		out = m.appendProperties(out)
	}
	return append(out, m.Payload...)
}

// properties returns the number of bytes of the properties.
func (m *Message) properties() (n int) {
	if m.Text {
		n += 2
	}
	if m.Expiry > 0 {
		n += 5
	}
	if m.Alias > 0 {
		n += 3
	}
	if m.ContentType != "" {
		n += 3 + len(m.ContentType)
	}
	if m.ResponseTopic != "" {
		n += 3 + len(m.ResponseTopic)
	}
	if m.Correlation != nil {
		n += 3 + len(m.Correlation)
	}
	return n + len(m.User)
}

func (m *Message) appendProperties(out []byte) []byte {
	if m.Text {
		out = append(out, propText, 1)
	}
	if m.Expiry > 0 {
		out = append32(out, propExpiry, m.Expiry)
	}
	if m.Alias > 0 {
		out = append16(out, propAlias, m.Alias)
	}
	if m.ContentType != "" {
		out = appendText(append(out, propContentType), m.ContentType)
	}
	if m.ResponseTopic != "" {
		out = appendText(append(out, propResponseTopic), m.ResponseTopic)
	}
	if m.Correlation != nil {
		out = appendText(append(out, propCorrelation), m.Correlation)
	}
	return append(out, m.User...)
}

func lengthOf(n int) int {
	switch {
	case n < 1<<7:
		return 1
	case n < 1<<14:
		return 2
	case n < 1<<21:
		return 3
	}
	return 4
}

package mqtt

import (
	"bytes"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/hubhop-iot/hubhop/internal/flow/node"
	"github.com/hubhop-iot/hubhop/internal/mqtt5"
)

// texts keeps texts that come again and again, such as topics, so that each is in memory once. What
// it holds is valid UTF-8 without NUL. It is bounded in bytes, and starts anew when it is full.
type texts struct {
	known map[string]string
	bytes int
}

const (
	maxTexts    = 1 << 20
	maxOneText  = 1 << 10
	textTrailer = 64 // bytes that an entry of the map costs beside its text
)

// of returns b as a text. ok is false if b is no text.
func (t *texts) of(b []byte) (text string, ok bool) {
	if len(b) == 0 {
		return "", true
	}
	if text, ok := t.known[string(b)]; ok {
		return text, true
	}
	if !valid(b) {
		return "", false
	}
	text = string(b)
	if len(b) > maxOneText {
		return text, true
	}
	if t.known == nil || t.bytes+len(b)+textTrailer > maxTexts {
		t.known, t.bytes = map[string]string{}, 0
	}
	t.known[text] = text
	t.bytes += len(b) + textTrailer
	return text, true
}

func valid(b []byte) bool { return utf8.Valid(b) && bytes.IndexByte(b, 0) < 0 }

// topic returns the topic of a PUBLISH. A topic that is no text is "". A broker is not allowed to
// use topic aliases towards a source: it gains little, and mochi-mqtt uses them in messages that it
// sends again on another connection, where they mean nothing.
func (s *Source) topic(p *mqtt5.Packet) (string, error) {
	if p.Alias > 0 {
		return "", mqtt5.Faulty(mqtt5.BadAlias, "the topic alias %d, although none was allowed", p.Alias)
	}
	name, _ := s.texts.of(p.Topic)
	return name, nil
}

// message makes a message of a PUBLISH. reason says why it is dropped, empty: it is not.
func (s *Source) message(m *node.Message, p *mqtt5.Packet, name string) (reason string) {
	switch {
	case name == "":
		return "its topic is not valid text"
	case len(p.Payload) > s.c.MaxPayload:
		return fmt.Sprintf("its payload is too large: %d bytes on %q, at most %d are taken", len(p.Payload), clip(name), s.c.MaxPayload)
	case len(p.User) > s.c.MaxProperties:
		return fmt.Sprintf("it has too many properties: %d on %q, at most %d are taken", len(p.User), clip(name), s.c.MaxProperties)
	}
	now := time.Now()
	m.Time, m.Topic = node.TimeOf(now), name
	m.Payload = bytes.Clone(p.Payload)
	m.Retain = p.Retain && !s.c.NeverRetain
	m.Text = p.Text
	if p.Expires {
		m.Expires = now.Add(time.Duration(p.Expiry) * time.Second)
	}
	var ok bool
	if m.ContentType, ok = s.texts.of(p.ContentType); !ok {
		return fmt.Sprintf("its content type is not valid text: on %q", clip(name))
	}
	if m.ResponseTopic, ok = s.texts.of(p.ResponseTopic); !ok {
		return fmt.Sprintf("its response topic is not valid text: on %q", clip(name))
	}
	m.Correlation = bytes.Clone(p.Correlation)
	if len(p.User) > 0 {
		return s.properties(m, p.User)
	}
	return ""
}

func (s *Source) properties(m *node.Message, user []mqtt5.Property) (reason string) {
	m.Properties = make([]node.Property, len(user))
	for i, u := range user {
		key, ok := s.texts.of(u.Key)
		if !ok || !valid(u.Value) {
			return fmt.Sprintf("a property is not valid text: on %q", clip(m.Topic))
		}
		if len(key) > s.c.MaxName {
			return fmt.Sprintf("the name of a property is too long: %d bytes on %q, at most %d are taken", len(key), clip(m.Topic), s.c.MaxName)
		}
		m.Properties[i] = node.Property{Key: key, Value: string(u.Value)}
		if key == "__ts" {
			if t, err := node.ParseTime(m.Properties[i].Value); err == nil {
				m.Time = t
			}
		}
	}
	return ""
}

// clip shortens a topic for a line of a log.
func clip(topic string) string {
	if len(topic) > 100 {
		return topic[:100] + "…"
	}
	return topic
}

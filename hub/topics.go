package hub

import (
	"encoding/json"
	"fmt"
	"math"
	"net/url"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The topics of IoT Hub (Microsoft: "Communicate with an IoT hub using the MQTT protocol").
const (
	methodFilter  = "$iothub/methods/POST/#"
	twinFilter    = "$iothub/twin/res/#"
	desiredFilter = "$iothub/twin/PATCH/properties/desired/#"
	twinGet       = "$iothub/twin/GET/?$rid="
	twinPatch     = "$iothub/twin/PATCH/properties/reported/?$rid="
	methodAnswer  = "$iothub/methods/res/"
)

func c2dFilter(deviceID string) string   { return "devices/" + deviceID + "/messages/devicebound/#" }
func eventsTopic(deviceID string) string { return "devices/" + deviceID + "/messages/events/" }

// Properties is the property bag of a message as it arrived: system properties under their wire
// names ($.mid, $.ct, …), and the application's. Its methods search the text, because a bag of 64
// KB can hold so many properties that a map of them takes megabytes.
type Properties string

// Get returns the value of key, "" if key is missing or has none. If key stands twice, the first
// value counts. Names and values are percent-decoded once, and "+" stays "+". A text that cannot be
// decoded is taken as it is, because a message must not be lost over the spelling of a property.
func (p Properties) Get(key string) string {
	for pair := range strings.SplitSeq(string(p), "&") {
		name, value, _ := strings.Cut(pair, "=")
		if pair != "" && (name == key || unescape(name) == key) {
			return unescape(value)
		}
	}
	return ""
}

// Name returns the value of key as printable text of at most 256 bytes; a longer text is cut.
func (p Properties) Name(key string) string { return printable(p.Get(key), maxName) }

// ID returns the id of the message, "" if it has none. An id of more than 128 characters, or one
// that is not printable, counts as none: IoT Hub accepts no such message.
func (p Properties) ID() string {
	id := p.Get(midName)
	if len(id) > maxID || printable(id, maxID) != id {
		return ""
	}
	return id
}

// escape percent-encodes as the service expects it: a space is %20, never +.
func escape(s string) string { return string(appendEscaped(nil, s)) }

// plain says of each byte that it needs no escaping.
var plain = func() (t [256]bool) {
	for _, c := range "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~" {
		t[c] = true
	}
	return t
}()

// plainPart returns the length of the part of s, from its start, that needs no escaping.
func plainPart(s string) (n int) {
	for n < len(s) && plain[s[n]] {
		n++
	}
	return n
}

func appendEscaped(out []byte, s string) []byte {
	for s != "" {
		n := plainPart(s)
		if out = append(out, s[:n]...); n == len(s) {
			break
		}
		out = append(out, '%', "0123456789ABCDEF"[s[n]>>4], "0123456789ABCDEF"[s[n]&15])
		s = s[n+1:]
	}
	return out
}

func unescape(s string) string {
	if u, err := url.PathUnescape(s); err == nil {
		return u
	}
	return s
}

// parseTopic sorts an inbound PUBLISH. It returns nil for a topic that is not one of IoT Hub's. An
// answer about the twin is separate, because it belongs to a request and not to the inbox.
func parseTopic(deviceID, topic string, body []byte) (inbound, *twinAnswer) {
	if rest, ok := cutPrefixFold(topic, "devices/"+deviceID+"/messages/devicebound"); ok && (rest == "" || rest[0] == '/') {
		return &Message{Properties: Properties(strings.TrimSuffix(strings.TrimPrefix(rest, "/"), "/")), Body: body}, nil
	}
	if rest, ok := strings.CutPrefix(topic, "$iothub/methods/POST/"); ok {
		name, query, ok := cutLast(rest, "/?")
		rid := parameter(query, "rid")
		if !ok || name == "" || !answerable(rid) {
			return nil, nil
		}
		return &Method{Name: printable(unescape(name), maxName), Payload: body, rid: rid}, nil
	}
	if rest, ok := strings.CutPrefix(topic, "$iothub/twin/PATCH/properties/desired/"); ok {
		if len(body) > maxChange {
			return &Desired{Missed: true}, nil
		}
		return &Desired{Version: parseVersion(parameter(strings.TrimPrefix(rest, "?"), "version")), Body: body}, nil
	}
	if rest, ok := strings.CutPrefix(topic, "$iothub/twin/res/"); ok {
		status, query, _ := strings.Cut(rest, "/?")
		code, err := strconv.Atoi(status)
		rid := parameter(query, "rid")
		if err != nil || rid == "" {
			return nil, nil
		}
		a := &twinAnswer{rid: rid, status: code, version: parseVersion(parameter(query, "version")), body: body, size: len(body)}
		if a.size > maxTwin {
			a.body = nil
		}
		return nil, a
	}
	return nil, nil
}

// parseVersion reads the version of a twin. It returns 0, unknown, for any other text or a number
// out of range.
func parseVersion(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || n == math.MaxInt64 {
		return 0
	}
	return n
}

// parameter returns the value of $name in a topic's query, without decoding it. The dollar sign may
// be percent-encoded.
func parameter(query, name string) string {
	for pair := range strings.SplitSeq(query, "&") {
		key, value, _ := strings.Cut(pair, "=")
		if key == "$"+name || key == "%24"+name {
			return value
		}
	}
	return ""
}

// answerable says whether the topic of an answer can carry this request id.
func answerable(rid string) bool {
	return rid != "" && len(rid) <= maxID && printable(rid, maxID) == rid && !strings.ContainsAny(rid, "+#/&? ")
}

// printable makes a text of a peer fit to be kept and shown: it has at most most bytes, and no
// characters that command a terminal or break a line.
func printable(s string, most int) string {
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most-len("…")], "") + "…"
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return utf8.RuneError
	}, s)
}

// cutPrefixFold is strings.CutPrefix without regard to case, because hubs write devicebound and
// deviceBound.
func cutPrefixFold(s, prefix string) (string, bool) {
	if len(s) < len(prefix) || !strings.EqualFold(s[:len(prefix)], prefix) {
		return s, false
	}
	return s[len(prefix):], true
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// twinAnswer is what came on $iothub/twin/res for one request.
type twinAnswer struct {
	rid     string
	status  int
	version int64
	body    []byte // nil if it is too long
	size    int    // of the body, as it came
}

func (a *twinAnswer) err() error {
	if a.status >= 200 && a.status < 300 {
		return nil
	}
	e := &TwinError{Status: a.status}
	var doc struct {
		ErrorCode int    `json:"errorCode"`
		Message   string `json:"message"`
	}
	if json.Unmarshal(a.body, &doc) == nil {
		e.Code, e.Message = doc.ErrorCode, printable(doc.Message, maxWords)
	}
	return e
}

// checkSize refuses a message for which a hub would close the connection. topic and body are
// lengths in bytes. props is the length of all names and values of properties, before they were
// escaped.
func checkSize(topic, body, props int) error {
	switch {
	case body+props > maxMessage:
		return &MessageError{fmt.Sprintf("%d bytes with its properties; IoT Hub takes %d", body+props, maxMessage)}
	case topic > maxTopic:
		return &MessageError{fmt.Sprintf("its properties make a topic of %d bytes; MQTT takes %d", topic, maxTopic)}
	case topic+body+4 > maxMessage+1:
		return &MessageError{fmt.Sprintf("its packet has %d bytes; IoT Hub takes %d", topic+body+4, maxMessage+1)}
	}
	return nil
}

const (
	// Bytes of body, property names and values: 256 KB less one (NET SDK, docs "quotas and
	// throttling").
	maxMessage = 262143
	maxTopic   = 65535

	// Bounds of a peer's texts. IoT Hub stays far below: its ids have at most 128 characters, and a
	// desired or reported part 32 KB, which numbers and JSON's own characters may double.
	maxID     = 128
	maxName   = 256
	maxWords  = 256       // bytes of a peer's text in an error
	maxChange = 64 << 10  // bytes of a change of desired properties
	maxTwin   = 256 << 10 // bytes of a twin
)

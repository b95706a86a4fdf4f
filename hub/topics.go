package hub

import (
	"math"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The topics of IoT Hub (Microsoft: "Communicate with an IoT hub using the MQTT protocol"). That of
// telemetry ends in the properties of the message: properties.go writes them, send.go appends them.
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

// Bounds of a peer's texts. IoT Hub stays far below: its ids have at most 128 characters, and a
// desired or reported part 32 KB, which numbers and JSON's own characters may double.
const (
	maxID     = 128
	maxName   = 256
	maxWords  = 256       // bytes of a peer's text in an error
	maxChange = 64 << 10  // bytes of a change of desired properties
	maxTwin   = 256 << 10 // bytes of a twin
)

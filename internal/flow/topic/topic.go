// Package topic knows the rules of MQTT topics and topic filters, and the variables that a
// destination's topic may have (Microsoft's pages "Configure MQTT data flow endpoints" and "Use
// dynamic destination topics in data flows"). It has no state.
package topic

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// MaxBytes is the longest topic that MQTT can carry, in bytes of UTF-8.
const MaxBytes = 65535

// The faults of a topic. Their texts are whole sentences for a log, and they cost nothing to
// return.
var (
	errEmpty    = errors.New("the topic is empty")
	errLong     = fmt.Errorf("the topic is longer than %d bytes", MaxBytes)
	errText     = errors.New("the topic is no valid UTF-8, or has a NUL character")
	errWildcard = errors.New("a topic to publish to cannot contain + or #")
	errPlus     = errors.New("+ must stand alone between two slashes, as in a/+/b")
	errHash     = errors.New("# must be the last level of a topic filter, and stand alone in it, as in a/#")
	errGroup    = errors.New("a shared subscription is $shared/<group>/<filter>, and its group has no /, + or #")
)

// ValidTopic says what is wrong with the name of a topic that messages are published to.
func ValidTopic(topic string) error {
	if err := validText(topic); err != nil {
		return err
	}
	if strings.ContainsAny(topic, "+#") {
		return errWildcard
	}
	return nil
}

// ValidFilter says what is wrong with a topic filter. A shared subscription is valid in the form of
// the manifests ($shared/<group>/<filter>) and in that of MQTT ($share/…).
func ValidFilter(filter string) error {
	if err := validText(filter); err != nil {
		return err
	}
	if strings.HasPrefix(filter, "$shared/") || strings.HasPrefix(filter, "$share/") {
		group, rest, ok := Shared(filter)
		if !ok || strings.ContainsAny(group, "+#") {
			return errGroup
		}
		filter = rest
	}
	for rest, more := filter, true; more; {
		var level string
		level, rest, more = strings.Cut(rest, "/")
		switch {
		case strings.Contains(level, "#") && (level != "#" || more):
			return errHash
		case strings.Contains(level, "+") && level != "+":
			return errPlus
		}
	}
	return nil
}

func validText(text string) error {
	switch {
	case text == "":
		return errEmpty
	case len(text) > MaxBytes:
		return errLong
	case !utf8.ValidString(text) || strings.IndexByte(text, 0) >= 0:
		return errText
	}
	return nil
}

// Shared splits a shared subscription, $shared/<group>/<filter> or $share/<group>/<filter>. For any
// other filter, ok is false and rest is the filter.
func Shared(filter string) (group, rest string, ok bool) {
	tail, ok := strings.CutPrefix(filter, "$shared/")
	if !ok {
		tail, ok = strings.CutPrefix(filter, "$share/")
	}
	if !ok {
		return "", filter, false
	}
	group, rest, ok = strings.Cut(tail, "/")
	if !ok || group == "" || rest == "" {
		return "", filter, false
	}
	return group, rest, true
}

// Match says whether a topic fits a topic filter, by the rules of MQTT: + is one level; # is what
// follows and the level above; neither stands for a first level that begins with $. The group of a
// shared subscription does not matter. It allocates nothing.
func Match(filter, topic string) bool {
	if filter != "" && filter[0] == '$' {
		_, filter, _ = Shared(filter)
	}
	if topic == "" || filter == "" {
		return false
	}
	if topic[0] == '$' && (filter[0] == '+' || filter[0] == '#') {
		return false
	}
	for {
		// Both are at the beginning of a level.
		if filter == "#" {
			return true
		}
		f, t := levelEnd(filter), levelEnd(topic)
		if filter[:f] != "+" && filter[:f] != topic[:t] {
			return false
		}
		switch {
		case t == len(topic):
			return f == len(filter) || filter[f:] == "/#"
		case f == len(filter):
			return false
		}
		filter, topic = filter[f+1:], topic[t+1:]
	}
}

// levelEnd is the length of the first level.
func levelEnd(text string) int {
	if i := strings.IndexByte(text, '/'); i >= 0 {
		return i
	}
	return len(text)
}

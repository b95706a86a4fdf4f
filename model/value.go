package model

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Bounds of the values of a twin. A hub refuses a whole patch for an integer outside of them, for a
// longer string, and for a key that is longer or has one of these characters.
const (
	minTwinInteger  int64 = -4503599627370496
	maxTwinInteger  int64 = 4503599627370495
	maxTwinString         = 4096
	maxTwinKey            = 1024
	badTwinKeyChars       = ".$# "
)

// checker compares values with schemas. A value of a twin may be a patch, so null takes out a part
// of an Object or a Map, and the twin's own bounds hold as well.
type checker struct{ twin bool }

// value says why raw does not fit s, in a sentence that begins with path; empty if it fits. raw is
// valid JSON. value reads numbers from their digits, so none loses precision.
func (c checker) value(s *schema, raw []byte, path string) string {
	raw = bytes.TrimSpace(raw)
	kind := kindOf(raw)
	switch s.kind {
	case arrayKind:
		return c.array(s, raw, kind, path)
	case mapKind, objectKind:
		return c.object(s, raw, kind, path)
	case enumKind:
		return c.enum(s, raw, kind, path)
	case "boolean":
		return expect(kind == 't', path, kind, "boolean")
	case "double", "float", "integer", "long":
		if kind != '0' {
			return expect(false, path, kind, s.kind+" (a JSON number, without quotes)")
		}
		return c.number(s.kind, string(raw), path)
	case "string", "date", "dateTime", "time", "duration":
		if kind != '"' {
			return expect(false, path, kind, s.kind+" (a JSON string)")
		}
		return c.text(s.kind, raw, path)
	default:
		return c.place(s.kind, raw, kind, path)
	}
}

func expect(ok bool, path string, kind byte, expected string) string {
	if ok {
		return ""
	}
	return fmt.Sprintf("%s is %s, expected %s", path, kindName(kind), expected)
}

func (c checker) number(kind, text, path string) string {
	if c.twin && !strings.ContainsAny(text, ".eE") { // the spelling decides what an integer is, not the schema
		if i, problem := integral(text); problem != "" || i < minTwinInteger || i > maxTwinInteger {
			return fmt.Sprintf("%s is %s, a twin takes integers from %d to %d", path, clip(text), minTwinInteger, maxTwinInteger)
		}
	}
	switch kind {
	case "double", "float":
		bits := 64
		if kind == "float" {
			bits = 32
		}
		if _, err := strconv.ParseFloat(text, bits); err != nil {
			return fmt.Sprintf("%s is %s, beyond the range of %s", path, clip(text), kind)
		}
	case "integer", "long":
		i, problem := integral(text)
		if problem == "" && kind == "integer" && (i < math.MinInt32 || i > math.MaxInt32) {
			problem = "beyond the range of integer (32 bits); long has 64"
		}
		if problem != "" {
			return fmt.Sprintf("%s is %s, %s", path, clip(text), problem)
		}
	}
	return ""
}

// integral returns the value of a JSON number that is a whole number, however it is written: 5, 5.0
// and 50e-1 are the same number, and some SDKs write whole numbers like a double. problem says why
// it is not a whole number of 64 bits.
func integral(text string) (value int64, problem string) {
	const beyond = "beyond the range of long (64 bits)"
	digits, negative := strings.CutPrefix(text, "-")
	mantissa, exponent, scaled := strings.Cut(strings.ToLower(digits), "e")
	whole, fraction, _ := strings.Cut(mantissa, ".")
	digits = strings.TrimLeft(whole+fraction, "0")
	kept := strings.TrimRight(digits, "0")
	if kept == "" {
		return 0, ""
	}
	scale := 0
	if scaled {
		var err error
		if scale, err = strconv.Atoi(exponent); err != nil { // more digits than an int has
			if strings.HasPrefix(exponent, "-") {
				return 0, "not a whole number"
			}
			return 0, beyond
		}
	}
	zeros := len(digits) - len(kept) - len(fraction)
	const far = 1 << 30 // more than any text is long, and no sum with one overflows
	scale = max(min(scale, far), -far)
	switch zeros += scale; {
	case zeros < 0:
		return 0, "not a whole number"
	case len(kept)+zeros > 19:
		return 0, beyond
	}
	kept += strings.Repeat("0", zeros)
	if negative {
		kept = "-" + kept
	}
	value, err := strconv.ParseInt(kept, 10, 64)
	if err != nil {
		return 0, beyond
	}
	return value, ""
}

func (c checker) text(kind string, raw []byte, path string) string {
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return path + " is not a valid string"
	}
	if c.twin && len(s) > maxTwinString {
		return fmt.Sprintf("%s has %d bytes, a twin takes strings of at most %d", path, len(s), maxTwinString)
	}
	return spelled(kind, s, path)
}

// spelled checks texts that mean a time. Its sentence does not repeat the text, because it goes
// into logs.
func spelled(kind, s, path string) string {
	ok, example := true, ""
	switch kind {
	case "date":
		ok, example = isDate(s), "2026-03-01"
	case "dateTime":
		ok, example = isDateTime(s), "2026-03-01T08:30:00Z"
	case "time":
		// A date with a time names a time of day too. Scripts that set an alarm often have nothing
		// else.
		ok, example = timePattern().MatchString(s) || isDateTime(s), "08:30:00"
	case "duration":
		ok, example = isDuration(s), "PT1H30M"
	}
	if ok {
		return ""
	}
	return fmt.Sprintf("%s is not a %s, expected one like %q", path, kind, example)
}

const timeOfDay = `([01][0-9]|2[0-3]):[0-5][0-9]:([0-5][0-9]|60)(\.[0-9]+)?`
const timeZone = `([Zz]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])`

var (
	// The grammar of RFC 3339, section 5.6. A time of DTDL may have a zone or not.
	timePattern     = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^` + timeOfDay + timeZone + `?$`) })
	dateTimePattern = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt]` + timeOfDay + timeZone + `$`)
	})
	// ISO 8601, the lengths of a duration in their order.
	durationPattern = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^[+-]?P(N?Y)?(N?M)?(N?W)?(N?D)?(T(N?H)?(N?M)?(N?S)?)?$`)
	})
	durationNumber = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`[0-9]+([.,][0-9]+)?`) })
)

func isDate(s string) bool {
	_, err := time.Parse(time.DateOnly, s)
	return err == nil
}

func isDateTime(s string) bool {
	return dateTimePattern().MatchString(s) && isDate(s[:len(time.DateOnly)])
}

func isDuration(s string) bool {
	shape := durationNumber().ReplaceAllString(s, "N")
	for _, letter := range []string{"Y", "M", "W", "D", "H", "S"} {
		if strings.Count(shape, letter) != strings.Count(shape, "N"+letter) {
			return false
		}
	}
	return !strings.Contains(s, "N") && strings.Contains(shape, "N") && !strings.HasSuffix(shape, "T") && durationPattern().MatchString(shape)
}

func (c checker) array(s *schema, raw []byte, kind byte, path string) string {
	if kind != '[' {
		return expect(false, path, kind, s.String())
	}
	var list []json.RawMessage
	if err := json.Unmarshal(raw, &list); err != nil {
		return path + " is not a valid array"
	}
	for i, e := range list {
		if problem := c.value(s.elem, e, fmt.Sprintf("%s[%d]", path, i)); problem != "" {
			return problem
		}
	}
	return ""
}

func (c checker) object(s *schema, raw []byte, kind byte, path string) string {
	if kind != '{' {
		return expect(false, path, kind, s.String())
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(raw, &members); err != nil {
		return path + " is not a valid object"
	}
	for _, name := range slices.Sorted(maps.Keys(members)) {
		elem := s.elem
		if s.kind == objectKind {
			if elem = s.fields[name]; elem == nil {
				return fmt.Sprintf("%s has a field %s, expected %s", path, quote(name), s)
			}
		}
		if c.twin {
			if problem := twinKey(name); problem != "" {
				return path + " " + problem
			}
			if kindOf(members[name]) == 'n' {
				continue
			}
		}
		if problem := c.value(elem, members[name], inside(path, name)); problem != "" {
			return problem
		}
	}
	return ""
}

// inside returns the path of a member below path. The member's name may be any text.
func inside(path, name string) string {
	if plainKey().MatchString(name) {
		return path + "." + name
	}
	return fmt.Sprintf("%s[%s]", path, quote(name))
}

// twinKey says why a twin does not take a key.
func twinKey(name string) string {
	bad := func(r rune) bool { return r < ' ' || r == 0x7f || strings.ContainsRune(badTwinKeyChars, r) }
	if name == "" || len(name) > maxTwinKey || strings.ContainsFunc(name, bad) {
		return fmt.Sprintf("has the key %s; a twin takes 1 to %d bytes without \".\", \"$\", \"#\", blanks and control characters",
			quote(name), maxTwinKey)
	}
	return ""
}

func (c checker) enum(s *schema, raw []byte, kind byte, path string) string {
	value := ""
	switch {
	case s.of == "integer" && kind == '0':
		if i, problem := integral(string(raw)); problem == "" {
			value = strconv.FormatInt(i, 10)
		}
	case s.of == "string" && kind == '"':
		if err := json.Unmarshal(raw, &value); err != nil {
			return path + " is not a valid string"
		}
	default:
		return expect(false, path, kind, s.String())
	}
	if !slices.Contains(s.values, value) {
		return fmt.Sprintf("%s is none of the values of its enum (%s)", path, printable(clip(strings.Join(s.values, ", "))))
	}
	return ""
}

// place checks values of the schemas that describe objects of a fixed shape: the geometries of
// GeoJSON, and IoT Central's geopoint and vector.
func (c checker) place(kind string, raw []byte, have byte, path string) string {
	var members map[string]json.RawMessage
	if have != '{' || json.Unmarshal(raw, &members) != nil {
		return expect(false, path, have, kind+" (an object)")
	}
	if shape := geospatial[kind]; shape != "" {
		var name string
		if json.Unmarshal(members["type"], &name) != nil || name != shape || kindOf(members["coordinates"]) != '[' {
			return fmt.Sprintf("%s is not a %s, expected {\"type\":%q,\"coordinates\":[…]}", path, kind, shape)
		}
		return ""
	}
	for _, field := range vectors[kind] {
		field, optional := strings.CutPrefix(field, "?")
		v, there := members[field]
		if !there && optional || optional && kindOf(v) == 'n' {
			continue
		}
		if c.twin && kindOf(v) == 'n' && there {
			continue
		}
		if kindOf(v) != '0' {
			return fmt.Sprintf("%s is not a %s, expected numbers in %s", path, kind, strings.ReplaceAll(strings.Join(vectors[kind], ", "), "?", ""))
		}
	}
	return ""
}

// kindOf returns the kind of a JSON value, which its first byte shows; zero if there is no value.
func kindOf(raw []byte) byte {
	raw = bytes.TrimLeft(raw, " \t\r\n")
	if len(raw) == 0 {
		return 0
	}
	switch b := raw[0]; b {
	case '{', '[', '"', 'n':
		return b
	case 't', 'f':
		return 't'
	default:
		return '0'
	}
}

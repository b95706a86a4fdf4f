package azure

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"reflect"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// TwinDocument is one part of a twin, with the time and the version at which each value was last
// written. Its maps are replaced and never changed, so they can be shared.
type TwinDocument struct {
	Values   map[string]any
	Metadata map[string]any // the tree of $metadata, which only services see
	Version  int64
}

// NewTwinDocument returns a part of a new twin. It begins at version 1, whatever is in it.
func NewTwinDocument(props map[string]any, now time.Time) TwinDocument {
	d := TwinDocument{Values: props, Version: 1}
	if len(props) > 0 {
		d.Metadata = stampProps(nil, props, stamp{UTC7(now), 1})
	}
	return d
}

// The limits of a twin document, from the IoT Hub developer guide.
const (
	twinMaxBytes  = 32 << 10
	twinMaxDepth  = 10
	twinMaxKey    = 1 << 10
	twinMaxString = 4 << 10
	twinMinInt    = -4503599627370496
	twinMaxInt    = 4503599627370495
)

// TwinError says why a patch is refused, and has the status that a device gets.
type TwinError struct {
	Status int
	Text   string
}

func (e *TwinError) Error() string { return e.Text }

func badTwin(format string, args ...any) error {
	return &TwinError{400, fmt.Sprintf(format, args...)}
}

// decodeObject reads a text that is one JSON object. Its numbers stay as they are written.
func decodeObject(b []byte) (map[string]any, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var m map[string]any
	if err := d.Decode(&m); err != nil {
		return nil, err
	}
	if m == nil {
		return nil, errors.New("not a JSON object")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the JSON object")
	}
	return m, nil
}

// ParseTwinPatch decodes a patch and checks it. Its error is a [TwinError].
func ParseTwinPatch(body []byte) (map[string]any, error) {
	if len(body) > 4*twinMaxBytes {
		return nil, &TwinError{413, "The twin patch is too large."}
	}
	if !utf8.Valid(body) {
		return nil, badTwin("The patch is not UTF-8.")
	}
	patch, err := decodeObject(body)
	if err != nil {
		return nil, badTwin("The patch is not a JSON object: %s", JSONFault(err, nil))
	}
	delete(patch, "$version") // a client may send back what it got
	return patch, CheckTwin(patch)
}

// CheckTwin returns a [TwinError] if no twin may have these properties.
func CheckTwin(props map[string]any) error { return checkValue(props, 1) }

func checkValue(v any, depth int) error {
	switch v := v.(type) {
	case map[string]any:
		if depth > twinMaxDepth {
			return badTwin("The document is deeper than %d levels.", twinMaxDepth)
		}
		for key, child := range v {
			if err := checkTwinKey(key); err != nil {
				return err
			}
			if err := checkValue(child, depth+1); err != nil {
				return err
			}
		}
	case []any:
		if depth > twinMaxDepth {
			return badTwin("The document is deeper than %d levels.", twinMaxDepth)
		}
		for _, child := range v {
			if child == nil {
				return badTwin("An array must not hold null.")
			}
			if err := checkValue(child, depth+1); err != nil {
				return err
			}
		}
	case string:
		if len(v) > twinMaxString {
			return badTwin("A string is longer than %d bytes.", twinMaxString)
		}
	case json.Number:
		if strings.ContainsAny(string(v), ".eE") {
			return nil
		}
		if n, err := v.Int64(); err != nil || n < twinMinInt || n > twinMaxInt {
			return badTwin("The integer %s is out of range.", v)
		}
	}
	return nil
}

func checkTwinKey(key string) error {
	if key == "" || len(key) > twinMaxKey {
		return badTwin("Property name is invalid: it has %d bytes.", len(key))
	}
	for _, c := range key {
		if c <= ' ' || c == 0x7f || c >= 0x80 && c <= 0x9f || strings.ContainsRune(".$#", c) {
			return badTwin("Property name is invalid: %q holds %q.", key, c)
		}
	}
	return nil
}

// Apply merges a checked patch: null deletes, objects merge, all else replaces. If the document
// would grow too large it stays as it was, and the error is a [TwinError].
func (d *TwinDocument) Apply(patch map[string]any, now time.Time) error {
	merged := MergeProperties(d.Values, patch)
	if n := TwinSize(merged); n > twinMaxBytes || len(EncodeJSON(merged)) > 4*twinMaxBytes { // much may be written that does not count
		return &TwinError{413, fmt.Sprintf("The document would have %d bytes, the limit is %d.", n, twinMaxBytes)}
	}
	d.Values = merged
	d.Version++
	d.Metadata = stampProps(d.Metadata, patch, stamp{UTC7(now), d.Version})
	return nil
}

// TwinSize returns the size of a value as IoT Hub counts it: keys and strings by their bytes
// without control characters, numbers as 8, booleans as 4.
func TwinSize(v any) (n int) {
	text := func(s string) (n int) {
		for _, c := range s {
			if !unicode.IsControl(c) {
				n += utf8.RuneLen(c)
			}
		}
		return n
	}
	switch v := v.(type) {
	case map[string]any:
		for key, child := range v {
			n += text(key) + TwinSize(child)
		}
	case []any:
		for _, child := range v {
			n += TwinSize(child)
		}
	case string:
		n = text(v)
	case bool:
		n = 4
	default:
		n = 8
	}
	return n
}

// WithoutNulls returns a copy without the properties that are null.
func WithoutNulls(props map[string]any) map[string]any { return MergeProperties(nil, props) }

// MergeProperties returns base with the patch merged in. The result shares what did not change.
func MergeProperties(base, patch map[string]any) map[string]any {
	merged := maps.Clone(base)
	if merged == nil {
		merged = map[string]any{}
	}
	for key, v := range patch {
		if v == nil {
			delete(merged, key)
			continue
		}
		child, ok := v.(map[string]any)
		if !ok {
			merged[key] = v
			continue
		}
		old, _ := merged[key].(map[string]any)
		merged[key] = MergeProperties(old, child) // this also removes the nulls of a new object
	}
	return merged
}

// DiffProperties returns the patch that turns from into to.
func DiffProperties(from, to map[string]any) map[string]any {
	patch := map[string]any{}
	for key := range from {
		if _, stays := to[key]; !stays {
			patch[key] = nil
		}
	}
	for key, v := range to {
		old, had := from[key]
		newChild, isObject := v.(map[string]any)
		oldChild, wasObject := old.(map[string]any)
		switch {
		case isObject && wasObject:
			if child := DiffProperties(oldChild, newChild); len(child) > 0 {
				patch[key] = child
			}
		case !had || !reflect.DeepEqual(old, v):
			patch[key] = v
		}
	}
	return patch
}

// WithRemoved returns the new properties, with null for each old one that is gone.
func WithRemoved(old, whole map[string]any) map[string]any {
	note := maps.Clone(whole)
	for key, was := range old {
		now, stays := whole[key]
		before, wasObject := was.(map[string]any)
		after, isObject := now.(map[string]any)
		switch {
		case !stays:
			note[key] = nil
		case wasObject && isObject:
			note[key] = WithRemoved(before, after)
		}
	}
	return note
}

// stamp says when a value was written.
type stamp struct {
	LastUpdated        string `json:"$lastUpdated"`
	LastUpdatedVersion int64  `json:"$lastUpdatedVersion"`
}

// stampProps returns the tree of $metadata after a patch: $lastUpdated and $lastUpdatedVersion
// beside the names below.
func stampProps(base, patch map[string]any, at stamp) map[string]any {
	stamped := maps.Clone(base)
	if stamped == nil {
		stamped = map[string]any{}
	}
	stamped["$lastUpdated"], stamped["$lastUpdatedVersion"] = at.LastUpdated, at.LastUpdatedVersion
	for key, v := range patch {
		if v == nil {
			delete(stamped, key)
			continue
		}
		child, _ := v.(map[string]any)
		old, _ := stamped[key].(map[string]any)
		if child == nil {
			old = nil
		}
		stamped[key] = stampProps(old, child, at)
	}
	return stamped
}

// View returns the document with $version, and with $metadata if asked for.
func (d *TwinDocument) View(metadata bool) map[string]any {
	v := maps.Clone(d.Values)
	if v == nil {
		v = map[string]any{}
	}
	v["$version"] = d.Version
	if metadata && d.Metadata != nil {
		v["$metadata"] = d.Metadata
	}
	return v
}

// HoldsNull reports whether any property is null, at any depth of objects.
func HoldsNull(props map[string]any) bool {
	for _, v := range props {
		child, _ := v.(map[string]any)
		if v == nil || HoldsNull(child) {
			return true
		}
	}
	return false
}

// ParseServicePatch reads a part of a twin from a service, which may send back versions and
// metadata. Its error is an [Error].
func ParseServicePatch(raw json.RawMessage) (map[string]any, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil
	}
	props, err := decodeObject(raw)
	if err != nil {
		return nil, Errorf(http.StatusBadRequest, "ArgumentInvalid", "A part of the twin is not a JSON object: %s", JSONFault(err, nil))
	}
	delete(props, "$metadata")
	delete(props, "$version")
	return props, ServiceTwinError(CheckTwin(props))
}

// ServiceTwinError turns a [TwinError] into an [Error]. Other errors stay as they are.
func ServiceTwinError(err error) error {
	if t, ok := errors.AsType[*TwinError](err); ok {
		code := "ArgumentInvalid"
		if t.Status == http.StatusRequestEntityTooLarge {
			code = "MessageTooLarge"
		}
		return Errorf(t.Status, code, "%s", t.Text)
	}
	return err
}

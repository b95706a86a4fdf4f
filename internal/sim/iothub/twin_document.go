package iothub

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
)

// document is one part of a twin, with the time and the version at which each value was last
// written. Its maps are replaced and never changed, so they can be shared.
type document struct {
	props   map[string]any
	written map[string]any // the tree of $metadata, which only services see
	version int64
}

// newDocument returns a part of a new twin. It begins at version 1, whatever is in it.
func newDocument(props map[string]any, now time.Time) document {
	d := document{props: props, version: 1}
	if len(props) > 0 {
		d.written = stampProps(nil, props, stamp{azure.UTC7(now), 1})
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

// ParsePatch decodes a patch and checks it. Its error is a [TwinError].
func ParsePatch(body []byte) (map[string]any, error) {
	if len(body) > 4*twinMaxBytes {
		return nil, &TwinError{413, "The twin patch is too large."}
	}
	if !utf8.Valid(body) {
		return nil, badTwin("The patch is not UTF-8.")
	}
	patch, err := decodeObject(body)
	if err != nil {
		return nil, badTwin("The patch is not a JSON object: %s", azure.JSONFault(err, nil))
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

// apply merges a checked patch: null deletes, objects merge, all else replaces. If the document
// would grow too large it stays as it was, and the error is a [TwinError].
func (d *document) apply(patch map[string]any, now time.Time) error {
	merged := mergeProps(d.props, patch)
	if n := twinSize(merged); n > twinMaxBytes || len(azure.EncodeJSON(merged)) > 4*twinMaxBytes { // much may be written that does not count
		return &TwinError{413, fmt.Sprintf("The document would have %d bytes, the limit is %d.", n, twinMaxBytes)}
	}
	d.props = merged
	d.version++
	d.written = stampProps(d.written, patch, stamp{azure.UTC7(now), d.version})
	return nil
}

// twinSize returns the size of a value as IoT Hub counts it: keys and strings by their bytes
// without control characters, numbers as 8, booleans as 4.
func twinSize(v any) (n int) {
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
			n += text(key) + twinSize(child)
		}
	case []any:
		for _, child := range v {
			n += twinSize(child)
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
func WithoutNulls(props map[string]any) map[string]any { return mergeProps(nil, props) }

// mergeProps returns base with the patch merged in. The result shares what did not change.
func mergeProps(base, patch map[string]any) map[string]any {
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
		merged[key] = mergeProps(old, child) // this also removes the nulls of a new object
	}
	return merged
}

// diffProps returns the patch that turns from into to.
func diffProps(from, to map[string]any) map[string]any {
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
			if child := diffProps(oldChild, newChild); len(child) > 0 {
				patch[key] = child
			}
		case !had || !reflect.DeepEqual(old, v):
			patch[key] = v
		}
	}
	return patch
}

// withRemoved returns the new properties, with null for each old one that is gone.
func withRemoved(old, whole map[string]any) map[string]any {
	note := maps.Clone(whole)
	for key, was := range old {
		now, stays := whole[key]
		before, wasObject := was.(map[string]any)
		after, isObject := now.(map[string]any)
		switch {
		case !stays:
			note[key] = nil
		case wasObject && isObject:
			note[key] = withRemoved(before, after)
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

// view returns the document with $version, and with $metadata if asked for.
func (d *document) view(metadata bool) map[string]any {
	v := maps.Clone(d.props)
	if v == nil {
		v = map[string]any{}
	}
	v["$version"] = d.version
	if metadata && d.written != nil {
		v["$metadata"] = d.written
	}
	return v
}

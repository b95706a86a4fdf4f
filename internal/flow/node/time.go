package node

import (
	"cmp"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Time is a hybrid logical clock: a wall-clock time, and a counter that orders what happens at the
// same time (Microsoft's page "MQTT broker state store protocol", "Hybrid Logical Clock"). The zero
// value is before every other time.
type Time struct {
	Nanos   int64 // since 1970
	Counter uint64
	Node    string // who made the time; counts last in the order
}

// TimeOf returns the logical time of a wall-clock time. What an int64 of nanoseconds cannot hold
// (the years before 1678 and after 2261) becomes the nearest time that it can.
func TimeOf(t time.Time) Time {
	switch s := t.Unix(); {
	case s >= math.MaxInt64/int64(time.Second):
		return Time{Nanos: math.MaxInt64}
	case s <= math.MinInt64/int64(time.Second):
		return Time{Nanos: math.MinInt64}
	}
	return Time{Nanos: t.UnixNano()}
}

// Wall returns the wall-clock part, in UTC.
func (t Time) Wall() time.Time { return time.Unix(0, t.Nanos).UTC() }

// Compare returns -1, 0 or 1 as t is before, at, or after o.
func (t Time) Compare(o Time) int {
	return cmp.Or(cmp.Compare(t.Nanos, o.Nanos), cmp.Compare(t.Counter, o.Counter), strings.Compare(t.Node, o.Node))
}

// Before says whether t is before o.
func (t Time) Before(o Time) bool { return t.Compare(o) < 0 }

// String returns "<ms since 1970>:<counter>:<node>", padded to 15 and 5 digits as Microsoft's SDKs
// write the user property __ts. What is below a millisecond is not in it.
func (t Time) String() string {
	return fmt.Sprintf("%015d:%05d:%s", t.Wall().UnixMilli(), t.Counter, t.Node)
}

// ParseTime reads the text of a user property __ts. Padding does not matter.
func ParseTime(text string) (Time, error) {
	ms, rest, ok := strings.Cut(text, ":")
	counter, node, ok2 := strings.Cut(rest, ":")
	if !ok || !ok2 {
		return Time{}, fmt.Errorf("logical time %.80q: want <ms since 1970>:<counter>:<node id>", text)
	}
	m, err := strconv.ParseInt(ms, 10, 64)
	if err != nil || m < 0 || m > math.MaxInt64/int64(time.Millisecond) {
		return Time{}, fmt.Errorf("logical time %.80q: %.40q is no count of milliseconds since 1970", text, ms)
	}
	c, err := strconv.ParseUint(counter, 10, 64)
	if err != nil {
		return Time{}, fmt.Errorf("logical time %.80q: %.40q is no counter", text, counter)
	}
	return Time{Nanos: m * int64(time.Millisecond), Counter: c, Node: node}, nil
}

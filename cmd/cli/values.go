package cli

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ByteSize is a number of bytes written as people do: 64MiB, 1GB, 1048576.
type ByteSize int64

var units = []struct {
	name string
	size ByteSize
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1}}

// Set reads a value.
func (b *ByteSize) Set(s string) error {
	number, unit := strings.TrimSpace(s), ByteSize(1)
	for _, u := range units {
		if at := len(number) - len(u.name); at >= 0 && strings.EqualFold(number[at:], u.name) {
			number, unit = strings.TrimSpace(number[:at]), u.size
			break
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > 1<<62/int64(unit) {
		return errors.New("it must be a number of bytes, such as 64MiB")
	}
	*b = ByteSize(n) * unit
	return nil
}

// String returns the value as Set accepts it.
func (b *ByteSize) String() string {
	for _, u := range slices.Backward(units[:4]) {
		if *b >= u.size && *b%u.size == 0 {
			return fmt.Sprintf("%d%s", *b/u.size, u.name)
		}
	}
	return strconv.FormatInt(int64(*b), 10)
}

// Type names the kind of the value in a help.
func (b *ByteSize) Type() string { return "bytes" }

// SyncEvery is a duration of at most 1 h; 0 is written always.
type SyncEvery time.Duration

const syncAlways = "always"

// Set reads a value.
func (s *SyncEvery) Set(text string) error {
	if text = strings.TrimSpace(text); strings.EqualFold(text, syncAlways) {
		*s = 0
		return nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 || d > time.Hour {
		return errors.New("it must be always, or a duration of at most 1h, such as 1s")
	}
	*s = SyncEvery(d)
	return nil
}

// String returns the value as Set accepts it.
func (s *SyncEvery) String() string {
	if *s == 0 {
		return syncAlways
	}
	return time.Duration(*s).String()
}

// Type names the kind of the value in a help.
func (s *SyncEvery) Type() string { return "always|duration" }

// Unless is a switch that is on unless the field that it sets is true.
type Unless bool

// Set reads a value.
func (u *Unless) Set(text string) error {
	on, err := strconv.ParseBool(text)
	*u = Unless(!on)
	return err
}

// String returns the value as Set accepts it.
func (u *Unless) String() string { return strconv.FormatBool(!bool(*u)) }

// Type names the kind of the value in a help.
func (u *Unless) Type() string { return "bool" }

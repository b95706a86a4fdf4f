package cmd

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// byteSize is a number of bytes written as people do: 64MiB, 1GB, 1048576.
type byteSize int64

var units = []struct {
	name string
	size byteSize
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1}}

func (b *byteSize) Set(s string) error {
	number, unit := strings.TrimSpace(s), byteSize(1)
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
	*b = byteSize(n) * unit
	return nil
}

func (b *byteSize) String() string {
	for _, u := range slices.Backward(units[:4]) {
		if *b >= u.size && *b%u.size == 0 {
			return fmt.Sprintf("%d%s", *b/u.size, u.name)
		}
	}
	return strconv.FormatInt(int64(*b), 10)
}

func (b *byteSize) Type() string { return "bytes" }

// syncEvery is a duration of at most 1 h; 0 is written always.
type syncEvery time.Duration

const syncAlways = "always"

func (s *syncEvery) Set(text string) error {
	if text = strings.TrimSpace(text); strings.EqualFold(text, syncAlways) {
		*s = 0
		return nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 || d > time.Hour {
		return errors.New("it must be always, or a duration of at most 1h, such as 1s")
	}
	*s = syncEvery(d)
	return nil
}

func (s *syncEvery) String() string {
	if *s == 0 {
		return syncAlways
	}
	return time.Duration(*s).String()
}

func (s *syncEvery) Type() string { return "always|duration" }

// unless is a switch that is on unless the field that it sets is true.
type unless bool

func (u *unless) Set(text string) error {
	on, err := strconv.ParseBool(text)
	*u = unless(!on)
	return err
}

func (u *unless) String() string { return strconv.FormatBool(!bool(*u)) }

func (u *unless) Type() string { return "bool" }

package scenario

import (
	"errors"
	"math"
	"regexp"
	"strconv"
	"sync"
	"time"
)

// RetryAfter is what DPS asks devices to wait: a number of whole seconds, or nothing.
type RetryAfter struct {
	Given bool // the scenario says something
	None  bool // DPS does not say how long
	Wait  time.Duration
}

func (r *RetryAfter) read(text string) error {
	if text == "none" {
		*r = RetryAfter{Given: true, None: true}
		return nil
	}
	d, err := duration(text)
	if err != nil || d%time.Second != 0 || d > time.Hour {
		return errors.New("whole seconds up to an hour, such as 3s, or none")
	}
	*r = RetryAfter{Given: true, Wait: d}
	return nil
}

func (*RetryAfter) form() map[string]any {
	return map[string]any{"type": "string", "pattern": `^(none|[0-9.]+(h|m|s)([0-9.]+(m|s))*)$`}
}

// Bytes is a size.
type Bytes int64

var size = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^(\d{1,6})(KiB|MiB|GiB)$`) })

func (b *Bytes) read(text string) error {
	m := size().FindStringSubmatch(text)
	if m == nil {
		return errors.New("a size such as 64MiB or 2GiB")
	}
	n, _ := strconv.ParseInt(m[1], 10, 64)
	shift := map[string]int{"KiB": 10, "MiB": 20, "GiB": 30}[m[2]]
	if n <<= shift; n < 1<<20 || n > math.MaxInt64>>20 {
		return errors.New("a size of at least 1MiB, such as 64MiB or 2GiB")
	}
	*b = Bytes(n)
	return nil
}

func (*Bytes) form() map[string]any {
	return map[string]any{"type": "string", "pattern": size().String()}
}

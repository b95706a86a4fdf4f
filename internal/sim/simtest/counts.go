package simtest

import (
	"regexp"
	"strconv"
)

// outboxMid is a message id that the ledger understands: an outbox and a sequence number.
var outboxMid = regexp.MustCompile(`^([0-9a-f]{16})-(0|[1-9][0-9]{0,18})$`)

// Counts is what a ledger promises to count, in the simplest words.
type Counts struct {
	Received, Duplicates, Reordered int64
	Seen                            map[string]bool // the message ids

	highest, lowest, numbers map[string]uint64 // sequence numbers, and how many there are, by outbox
}

// Enter counts a message. Its mid is "" if it has no message id.
func (c *Counts) Enter(mid string) {
	c.Received++
	if mid == "" {
		return
	}
	if c.Seen[mid] {
		c.Duplicates++
		return
	}
	if c.Seen == nil {
		c.Seen, c.highest, c.lowest, c.numbers = map[string]bool{}, map[string]uint64{}, map[string]uint64{}, map[string]uint64{}
	}
	c.Seen[mid] = true
	if m := outboxMid.FindStringSubmatch(mid); m != nil {
		seq, _ := strconv.ParseUint(m[2], 10, 64) // 19 digits always fit
		if seq < c.highest[m[1]] {
			c.Reordered++
		}
		c.highest[m[1]] = max(c.highest[m[1]], seq)
		if c.numbers[m[1]]++; c.numbers[m[1]] == 1 {
			c.lowest[m[1]] = seq
		}
		c.lowest[m[1]] = min(c.lowest[m[1]], seq)
	}
}

// Missing returns how many numbers between the lowest and the highest of an outbox have not come.
func (c *Counts) Missing() (n int64) {
	for outbox, numbers := range c.numbers {
		n += int64(c.highest[outbox] - c.lowest[outbox] + 1 - numbers)
	}
	return n
}

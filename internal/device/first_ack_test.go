package device

import (
	"errors"
	"fmt"
	"slices"
	"testing"
)

type heard []string

func (h *heard) Done(tickets []uint64, err error) { *h = append(*h, fmt.Sprint(tickets, err)) }

// Whoever waits for the first PUBACK of a link only listens: the drain hears of every message, and the first one is told once.
func TestFirstAckOnlyListens(t *testing.T) {
	var drain heard
	told := 0
	f := &firstAck{tell: func() { told++ }, to: &drain}
	f.serve()
	f.Done([]uint64{1, 2}, errors.New("lost"))
	if told != 0 {
		t.Error("a failure was taken for an acknowledgement")
	}
	f.Done([]uint64{3}, nil)
	f.Done([]uint64{4}, nil)
	if want := (heard{"[1 2] lost", "[3] <nil>", "[4] <nil>"}); !slices.Equal(drain, want) || told != 1 {
		t.Errorf("the drain heard %q, told %d times", drain, told)
	}
}

package queue

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/hubhop-iot/hubhop/internal/flow/node"
)

type done struct {
	tickets []uint64
	errs    []error
	calls   int
}

func (d *done) Done(tickets []uint64, err error) {
	d.calls++
	for _, t := range tickets {
		d.tickets, d.errs = append(d.tickets, t), append(d.errs, err)
	}
}

func messages(n, size int) (ms []node.Message, tickets []uint64) {
	for i := range n {
		ms = append(ms, node.Message{Payload: make([]byte, size)})
		tickets = append(tickets, uint64(i+1))
	}
	return ms, tickets
}

func TestWhatWasTakenCountsUntilItIsCompleted(t *testing.T) {
	for _, c := range []struct {
		by     string
		limits Limits
		size   int
	}{
		{"number", Limits{Messages: 3}, 10},
		{"bytes", Limits{Bytes: 3 * 1256}, 1000},
	} {
		t.Run(c.by, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q, to := New(c.limits), &done{}
				ms, tickets := messages(5, c.size)
				put := make(chan int)
				go func() {
					n, err := q.Put(t.Context(), ms, to, tickets)
					if err != nil {
						t.Error(err)
					}
					put <- n
				}()
				synctest.Wait()
				items := q.Take(nil, 100)
				if len(items) != 3 {
					t.Fatalf("took %d of 5, the bound is 3", len(items))
				}
				synctest.Wait()
				if again := q.Take(nil, 100); len(again) != 0 {
					t.Fatalf("took %d more before any was completed", len(again))
				}
				q.Complete(items[:2], nil)
				if n := <-put; n != 5 {
					t.Errorf("Put took %d", n)
				}
				items = append(items[2:], q.Take(nil, 100)...)
				q.Complete(items, nil)
				if !slices.Equal(to.tickets, tickets) || to.calls != 2 {
					t.Errorf("completed %v in %d calls", to.tickets, to.calls)
				}
				if q.count != 0 || q.bytes != 0 {
					t.Errorf("%d messages of %d bytes are left in hand", q.count, q.bytes)
				}
			})
		})
	}
}

func TestOneMessageAloneMayBeLargerThanTheBound(t *testing.T) {
	q := New(Limits{Bytes: 10})
	ms, tickets := messages(1, 1000)
	if n, err := q.Put(t.Context(), ms, &done{}, tickets); n != 1 || err != nil {
		t.Error(n, err)
	}
}

func TestPutGivesUpWithItsContextAndSaysHowFarItCame(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	q := New(Limits{Messages: 2})
	ms, tickets := messages(5, 1)
	if n, err := q.Put(ctx, ms, &done{}, tickets); n != 2 || !errors.Is(err, context.Canceled) {
		t.Error(n, err)
	}
}

func TestTakeLeavesTheRestAndSaysThatItIsThere(t *testing.T) {
	q := New(Limits{})
	ms, tickets := messages(3, 1)
	if _, err := q.Put(t.Context(), ms, &done{}, tickets); err != nil {
		t.Fatal(err)
	}
	var got []uint64
	for len(got) < 3 {
		<-q.Ready()
		for _, i := range q.Take(nil, 2) {
			got = append(got, i.Ticket)
		}
	}
	if !slices.Equal(got, tickets) {
		t.Error(got)
	}
}

func TestCompletionsOfSeveralSendersAreKeptApart(t *testing.T) {
	q, a, b := New(Limits{}), &done{}, &done{}
	ms, tickets := messages(2, 1)
	for _, to := range []*done{a, b, a} {
		if _, err := q.Put(t.Context(), ms, to, tickets); err != nil {
			t.Fatal(err)
		}
	}
	fault := errors.New("fault")
	q.Complete(q.Take(nil, 6), fault)
	if a.calls != 2 || b.calls != 1 || len(a.tickets) != 4 || len(b.tickets) != 2 || !errors.Is(b.errs[0], fault) {
		t.Errorf("%+v %+v", a, b)
	}
}

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"time"
)

// result is what became of one cell of the table. Node clients print it as a line of JSON.
type result struct {
	Client   string `json:"client"`
	Scenario string `json:"scenario"`
	OK       bool   `json:"ok"`
	Why      string `json:"why,omitempty"`
	MS       int64  `json:"ms"`
}

// results collects from all clients at once.
type results struct {
	mu  sync.Mutex
	all []result
}

func (r *results) add(one result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, one)
	mark := "ok "
	if !one.OK {
		mark = "RED"
	}
	fmt.Printf("%s %-12s %-22s %5d ms  %s\n", mark, one.Client, one.Scenario, one.MS, strings.TrimSpace(one.Why))
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// scenarioLimit is how long one scenario may take.
const scenarioLimit = 30 * time.Second

// suite is one client's scenarios, run one after the other.
type suite struct {
	client string
	cloud  *cloud // Central's way: a device that moves is disabled where it was
	plain  *cloud // plain DPS's way: it is deleted; tokens have no grace
	out    *results
	only   string // run this scenario and no other; "" runs all
}

// try is one scenario under way. Its methods give the scenario up by a panic that run turns into a
// red cell.
type try struct {
	*suite
	ctx context.Context
	id  string // a device id nobody else uses
}

type givenUp string

func (s *suite) run(scenario string, f func(t *try)) {
	if s.only != "" && s.only != scenario {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), scenarioLimit)
	defer cancel()
	t := &try{suite: s, ctx: ctx, id: s.client + "-" + scenario}
	began := time.Now()
	r := result{Client: s.client, Scenario: scenario, OK: true}
	func() {
		defer func() {
			if why := recover(); why != nil {
				r.OK, r.Why = false, fmt.Sprint(why)
			}
		}()
		f(t)
	}()
	r.MS = time.Since(began).Milliseconds()
	s.out.add(r)
}

func (t *try) fail(format string, args ...any) { panic(givenUp(fmt.Sprintf(format, args...))) }

func (t *try) must(what string, err error) {
	if err != nil {
		t.fail("%s: %v", what, err)
	}
}

// refused wants an error that says one of these words.
func (t *try) refused(what string, err error, words ...string) {
	if err == nil {
		t.fail("%s: not refused", what)
	}
	for _, w := range words {
		if strings.Contains(strings.ToLower(err.Error()), strings.ToLower(w)) {
			return
		}
	}
	t.fail("%s: refused with %q, which says none of %q", what, err, words)
}

// equal compares as JSON does, so that 1 and 1.0 are the same.
func (t *try) equal(what string, got, want any) {
	if g, w := normal(got), normal(want); !reflect.DeepEqual(g, w) {
		t.fail("%s is %v, not %v", what, g, w)
	}
}

func normal(v any) (n any) {
	b, err := json.Marshal(v)
	if err != nil || json.Unmarshal(b, &n) != nil {
		return v
	}
	return n
}

// eventually asks until it holds.
func (t *try) eventually(what string, holds func() bool) {
	for !holds() {
		select {
		case <-t.ctx.Done():
			t.fail("%s: not within %v", what, scenarioLimit)
		case <-time.After(25 * time.Millisecond):
		}
	}
}

// receive waits for what a client's callback puts into a channel.
func receive[T any](t *try, what string, c <-chan T) (v T) {
	select {
	case v = <-c:
	case <-t.ctx.Done():
		t.fail("%s: not within %v", what, scenarioLimit)
	}
	return v
}

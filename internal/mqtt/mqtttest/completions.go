package mqtttest

import (
	"fmt"
	"sync"
)

// Acks collects the completions of messages by name. Its zero value is ready.
type Acks struct {
	mu   sync.Mutex
	seen map[string][]error
}

// Done returns the completion of the message called name.
func (a *Acks) Done(name string) func(error) {
	return func(err error) {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.seen == nil {
			a.seen = map[string][]error{}
		}
		a.seen[name] = append(a.seen[name], err)
	}
}

// Of returns how the message called name was completed: one error, or nil, for each time.
func (a *Acks) Of(name string) []error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.seen[name]
}

// Ledger is a completion of tickets that writes down what it is told. Its zero value is ready.
type Ledger struct {
	Told []string // "7 true" when the message of ticket 7 was acknowledged, "7 false" when it failed

	mu sync.Mutex
}

// Done is told of tickets that share one end.
func (l *Ledger) Done(tickets []uint64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, t := range tickets {
		l.Told = append(l.Told, fmt.Sprintf("%d %v", t, err == nil))
	}
}

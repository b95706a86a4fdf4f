package hub

import (
	"context"
	"sync"
)

// receiver is a Handler that lets its owner wait for what comes.
type receiver struct {
	l     *Link
	ready chan struct{} // one slot
	renew chan struct{}

	mu  sync.Mutex
	all []Inbound
}

func (r *receiver) put(all ...Inbound) {
	r.mu.Lock()
	r.all = append(r.all, all...)
	r.mu.Unlock()
	select {
	case r.ready <- struct{}{}:
	default:
	}
}

func (r *receiver) FirstAck()        {}
func (r *receiver) Renew()           { close(r.renew) }
func (r *receiver) Method(m *Method) { r.put(m) }

func (r *receiver) Desired() {
	for {
		all := r.l.TakeDesired()
		if all == nil {
			return
		}
		for _, d := range all {
			r.put(d)
		}
	}
}

func (r *receiver) Messages() {
	for {
		all := r.l.TakeMessages()
		if all == nil {
			return
		}
		for _, m := range all {
			r.put(m)
		}
	}
}

func (l *Link) receiver() *receiver {
	l.mu.Lock()
	r := l.old
	if r != nil {
		l.mu.Unlock()
		return r
	}
	r = &receiver{l: l, ready: make(chan struct{}, 1), renew: make(chan struct{})}
	l.old = r
	l.mu.Unlock()
	l.Serve(r)
	return r
}

// Renew is closed when the token should be replaced.
//
// Deprecated: Serve.
func (l *Link) Renew() <-chan struct{} { return l.receiver().renew }

// Receive waits for what comes.
//
// Deprecated: Serve.
func (l *Link) Receive(ctx context.Context) (Inbound, error) {
	r := l.receiver()
	for {
		r.mu.Lock()
		if len(r.all) > 0 {
			in := r.all[0]
			r.all = r.all[1:]
			r.mu.Unlock()
			return in, nil
		}
		r.mu.Unlock()
		select {
		case <-r.ready:
		case <-l.Done():
			return nil, l.Err()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Package linequeue writes lines for a reader that may be slow, may stall, or may go away.
package linequeue

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sync"
	"time"
)

const (
	// Room bounds the lines that wait for a reader, in bytes. As much again may be in the write
	// under way.
	Room = 256 << 10
	// FlushLimit is how long the process waits at its end for a reader that does not read.
	FlushLimit = time.Second
)

// Queue is a writer of lines that never waits for its reader. A pipe whose reader has stalled,
// or a terminal that was stopped with Ctrl-S, must not hold up a device. Each Write is one line, or
// several whole ones. A line that finds no room is dropped and counted; when the reader is back,
// one line says how many were. If the reader is gone, only the lines are lost.
type Queue struct {
	out  io.Writer
	tell func(dropped uint64) []byte // the line that says how many were dropped

	wake  chan struct{} // one slot: there is something to do
	ended chan struct{} // closed when everything is written, after Close

	mu      sync.Mutex
	waiting []byte
	dropped uint64 // lines dropped since the last one that was kept; while it is not 0, new lines are dropped too
	closing bool
}

// New returns a queue whose lines go to out. The caller must call Close.
func New(out io.Writer) *Queue {
	q := &Queue{out: out, tell: plainDropped, wake: make(chan struct{}, 1), ended: make(chan struct{})}
	go q.run()
	return q
}

func plainDropped(n uint64) []byte { return fmt.Appendf(nil, "hubhop: %s\n", DroppedText(n)) }

// DroppedText is the sentence that stands where n lines are missing.
func DroppedText(n uint64) string {
	return fmt.Sprintf("%d lines are missing here: nobody read them in time", n)
}

// Write never waits and never fails. It keeps nothing of p.
func (q *Queue) Write(p []byte) (int, error) {
	q.mu.Lock()
	if q.dropped > 0 || len(q.waiting)+len(p) > Room {
		q.dropped += lines(p)
	} else {
		q.waiting = append(q.waiting, p...)
	}
	q.mu.Unlock()
	q.hurry()
	return len(p), nil
}

func (q *Queue) hurry() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// Out returns the writer that the lines go to.
func (q *Queue) Out() io.Writer { return q.out }

// TellWith changes the line that says how many were dropped.
func (q *Queue) TellWith(tell func(dropped uint64) []byte) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.tell = tell
}

// run writes the lines that wait. After a failure it tries again only when a new line comes: a
// reader that is gone does not come back, but a full disk may have room again.
func (q *Queue) run() {
	defer close(q.ended)
	var spare []byte
	for range q.wake {
		for {
			q.mu.Lock()
			batch, dropped := q.waiting, q.dropped
			if len(batch) == 0 && dropped == 0 {
				closing := q.closing
				q.mu.Unlock()
				if closing {
					return
				}
				break
			}
			q.waiting, q.dropped = spare[:0], 0
			if dropped > 0 { // the dropped lines came after those that wait
				batch = append(batch, q.tell(dropped)...)
			}
			q.mu.Unlock()
			n, err := q.out.Write(batch)
			spare = batch[:0]
			if err == nil {
				continue
			}
			q.mu.Lock()
			q.dropped += lines(batch[min(n, len(batch)):])
			if dropped > 0 {
				q.dropped += dropped - 1 // the line that counts them failed too, but is not one of them
			}
			q.dropped += lines(q.waiting)
			q.waiting = q.waiting[:0]
			closing := q.closing
			q.mu.Unlock()
			if closing {
				return
			}
			break
		}
	}
}

// Close writes the lines that wait, at most until FlushLimit after the end of ctx, and says whether
// all were written. Write must not be called any more.
func (q *Queue) Close(ctx context.Context) bool {
	q.mu.Lock()
	q.closing = true
	q.mu.Unlock()
	q.hurry()
	select {
	case <-q.ended:
		return true
	case <-ctx.Done():
	}
	limit := time.NewTimer(FlushLimit)
	defer limit.Stop()
	select {
	case <-q.ended:
		return true
	case <-limit.C:
		return false
	}
}

// CloseSoon is Close for at most FlushLimit.
func (q *Queue) CloseSoon() bool {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return q.Close(ctx)
}

// lines counts the lines of p; the last line counts without its line feed too.
func lines(p []byte) uint64 {
	n := bytes.Count(p, []byte{'\n'})
	if len(p) > 0 && p[len(p)-1] != '\n' {
		n++
	}
	return uint64(n)
}

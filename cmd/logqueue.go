package cmd

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sync"
	"time"
)

const (
	// logRoom bounds the lines that wait for a reader, in bytes. As much again may be in the write under way.
	logRoom = 256 << 10
	// flushLimit is how long the end of the process waits for a reader who does not read.
	flushLimit = time.Second
)

// logQueue is a writer of lines that never waits for its reader. A pipe whose reader has stalled, or a
// terminal that was stopped with Ctrl-S, must not hold up a device. Each Write is one line, or several whole
// ones. What finds no room is dropped and counted; when the reader is back, one line says how many there were.
// A reader who is gone costs the lines and nothing else.
type logQueue struct {
	out  io.Writer
	tell func(dropped uint64) []byte // the line that says how many were dropped

	wake  chan struct{} // one slot: there is something to do
	ended chan struct{} // closed when everything is written, after Close

	mu      sync.Mutex
	waiting []byte
	dropped uint64 // lines since the last one that was kept; while there are any, none is kept
	closing bool
}

// newLogQueue returns a queue whose lines go to out. Somebody must call Close.
func newLogQueue(out io.Writer) *logQueue {
	q := &logQueue{out: out, tell: plainDropped, wake: make(chan struct{}, 1), ended: make(chan struct{})}
	go q.run()
	return q
}

func plainDropped(n uint64) []byte { return fmt.Appendf(nil, "hubhop: %s\n", droppedText(n)) }

func droppedText(n uint64) string {
	return fmt.Sprintf("%d lines are missing here: nobody read them in time", n)
}

// Write never waits and never fails. It keeps nothing of p.
func (q *logQueue) Write(p []byte) (int, error) {
	q.mu.Lock()
	if q.dropped > 0 || len(q.waiting)+len(p) > logRoom {
		q.dropped += lines(p)
	} else {
		q.waiting = append(q.waiting, p...)
	}
	q.mu.Unlock()
	q.hurry()
	return len(p), nil
}

func (q *logQueue) hurry() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// tellWith changes the line that says how many were dropped.
func (q *logQueue) tellWith(tell func(dropped uint64) []byte) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.tell = tell
}

// run writes what waits. It tries again after a failure only when there is something new: a reader who is gone
// does not come back, but a disk that was full may have room.
func (q *logQueue) run() {
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
			if dropped > 0 { // they came behind those that wait
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
				q.dropped += dropped - 1 // the line that told of them is one of those that were not written
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

// Close writes what waits, for as long as ctx lives and flushLimit after it, and says whether that was enough.
// Nothing may be written any more.
func (q *logQueue) Close(ctx context.Context) bool {
	q.mu.Lock()
	q.closing = true
	q.mu.Unlock()
	q.hurry()
	select {
	case <-q.ended:
		return true
	case <-ctx.Done():
	}
	limit := time.NewTimer(flushLimit)
	defer limit.Stop()
	select {
	case <-q.ended:
		return true
	case <-limit.C:
		return false
	}
}

// closeSoon is Close for at most flushLimit.
func (q *logQueue) closeSoon() bool {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return q.Close(ctx)
}

// lines counts the lines of p; the last one need not have an end.
func lines(p []byte) uint64 {
	n := bytes.Count(p, []byte{'\n'})
	if len(p) > 0 && p[len(p)-1] != '\n' {
		n++
	}
	return uint64(n)
}

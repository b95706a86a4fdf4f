package status

import (
	"context"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// streamHead is the beginning of a stream. Its lines are those of an answer of HTTP/1.1 that ends
// with its connection.
const streamHead = "HTTP/1.1 200 OK\r\n" +
	"Content-Type: text/event-stream\r\n" +
	"Cache-Control: no-store\r\n" +
	"X-Content-Type-Options: nosniff\r\n" +
	"Cross-Origin-Resource-Policy: same-origin\r\n" +
	"X-Accel-Buffering: no\r\n" + // a proxy must not keep what it gets
	"Connection: close\r\n\r\n" +
	"retry: 1000\n" + signFrame

// signFrame shows a reader that the server is there.
const signFrame = ": beat\n\n"

// stream is GET /events. It takes the connection out of the hands of net/http, which would keep
// more than 20 kB for each reader. A reader then costs a small goroutine, a timer and its socket.
func (s *Server) stream(w http.ResponseWriter, r *http.Request, reach Reach) {
	after, known, ok := lastSeen(r)
	if !ok {
		refuse(w, http.StatusBadRequest, "after and Last-Event-ID are the id of an event, which is a number")
		return
	}
	if !s.mayStream(reach) {
		w.Header().Set("Retry-After", "10")
		refuse(w, http.StatusServiceUnavailable, "the events have "+strconv.Itoa(maxStreams)+" readers already")
		return
	}
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		s.streamOver(reach)
		refuse(w, http.StatusHTTPVersionNotSupported, "ask with HTTP/1.1")
		return
	}
	p, ours := conn.(*place)
	if !ours {
		s.streamOver(reach)
		_ = conn.Close()
		return
	}
	p.leave()
	at := s.Events.from(after, known)
	p.of.streams.Go(func() {
		defer s.streamOver(reach)
		s.Events.feed(p.of.ctx, p.Conn, at)
	})
}

func (s *Server) mayStream(reach Reach) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	taken := &s.places[reach].streams
	if *taken >= maxStreams {
		return false
	}
	*taken++
	return true
}

func (s *Server) streamOver(reach Reach) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.places[reach].streams--
}

// lastSeen returns the id that a reader has seen last, from the header that a browser sends when it
// connects again, else from the query.
func lastSeen(r *http.Request) (after uint64, known, ok bool) {
	text := r.Header.Get("Last-Event-ID")
	if text == "" {
		text = r.URL.Query().Get("after")
	}
	if text == "" {
		return 0, false, true
	}
	after, err := strconv.ParseUint(text, 10, 64)
	return after, true, err == nil
}

// feed writes events to a reader until it is gone, takes nothing for writeLimit, or ctx ends.
func (e *Events) feed(ctx context.Context, conn net.Conn, at cursor) {
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	defer func() { _ = conn.Close() }()
	if !write(conn, net.Buffers{[]byte(streamHead)}) {
		return
	}
	silent := time.NewTimer(sign)
	defer silent.Stop()
	for {
		more, ok := e.pass(conn, &at)
		if !ok {
			return
		}
		silent.Reset(sign)
		select {
		case <-more:
		case <-silent.C:
			if !write(conn, net.Buffers{[]byte(signFrame)}) {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// scratches are shared by the readers, because most of them wait most of the time.
var scratches = sync.Pool{New: func() any { return new([atOnce][]byte) }}

// pass writes all that the reader has not got. Then more is closed when there is more.
//
//go:noinline
func (e *Events) pass(conn net.Conn, at *cursor) (more <-chan struct{}, ok bool) {
	scratch := scratches.Get().(*[atOnce][]byte)
	defer func() {
		clear(scratch[:])
		scratches.Put(scratch)
	}()
	for {
		frames, missed, more := e.take(at, scratch[:0])
		if missed > 0 && !write(conn, net.Buffers{missedFrame(missed)}) {
			return nil, false
		}
		if len(frames) == 0 {
			return more, true
		}
		if !write(conn, net.Buffers(frames)) {
			return nil, false
		}
	}
}

// write gives a reader writeLimit to take something.
func write(conn net.Conn, frames net.Buffers) bool {
	if conn.SetWriteDeadline(time.Now().Add(writeLimit)) != nil {
		return false
	}
	_, err := frames.WriteTo(conn)
	return err == nil
}

package mqtt

import (
	"errors"
	"io"
	"os"
	"time"
)

const (
	smallAhead = 64 // bytes: the answers of a server with little to say
	calmAhead  = 16 // reads in a row that a small buffer would have done for
)

// ahead reads ahead. An idle session waits with a small buffer, which is part of it. The large one
// is there while the peer sends much at a time.
type ahead struct {
	from  io.Reader
	large int   // size of the large buffer
	err   error // what from returned beside the bytes that are still here

	buf   []byte // small, or the large one; nil: small
	r, w  int    // buf[r:w] was read and not taken
	last  int    // bytes that the last read brought
	calm  int    // reads in a row, into the large buffer, that the small one would have done for
	small [smallAhead]byte
}

// buffered returns the number of bytes that are here.
func (a *ahead) buffered() int { return a.w - a.r }

// peek returns all bytes that are here, at least n of them, or fewer with the error that is in the
// way. They are valid until the next call. n is at most smallAhead.
func (a *ahead) peek(n int) ([]byte, error) {
	for a.w-a.r < n {
		if err := a.fill(); err != nil {
			return a.buf[a.r:a.w], err
		}
	}
	return a.buf[a.r:a.w], nil
}

// discard takes n bytes that were peeked.
func (a *ahead) discard(n int) { a.r += n }

// read fills b, from what is here and then without a buffer.
func (a *ahead) read(b []byte) error {
	n := copy(b, a.buf[a.r:a.w])
	a.r += n
	switch {
	case n == len(b):
		return nil
	case a.err != nil:
		return a.kept()
	}
	a.r, a.w = 0, 0
	_, err := io.ReadFull(a.from, b[n:])
	return err
}

// fill reads once.
func (a *ahead) fill() error {
	if a.err != nil {
		return a.kept()
	}
	a.choose()
	for range 100 { // an io.Reader may return nothing now and then, but not for ever
		n, err := a.from.Read(a.buf[a.w:])
		if n > 0 {
			a.w, a.last, a.err = a.w+n, n, err
			return nil
		}
		if err != nil {
			return err
		}
	}
	return io.ErrNoProgress
}

// longAgo is a deadline with which a read waits for nothing.
var longAgo = time.Unix(1, 0)

// gather reads what came together with the bytes that fill the small buffer, as far as TLS has it
// already. It waits for nothing. from reads of conn.
//
// Without it, the first answers of a burst would be handled alone. A sender then sends as many
// messages as it got answers, so the burst would go to and fro in two parts, and then in more, each
// with its own writes and reads.
func (a *ahead) gather(conn interface{ SetReadDeadline(t time.Time) error }) {
	if len(a.buf) != smallAhead || a.w < smallAhead || a.err != nil || conn.SetReadDeadline(longAgo) != nil {
		return
	}
	a.choose()
	n, err := a.from.Read(a.buf[a.w:])
	if n > 0 {
		a.w, a.last = a.w+n, n
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		a.err = err
	}
	if err := conn.SetReadDeadline(time.Time{}); err != nil && a.err == nil {
		a.err = err
	}
}

// kept returns the error that came together with bytes, and forgets it. If it was a deadline that
// the caller moves then, reading goes on.
func (a *ahead) kept() error {
	err := a.err
	a.err = nil
	return err
}

// choose takes the buffer for the next read, and moves what is here to its start.
func (a *ahead) choose() {
	next := a.buf
	switch {
	case a.buf == nil:
		next = a.small[:]
	case len(a.buf) == smallAhead:
		if a.w == smallAhead { // more may have come than it takes
			next, a.calm = make([]byte, max(a.large, smallAhead)), 0
		}
	case a.last > smallAhead:
		a.calm = 0
	default:
		if a.calm++; a.calm == calmAhead {
			next = a.small[:]
		}
	}
	left := copy(next, a.buf[a.r:a.w])
	a.buf, a.r, a.w = next, 0, left
}

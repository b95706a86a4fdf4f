package mqtt

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"testing"
	"testing/iotest"
)

// TestReadingAheadChangesNothing: whatever pieces the peer's bytes come in, the packets are the
// same.
func TestReadingAheadChangesNothing(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var all []byte
	var want []Packet
	for i := range 3000 {
		if r.IntN(2) == 0 {
			all = AppendPuback(all, uint16(i+1))
			want = append(want, Packet{Kind: Puback, ID: uint16(i + 1)})
			continue
		}
		m := Message{Topic: "t", Body: make([]byte, r.IntN(200)), QoS: 1}
		all = m.Append(all, uint16(i+1), false)
		want = append(want, Packet{Kind: Publish, ID: uint16(i + 1), Topic: "t", Body: m.Body, QoS: 1})
	}
	for name, from := range map[string]io.Reader{
		"at once":               bytes.NewReader(all),
		"byte by byte":          iotest.OneByteReader(bytes.NewReader(all)),
		"in halves":             iotest.HalfReader(bytes.NewReader(all)),
		"with its end":          iotest.DataErrReader(bytes.NewReader(all)),
		"in pieces of any size": pieces{bytes.NewReader(all), r},
	} {
		in := NewReader(from, maxInbound, readBuffer)
		for i, w := range want {
			p, err := in.Next()
			if err != nil || p.Kind != w.Kind || p.ID != w.ID || p.Topic != w.Topic || !bytes.Equal(p.Body, w.Body) {
				t.Fatalf("%s: packet %d is %+v, %v, want %+v", name, i, p, err, w)
			}
		}
		if _, err := in.Next(); !errors.Is(err, io.EOF) {
			t.Errorf("%s: at the end: %v", name, err)
		}
	}
}

// pieces are reads of 1 to 200 bytes.
type pieces struct {
	io.Reader
	r *rand.Rand
}

func (p pieces) Read(b []byte) (int, error) { return p.Reader.Read(b[:min(len(b), 1+p.r.IntN(200))]) }

// TestLargeBufferIsThereWhileMuchComes: a peer that says little is read with the small buffer.
func TestLargeBufferIsThereWhileMuchComes(t *testing.T) {
	var next []byte
	in := NewReader(readFunc(func(b []byte) (int, error) {
		n := copy(b, next)
		next = next[n:]
		if n == 0 {
			return 0, io.EOF
		}
		return n, nil
	}), maxInbound, readBuffer)
	reads := func(times, acks int) {
		t.Helper()
		for range times {
			for i := range acks {
				next = AppendPuback(next, uint16(i+1))
			}
			for range acks {
				if _, err := in.Next(); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	for _, v := range []struct{ times, acks, size int }{
		{100, 1, smallAhead},
		{1, 64, readBuffer},
		{5, 64, readBuffer},
		{calmAhead / 2, 1, readBuffer},
		{1, 64, readBuffer},
		{calmAhead + 1, 1, smallAhead},
		{100, 1, smallAhead},
	} {
		if reads(v.times, v.acks); len(in.ahead.buf) != v.size {
			t.Errorf("after %d reads of %d packets the buffer has %d bytes, not %d", v.times, v.acks, len(in.ahead.buf), v.size)
		}
	}
}

type readFunc func(b []byte) (int, error)

func (f readFunc) Read(b []byte) (int, error) { return f(b) }

// TestDeadlineIsNotKept: a reader whose deadline has passed reads on when it is moved.
func TestDeadlineIsNotKept(t *testing.T) {
	late := true
	in := NewReader(readFunc(func(b []byte) (int, error) {
		if late {
			return 0, os.ErrDeadlineExceeded
		}
		return copy(b, []byte{0xd0, 0}), nil
	}), maxInbound, readBuffer)
	if err := in.Await(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(err)
	}
	late = false
	if p, err := in.Next(); err != nil || p.Kind != Pingresp {
		t.Errorf("%+v %v", p, err)
	}
}

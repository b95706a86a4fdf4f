package format

import (
	"bytes"
	"errors"
	"io"
)

// Frame is one message as it was found. The payload is valid until the scanner moves on.
type Frame struct {
	Number, Commit uint32
	Payload        []byte
	At, End        int64 // where in the file
}

// Scanner walks over the frames of a segment. It trusts no length, and accepts only what a checksum
// vouches for. Numbers only go up.
type Scanner struct {
	File   io.ReaderAt
	Header Header
	Size   int64  // where to stop
	At     int64  // where the next frame should start
	Number uint64 // the lowest number that it may have

	Found    Frame
	Window   []byte
	WindowAt int64
	Most     int // bytes to read at once
}

// Next returns the next frame, nil if there is none up to the end. The frame is valid until the
// next call. A frame that does not start at the end of the one before has damage before it.
func (s *Scanner) Next() (*Frame, error) {
	ok, err := s.Try(s.At)
	if err == nil && !ok {
		ok, err = s.resync()
	}
	if err != nil || !ok {
		return nil, err
	}
	s.At, s.Number = s.Found.End, uint64(s.Found.Number)+1
	return &s.Found, nil
}

// resync looks for a frame behind an offset where none starts.
func (s *Scanner) resync() (bool, error) {
	var marker [4]byte
	le.PutUint32(marker[:], s.Header.Marker())
	for at := s.At + 1; at+FrameSize <= s.Size; {
		b, err := s.Bytes(at, ReadAhead)
		if err != nil {
			return false, err
		}
		i := bytes.Index(b, marker[:])
		if i < 0 {
			if len(b) <= len(marker) {
				break
			}
			at += int64(len(b) - len(marker) + 1)
			continue
		}
		at += int64(i)
		if ok, err := s.Try(at); ok || err != nil {
			return ok, err
		}
		at++
	}
	return false, nil
}

// Try says whether a frame with the right checksum starts at an offset, and reads it into Found.
func (s *Scanner) Try(at int64) (bool, error) {
	if at+FrameSize > s.Size {
		return false, nil
	}
	b, err := s.Bytes(at, FrameSize)
	if err != nil || len(b) < FrameSize || le.Uint32(b) != s.Header.Marker() {
		return false, err
	}
	length := int64(le.Uint32(b[4:]))
	f := &s.Found
	f.Number, f.Commit, f.At, f.End = le.Uint32(b[8:]), le.Uint32(b[12:]), at, at+FrameSize+length
	if length > MaxPayload || f.End > s.Size || uint64(f.Number) < s.Number || f.Commit > f.Number {
		return false, nil
	}
	b, err = s.Bytes(at, FrameSize+int(length))
	if err != nil || int64(len(b)) < FrameSize+length {
		return false, err
	}
	f.Payload = b[FrameSize : FrameSize+length]
	return le.Uint32(b[16:]) == s.Header.Sum(b[4:16], f.Payload), nil
}

// Bytes returns n bytes of the file, fewer at its end. They are valid until the next call.
func (s *Scanner) Bytes(at int64, n int) ([]byte, error) {
	n = int(min(int64(n), s.Size-at))
	if n <= 0 {
		return nil, nil
	}
	if have := s.WindowAt + int64(len(s.Window)) - at; at < s.WindowAt || have < int64(n) {
		want := int(min(int64(max(n, s.Most)), s.Size-at))
		if cap(s.Window) < want {
			s.Window = make([]byte, want)
		}
		got, err := s.File.ReadAt(s.Window[:want], at)
		if err != nil && !errors.Is(err, io.EOF) && want > n { // the bytes ahead may be bad
			got, err = s.File.ReadAt(s.Window[:n], at)
		}
		if err != nil && !errors.Is(err, io.EOF) {
			s.Window = s.Window[:0]
			return nil, err
		}
		s.Window, s.WindowAt = s.Window[:got], at
	}
	b := s.Window[at-s.WindowAt:]
	return b[:min(n, len(b))], nil
}

// HasContent says whether there is anything but zeros in a part of a file.
func HasContent(f io.ReaderAt, from, to int64) (bool, error) {
	sc := Scanner{File: f, Size: to, Most: ReadAhead}
	for from < to {
		b, err := sc.Bytes(from, ReadAhead)
		if err != nil || len(b) == 0 {
			return false, err
		}
		for _, x := range b {
			if x != 0 {
				return true, nil
			}
		}
		from += int64(len(b))
	}
	return false, nil
}

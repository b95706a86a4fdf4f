package outbox

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// The format of a segment, byte by byte, is in docs/outbox.md, section 2.1.
const (
	version     = 1
	segMagic    = "hubhopSG"
	headerSize  = 64
	framesStart = 2 * headerSize // the header is there twice
	frameSize   = 20             // without the payload
	readAhead   = 64 << 10
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// le is the byte order of everything here.
var le = binary.LittleEndian

// header is what all frames of a segment have in common.
type header struct {
	id      boxID
	base    uint64 // place of message number 0
	baseSeq uint64 // its seq
	salt    uint64
	seed    uint32 // what the salt makes of every checksum
}

func newHeader(id boxID, base, baseSeq, salt uint64) header {
	var b [8]byte
	le.PutUint64(b[:], salt)
	return header{id: id, base: base, baseSeq: baseSeq, salt: salt, seed: crc32.Checksum(b[:], castagnoli)}
}

func (h *header) marker() uint32 { return uint32(h.salt) }

// newSalt is random, so that nothing in a message can pass for a frame, and its marker is not zero, which is what unwritten space is.
func newSalt() uint64 {
	for {
		if salt := random(); uint32(salt) != 0 {
			return salt
		}
	}
}

func random() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails, by its own documentation
	return le.Uint64(b[:])
}

func newID() boxID {
	for {
		if id := boxID(random()); id != 0 {
			return id
		}
	}
}

// appendPrefix appends the 16 bytes that begin every file and slot of every version, so that an old program knows a newer one's.
func appendPrefix(b []byte, magic string) []byte {
	start := len(b)
	b = append(b, magic...)
	b = le.AppendUint32(b, version)
	return le.AppendUint32(b, crc32.Checksum(b[start:], castagnoli))
}

// isOurs says whether b begins a file or slot. An error, of a kind that isVersion knows, says that it is one of another version: whose
// it is can be told, what it says cannot.
func isOurs(b []byte, magic string) (bool, error) {
	if len(b) < 16 || string(b[:8]) != magic || le.Uint32(b[12:]) != crc32.Checksum(b[:12], castagnoli) {
		return false, nil
	}
	switch v := le.Uint32(b[8:]); {
	case v > version:
		return false, fmt.Errorf("%w: its format is %d, this program knows %d: use the program that wrote it, or a newer one", ErrNewer, v, version)
	case v < version:
		return false, fmt.Errorf("%w: its format is %d, this program knows %d: empty it with the program that wrote it", ErrOlder, v, version)
	}
	return true, nil
}

func isVersion(err error) bool { return errors.Is(err, ErrNewer) || errors.Is(err, ErrOlder) }

// appendTo appends the header, twice.
func (h *header) appendTo(b []byte) []byte {
	for range 2 {
		start := len(b)
		b = appendPrefix(b, segMagic)
		b = le.AppendUint64(b, uint64(h.id))
		b = le.AppendUint64(b, h.base)
		b = le.AppendUint64(b, h.baseSeq)
		b = le.AppendUint64(b, h.salt)
		b = append(b, make([]byte, 12)...)
		b = le.AppendUint32(b, crc32.Checksum(b[start:], castagnoli))
	}
	return b
}

var (
	errHeader = errors.New("neither copy of the segment's header can be read")
	errHalved = errors.New("one copy of the segment's header cannot be read")
)

// readHeader takes the header from either copy. damaged says that only one of them was good.
func readHeader(r io.ReaderAt) (h header, damaged bool, err error) {
	var both [framesStart]byte
	n, err := r.ReadAt(both[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return header{}, false, err
	}
	good := 0
	for b := both[:n]; len(b) >= headerSize; b = b[headerSize:] {
		one := b[:headerSize]
		ours, err := isOurs(one, segMagic)
		if err != nil {
			return header{}, false, err
		}
		if !ours || le.Uint32(one[60:]) != crc32.Checksum(one[:60], castagnoli) {
			continue
		}
		good++
		h = newHeader(boxID(le.Uint64(one[16:])), le.Uint64(one[24:]), le.Uint64(one[32:]), le.Uint64(one[40:]))
	}
	if good == 0 || h.marker() == 0 {
		return header{}, false, errHeader
	}
	return h, good < 2, nil
}

// appendFrame appends one message. commit is the number of the first message of the same write.
func (h *header) appendFrame(b []byte, number, commit uint32, payload []byte) []byte {
	start := len(b)
	b = le.AppendUint32(b, h.marker())
	b = le.AppendUint32(b, uint32(len(payload)))
	b = le.AppendUint32(b, number)
	b = le.AppendUint32(b, commit)
	b = le.AppendUint32(b, h.sum(b[start+4:], payload))
	return append(b, payload...)
}

// sum is the checksum over the salt, the twelve bytes behind the marker, and the payload.
func (h *header) sum(fields, payload []byte) uint32 {
	return crc32.Update(crc32.Update(h.seed, castagnoli, fields[:12]), castagnoli, payload)
}

// frame is one message as it was found; payload is good until the scanner moves on.
type frame struct {
	number, commit uint32
	payload        []byte
	at, end        int64 // where in the file
}

// scanner walks over the frames of a segment. It trusts no length and accepts nothing but what its checksum vouches for; numbers
// only ever go up.
type scanner struct {
	file   io.ReaderAt
	header header
	size   int64  // where to stop
	at     int64  // where the next frame should start
	number uint64 // the lowest number that it may have

	found    frame
	window   []byte
	windowAt int64
	most     int // bytes to read at once
}

// next returns the next frame, good until the next call; nil if there is none up to the end. One that does not start where the last one
// ended has damage before it.
func (s *scanner) next() (*frame, error) {
	ok, err := s.try(s.at)
	if err == nil && !ok {
		ok, err = s.resync()
	}
	if err != nil || !ok {
		return nil, err
	}
	s.at, s.number = s.found.end, uint64(s.found.number)+1
	return &s.found, nil
}

// resync looks for a frame behind the place where none starts.
func (s *scanner) resync() (bool, error) {
	var marker [4]byte
	le.PutUint32(marker[:], s.header.marker())
	for at := s.at + 1; at+frameSize <= s.size; {
		b, err := s.bytes(at, readAhead)
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
		if ok, err := s.try(at); ok || err != nil {
			return ok, err
		}
		at++
	}
	return false, nil
}

// try says whether a frame starts there, and finds it.
func (s *scanner) try(at int64) (bool, error) {
	if at+frameSize > s.size {
		return false, nil
	}
	b, err := s.bytes(at, frameSize)
	if err != nil || len(b) < frameSize || le.Uint32(b) != s.header.marker() {
		return false, err
	}
	length := int64(le.Uint32(b[4:]))
	f := &s.found
	f.number, f.commit, f.at, f.end = le.Uint32(b[8:]), le.Uint32(b[12:]), at, at+frameSize+length
	if length > MaxRecord || f.end > s.size || uint64(f.number) < s.number || f.commit > f.number {
		return false, nil
	}
	b, err = s.bytes(at, frameSize+int(length))
	if err != nil || int64(len(b)) < frameSize+length {
		return false, err
	}
	f.payload = b[frameSize : frameSize+length]
	return le.Uint32(b[16:]) == s.header.sum(b[4:16], f.payload), nil
}

// bytes returns n bytes of the file, fewer at its end. They are good until the next call.
func (s *scanner) bytes(at int64, n int) ([]byte, error) {
	n = int(min(int64(n), s.size-at))
	if n <= 0 {
		return nil, nil
	}
	if have := s.windowAt + int64(len(s.window)) - at; at < s.windowAt || have < int64(n) {
		want := int(min(int64(max(n, s.most)), s.size-at))
		if cap(s.window) < want {
			s.window = make([]byte, want)
		}
		got, err := s.file.ReadAt(s.window[:want], at)
		if err != nil && !errors.Is(err, io.EOF) && want > n { // the bytes ahead may be bad and the wanted ones good, so read only those
			got, err = s.file.ReadAt(s.window[:n], at)
		}
		if err != nil && !errors.Is(err, io.EOF) {
			s.window = s.window[:0]
			return nil, err
		}
		s.window, s.windowAt = s.window[:got], at
	}
	b := s.window[at-s.windowAt:]
	return b[:min(n, len(b))], nil
}

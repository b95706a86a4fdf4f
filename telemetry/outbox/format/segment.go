// Package format is what the files of an outbox look like, byte by byte: docs/outbox.md, section 2.
// It holds no state and knows no disk.
//
//   - segment.go: the header of a segment, and how a record is written, with its checksum
//   - scan.go: how records are found in a segment; it checks the checksum of each
//   - payload.go: the message in a record
//   - slot.go: the cursor file; identity.go: the file that names the outbox
package format

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// Sizes, in bytes. The format of a segment is in docs/outbox.md, section 2.1.
const (
	// MaxPayload is the most bytes of one message as it is kept.
	MaxPayload = 1 << 20

	Version      = 1
	SegmentMagic = "hubhopSG"
	HeaderSize   = 64
	FramesStart  = 2 * HeaderSize // the header is there twice
	FrameSize    = 20             // without the payload
	ReadAhead    = 64 << 10
)

// Castagnoli is the polynomial of all checksums.
var Castagnoli = crc32.MakeTable(crc32.Castagnoli)

// le is the byte order of everything here.
var le = binary.LittleEndian

// Header is what all frames of a segment have in common.
type Header struct {
	ID      ID
	Base    uint64 // position of message number 0
	BaseSeq uint64 // its seq
	Salt    uint64
	seed    uint32 // what the salt makes of every checksum
}

// NewHeader returns the header of a segment whose message number 0 is at base.
func NewHeader(id ID, base, baseSeq, salt uint64) Header {
	var b [8]byte
	le.PutUint64(b[:], salt)
	return Header{ID: id, Base: base, BaseSeq: baseSeq, Salt: salt, seed: crc32.Checksum(b[:], Castagnoli)}
}

// Marker begins each frame.
func (h *Header) Marker() uint32 { return uint32(h.Salt) }

// NewSalt returns a random salt, so that nothing in a message can pass for a frame. Its marker is
// not zero, because unwritten space is.
func NewSalt() uint64 {
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

// NewID draws an outbox id.
func NewID() ID {
	for {
		if id := ID(random()); id != 0 {
			return id
		}
	}
}

// AppendPrefix appends the 16 bytes that begin every file and slot of every version, so that an old
// program recognizes a newer file.
func AppendPrefix(b []byte, magic string) []byte {
	start := len(b)
	b = append(b, magic...)
	b = le.AppendUint32(b, Version)
	return le.AppendUint32(b, crc32.Checksum(b[start:], Castagnoli))
}

// IsOurs says whether b begins a file or slot of this version. An error for which IsVersion is true
// says that it is one of another version.
func IsOurs(b []byte, magic string) (bool, error) {
	if len(b) < 16 || string(b[:8]) != magic || le.Uint32(b[12:]) != crc32.Checksum(b[:12], Castagnoli) {
		return false, nil
	}
	switch v := le.Uint32(b[8:]); {
	case v > Version:
		return false, fmt.Errorf("%w: its format is %d, this program knows %d: use the program that wrote it, or a newer one", ErrNewer, v, Version)
	case v < Version:
		return false, fmt.Errorf("%w: its format is %d, this program knows %d: empty it with the program that wrote it", ErrOlder, v, Version)
	}
	return true, nil
}

// IsVersion says whether an error means another version's file.
func IsVersion(err error) bool { return errors.Is(err, ErrNewer) || errors.Is(err, ErrOlder) }

// AppendTo appends the header, twice.
func (h *Header) AppendTo(b []byte) []byte {
	for range 2 {
		start := len(b)
		b = AppendPrefix(b, SegmentMagic)
		b = le.AppendUint64(b, uint64(h.ID))
		b = le.AppendUint64(b, h.Base)
		b = le.AppendUint64(b, h.BaseSeq)
		b = le.AppendUint64(b, h.Salt)
		b = append(b, make([]byte, 12)...)
		b = le.AppendUint32(b, crc32.Checksum(b[start:], Castagnoli))
	}
	return b
}

// Errors of files.
var (
	ErrNewer  = errors.New("written by a newer version")
	ErrOlder  = errors.New("written by an older version")
	ErrHeader = errors.New("neither copy of the segment's header can be read")
	ErrHalved = errors.New("one copy of the segment's header cannot be read")
)

// ReadHeader takes the header from either copy. damaged says that only one of them was good.
func ReadHeader(r io.ReaderAt) (h Header, damaged bool, err error) {
	var both [FramesStart]byte
	n, err := r.ReadAt(both[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return Header{}, false, err
	}
	good := 0
	for b := both[:n]; len(b) >= HeaderSize; b = b[HeaderSize:] {
		one := b[:HeaderSize]
		ours, err := IsOurs(one, SegmentMagic)
		if err != nil {
			return Header{}, false, err
		}
		if !ours || le.Uint32(one[60:]) != crc32.Checksum(one[:60], Castagnoli) {
			continue
		}
		good++
		h = NewHeader(ID(le.Uint64(one[16:])), le.Uint64(one[24:]), le.Uint64(one[32:]), le.Uint64(one[40:]))
	}
	if good == 0 || h.Marker() == 0 {
		return Header{}, false, ErrHeader
	}
	return h, good < 2, nil
}

// AppendFrame appends one message. commit is the number of the first message of the same commit.
func (h *Header) AppendFrame(b []byte, number, commit uint32, payload []byte) []byte {
	start := len(b)
	b = le.AppendUint32(b, h.Marker())
	b = le.AppendUint32(b, uint32(len(payload)))
	b = le.AppendUint32(b, number)
	b = le.AppendUint32(b, commit)
	b = le.AppendUint32(b, h.Sum(b[start+4:], payload))
	return append(b, payload...)
}

// Sum is the checksum over the salt, the twelve bytes behind the marker, and the payload.
func (h *Header) Sum(fields, payload []byte) uint32 {
	return crc32.Update(crc32.Update(h.seed, Castagnoli, fields[:12]), Castagnoli, payload)
}

package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"strconv"
	"strings"
)

// Every file of a state directory is a line of text that names its kind and its format version, and
// frames behind it. A frame is
//
//	length of the payload    4 bytes, little endian
//	CRC32C of the payload    4 bytes
//	CRC32C of the 8 bytes    4 bytes
//	payload
//
// The end of a file tells how it got there. A process that is killed while it writes leaves the
// beginning of a frame, and never anything else. So a frame that ends early is cut off, and
// everything else that is wrong is damage, which is reported. The length has a checksum of its own:
// without it a damaged length would look like a frame that ends early, and would take the rest of
// the file with it.

// FrameHead is how many bytes a frame has before its payload.
const FrameHead = 12

// formatVersion is the newest version of the files that this package can read, and the one it
// writes.
const formatVersion = 1

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// SealFrame fills in the head of a frame that takes up all of b, from its payload.
func SealFrame(b []byte) {
	binary.LittleEndian.PutUint32(b, uint32(len(b)-FrameHead))
	binary.LittleEndian.PutUint32(b[4:], crc32.Checksum(b[FrameHead:], castagnoli))
	binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b[:8], castagnoli))
}

// AppendFrame appends a frame with this payload.
func AppendFrame(b, payload []byte) []byte {
	start := len(b)
	b = append(append(b, make([]byte, FrameHead)...), payload...)
	SealFrame(b[start:])
	return b
}

// DamageError says that a file is not as it was written.
type DamageError struct {
	Path string
	At   int    // offset in bytes
	What string // a clause that says what is wrong
}

func (e *DamageError) Error() string {
	return fmt.Sprintf("%s is damaged at byte %d: %s; restore it from a copy, or start with another state directory", e.Path, e.At, e.What)
}

// versionError says that a newer program wrote a file.
type versionError struct {
	path    string
	version int
}

func (e *versionError) Error() string {
	return fmt.Sprintf("%s has format version %d, this hubhop knows none above %d: run the newer one that wrote it, or start with another state directory",
		e.path, e.version, formatVersion)
}

// scanFrames calls each for every frame of data, the bytes of a file, from offset from on. It
// returns where the last whole frame ends. If that is not the end of data, a torn frame follows.
func scanFrames(data []byte, from int, each func(at int, payload []byte) error) (end int, err error) {
	for end = from; len(data)-end >= FrameHead; {
		head := data[end : end+FrameHead]
		if crc32.Checksum(head[:8], castagnoli) != binary.LittleEndian.Uint32(head[8:]) {
			if len(bytes.Trim(data[end:], "\x00")) == 0 {
				return end, nil // a machine that loses its power may leave room that was never filled
			}
			return end, &DamageError{At: end, What: "the head of a record has a wrong checksum"}
		}
		n := int64(binary.LittleEndian.Uint32(head))
		if n > int64(len(data)-end-FrameHead) {
			return end, nil
		}
		payload := data[end+FrameHead:][:n:n]
		if crc32.Checksum(payload, castagnoli) != binary.LittleEndian.Uint32(head[4:]) {
			return end, &DamageError{At: end, What: "a record has a wrong checksum"}
		}
		if err := each(end, payload); err != nil {
			return end, err
		}
		end += FrameHead + int(n)
	}
	return end, nil
}

// Kind says what a file is for. It is the beginning of the first line, and ends with a space.
type Kind string

// Line returns the first line of a file of this kind.
func (k Kind) Line() []byte { return fmt.Appendf(nil, "%s%d\n", k, formatVersion) }

// Read reads a file and calls each for its frames, with the frame's place in the file and its
// payload. It returns how many bytes of the file are good: fewer than its size if the process that
// wrote it was killed in the middle, and 0 if not even its first line is whole. The error is a
// [DamageError], says that the file has a newer version, or is that of each or of reading.
func Read(path string, kind Kind, each func(at int, payload []byte) error) (good, size int, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, 0, err
	}
	good, err = scan(data, kind, each)
	if d, ok := errors.AsType[*DamageError](err); ok {
		d.Path = path
	}
	if v, ok := errors.AsType[*versionError](err); ok {
		v.path = path
	}
	return good, len(data), err
}

func scan(data []byte, kind Kind, each func(at int, payload []byte) error) (good int, err error) {
	line := kind.Line()
	if bytes.HasPrefix(data, line) {
		return scanFrames(data, len(line), each)
	}
	if bytes.HasPrefix(line, data) || len(bytes.Trim(data, "\x00")) == 0 {
		return 0, nil
	}
	first, _, _ := strings.Cut(string(data[:min(len(data), 80)]), "\n")
	if text, ok := strings.CutPrefix(first, string(kind)); ok {
		if version, err := strconv.Atoi(text); err == nil && version > formatVersion {
			return 0, &versionError{version: version}
		}
	}
	return 0, &DamageError{What: fmt.Sprintf("it does not begin with %q", strings.TrimSpace(string(line)))}
}

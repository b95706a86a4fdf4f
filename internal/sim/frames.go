package sim

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

// Every file of a state directory is a line of text that names its kind and its format version, and behind it frames. A frame is
//
//	length of the payload    4 bytes, little endian
//	CRC32C of the payload    4 bytes
//	CRC32C of the 8 bytes    4 bytes
//	payload
//
// What is at the end of a file tells how it got there: a process that is killed while it writes leaves a beginning of a frame, and
// never anything else. So a frame that ends early is cut off, and everything else that is wrong is damage, which is reported. The
// length has a checksum of its own, or else a damaged length would pass for a frame that ends early and take the rest with it.

const (
	frameHead     = 12
	formatVersion = 1
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sealFrame fills in the head of a frame that takes up all of b.
func sealFrame(b []byte) {
	binary.LittleEndian.PutUint32(b, uint32(len(b)-frameHead))
	binary.LittleEndian.PutUint32(b[4:], crc32.Checksum(b[frameHead:], castagnoli))
	binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b[:8], castagnoli))
}

// appendFrame appends a frame with this payload.
func appendFrame(b, payload []byte) []byte {
	start := len(b)
	b = append(append(b, make([]byte, frameHead)...), payload...)
	sealFrame(b[start:])
	return b
}

// damageError is a file that is not as it was written.
type damageError struct {
	path string
	at   int
	what string
}

func (e *damageError) Error() string {
	return fmt.Sprintf("%s is damaged at byte %d: %s; restore it from a copy, or start with another state directory", e.path, e.at, e.what)
}

// versionError is a file from the future.
type versionError struct {
	path    string
	version int
}

func (e *versionError) Error() string {
	return fmt.Sprintf("%s has format version %d, this hubhop knows none above %d: run the newer one that wrote it, or start with another state directory",
		e.path, e.version, formatVersion)
}

// scanFrames calls each for every frame of a file's bytes, which begin at offset from. It returns where the last whole frame ends: if
// that is not the end, a torn frame follows. An error is damage, or what each returned.
func scanFrames(data []byte, from int, each func(at int, payload []byte) error) (end int, err error) {
	for end = from; len(data)-end >= frameHead; {
		head := data[end : end+frameHead]
		if crc32.Checksum(head[:8], castagnoli) != binary.LittleEndian.Uint32(head[8:]) {
			if len(bytes.Trim(data[end:], "\x00")) == 0 {
				return end, nil // a machine that loses its power may leave room that was never filled
			}
			return end, &damageError{at: end, what: "the head of a record has a wrong checksum"}
		}
		n := int64(binary.LittleEndian.Uint32(head))
		if n > int64(len(data)-end-frameHead) {
			return end, nil
		}
		payload := data[end+frameHead:][:n:n]
		if crc32.Checksum(payload, castagnoli) != binary.LittleEndian.Uint32(head[4:]) {
			return end, &damageError{at: end, what: "a record has a wrong checksum"}
		}
		if err := each(end, payload); err != nil {
			return end, err
		}
		end += frameHead + int(n)
	}
	return end, nil
}

// fileKind is the first line of a file.
type fileKind string

const (
	kindLedger fileKind = "hubhop sim ledger "
	kindCounts fileKind = "hubhop sim ledger counts "
	kindState  fileKind = "hubhop sim state "
)

func (k fileKind) line() []byte { return fmt.Appendf(nil, "%s%d\n", k, formatVersion) }

// readFramed reads a file and calls each for its frames. It returns how many bytes of it are good, less than its size if the process
// that wrote it was killed in the middle; 0 means that not even its first line was finished.
func readFramed(path string, kind fileKind, each func(at int, payload []byte) error) (good, size int, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, 0, err
	}
	good, err = scanFile(data, kind, each)
	if d, ok := errors.AsType[*damageError](err); ok {
		d.path = path
	}
	if v, ok := errors.AsType[*versionError](err); ok {
		v.path = path
	}
	return good, len(data), err
}

func scanFile(data []byte, kind fileKind, each func(at int, payload []byte) error) (good int, err error) {
	line := kind.line()
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
	return 0, &damageError{what: fmt.Sprintf("it does not begin with %q", strings.TrimSpace(string(line)))}
}

// diskFile is the part of an os.File that a framedFile needs.
type diskFile interface {
	WriteAt(b []byte, at int64) (int, error)
	ReadAt(b []byte, at int64) (int, error)
	Truncate(size int64) error
	Close() error
}

// framedFile is a file that frames are appended to. Its owner guards it.
type framedFile struct {
	file   diskFile
	size   int64
	broken error // what is behind size cannot be taken away: nothing can be appended any more
}

// createFramed makes a new file; one that is there already is replaced.
func createFramed(path string, kind fileKind) (*framedFile, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	f := &framedFile{file: file}
	if err := f.append(kind.line()); err != nil {
		_ = file.Close()
		_ = os.Remove(path)
		return nil, err
	}
	return f, nil
}

// reopenFramed goes on with a file of which the first good bytes are in order. What follows them is cut off.
func reopenFramed(path string, kind fileKind, good int) (*framedFile, error) {
	if good == 0 {
		return createFramed(path, kind)
	}
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	if err := file.Truncate(int64(good)); err != nil {
		_ = file.Close()
		return nil, err
	}
	return &framedFile{file: file, size: int64(good)}, nil
}

// append writes whole frames with one write. If it fails, they are not in the file.
func (f *framedFile) append(frames []byte) error {
	if f.broken != nil {
		return f.broken
	}
	_, err := f.file.WriteAt(frames, f.size)
	if err == nil {
		f.size += int64(len(frames))
		return nil
	}
	if cut := f.file.Truncate(f.size); cut != nil {
		f.broken = fmt.Errorf("a torn record cannot be removed: %w", errors.Join(err, cut))
	}
	return err
}

func (f *framedFile) close() error { return f.file.Close() }

// unpacker takes numbers and texts out of a payload. After a mistake everything is zero and ok is false.
type unpacker struct {
	b      []byte
	failed bool
}

func (f *unpacker) bytes(n uint64) []byte {
	if n > uint64(len(f.b)) {
		f.failed, f.b = true, nil
		return nil
	}
	s := f.b[:n:n]
	f.b = f.b[n:]
	return s
}

func (f *unpacker) uvarint() uint64 {
	v, n := binary.Uvarint(f.b)
	if n <= 0 {
		f.failed, f.b = true, nil
		return 0
	}
	f.b = f.b[n:]
	return v
}

func (f *unpacker) varint() int64 {
	v := f.uvarint()
	return int64(v>>1) ^ -int64(v&1)
}

func (f *unpacker) byte() byte {
	if b := f.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (f *unpacker) text() string { return string(f.bytes(f.uvarint())) }

// count is a number of things of at least size bytes each, so that nobody makes room for what cannot follow.
func (f *unpacker) count(size uint64) uint64 {
	n := f.uvarint()
	if n > uint64(len(f.b))/size {
		f.failed, f.b = true, nil
		return 0
	}
	return n
}

func (f *unpacker) ok() bool { return !f.failed && len(f.b) == 0 }

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

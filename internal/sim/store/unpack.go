package store

import "encoding/binary"

// Unpacker reads numbers and texts from the payload of a frame. After a mistake everything that it
// returns is zero, and OK is false.
type Unpacker struct {
	b      []byte // what is still to be read
	failed bool
}

// Unpack returns an Unpacker of a payload.
func Unpack(payload []byte) Unpacker { return Unpacker{b: payload} }

// More reports whether there is something left to read.
func (f *Unpacker) More() bool { return len(f.b) > 0 }

// Fail notes a mistake that the caller found.
func (f *Unpacker) Fail() { f.failed, f.b = true, nil }

// Failed reports whether there was a mistake.
func (f *Unpacker) Failed() bool { return f.failed }

// Bytes reads n bytes. They are a part of the payload, not a copy.
func (f *Unpacker) Bytes(n uint64) []byte {
	if n > uint64(len(f.b)) {
		f.Fail()
		return nil
	}
	s := f.b[:n:n]
	f.b = f.b[n:]
	return s
}

// Uvarint reads what [binary.AppendUvarint] wrote.
func (f *Unpacker) Uvarint() uint64 {
	v, n := binary.Uvarint(f.b)
	if n <= 0 {
		f.Fail()
		return 0
	}
	f.b = f.b[n:]
	return v
}

// Varint reads what [binary.AppendVarint] wrote.
func (f *Unpacker) Varint() int64 {
	v := f.Uvarint()
	return int64(v>>1) ^ -int64(v&1)
}

// Byte reads one byte.
func (f *Unpacker) Byte() byte {
	if b := f.Bytes(1); b != nil {
		return b[0]
	}
	return 0
}

// Text reads what [AppendText] wrote.
func (f *Unpacker) Text() string { return string(f.Bytes(f.Uvarint())) }

// Count reads a number of things that follow, of at least size bytes each. A number that the rest
// of the payload has no room for is a mistake, so nobody allocates memory for what cannot follow.
func (f *Unpacker) Count(size uint64) uint64 {
	n := f.Uvarint()
	if n > uint64(len(f.b))/size {
		f.Fail()
		return 0
	}
	return n
}

// OK reports whether everything was read, without a mistake.
func (f *Unpacker) OK() bool { return !f.failed && len(f.b) == 0 }

// AppendText appends the length of a text as a varint, and the text.
func AppendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

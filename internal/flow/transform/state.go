package transform

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"

	"github.com/hubhop-iot/hubhop/internal/flow/expr"
	"github.com/hubhop-iot/hubhop/internal/flow/jsonscan"
)

// memory is what rules remember of earlier messages: the last known values of inputs.
type memory struct {
	fingerprint uint64
	inputs      []*input
}

// remembers returns the inputs of rules with ? $last.
func (w *work) remembers(rules func(yield func(*rule) bool)) (inputs []*input) {
	for r := range rules {
		for i := range r.inputs {
			if r.inputs[i].last {
				inputs = append(inputs, &r.inputs[i])
			}
		}
	}
	return inputs
}

var errSaved = errors.New("the saved state is not of this configuration, or is damaged")

// Save appends the last known values.
func (m *memory) Save(out []byte) []byte {
	out = binary.BigEndian.AppendUint64(out, m.fingerprint)
	for _, in := range m.inputs {
		out = appendBytes(out, in.known) // no JSON text is empty
	}
	return out
}

// Restore puts saved values back.
func (m *memory) Restore(saved []byte) error {
	rest, err := m.restore(saved)
	if err == nil && len(rest) > 0 {
		err = errSaved
	}
	return err
}

func (m *memory) restore(saved []byte) (rest []byte, err error) {
	if len(saved) < 8 || binary.BigEndian.Uint64(saved) != m.fingerprint {
		return nil, errSaved
	}
	r := reader{rest: saved[8:]}
	for _, in := range m.inputs {
		known := r.bytes()
		if in.known = nil; len(known) == 0 {
			continue
		}
		if in.knownDoc.Scan(known) != nil {
			return nil, errSaved
		}
		in.known = bytes.Clone(known)
	}
	if r.failed {
		return nil, errSaved
	}
	return r.rest, nil
}

func appendBytes[T string | []byte](out []byte, text T) []byte {
	return append(binary.AppendUvarint(out, uint64(len(text))), text...)
}

// reader takes saved state apart.
type reader struct {
	rest   []byte
	failed bool
}

func (r *reader) skip(n int) {
	if n <= 0 {
		r.failed, r.rest = true, nil
		return
	}
	r.rest = r.rest[n:]
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.rest)
	r.skip(n)
	return v
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.rest)
	r.skip(n)
	return v
}

func (r *reader) bytes() []byte {
	n := r.uvarint()
	if n > uint64(len(r.rest)) {
		r.failed, r.rest = true, nil
		return nil
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) stats(s *stats) {
	s.count, s.numbers = r.varint(), r.varint()
	if len(r.rest) < 8 {
		r.failed = true
		return
	}
	s.sum = math.Float64frombits(binary.BigEndian.Uint64(r.rest))
	r.rest = r.rest[8:]
	for _, h := range s.parts() {
		text := r.bytes()
		if len(text) == 0 {
			continue
		}
		var d jsonscan.Document
		var e expr.Env
		var v expr.Value
		if d.Scan(text) != nil || e.Bind(&d, 0, &v) != nil {
			r.failed = true
			return
		}
		h.keep(&v)
	}
}

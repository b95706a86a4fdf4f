package state

import (
	"encoding/binary"
	"errors"

	"github.com/hubhop-iot/hubhop/internal/flow/node"
)

// The kinds of changes, as they stand in the log.
const (
	opSet   byte = 1
	opDel   byte = 2
	opDelIf byte = 3 // a request only: the log has opDel
)

// form is the first byte of a change in the log. Another form of a later version gets another
// number.
const form byte = 1

// errForm says that the bytes of a change are not of this form.
var errForm = errors.New("not a change of a state store")

// change is one change as the log has it.
type change struct {
	kind    byte
	key     string
	data    []byte // refers to the bytes that the change was read from
	version node.Time
	fence   *node.Time
	expires int64
	pos     uint64 // in the log
}

// append appends the change: form, kind, whether there is a fence, then key, data, version, fence
// and expiry. Lengths and numbers are varints.
func (c *change) append(out []byte) []byte {
	fenced := byte(0)
	if c.fence != nil {
		fenced = 1
	}
	out = append(out, form, c.kind, fenced)
	out = appendText(out, c.key)
	out = binary.AppendUvarint(out, uint64(len(c.data)))
	out = append(out, c.data...)
	out = appendTime(out, c.version)
	if c.fence != nil {
		out = appendTime(out, *c.fence)
	}
	return binary.AppendVarint(out, c.expires)
}

func appendText(out []byte, s string) []byte {
	return append(binary.AppendUvarint(out, uint64(len(s))), s...)
}

func appendTime(out []byte, t node.Time) []byte {
	out = binary.AppendVarint(out, t.Nanos)
	out = binary.AppendUvarint(out, t.Counter)
	return appendText(out, t.Node)
}

// parseChange reads what append has written.
func parseChange(b []byte) (change, error) {
	if len(b) < 3 || b[0] != form || b[1] != opSet && b[1] != opDel || b[2] > 1 {
		return change{}, errForm
	}
	p := parser{rest: b[3:]}
	c := change{kind: b[1], key: string(p.bytes()), data: p.bytes(), version: p.time()}
	if b[2] == 1 {
		t := p.time()
		c.fence = &t
	}
	c.expires = p.varint()
	if p.bad || len(p.rest) != 0 || c.key == "" {
		return change{}, errForm
	}
	return c, nil
}

// parser reads numbers and texts one after the other. After the first fault it returns zeros.
type parser struct {
	rest []byte
	bad  bool
}

func (p *parser) uvarint() uint64 {
	v, n := binary.Uvarint(p.rest)
	if n <= 0 {
		p.bad, p.rest = true, nil
		return 0
	}
	p.rest = p.rest[n:]
	return v
}

func (p *parser) varint() int64 {
	v, n := binary.Varint(p.rest)
	if n <= 0 {
		p.bad, p.rest = true, nil
		return 0
	}
	p.rest = p.rest[n:]
	return v
}

func (p *parser) bytes() []byte {
	n := p.uvarint()
	if n > uint64(len(p.rest)) {
		p.bad, p.rest = true, nil
		return nil
	}
	b := p.rest[:n:n]
	p.rest = p.rest[n:]
	return b
}

func (p *parser) time() node.Time {
	return node.Time{Nanos: p.varint(), Counter: p.uvarint(), Node: string(p.bytes())}
}

package transform

import (
	"errors"
	"hash/maphash"

	"github.com/hubhop-iot/hubhop/internal/flow/jsonscan"
)

// tree is a JSON object that is being built. Its memory is used again.
type tree struct {
	nodes []branchNode
	text  []byte // of values that were computed
	size  int    // of what has been put in
	max   int
	index map[place]int32 // children of nodes that have many
	doc   jsonscan.Document
}

type branchNode struct {
	key, raw          []byte // the key, and how JSON writes it
	value             []byte // as JSON; nil: an object, whose children follow
	first, last, next int32  // children and sibling; 0: there is none
	count             int32
}

type place struct {
	parent int32
	hash   uint64
}

// many is how many children a node has before they are found by an index.
const many = 16

var seed = maphash.MakeSeed()

// The reasons why a result cannot be built.
var (
	errUnder = errors.New("the output lies under a field that is no object")
	errDepth = errors.New("the output is nested too deeply")
)

func (t *tree) reset() {
	if cap(t.nodes) > 1<<12 || cap(t.text) > 1<<16 || len(t.index) > 1<<12 {
		t.nodes, t.text, t.index = nil, nil, nil
	}
	clear(t.index)
	t.nodes, t.text, t.size = append(t.nodes[:0], branchNode{}), t.text[:0], 0
}

// child returns the child of a node with a key, a new one if there is none.
func (t *tree) child(parent int32, key, raw []byte) int32 {
	p := &t.nodes[parent]
	var at place
	if p.count < many {
		for i := p.first; i != 0; i = t.nodes[i].next {
			if string(t.nodes[i].key) == string(key) {
				return i
			}
		}
	} else {
		at = place{parent, maphash.Bytes(seed, key)}
		if p.count == many { // the first time: put in those that are there
			if t.index == nil {
				t.index = map[place]int32{}
			}
			for i := p.first; i != 0; i = t.nodes[i].next {
				t.index[place{parent, maphash.Bytes(seed, t.nodes[i].key)}] = i
			}
		}
		if i, ok := t.index[at]; ok {
			if string(t.nodes[i].key) == string(key) {
				return i
			}
			for i := p.first; i != 0; i = t.nodes[i].next { // two keys of one hash
				if string(t.nodes[i].key) == string(key) {
					return i
				}
			}
		}
	}
	n := int32(len(t.nodes))
	t.nodes = append(t.nodes, branchNode{key: key, raw: raw})
	p = &t.nodes[parent]
	if p.count >= many {
		t.index[at] = n
	}
	if p.last == 0 {
		p.first = n
	} else {
		t.nodes[p.last].next = n
	}
	p.last = n
	p.count++
	t.size += len(raw) + 4
	return n
}

// enter makes sure that a node is an object that can get children.
func (t *tree) enter(n int32) error {
	value := t.nodes[n].value
	if value == nil {
		return nil
	}
	if value[0] != '{' {
		return errUnder
	}
	if err := t.doc.Scan(value); err != nil {
		return err
	}
	t.nodes[n].value = nil
	for c := range t.doc.Children(0) {
		if !t.doc.Nodes[c].Shadowed() {
			i := t.child(n, t.doc.Key(c), t.doc.RawKey(c))
			t.nodes[i].value = t.doc.Raw(c)
		}
	}
	return nil
}

// put sets the value of a node. What was there is forgotten.
func (t *tree) put(n int32, value []byte) error {
	node := &t.nodes[n]
	if node.count >= many {
		for i := node.first; i != 0; i = t.nodes[i].next {
			delete(t.index, place{n, maphash.Bytes(seed, t.nodes[i].key)})
		}
	}
	node.value, node.first, node.last, node.count = value, 0, 0, 0
	if t.size += len(value); t.size > t.max {
		return errOutput
	}
	return nil
}

// walk goes down a static path.
func (t *tree) walk(n int32, p *path, from, to int) (int32, error) {
	for i := from; i < to; i++ {
		if err := t.enter(n); err != nil {
			return 0, err
		}
		n = t.child(n, p.text[i], p.raw[i])
	}
	return n, nil
}

// appendJSON appends the object of a node.
func (t *tree) appendJSON(dst []byte, n int32) []byte {
	if v := t.nodes[n].value; v != nil {
		return append(dst, v...)
	}
	dst = append(dst, '{')
	for i := t.nodes[n].first; i != 0; i = t.nodes[i].next {
		if len(dst) > 0 && dst[len(dst)-1] != '{' {
			dst = append(dst, ',')
		}
		dst = append(append(append(dst, '"'), t.nodes[i].raw...), '"', ':')
		dst = t.appendJSON(dst, i)
	}
	return append(dst, '}')
}

package memdisk

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
)

// unit is the smallest thing that the platter has or has not: a change of a name, a truncation, or
// a sector of a write.
type unit struct {
	name     int // of dirOps; -1: none
	node     *Node
	op       int
	from, to int64
}

// units are those that were not synced.
func (m *FS) units() (all []unit) {
	for i := range m.dirOps {
		all = append(all, unit{name: i})
	}
	nodes := map[*Node]bool{}
	of := func(n *Node) {
		if nodes[n] {
			return
		}
		nodes[n] = true
		for i, op := range n.ops {
			if op.truncate {
				all = append(all, unit{name: -1, node: n, op: i})
				continue
			}
			for at, end := op.at, op.at+int64(len(op.data)); at < end; {
				to := min((at/sector+1)*sector, end)
				all = append(all, unit{name: -1, node: n, op: i, from: at, to: to})
				at = to
			}
		}
	}
	for _, names := range []map[string]*Node{m.Names, m.Solid} {
		for _, name := range slices.Sorted(maps.Keys(names)) {
			of(names[name])
		}
	}
	return all
}

// cut is the disk that has some of the units.
func (m *FS) cut(units []unit, has func(i int) bool) *FS {
	name, kept := 0, map[*Node][]fileOp{}
	for i, u := range units {
		if u.node == nil || !has(i) {
			continue
		}
		op := u.node.ops[u.op]
		if !op.truncate {
			op = fileOp{at: u.from, data: op.data[u.from-op.at : u.to-op.at]}
		}
		kept[u.node] = append(kept[u.node], op)
	}
	return m.boot(func(dirOp) bool { name++; return has(name - 1) }, func(n *Node) []byte {
		data := slices.Clone(n.Solid)
		for _, op := range kept[n] {
			data = op.changeIn(data)
		}
		return data
	})
}

// Disks makes the disks that a power cut may leave: all there are if they are few, else those that
// differ from everything or nothing in one unit or in a run of them, and some at random.
func (m *FS) Disks(rnd *rand.Rand, few int, each func(disk *FS, name string)) {
	units := m.units()
	n := len(units)
	build := func(name string, has func(i int) bool) { each(m.cut(units, has), name) }
	if n <= few {
		for set := range 1 << n {
			build(fmt.Sprintf("units %b of %d", set, n), func(i int) bool { return set>>i&1 == 1 })
		}
		return
	}
	build("nothing", func(int) bool { return false })
	build("everything", func(int) bool { return true })
	for range 6 {
		one, odds := rnd.IntN(n), rnd.IntN(4)
		build(fmt.Sprintf("only %d of %d", one, n), func(i int) bool { return i == one })
		build(fmt.Sprintf("all but %d of %d", one, n), func(i int) bool { return i != one })
		build(fmt.Sprintf("the first %d of %d", one, n), func(i int) bool { return i < one })
		build(fmt.Sprintf("all but the first %d of %d", one, n), func(i int) bool { return i >= one })
		build(fmt.Sprintf("some of %d", n), func(int) bool { return rnd.IntN(4) <= odds })
	}
	each(m.PowerCut(rnd), "torn within a sector")
}

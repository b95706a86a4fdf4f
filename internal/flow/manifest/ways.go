package manifest

import (
	"slices"
	"strings"
)

// ways are which node leads to which, by their numbers.
type ways struct{ out, in [][]int }

func newWays(nodes int) *ways { return &ways{make([][]int, nodes), make([][]int, nodes)} }

func (n *ways) edge(from, to int) {
	n.out[from] = append(n.out[from], to)
	n.in[to] = append(n.in[to], from)
}

// cycle returns the nodes of a circle; nil: there is none.
func (n *ways) cycle() []int {
	const unseen, open, done = 0, 1, 2
	state, next := make([]int, len(n.out)), make([]int, len(n.out))
	for start := range n.out {
		if state[start] != unseen {
			continue
		}
		state[start] = open
		for path := []int{start}; len(path) > 0; {
			at := path[len(path)-1]
			if next[at] == len(n.out[at]) {
				state[at] = done
				path = path[:len(path)-1]
				continue
			}
			to := n.out[at][next[at]]
			next[at]++
			switch state[to] {
			case open:
				return slices.Clone(path[slices.Index(path, to):])
			case unseen:
				state[to] = open
				path = append(path, to)
			}
		}
	}
	return nil
}

// reach returns which nodes can be reached from some nodes, the nodes themselves among them, by
// ways that do not lead through the nodes without.
func reach(edges [][]int, from []int, without []bool) []bool {
	seen := make([]bool, len(edges))
	var queue []int
	visit := func(i int) {
		if !seen[i] && (without == nil || !without[i]) {
			seen[i] = true
			queue = append(queue, i)
		}
	}
	for _, i := range from {
		visit(i)
	}
	for ; len(queue) > 0; queue = queue[1:] {
		for _, to := range edges[queue[0]] {
			visit(to)
		}
	}
	return seen
}

// round writes a circle: a, b, a. Of a long one it writes the beginning.
func round(loop []int, name func(int) string) string {
	const most = 12
	var names []string
	for _, i := range loop[:min(len(loop), most)] {
		names = append(names, name(i))
	}
	if len(loop) > most {
		names = append(names, "…")
	}
	return strings.Join(append(names, name(loop[0])), " → ")
}

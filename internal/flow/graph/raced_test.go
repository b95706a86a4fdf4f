//go:build race

package graph

// raced says that the race detector is on.
const raced = true

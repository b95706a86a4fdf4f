//go:build race

package play

// raced says that the race detector looks on. It makes a run ten times as long, so it sees each
// scenario and each weakness once, and not each scenario with each weakness.
const raced = true

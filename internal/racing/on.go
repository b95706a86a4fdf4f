//go:build race

package racing

// On reports whether the program was built with the race detector.
const On = true

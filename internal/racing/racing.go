//go:build !race

// Package racing tells tests that run for long whether they run under the race detector, where a
// part of the cases finds the races of all of them. Without the detector every case runs.
package racing

// On reports whether the program was built with the race detector.
const On = false

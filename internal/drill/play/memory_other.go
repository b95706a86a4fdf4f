//go:build !linux

package play

// roomIn knows directories in memory on Linux only.
func roomIn(string) int64 { return 0 }

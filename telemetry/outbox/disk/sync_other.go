//go:build !linux

package disk

import "os"

// syncData is the system's strongest: F_FULLFSYNC on macOS, FlushFileBuffers on Windows.
func syncData(f *os.File) error { return f.Sync() }

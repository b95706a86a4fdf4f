package play

import "os"

// memoryDir returns a directory in memory that has so many bytes of room; "" if there is none, for
// the system's directory for temporary files.
func memoryDir(bytes int64) string {
	const shm = "/dev/shm"
	if info, err := os.Stat(shm); err != nil || !info.IsDir() || roomIn(shm) < bytes {
		return ""
	}
	return shm
}

// removeAll removes a directory of the run. What is left of it harms nobody.
func removeAll(dir string) { _ = os.RemoveAll(dir) }

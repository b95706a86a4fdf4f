package play

import "syscall"

// roomIn returns how many bytes can be written in a directory.
func roomIn(dir string) int64 {
	var s syscall.Statfs_t
	if syscall.Statfs(dir, &s) != nil {
		return 0
	}
	return int64(s.Bavail) * int64(s.Bsize) // 32 bits on some machines
}

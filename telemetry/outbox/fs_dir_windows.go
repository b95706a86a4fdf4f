package outbox

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// plainOnly is nothing here: who opens a file looks at what it is before and after.
const plainOnly = 0

// Windows cannot sync a directory; NTFS keeps a journal of its own for names.
func syncDir(string) error { return nil }

func isFile(info fs.FileInfo, name string) (bool, error) {
	now, err := os.Lstat(name)
	return err == nil && os.SameFile(info, now), err
}

// lockDir is not for Windows, where a file that is open cannot be deleted: its lock will do.
func lockDir(string, bool) (io.Closer, error) { return nil, errors.ErrUnsupported }

// damages are what the system says of a disk whose data is bad.
var damages = []error{
	syscall.Errno(23),   // ERROR_CRC
	syscall.Errno(27),   // ERROR_SECTOR_NOT_FOUND
	syscall.Errno(30),   // ERROR_READ_FAULT
	syscall.Errno(1117), // ERROR_IO_DEVICE
	syscall.Errno(1392), // ERROR_FILE_CORRUPT
	syscall.Errno(1393), // ERROR_DISK_CORRUPT
}

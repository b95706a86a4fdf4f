package disk

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// plainOnly is 0 on Windows. Open checks the kind of the file before and after.
const plainOnly = 0

// Windows cannot sync a directory; NTFS keeps a journal of its own for names.
func syncDir(string) error { return nil }

func isFile(info fs.FileInfo, name string) (bool, error) {
	now, err := os.Lstat(name)
	return err == nil && os.SameFile(info, now), err
}

// lockDir does nothing on Windows, where the lock on the file is enough: an open file cannot be
// deleted.
func lockDir(string, bool) (io.Closer, error) { return nil, errors.ErrUnsupported }

// damages are the errors of Windows that mean bad data.
var damages = []error{
	syscall.Errno(23),   // ERROR_CRC
	syscall.Errno(27),   // ERROR_SECTOR_NOT_FOUND
	syscall.Errno(30),   // ERROR_READ_FAULT
	syscall.Errno(1117), // ERROR_IO_DEVICE
	syscall.Errno(1392), // ERROR_FILE_CORRUPT
	syscall.Errno(1393), // ERROR_DISK_CORRUPT
}

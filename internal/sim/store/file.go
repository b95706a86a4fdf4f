package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// DiskFile is the part of an [os.File] that a [File] needs.
type DiskFile = interface {
	WriteAt(b []byte, at int64) (int, error)
	Truncate(size int64) error
	Close() error
}

// File is a file that frames are appended to. Its owner guards it.
type File struct {
	file   DiskFile
	size   int64
	broken error // set when something behind size could not be cut off; then nothing can be appended any more
}

// Create makes a new file. A file of this name that is there already is replaced.
func Create(path string, kind Kind) (*File, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	f := &File{file: file}
	if err := f.Append(kind.Line()); err != nil {
		_ = file.Close()
		_ = os.Remove(path)
		return nil, err
	}
	return f, nil
}

// Reopen opens a file, so that frames can be appended to it. The first good bytes, as [Read]
// returned them, stay; what follows them is cut off.
func Reopen(path string, kind Kind, good int) (*File, error) {
	if good == 0 {
		return Create(path, kind)
	}
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	if err := file.Truncate(int64(good)); err != nil {
		_ = file.Close()
		return nil, err
	}
	return &File{file: file, size: int64(good)}, nil
}

// Append writes whole frames with one write. If it returns an error the frames are not in the file.
func (f *File) Append(frames []byte) error {
	if f.broken != nil {
		return f.broken
	}
	_, err := f.file.WriteAt(frames, f.size)
	if err == nil {
		f.size += int64(len(frames))
		return nil
	}
	if cut := f.file.Truncate(f.size); cut != nil {
		f.broken = fmt.Errorf("a torn record cannot be removed: %w", errors.Join(err, cut))
	}
	return err
}

// Size returns the length of the file in bytes.
func (f *File) Size() int64 { return f.size }

// Wrap puts another file between f and its file. It is for tests of full disks.
func (f *File) Wrap(wrap func(DiskFile) DiskFile) { f.file = wrap(f.file) }

// Close closes the file. Nothing is synced.
func (f *File) Close() error { return f.file.Close() }

// Replace writes a file and puts it in the place of another one, all at once: a reader finds the
// old file or the new one. It is made in the same directory, under a name that begins with ".sim-".
func Replace(path string, data []byte, mode os.FileMode) error {
	temp, err := os.CreateTemp(filepath.Dir(path), ".sim-*")
	if err != nil {
		return err
	}
	_, err = temp.Write(data)
	err = errors.Join(err, temp.Chmod(mode), temp.Close())
	if err == nil {
		err = os.Rename(temp.Name(), path)
	}
	if err != nil {
		_ = os.Remove(temp.Name())
	}
	return err
}

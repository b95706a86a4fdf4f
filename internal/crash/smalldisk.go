package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
)

// smallDisk is a file system that can be filled without harm to others: a tmpfs of its own size in
// a mount namespace of a process that does nothing else. It is reached through that process. Where
// no namespace is allowed there is none, and strace makes the calls fail that a full disk makes
// fail.
type smallDisk struct {
	cmd  *exec.Cmd
	in   io.Closer
	path string
}

const (
	diskSize   = 96 << 20 // bytes, of the device's
	brokerSize = 512 << 20
)

// newSmallDisk mounts one of so many bytes at dir, as its holder sees it.
func newSmallDisk(ctx context.Context, dir string, size int) (*smallDisk, error) {
	const script = `mount -t tmpfs -o size=%d,mode=700 none "$0" && echo mounted && exec cat >/dev/null`
	var faults []error
	for _, how := range [][]string{{"-m"}, {"-m", "-U", "-r"}} {
		cmd := exec.CommandContext(ctx, "unshare", append(how, "sh", "-c", fmt.Sprintf(script, size), dir)...) //nolint:gosec // our own script
		in, err := cmd.StdinPipe()
		if err != nil {
			return nil, err
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			return nil, err
		}
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		if line, _ := bufio.NewReader(out).ReadString('\n'); line == "mounted\n" {
			return &smallDisk{cmd: cmd, in: in, path: filepath.Join("/proc", strconv.Itoa(cmd.Process.Pid), "root", dir)}, nil
		}
		_ = in.Close()
		faults = append(faults, cmd.Wait())
	}
	return nil, errors.Join(faults...)
}

// close gives the disk up, with all that is on it.
func (d *smallDisk) close() {
	_ = d.in.Close()
	_ = d.cmd.Wait()
}

// fill takes all the room that is left. free gives it back.
func (d *smallDisk) fill() (bytes int64, free func() error, err error) {
	name := filepath.Join(d.path, "ballast")
	f, err := os.Create(name)
	if err != nil {
		return 0, nil, err
	}
	zeros := make([]byte, 64<<10)
	for size := len(zeros); size >= 1; {
		n, err := f.Write(zeros[:size])
		bytes += int64(n)
		if err != nil && !errors.Is(err, syscall.ENOSPC) {
			return bytes, nil, errors.Join(err, f.Close(), os.Remove(name))
		}
		if err != nil {
			size /= 2
		}
	}
	return bytes, func() error { return os.Remove(name) }, f.Close()
}

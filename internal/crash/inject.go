package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// These values say where a call fails.
const (
	anywhere = iota // at any time, on any descriptor
	onFiles         // on the descriptors of files and sockets that are open when the burst begins
	atStart         // only while the process starts, because it hardly makes the call later
	onceUp          // only after the start, because Go's runtime makes the call at the start and ends the process if it fails
)

// call is a system call that chaos fails, and the errors that the kernel documents for it.
type call struct {
	name   string
	errnos []string
	where  int
}

// noSpace are the errors of a disk that stores nothing more. They do not damage what is stored.
var noSpace = []string{"ENOSPC", "EDQUOT", "EROFS", "EIO"}

// calls are the system calls that a device makes and that may fail.
var calls = []call{
	{"openat", []string{"EMFILE", "ENFILE", "ENOMEM", "ENOENT", "EACCES", "EROFS", "ENOSPC", "EPERM", "ELOOP", "ESTALE", "EIO"}, anywhere},
	{"pread64", []string{"EIO", "ENOMEM", "ESTALE", "EAGAIN"}, anywhere},
	{"pwrite64", noSpace, anywhere},
	{"fsync", noSpace, anywhere},
	{"fdatasync", noSpace, anywhere},
	{"ftruncate", []string{"EIO", "EFBIG", "EPERM", "EROFS"}, anywhere},
	{"renameat", append([]string{"EACCES", "ENOENT"}, noSpace...), atStart},
	{"unlinkat", []string{"EACCES", "EBUSY", "EIO", "EROFS", "ENOENT"}, anywhere},
	{"mkdirat", append([]string{"EMLINK", "ENOMEM"}, noSpace...), atStart},
	{"fstat", []string{"EIO", "ENOMEM"}, atStart},
	{"newfstatat", []string{"EACCES", "EIO", "ENOMEM", "ENOENT"}, anywhere},
	{"getdents64", []string{"EIO", "ENOMEM", "ENOENT"}, atStart},
	{"readlinkat", []string{"EACCES", "EIO", "ENOENT", "ENOMEM"}, atStart},
	{"flock", []string{"ENOLCK", "EIO"}, atStart},
	{"dup", []string{"EMFILE"}, anywhere},
	{"statfs", []string{"EACCES", "EIO", "ENOMEM"}, atStart},
	{"fchmod", []string{"EIO", "EPERM", "EROFS"}, atStart},
	{"fchmodat", []string{"EIO", "EPERM", "EROFS", "ENOENT"}, atStart},
	{"fcntl", []string{"EINVAL", "EPERM"}, onceUp},
	{"close", []string{"EIO"}, anywhere},
	{"read", []string{"EIO", "ECONNRESET", "ETIMEDOUT", "ENOMEM"}, onFiles},
	{"write", []string{"EIO", "ECONNRESET", "EPIPE", "ENOSPC", "EDQUOT"}, onFiles},
	{"socket", []string{"EMFILE", "ENFILE", "ENOBUFS", "EACCES"}, anywhere},
	{"connect", []string{"ECONNREFUSED", "ENETUNREACH", "EADDRNOTAVAIL", "ETIMEDOUT", "EAGAIN"}, anywhere},
	{"setsockopt", []string{"EINVAL", "ENOMEM"}, anywhere},
	{"getsockopt", []string{"ENOBUFS"}, anywhere},
	{"getsockname", []string{"ENOBUFS"}, anywhere},
	{"getpeername", []string{"ENOBUFS", "ENOTCONN"}, anywhere},
	{"epoll_ctl", []string{"ENOMEM", "ENOSPC"}, onceUp},

	// These are the errors of a full disk, a read-only disk, a disk that fails, and a process
	// without descriptors.
	{"pwrite64,fsync,fdatasync,ftruncate,mkdirat,renameat", []string{"ENOSPC", "EDQUOT"}, anywhere},
	{"openat,pwrite64,ftruncate,mkdirat,renameat,unlinkat", []string{"EROFS"}, anywhere},
	{"openat,pread64,pwrite64,fsync,fdatasync,getdents64,newfstatat", []string{"EIO", "ESTALE"}, anywhere},
	{"openat,socket", []string{"EMFILE", "ENFILE"}, anywhere},
}

// unfailed are the system calls that chaos does not fail, each with the reason.
var unfailed = map[string]string{
	"futex epoll_pwait epoll_create1 eventfd2 nanosleep clock_nanosleep clone3 clone mmap munmap mprotect madvise brk sched_yield sched_getaffinity " +
		"tgkill getpid gettid rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack rseq set_robust_list set_tid_address arch_prctl membarrier " +
		"restart_syscall timer_create timer_settime timer_delete setitimer": "Go's runtime makes it for itself, and ends the process if it fails",
	"clock_gettime gettimeofday getrandom prctl getuid geteuid getgid getegid getppid uname prlimit64 sysinfo pipe2 sched_setaffinity": "it fails for no reason that a running process can meet, or Go ends the process if it does",
	"execve exit exit_group access ioctl":                          "the beginning and the end of the process",
	"shutdown recvfrom sendto recvmsg sendmsg accept4 bind listen": "its errors are those of read, write and socket, which are failed",
	"wait4 waitid kill pidfd_open pidfd_send_signal":               "it serves child processes, and a device has none",
}

// census returns the system calls of a trace that are neither in calls nor in unfailed.
func census(trace []byte) (unknown []string) {
	known := map[string]bool{}
	for _, c := range calls {
		known[c.name] = true
	}
	for names := range unfailed {
		for name := range strings.FieldsSeq(names) {
			known[name] = true
		}
	}
	for line := range bytes.Lines(trace) { // "% time  seconds  usecs/call  calls  [errors]  syscall"
		fields := strings.Fields(string(line))
		if len(fields) < 5 {
			continue
		}
		if _, err := strconv.ParseFloat(fields[0], 64); err != nil {
			continue
		}
		if name := fields[len(fields)-1]; name != "total" && !known[name] {
			unknown = append(unknown, name)
		}
	}
	return unknown
}

// burst is a time in which one system call fails.
type burst struct {
	call
	errno string
	when  string // strace's when=: 3, 3+2, 1+1; counted for each thread
	lasts time.Duration
}

func newBurst(r *rand.Rand, i int) burst {
	c := calls[i%len(calls)] // in turn, so that a long run fails each call
	b := burst{call: c, errno: c.errnos[r.IntN(len(c.errnos))], lasts: time.Duration(200+r.IntN(1300)) * time.Millisecond}
	switch r.IntN(4) {
	case 0, 1:
		b.when = "1+1" // all
	case 2:
		b.when = fmt.Sprintf("%d+%d", 1+r.IntN(4), 2+r.IntN(6)) // some
	default:
		b.when = strconv.Itoa(1 + r.IntN(8)) // one of each thread
	}
	return b
}

func (b burst) String() string {
	return fmt.Sprintf("%s fails with %s (when=%s) for %v", b.name, b.errno, b.when, b.lasts)
}

// injector is a running strace that is attached to a process.
type injector struct {
	cmd   *exec.Cmd
	trace string
	said  bytes.Buffer
}

// inject begins a burst. When it returns, the process is traced, even if the process is stopped.
func inject(ctx context.Context, b burst, pid int, trace string) (*injector, error) {
	args := []string{"-f", "-o", trace, "-e", "trace=" + b.name, "-e", "signal=none", "-e", "inject=" + b.name + ":error=" + b.errno + ":when=" + b.when}
	if b.where == onFiles {
		paths, err := openFiles(pid)
		if err != nil || len(paths) == 0 {
			return nil, err
		}
		for _, p := range paths {
			args = append(args, "-P", p)
		}
	}
	i := &injector{cmd: exec.CommandContext(ctx, "strace", append(args, "-p", strconv.Itoa(pid))...), trace: trace} //nolint:gosec // strace with our own arguments
	i.cmd.Stderr = &i.said
	if err := i.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%w; install strace (apt-get install strace)", err)
	}
	limit := time.NewTimer(10 * time.Second)
	defer limit.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !traced(pid) {
		select {
		case <-tick.C:
		case <-limit.C:
			_ = i.cmd.Process.Kill()
			_ = i.cmd.Wait()
			return nil, fmt.Errorf("strace did not attach to process %d: %s", pid, i.said.String())
		}
	}
	return i, nil
}

// end detaches from the process, and returns how many calls have failed.
func (i *injector) end() (failed int, err error) {
	_ = i.cmd.Process.Signal(os.Interrupt) // an error means that strace ended together with the process
	var exit *exec.ExitError
	if err := i.cmd.Wait(); err != nil && !errors.As(err, &exit) {
		return 0, err
	}
	text, err := os.ReadFile(i.trace)
	if err != nil {
		return 0, err
	}
	return bytes.Count(text, []byte("(INJECTED)")), nil
}

// openFiles returns the names of the files and sockets that a process has open, except its standard
// input.
func openFiles(pid int) (paths []string, err error) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		to, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err != nil || e.Name() == "0" || strings.HasPrefix(to, "anon_inode:") || strings.HasPrefix(to, "pipe:") {
			continue
		}
		if !slices.Contains(paths, to) {
			paths = append(paths, to)
		}
	}
	return paths, err
}

func traced(pid int) bool {
	tracer, err := statusOf(pid, "TracerPid")
	return err == nil && tracer != "0"
}

// statusOf returns a line of /proc/PID/status.
func statusOf(pid int, name string) (string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value), nil
		}
	}
	return "", fmt.Errorf("/proc/%d/status has no line %s", pid, name)
}

// peak returns the most memory that a process ever used, in bytes.
func peak(pid int) (int64, error) {
	text, err := statusOf(pid, "VmHWM")
	if err != nil {
		return 0, err
	}
	kib, err := strconv.ParseInt(strings.TrimSuffix(text, " kB"), 10, 64)
	return kib << 10, err
}

// resume continues a process that has stopped itself.
func resume(ctx context.Context, pid int) error {
	return exec.CommandContext(ctx, "kill", "-CONT", strconv.Itoa(pid)).Run() //nolint:gosec // the argument is a process id of ours
}

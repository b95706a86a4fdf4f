package main

import (
	"bufio"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// TestCensusNamesUnknownCalls gives a trace with one call that chaos does not know.
func TestCensusNamesUnknownCalls(t *testing.T) {
	unknown := census([]byte(`% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 60.00    0.020815          12       100           futex
 20.00    0.007743          10         5         2 openat
 10.00    0.000001           1         1           io_uring_setup
------ ----------- ----------- --------- --------- ----------------
100.00    0.028559                   106         2 total
`))
	if !slices.Equal(unknown, []string{"io_uring_setup"}) {
		t.Errorf("the census names %q", unknown)
	}
}

// TestOpenFilesLeavesOutTheRuntimes: standard input and what Go's runtime opens for itself must not
// fail, because that would end the process.
func TestOpenFilesLeavesOutTheRuntimes(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux lists the open files of a process in /proc, and make chaos runs there alone")
	}
	file := t.TempDir() + "/open"
	cmd := exec.CommandContext(t.Context(), "sh", "-c", `exec 7>"$1"; echo ready; read x`, "sh", file)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	paths, err := openFiles(cmd.Process.Pid)
	if err != nil || !slices.Contains(paths, file) || slices.ContainsFunc(paths, func(p string) bool { return strings.HasPrefix(p, "pipe:") }) {
		t.Errorf("openFiles: %q, %v", paths, err)
	}
	if bytes, err := peak(os.Getpid()); err != nil || bytes < 1<<20 {
		t.Errorf("peak of this process: %d, %v", bytes, err)
	}
	_ = in.Close()
	_ = cmd.Wait()
}

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

// taken is a tally of the arrivals, with its verdict on lines 1 to 5.
func taken(arrived ...arrival) []string {
	t := tally{lines: map[uint64]string{}}
	for _, a := range arrived {
		t.add(a)
	}
	t.conclude(5)
	return t.faults
}

func five() (arrived []arrival) {
	for n := uint64(1); n <= 5; n++ {
		arrived = append(arrived, message(n, "hub-a", line{N: n}))
	}
	return arrived
}

func TestTallyOfAGoodRun(t *testing.T) {
	if faults := taken(append(five(), five()[2])...); len(faults) > 0 {
		t.Error(faults)
	}
}

func TestTallyFindsFaults(t *testing.T) {
	told := "2-3"
	for want, change := range map[string]func(a []arrival) []arrival{
		"1 of 5 lines never arrived; the first is line 2": func(a []arrival) []arrival { return slices.Delete(a, 1, 2) },
		"line 3 came as " + box + "-3 and as " + box + "-9": func(a []arrival) []arrival {
			return append(a, message(9, "hub-b", line{N: 3}))
		},
		"announces that 2-3 were given up": func(a []arrival) []arrival {
			a[4].Properties = map[string]*string{"gap": &told}
			return a
		},
		"is none of the device's": func(a []arrival) []arrival { return append(a, arrival{Mid: box + "-6", Body: []byte(`"?"`)}) },
	} {
		faults := taken(change(five())...)
		if len(faults) != 1 || !strings.Contains(faults[0], want) {
			t.Errorf("want one fault with %q, got %q", want, faults)
		}
	}
}

func TestCensusNamesWhatNobodyKnows(t *testing.T) {
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

// Standard input and what Go's runtime opens for itself must not fail: that would end the process.
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

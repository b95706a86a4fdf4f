package cmd

import (
	"bufio"
	"os"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/hubhop-iot/hubhop/internal/linequeue"
)

// until tries something again and again until it holds, and says whether it did within 30 s.
func until(holds func() bool) bool {
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	limit := time.After(30 * time.Second)
	for !holds() {
		select {
		case <-again.C:
		case <-limit:
			return false
		}
	}
	return true
}

// pipedCommand starts hubhop with standard output and standard error on one pipe: piped NAME
// stall|leave ARGS… With stall nobody reads, and the pipe is full before the program writes its
// first byte. With leave the reader goes away after the first line. A simulator (ARGS begin with
// sim) is waited for, and devices are pointed at it.
func pipedCommand(ts *testscript.TestScript, _ bool, args []string) {
	name, how, args := args[0], args[1], args[2:]
	cmd := programOf(ts, "hubhop", args...)
	r, w, err := os.Pipe()
	ts.Check(err)
	if how == "stall" {
		fill(ts, w)
		ts.Defer(func() { _ = r.Close() })
	}
	cmd.Stdout, cmd.Stderr = w, w
	if args[0] != "sim" {
		cmd.Env = append(cmd.Env, deviceEnviron(ts)...)
	}
	start(ts, name, cmd)
	ts.Check(w.Close())
	if how == "leave" {
		if lines := bufio.NewScanner(r); !lines.Scan() {
			ts.Fatalf("%s writes nothing: %v", name, lines.Err())
		}
		ts.Check(r.Close())
	}
	if args[0] == "sim" {
		if !until(func() bool { _, err := os.Stat(ts.MkAbs("sim/sim.json")); return err == nil }) {
			ts.Fatalf("the simulator does not get ready")
		}
		useCloud(ts)
	}
}

// fill leaves no room in a pipe.
func fill(ts *testscript.TestScript, w *os.File) {
	for _, size := range []int{4096, 1} {
		for ok := true; ok; {
			ts.Check(w.SetWriteDeadline(time.Now().Add(20 * time.Millisecond)))
			_, err := w.Write(make([]byte, size))
			ok = err == nil
		}
	}
	ts.Check(w.SetWriteDeadline(time.Time{}))
}

// loggedCommand waits until the log of a device has a line that fits: logged NAME PATTERN.
func loggedCommand(ts *testscript.TestScript, _ bool, args []string) {
	pattern, err := regexp.Compile("(?m)" + args[1])
	ts.Check(err)
	var log []byte
	if !until(func() bool { log, _ = os.ReadFile(ts.MkAbs(args[0] + ".log")); return pattern.Match(log) }) {
		ts.Fatalf("nothing in the log of %s fits %s:\n%s", args[0], args[1], log)
	}
}

// insistCommand presses Ctrl-C until a process has ended: insist NAME.
func insistCommand(ts *testscript.TestScript, _ bool, args []string) {
	p := named(ts, args[0])
	ended := until(func() bool {
		err := p.cmd.Process.Signal(syscall.SIGINT)
		select {
		case <-p.ended:
			return true
		default:
			return err != nil && strings.Contains(err.Error(), "finished")
		}
	})
	if !ended {
		ts.Fatalf("%s does not end", args[0])
	}
}

// bugMain is the program bug: hubhop with a panic in a goroutine of its own.
func bugMain() {
	env := OSEnv()
	env.Stderr = linequeue.New(env.Stderr)
	env.spawn(func() { panic("nobody thought of this") })
	select {}
}

// watchingCommand starts `hubhop status --watch` of a device in the background, as the process
// watch, and waits until it has written something: watching DEVICE. What it writes goes to
// DEVICE.watch.
func watchingCommand(ts *testscript.TestScript, _ bool, args []string) {
	cmd := programOf(ts, "hubhop", "status", "--watch", "--device-id", args[0])
	cmd.Env = append(cmd.Env, deviceEnviron(ts)...)
	out, err := os.Create(ts.MkAbs(args[0] + ".watch"))
	ts.Check(err)
	cmd.Stdout, cmd.Stderr = out, out
	start(ts, "watch", cmd)
	watchedCommand(ts, false, []string{args[0], "."})
}

// watchedCommand waits until `hubhop status --watch` has written a line that fits: watched DEVICE
// PATTERN.
func watchedCommand(ts *testscript.TestScript, _ bool, args []string) {
	line := regexp.MustCompile(args[1])
	if !until(func() bool { return line.MatchString(ts.ReadFile(args[0] + ".watch")) }) {
		ts.Fatalf("no line %s in\n%s", args[1], ts.ReadFile(args[0]+".watch"))
	}
}

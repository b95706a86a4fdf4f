package cmd

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/hubhop-iot/hubhop/internal/flow/endpoint/endtest"
	"github.com/hubhop-iot/hubhop/internal/sim"
	"github.com/hubhop-iot/hubhop/internal/status"
)

// freePort returns a port of a loopback address that nobody listens on.
func freePort(ts *testscript.TestScript) string {
	port, err := endtest.FreePort()
	ts.Check(err)
	return strconv.Itoa(port)
}

// brokerCommand starts mosquitto on a free port, or again on the same one, and waits until it
// listens: broker. The port is in BROKER_PORT. Every file of a manifest that names
// 127.0.0.1:1883 is changed to name that port.
func brokerCommand(ts *testscript.TestScript, _ bool, _ []string) {
	port := ts.Getenv("BROKER_PORT")
	if port == "" {
		port = freePort(ts)
		ts.Setenv("BROKER_PORT", port)
		ts.Check(os.WriteFile(ts.MkAbs("mosquitto.conf"), fmt.Appendf(nil,
			"listener %s 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\nuser root\n", port), 0o600))
	}
	log, err := os.Create(ts.MkAbs("mosquitto.log"))
	ts.Check(err)
	path, err := exec.LookPath("mosquitto")
	ts.Check(err)
	cmd := exec.Command(path, "-c", ts.MkAbs("mosquitto.conf"))
	cmd.Stderr, cmd.Stdout = log, log
	start(ts, "broker", cmd)
	if !until(func() bool {
		c, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	}) {
		ts.Fatalf("mosquitto does not listen")
	}
	for _, pattern := range []string{"*.yaml", "*/*.yaml", "*/*/*/*.yaml"} { // of the script, and of examples/flows
		files, err := filepath.Glob(ts.MkAbs(pattern))
		ts.Check(err)
		for _, file := range files {
			text, err := os.ReadFile(file)
			ts.Check(err)
			ts.Check(os.WriteFile(file, []byte(strings.ReplaceAll(string(text), "127.0.0.1:1883", "127.0.0.1:"+port)), 0o600))
		}
	}
}

// publishCommand publishes numbered messages {"n": N} with QoS 1: publish TOPIC FROM TO.
func publishCommand(ts *testscript.TestScript, _ bool, args []string) {
	from, err := strconv.Atoi(args[1])
	ts.Check(err)
	to, err := strconv.Atoi(args[2])
	ts.Check(err)
	var lines strings.Builder
	for n := from; n <= to; n++ {
		fmt.Fprintf(&lines, "{\"n\":%d}\n", n)
	}
	path, err := exec.LookPath("mosquitto_pub")
	ts.Check(err)
	cmd := exec.Command(path, "-h", "127.0.0.1", "-p", ts.Getenv("BROKER_PORT"), "-V", "mqttv5", "-q", "1", "-t", args[0], "-l")
	cmd.Stdin = strings.NewReader(lines.String())
	out, err := cmd.CombinedOutput()
	if err != nil {
		ts.Fatalf("mosquitto_pub: %v %s", err, out)
	}
}

// arrivedCommand waits until the numbers FROM to TO have come from a device to a hub, each in the
// place that its order wants: arrived DEVICE FROM TO. A repetition of a message is allowed.
func arrivedCommand(ts *testscript.TestScript, _ bool, args []string) {
	from, err := strconv.Atoi(args[1])
	ts.Check(err)
	to, err := strconv.Atoi(args[2])
	ts.Check(err)
	var why string
	if !until(func() bool {
		next := from
		why = ""
		for _, m := range readLedger(ts, args[0], 0).Messages {
			n, ok := numberOf(m)
			switch {
			case !ok || n < next: // another message, or a repetition
			case n > next:
				why = fmt.Sprintf("%d came before %d", n, next)
				return false
			default:
				next++
			}
		}
		why = fmt.Sprintf("%d has not come", next)
		return next > to
	}) {
		log, _ := os.ReadFile(ts.MkAbs(args[0] + ".log"))
		ts.Fatalf("%s\n%s", why, log)
	}
}

// numberOf returns the number in the body of a message that publishCommand has published.
func numberOf(m sim.Message) (n int, ok bool) {
	_, err := fmt.Sscanf(string(m.Body), `{"n":%d}`, &n)
	return n, err == nil
}

// eventuallyCommand runs a program until its output contains a text: eventually TEXT PROGRAM
// [ARG…].
func eventuallyCommand(ts *testscript.TestScript, _ bool, args []string) {
	var out []byte
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for limit := time.After(30 * time.Second); ; {
		cmd := programOf(ts, args[1], args[2:]...)
		cmd.Env = append(cmd.Env, "CONTROL="+ts.Getenv("CONTROL"))
		cmd.Env = append(cmd.Env, deviceEnviron(ts)...)
		out, _ = cmd.CombinedOutput() // it may fail until then
		if strings.Contains(string(out), args[0]) {
			return
		}
		select {
		case <-again.C:
		case <-limit:
			ts.Fatalf("%q is not in the output of %s: %s", args[0], strings.Join(args[1:], " "), out)
		}
	}
}

// flowingCommand waits until a flow of a device runs, and is connected: flowing DEVICE FLOW.
func flowingCommand(ts *testscript.TestScript, _ bool, args []string) {
	var out []byte
	if !until(func() bool {
		cmd := programOf(ts, "hubhop", "flow", "status", "--json", "--device-id", args[0])
		cmd.Env = append(cmd.Env, deviceEnviron(ts)...)
		out, _ = cmd.Output() // another flow may have a fault
		var rows []status.Flow
		if err := json.Unmarshal(out, &rows); err != nil { // it does not answer yet, and says so
			return false
		}
		return slices.ContainsFunc(rows, func(f status.Flow) bool { return f.Name == args[1] && f.State == "running" && f.Text == "" })
	}) {
		log, _ := os.ReadFile(ts.MkAbs(args[0] + ".log"))
		ts.Fatalf("%s does not run: %s\n%s", args[1], out, log)
	}
}

// ownNetwork is a program in a network and a space of processes of its own, so that its ports are
// free and nothing outlives it. It is of use on Linux, where namespaces are allowed.
func ownNetwork(ctx context.Context, name string, args ...string) *exec.Cmd {
	how := []string{"--net", "--pid", "--fork", "--kill-child"}
	if os.Getuid() != 0 {
		how = append(how, "--map-current-user", "--keep-caps")
	}
	return exec.CommandContext(ctx, "unshare", append(append(how, name), args...)...)
}

// loopback makes the addresses of an own network work.
const loopback = "ip link set lo up"

// guideCommand gives the five commands of docs/flows.md to a shell as they stand there, and waits
// where the guide says so: guide. Its output is in guide.log.
func guideCommand(ts *testscript.TestScript, _ bool, _ []string) {
	guide, err := os.ReadFile(filepath.Join(ts.Getenv("SCRIPTS"), "../docs/flows.md"))
	ts.Check(err)
	_, block, _ := strings.Cut(string(guide), "\n```sh\n")
	block, rest, _ := strings.Cut(block, "\n```\n")
	commands := strings.Split(block, "\n")
	if len(commands) != 5 {
		ts.Fatalf("docs/flows.md has %d commands, not 5", len(commands))
	}
	shell := ownNetwork(context.Background(), "bash")
	shell.Dir, shell.Env = ts.MkAbs("."), programOf(ts, "hubhop").Env
	log, err := os.Create(ts.MkAbs("guide.log"))
	ts.Check(err)
	shell.Stdout, shell.Stderr = log, log
	in, err := shell.StdinPipe()
	ts.Check(err)
	start(ts, "guide", shell)
	enter := func(line string) {
		_, err := fmt.Fprintln(in, line)
		ts.Check(err)
	}
	said := func(text string) bool { return strings.Contains(ts.ReadFile("guide.log"), text) }
	waitFor := func(text string) {
		if !strings.Contains(string(guide), "`"+text+"`") {
			ts.Fatalf("docs/flows.md does not say to wait for %q", text)
		}
		if !until(func() bool { return said(text) }) {
			ts.Fatalf("nothing says %q:\n%s", text, ts.ReadFile("guide.log"))
		}
	}
	enter(loopback)
	enter(commands[0])
	enter(commands[1])
	waitFor("ready")
	enter(commands[2])
	waitFor("connected to")
	enter(commands[3])
	// The guide says what the ledger shows, and to ask it again if it is empty.
	body := regexp.MustCompile("\n`(\\{.*\\})`").FindStringSubmatch(rest)
	if body == nil {
		ts.Fatalf("docs/flows.md does not say what arrives")
	}
	if !until(func() bool { enter(commands[4]); return said(`"body":` + body[1]) }) {
		ts.Fatalf("%s does not arrive:\n%s", body[1], ts.ReadFile("guide.log"))
	}
	for _, then := range []string{"hubhop flow status --device-id dev-1", "kill %2 %1"} {
		if !strings.Contains(rest, "`"+then+"`") {
			ts.Fatalf("docs/flows.md does not name %s", then)
		}
		enter(then)
	}
	enter("wait; echo both are gone")
	if !until(func() bool { return said("both are gone") }) {
		ts.Fatalf("they go on:\n%s", ts.ReadFile("guide.log"))
	}
}

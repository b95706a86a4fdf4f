package cmd

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/hubhop-iot/hubhop/internal/device"
	"github.com/hubhop-iot/hubhop/internal/drill"
	"github.com/hubhop-iot/hubhop/internal/home"
	"github.com/hubhop-iot/hubhop/internal/sim"
	"github.com/hubhop-iot/hubhop/internal/virtual"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

// TestMain lets this test binary act as the programs that the scripts run: hubhop itself, api (one
// request to the control API), az (an Azure CLI that sends to the simulator what the real one
// sends), hasty (a hubhop whose demo has a device that loses samples).
func TestMain(m *testing.M) {
	// The scripts wait more than they compute, so more of them run at once than there are
	// processors, unless the command line says otherwise.
	if err := flag.Set("test.parallel", strconv.Itoa(2*runtime.GOMAXPROCS(0))); err != nil {
		panic(err)
	}
	testscript.Main(m, map[string]func(){
		"hubhop": func() { os.Exit(Main(OSEnv(), readModel())) },
		"api":    apiMain,
		"az":     azMain,
		"bug":    bugMain,
		"hasty":  hastyMain,
	})
}

// hastyMain is hubhop, but the device of its demo takes a sample out of the outbox as soon as a
// link has it, before the hub has acknowledged it.
func hastyMain() {
	env := OSEnv()
	env.demoOutbox = func(dir string, o outbox.Options) (device.Outbox, error) { return virtual.OpenHasty(dir, o) }
	os.Exit(Main(env, readModel()))
}

func readModel() []byte {
	b, err := os.ReadFile(os.Getenv("BUILTIN_MODEL"))
	if err != nil {
		panic(err)
	}
	return b
}

func TestScripts(t *testing.T) {
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("BUILTIN_MODEL", filepath.Join(root, "failover.json"))
			e.Setenv("SCRIPTS", filepath.Join(root, "scripts"))
			e.Setenv("EXAMPLES", filepath.Join(root, "examples", "flows"))
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("GOCOVERDIR", os.Getenv("GOCOVERDIR"))
			e.Values["processes"] = &processes{all: map[string]*process{}}
			return nil
		},
		Condition: func(cond string) (bool, error) {
			switch cond {
			case "networks":
				return ownNetwork(t.Context(), "sh", "-c", loopback).Run() == nil, nil
			case "mounts":
			default:
				return false, fmt.Errorf("there is no condition %s", cond)
			}
			return exec.CommandContext(t.Context(), "unshare", "-rm", "sh", "-c", "mount -t tmpfs none /mnt").Run() == nil, nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"cloud": cloudCommand, "device": deviceCommand, "telemetry": telemetryCommand, "signal": signalCommand,
			"ended": endedCommand, "lossless": losslessCommand, "kept": keptCommand, "queued": queuedCommand, "doctored": doctoredCommand,
			"piped": pipedCommand, "logged": loggedCommand, "token": tokenCommand, "insist": insistCommand,
			"needs": needsCommand, "scrape": scrapeCommand, "prometheus": prometheusCommand, "answered": answeredCommand,
			"watching": watchingCommand, "watched": watchedCommand, "broker": brokerCommand, "publish": publishCommand, "arrived": arrivedCommand, "eventually": eventuallyCommand, "flowing": flowingCommand, "guide": guideCommand,
		},
	})
}

// process is a program that a script has started and will end.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{}
}

type processes struct {
	mu  sync.Mutex
	all map[string]*process
}

func start(ts *testscript.TestScript, name string, cmd *exec.Cmd) *process {
	ps := ts.Value("processes").(*processes)
	p := &process{cmd: cmd, ended: make(chan struct{})}
	if err := cmd.Start(); err != nil {
		ts.Fatalf("%s: %v", name, err)
	}
	go func() {
		_ = cmd.Wait()
		close(p.ended)
	}()
	ts.Defer(func() {
		_ = cmd.Process.Kill()
		<-p.ended
	})
	ps.mu.Lock()
	defer ps.mu.Unlock()
	ps.all[name] = p
	return p
}

func named(ts *testscript.TestScript, name string) *process {
	ps := ts.Value("processes").(*processes)
	ps.mu.Lock()
	defer ps.mu.Unlock()
	p := ps.all[name]
	if p == nil {
		ts.Fatalf("there is no process %s", name)
	}
	return p
}

// programOf is a command in the script's world.
func programOf(ts *testscript.TestScript, name string, args ...string) *exec.Cmd {
	path := ""
	for _, dir := range filepath.SplitList(ts.Getenv("PATH")) {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			path = filepath.Join(dir, name)
			break
		}
	}
	if path == "" {
		ts.Fatalf("%s is not in the script's PATH", name)
	}
	cmd := exec.Command(path, args...)
	cmd.Dir = ts.MkAbs(".")
	for _, key := range []string{"PATH", "HOME", "BUILTIN_MODEL", "TMPDIR", "GOCOVERDIR"} {
		cmd.Env = append(cmd.Env, key+"="+ts.Getenv(key))
	}
	return cmd
}

// cloudCommand starts `hubhop sim` with free ports and waits until it is ready. It leaves sim/ and
// group.key, and sets the environment with which a device finds it.
func cloudCommand(ts *testscript.TestScript, _ bool, args []string) {
	cmd := programOf(ts, "hubhop", append([]string{"sim", "--out", "sim", "--layout", "ports", "--control", "127.0.0.1:0", "--retry-after", "1s"}, args...)...)
	out, err := cmd.StdoutPipe()
	ts.Check(err)
	log, err := os.Create(ts.MkAbs("sim.log"))
	ts.Check(err)
	cmd.Stderr = log
	start(ts, "cloud", cmd)
	ready := bufio.NewScanner(out)
	if !ready.Scan() || !strings.HasPrefix(ready.Text(), "ready") {
		b, _ := os.ReadFile(ts.MkAbs("sim.log"))
		ts.Fatalf("the simulator does not get ready: %q %s", ready.Text(), b)
	}
	useCloud(ts)
}

// useCloud points a device at the simulator that has written sim/sim.json.
func useCloud(ts *testscript.TestScript) {
	var info struct {
		IDScope, GroupKey, ProvisioningHost, Control string
		Central                                      struct{ URL, AppID, APIToken string }
	}
	b, err := os.ReadFile(ts.MkAbs("sim/sim.json"))
	ts.Check(err)
	ts.Check(json.Unmarshal(b, &info))
	ts.Check(os.WriteFile(ts.MkAbs("group.key"), []byte(info.GroupKey+"\n"), 0o600))
	ts.Setenv("CONTROL", info.Control)
	ts.Setenv("CENTRAL_SUFFIX", strings.TrimPrefix(info.Central.URL, "https://127."))
	ts.Setenv("CENTRAL_TOKEN", info.Central.APIToken)
	ts.Setenv("ID_SCOPE", info.IDScope)
	ts.Setenv("DPS", info.ProvisioningHost)
	ts.Setenv("HUBHOP_ID_SCOPE", info.IDScope)
	ts.Setenv("HUBHOP_PROVISIONING_HOST", info.ProvisioningHost)
	ts.Setenv("HUBHOP_GROUP_KEY_FILE", ts.MkAbs("group.key"))
	ts.Setenv("HUBHOP_CA_FILE", ts.MkAbs("sim/ca.pem"))
	ts.Setenv("HUBHOP_STATE_DIR", ts.MkAbs("state"))
}

// tokenCommand writes the token of the cloud's IoT Central into a file: token FILE.
func tokenCommand(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(ts.Getenv("CENTRAL_TOKEN")+"\n"), 0o600))
}

// keptCommand starts `hubhop demo --keep --json`, waits for its verdict and points api at it.
func keptCommand(ts *testscript.TestScript, _ bool, _ []string) {
	cmd := programOf(ts, "hubhop", "demo", "--keep", "--json")
	out, err := cmd.StdoutPipe()
	ts.Check(err)
	start(ts, "demo", cmd)
	var report struct{ Verdict, Control string }
	ts.Check(json.NewDecoder(out).Decode(&report))
	if report.Verdict != "passed" {
		ts.Fatalf("verdict %s", report.Verdict)
	}
	ts.Setenv("CONTROL", report.Control)
}

// deviceCommand starts `hubhop run` in the background: device NAME FLAGS… Its log goes to NAME.log;
// NAME.in, if there, is its input. With -nohup it is started by nohup.
func deviceCommand(ts *testscript.TestScript, _ bool, args []string) {
	nohup := args[0] == "-nohup"
	if nohup {
		args = args[1:]
	}
	name := args[0]
	cmd := programOf(ts, "hubhop", append([]string{"run", "--device-id", name, "--log-format", "console"}, args[1:]...)...)
	if nohup {
		path, err := exec.LookPath("nohup")
		ts.Check(err)
		cmd.Args = append([]string{path, cmd.Path}, cmd.Args[1:]...)
		cmd.Path = path
	}
	cmd.Env = append(cmd.Env, deviceEnviron(ts)...)
	log, err := os.OpenFile(ts.MkAbs(name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	ts.Check(err)
	cmd.Stderr = log
	start(ts, name, cmd)
}

// deviceEnviron points a device at the script's cloud. A script may set GODEBUG for it.
func deviceEnviron(ts *testscript.TestScript) (environ []string) {
	for _, key := range []string{"ID_SCOPE", "PROVISIONING_HOST", "GROUP_KEY_FILE", "CA_FILE", "STATE_DIR"} {
		environ = append(environ, "HUBHOP_"+key+"="+ts.Getenv("HUBHOP_"+key))
	}
	return append(environ, "GODEBUG="+ts.Getenv("GODEBUG"))
}

// telemetryCommand waits until a new message of a device comes to a hub: telemetry DEVICE HUB.
func telemetryCommand(ts *testscript.TestScript, _ bool, args []string) {
	had := readLedger(ts, args[0], 0)
	if !until(func() bool { return readLedger(ts, args[0], had.Received).Hubs[args[1]] > had.Hubs[args[1]] }) {
		log, _ := os.ReadFile(ts.MkAbs(args[0] + ".log"))
		ts.Fatalf("no telemetry of %s on %s\n%s", args[0], args[1], log)
	}
}

// readLedger asks the script's cloud for what has arrived from a device, and for the messages
// behind the first so many.
func readLedger(ts *testscript.TestScript, device string, behind int64) sim.Ledger {
	control := drill.Control{URL: ts.Getenv("CONTROL")}
	l, err := control.Ledger(context.Background(), device, behind)
	ts.Check(err)
	return l
}

// losslessCommand judges what arrived from a device: the samples have no hole up to the last one,
// are in order, and come from one outbox.
func losslessCommand(ts *testscript.TestScript, _ bool, args []string) {
	var j drill.Judge
	for _, m := range readLedger(ts, args[0], 0).Messages {
		j.Arrived(drill.ArrivalOf(m))
	}
	if v := j.Verdict(false); v.Outcome != drill.Passed || v.Distinct == 0 {
		ts.Fatalf("%d samples arrived: %s", v.Distinct, v.Reason)
	}
}

// queuedCommand waits until the outbox of a device holds at least N messages, N more than now, or
// none: queued DEVICE N|+N|0.
func queuedCommand(ts *testscript.TestScript, _ bool, args []string) {
	dir := home.OutboxDir(ts.MkAbs("state"), args[0])
	digits, more := strings.CutPrefix(args[1], "+")
	want, err := strconv.ParseUint(digits, 10, 64)
	ts.Check(err)
	if more {
		look, err := outbox.Inspect(dir)
		ts.Check(err)
		want += look.Queued
	}
	ts.Setenv("OUTBOX", dir)
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	limit := time.After(30 * time.Second)
	for {
		look, err := outbox.Inspect(dir)
		if err == nil && (look.Queued >= want && want > 0 || look.Queued == want) {
			return
		}
		select {
		case <-again.C:
		case <-limit:
			log, _ := os.ReadFile(ts.MkAbs(args[0] + ".log"))
			ts.Fatalf("the outbox of %s: %+v %v\n%s", args[0], look, err, log)
		}
	}
}

// doctoredCommand writes what arrived from a device as an Event Hub would list it, but with one
// message missing, one doubled, and two in each other's place: doctored DEVICE FILE. The ids are in
// MISSING, DOUBLED and SWAPPED.
func doctoredCommand(ts *testscript.TestScript, _ bool, args []string) {
	all := readLedger(ts, args[0], 0).Messages
	if len(all) < 20 {
		ts.Fatalf("only %d messages arrived", len(all))
	}
	ts.Setenv("MISSING", all[3].Mid)
	ts.Setenv("DOUBLED", all[7].Mid)
	ts.Setenv("SWAPPED", all[11].Mid)
	all[11], all[12] = all[12], all[11]
	doctored := append(slices.Clone(all[:3]), all[4:]...)
	doctored = append(doctored, all[7])
	var lines bytes.Buffer
	for i, m := range doctored {
		system := map[string]string{"iothub-connection-device-id": args[0]}
		line := map[string]any{"systemProperties": system, "body": map[string]string{"messageId": "no-id"}}
		switch i % 3 { // the spellings
		case 0:
			system["message-id"] = m.Mid
		case 1:
			system["messageId"] = m.Mid
		default:
			line["properties"] = map[string]string{"$.mid": m.Mid}
		}
		ts.Check(json.NewEncoder(&lines).Encode(line))
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), lines.Bytes(), 0o600))
}

// signalCommand sends a signal: signal NAME KILL|INT|TERM|HUP.
func signalCommand(ts *testscript.TestScript, _ bool, args []string) {
	sig := map[string]os.Signal{"KILL": syscall.SIGKILL, "INT": os.Interrupt, "TERM": syscall.SIGTERM, "HUP": syscall.SIGHUP}[args[1]]
	ts.Check(named(ts, args[0]).cmd.Process.Signal(sig))
}

// endedCommand waits for the end of a process and checks its exit code: ended NAME CODE. -1 means
// that a signal ended it.
func endedCommand(ts *testscript.TestScript, _ bool, args []string) {
	p := named(ts, args[0])
	select {
	case <-p.ended:
	case <-time.After(30 * time.Second):
		ts.Fatalf("%s does not end", args[0])
	}
	if code := strconv.Itoa(p.cmd.ProcessState.ExitCode()); code != args[1] {
		log, _ := os.ReadFile(ts.MkAbs(args[0] + ".log"))
		ts.Fatalf("%s ended with %s, not %s\n%s", args[0], code, args[1], log)
	}
}

// apiMain is the program api: api METHOD PATH [BODY].
func apiMain() {
	body := ""
	if len(os.Args) > 3 {
		body = os.Args[3]
	}
	req, err := http.NewRequest(os.Args[1], os.Getenv("CONTROL")+os.Args[2], strings.NewReader(body))
	exitOn(err)
	resp, err := http.DefaultClient.Do(req)
	exitOn(err)
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	exitOn(err)
	fmt.Println(resp.StatusCode, string(bytes.TrimSpace(b)))
	if resp.StatusCode >= 300 {
		os.Exit(1)
	}
}

// azMain is the program az: it knows the commands of the scripts, pastes its URL together as the
// real CLI does (of two names of one option the last one counts), and judges answers like it.
// CENTRAL_TOKEN stands for a login.
func azMain() {
	if os.Args[1] == "extension" || os.Getenv("AZ_EXTENSION") == "missing" {
		if os.Getenv("AZ_EXTENSION") == "missing" {
			fmt.Fprintln(os.Stderr, "ERROR: 'central' is misspelled or not recognized by the system.")
			os.Exit(2)
		}
		return
	}
	flags := map[string]string{"--central-dns-suffix": "azureiotcentral.com", "--token": os.Getenv("CENTRAL_TOKEN")}
	verb := os.Args[4]
	for rest := os.Args[5:]; len(rest) >= 2; rest = rest[2:] {
		flags[strings.Replace(rest[0], "--central-api-uri", "--central-dns-suffix", 1)] = rest[1]
	}
	if f, err := os.OpenFile("az.log", os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600); err == nil {
		_, _ = fmt.Fprintln(f, strings.Join(os.Args[1:], " "))
		_ = f.Close()
	}
	body := ""
	if verb == "manual-failover" {
		body = "{}"
		if ttl := flags["--ttl"]; ttl != "" {
			body = `{"ttl": ` + ttl + `}`
		}
	}
	ca, err := os.ReadFile(os.Getenv("REQUESTS_CA_BUNDLE"))
	exitOn(err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	req, err := http.NewRequest(http.MethodPost, "https://"+flags["-n"]+"."+flags["--central-dns-suffix"]+"/system/iothub/devices/"+flags["-d"]+"/"+verb, strings.NewReader(body))
	exitOn(err)
	req.Header.Set("Authorization", flags["--token"])
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := client.Do(req)
	exitOn(err)
	defer func() { _ = resp.Body.Close() }()
	var doc map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&doc); err != nil {
		fmt.Fprintln(os.Stderr, "ERROR: Error parsing response body")
		os.Exit(1)
	}
	if e, failed := doc["error"]; failed {
		fmt.Fprintln(os.Stderr, "ERROR:", e)
		os.Exit(1)
	}
	_ = json.NewEncoder(os.Stdout).Encode(doc)
}

func exitOn(err error) {
	if err != nil {
		_, file, line, _ := runtime.Caller(1)
		fmt.Fprintf(os.Stderr, "%s:%d: %v\n", filepath.Base(file), line, err)
		os.Exit(1)
	}
}

// Conformance runs clients of others against freshly started simulators and compares what each
// client saw with what the simulator says. It prints a table of clients and scenarios and writes
// docs/conformance.md. It must run in its own folder, as make conformance does. With -league it
// measures how soon the official SDK comes back from faults, beside hubhop, as make league does.
package main

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

func main() {
	only := flag.String("only", "", "run CLIENT or CLIENT/SCENARIO and write nothing")
	measure := flag.Bool("league", false, "play faults against the official SDK and against hubhop, and write the table into docs/benchmarks.md")
	flag.Parse()
	play := func() error { return run(*only) }
	if *measure {
		play = league
	}
	if err := play(); err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
}

// The addresses of the two simulators. They have blocks of their own, so a simulator that runs
// already is not in the way.
const (
	cloudAddress = "127.46.0.1"
	plainAddress = "127.46.0.11"
)

func run(only string) error {
	began := time.Now()
	root, err := filepath.Abs("..")
	if err != nil {
		return err
	}
	onlyClient, onlyScenario, _ := strings.Cut(only, "/")
	wanted := func(client string) bool { return onlyClient == "" || onlyClient == client }
	work := filepath.Join(root, "dist", "conformance")
	if err := prepare(root, work); err != nil {
		return err
	}
	fmt.Printf("prepared after %.0f s\n", time.Since(began).Seconds())
	binary := filepath.Join(work, "hubhop")
	cloud, err := startCloud(binary, filepath.Join(work, "sim"), cloudAddress, "--retry-after", "1s")
	if err != nil {
		return err
	}
	defer cloud.stop()
	plain, err := startCloud(binary, filepath.Join(work, "plain"), plainAddress,
		"--retry-after", "1s", "--move", "delete", "--disabled-refusal", "5", "--sas-grace", "1s")
	if err != nil {
		return err
	}
	defer plain.stop()
	roots := filepath.Join(work, "roots.pem") // the CAs of both
	if err := concatenate(roots, cloud.file("ca.pem"), plain.file("ca.pem")); err != nil {
		return err
	}
	if err := mintAll(cloud); err != nil {
		return err
	}

	out := &results{}
	nodeDir := filepath.Join(work, "node")
	clients := []struct {
		id  string
		run func(*suite)
	}{
		{"node-mqtt", func(s *suite) { s.node(nodeDir, roots, "device.js", "mqtt") }},
		{"node-ws", func(s *suite) { s.node(nodeDir, roots, "device.js", "ws") }},
		{"node-http", func(s *suite) { s.node(nodeDir, roots, "device.js", "http") }},
		{"node-hub", func(s *suite) { s.node(nodeDir, roots, "hub-service.js") }},
		{"node-dps", func(s *suite) { s.node(nodeDir, roots, "dps-service.js") }},
		{"go-iothub", func(s *suite) { s.iothub(false) }},
		{"go-iothub-ws", func(s *suite) { s.iothub(true) }},
		{"go-service", (*suite).iotservice},
		{"paho", (*suite).paho},
		{"mosquitto", (*suite).mosquitto},
		{"az", func(s *suite) { s.az(root) }},
		{"docs", func(s *suite) { s.docs(root, work) }},
	}
	slots := make(chan struct{}, 4) // most of a scenario is waiting
	var all sync.WaitGroup
	for _, c := range clients {
		if !wanted(c.id) {
			continue
		}
		all.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			c.run(&suite{client: c.id, cloud: cloud, plain: plain, out: out, only: onlyScenario})
		})
	}
	all.Wait()

	var wrong []string
	if only != "" {
		for _, r := range out.all {
			if !r.OK {
				wrong = append(wrong, fmt.Sprintf("%s, %s: %s", r.Client, r.Scenario, r.Why))
			}
		}
	} else {
		versions, err := pinned(filepath.Join(root, "conformance", "node", "package.json"), filepath.Join(root, "conformance", "go.mod"))
		if err != nil {
			return err
		}
		notes := &footnotes{}
		for _, t := range tables {
			wrong = append(wrong, t.verdict(t.of(out.all))...)
			fmt.Println("\n" + t.markdown(out.all, notes))
		}
		if err := os.WriteFile(filepath.Join(root, "docs", "conformance.md"), []byte(document(out.all, versions)), 0o644); err != nil {
			return err
		}
	}
	fmt.Printf("%d scenarios in %.0f s\n", len(out.all), time.Since(began).Seconds())
	if len(wrong) > 0 {
		return fmt.Errorf("%d cells are not as they should be:\n  %s", len(wrong), strings.Join(wrong, "\n  "))
	}
	return nil
}

// prepare puts everything that the run needs into the directory work: the simulator, the Node.js
// packages, the clients of mosquitto.
func prepare(root, work string) error {
	if err := os.MkdirAll(work, 0o755); err != nil {
		return err
	}
	if err := bindable(443); err != nil {
		return err
	}
	steps := []func() error{
		func() error {
			build := exec.Command("go", "build", "-o", filepath.Join(work, "hubhop"), ".")
			build.Dir = root
			if out, err := build.CombinedOutput(); err != nil {
				return fmt.Errorf("go build: %w\n%s", err, out)
			}
			return nil
		},
		func() error {
			return installNode(filepath.Join(root, "conformance", "node"), filepath.Join(work, "node"))
		},
		installMosquitto,
	}
	errs := make([]error, len(steps))
	var all sync.WaitGroup
	for i, step := range steps {
		all.Go(func() { errs[i] = step() })
	}
	all.Wait()
	return errors.Join(errs...)
}

// bindable returns an error with what to do if only root may use low ports. WebSocket and HTTPS of
// Microsoft's SDKs know no other port.
func bindable(port int) error {
	l, err := net.Listen("tcp", fmt.Sprintf("%s:%d", cloudAddress, port))
	if err != nil {
		return fmt.Errorf("the official SDKs speak WebSocket and HTTPS on port %d only, and it cannot be had: %w\n"+
			"run this as root, or once: sudo sysctl net.ipv4.ip_unprivileged_port_start=%d", port, err, port)
	}
	return l.Close()
}

func concatenate(to string, from ...string) error {
	var all []byte
	for _, name := range from {
		b, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		all = append(all, b...)
	}
	return os.WriteFile(to, all, 0o644)
}

// mintAll makes the certificates of all devices that have one.
func mintAll(c *cloud) error {
	var errs []error
	for _, client := range append(deviceTable.clients, serviceTable.clients...) {
		for _, scenario := range []string{"x509", "provision-x509-group", "provision-x509-individual", "registry-x509"} {
			alone := scenario == "provision-x509-individual" || scenario == "registry-x509"
			_, err := c.mint(client.id+"-"+scenario, alone)
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

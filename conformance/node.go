package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// clientLimit is how long one client may take for all its scenarios.
const clientLimit = 150 * time.Second

// installNode installs the pinned packages into work, by the lock file.
func installNode(source, work string) error {
	if _, err := exec.LookPath("npm"); err != nil {
		return fmt.Errorf("the Node.js clients need node and npm: %w", err)
	}
	if err := os.MkdirAll(work, 0o755); err != nil {
		return err
	}
	for _, name := range []string{"package.json", "package-lock.json", "lib.js", "device.js", "drill.js", "hub-service.js", "dps-service.js"} {
		b, err := os.ReadFile(filepath.Join(source, name))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(work, name), b, 0o644); err != nil {
			return err
		}
	}
	npm := exec.Command("npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error")
	npm.Dir = work
	if out, err := npm.CombinedOutput(); err != nil {
		return fmt.Errorf("npm ci: %w\n%s", err, out)
	}
	return nil
}

// node runs one of the scripts, which prints a result per line.
func (s *suite) node(work, roots string, args ...string) {
	ctx, cancel := context.WithTimeout(context.Background(), clientLimit)
	defer cancel()
	p := exec.CommandContext(ctx, "node", append(args, s.cloud.dir, s.plain.dir)...)
	p.Dir = work
	p.Env = append(os.Environ(), "NODE_EXTRA_CA_CERTS="+roots, "CONFORMANCE_ONLY="+s.only)
	logs := &bytes.Buffer{}
	p.Stderr = logs
	out, err := p.StdoutPipe()
	if err == nil {
		err = p.Start()
	}
	if err != nil {
		s.out.add(result{Client: s.client, Scenario: "start", Why: err.Error()})
		return
	}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var r result
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			fmt.Fprintf(logs, "%s\n", lines.Bytes())
			continue
		}
		s.out.add(r)
	}
	if err := p.Wait(); err != nil {
		s.out.add(result{Client: s.client, Scenario: "end", Why: fmt.Sprintf("%v\n%s", err, logs)})
	} else if logs.Len() > 0 {
		fmt.Printf("--- %s says:\n%s", s.client, logs)
	}
}

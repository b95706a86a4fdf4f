package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// docs runs the code blocks of docs/simulator.md that can be run here, as they are printed, beside
// the directory sim.
func (s *suite) docs(root, work string) {
	blocks := func(t *try, language string) string {
		page, err := readText(filepath.Join(root, "docs", "simulator.md"))
		t.must("read", err)
		found := regexp.MustCompile("(?s)```"+language+"\n(.*?)```").FindAllStringSubmatch(page, -1)
		t.equal("blocks in "+language, len(found), 1)
		return found[0][1]
	}
	sends := func(t *try, id string, p *exec.Cmd) {
		p.Dir = work
		out, err := p.CombinedOutput()
		if err != nil {
			t.fail("%v: %s", err, out)
		}
		l := t.cloud.ledger(id)
		t.equal("received", l.Received, 1)
		if body, ok := l.Messages[0].Body.(map[string]any); !ok || body["temp"] != 21.5 {
			t.fail("the body is %v", l.Messages[0].Body)
		}
	}
	s.run("js", func(t *try) {
		p := exec.CommandContext(t.ctx, "node", "-e", blocks(t, "js"))
		p.Env = append(os.Environ(), "NODE_EXTRA_CA_CERTS=sim/ca.pem", "NODE_PATH="+filepath.Join(work, "node", "node_modules"))
		sends(t, "my-node-device", p)
	})
	s.run("sh", func(t *try) {
		p := exec.CommandContext(t.ctx, "sh", "-eu")
		p.Stdin = strings.NewReader(blocks(t, "sh"))
		sends(t, "my-shell-device", p)
	})
}

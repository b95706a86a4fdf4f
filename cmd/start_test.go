package cmd

import (
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"testing"
)

// TestStartingCostsLittle: what a package makes before main, each process pays for in time and in
// memory, whatever it is there for. So a table, a pattern or a template that only some commands
// need is made when the first of them asks for it.
func TestStartingCostsLittle(t *testing.T) {
	const most = 16 << 10 // bytes that a package of ours may allocate
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	start := exec.CommandContext(t.Context(), self, "-test.run=^$")
	start.Env = append(os.Environ(), "GODEBUG=inittrace=1")
	trace, err := start.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, trace)
	}
	ours := regexp.MustCompile(`(?m)^init github\.com/hubhop-iot/hubhop/(\S+) @.*, (\d+) bytes, \d+ allocs$`).FindAllStringSubmatch(string(trace), -1)
	if len(ours) == 0 {
		t.Fatalf("the trace of the start has no package of ours:\n%s", trace)
	}
	for _, found := range ours {
		if bytes, err := strconv.Atoi(found[2]); err != nil || bytes > most {
			t.Errorf("%s allocates %s bytes before main, more than %d: make them at their first use", found[1], found[2], most)
		}
	}
}

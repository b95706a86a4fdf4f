package clock

import (
	"testing"
	"time"
)

// TestUptime: the machine's uptime goes on, no slower than Go's own clock, and the run that it
// belongs to has a name.
func TestUptime(t *testing.T) {
	c := System()
	if c.Running == nil || c.Boot == "" {
		t.Fatalf("nobody says how long this machine has been running, in boot %q", c.Boot)
	}
	before, began := c.Running(), time.Now()
	for tries := 0; c.Running() == before; tries++ {
		if tries == 1_000_000 {
			t.Fatalf("it stands still at %v", before)
		}
	}
	gone := time.Since(began) // within what Running counts from before, and suspensions only add to that
	if d := c.Running() - before; before <= 0 || d < gone {
		t.Errorf("running for %v, then for %v more within %v", before, d, gone)
	}
}

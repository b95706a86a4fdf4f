package endtest

import (
	"testing"
	"time"
)

// Until waits for a state that nobody announces. A test that waits for 30 s fails.
func Until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	late := time.After(30 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("%s does not come", what)
		}
	}
}

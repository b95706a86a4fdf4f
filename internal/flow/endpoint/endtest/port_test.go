package endtest

import "testing"

// TestNoPortIsGivenTwice although each is free again when it is given.
func TestNoPortIsGivenTwice(t *testing.T) {
	seen := map[int]bool{}
	for range 500 {
		port, err := FreePort()
		if err != nil || seen[port] {
			t.Fatalf("port %d, given before: %v, %v", port, seen[port], err)
		}
		seen[port] = true
	}
}

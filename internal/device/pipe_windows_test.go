package device

import "testing"

func pipe(t *testing.T, _ string) { t.Skip("this system has no pipes in directories") }

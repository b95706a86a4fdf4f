package device

import (
	"strings"
	"testing"
	"time"
)

// TestEachGroupOfOptionsIsChecked: the configuration of a user who has chosen nothing is valid. An
// option that is out of its bounds, in whichever group, is named.
func TestEachGroupOfOptionsIsChecked(t *testing.T) {
	if c := DefaultConfig(); c.Validate() != nil {
		t.Error(c.Validate())
	}
	for want, change := range map[string]func(*Config){
		"hedge-delay must not be negative, it is -1s":                 func(c *Config) { c.Failover.HedgeDelay = -time.Second },
		"keep-alive must lie between 1s and 1177s":                    func(c *Config) { c.Link.KeepAlive = 0 },
		"sas-ttl must be at least 10s, it is 9s":                      func(c *Config) { c.Link.TokenLife = 9 * time.Second },
		"drain-window must lie between 1 and 4096, it is 0":           func(c *Config) { c.Drain.Window = 0 },
		"drain-window must lie between 1 and 4096, it is 4097":        func(c *Config) { c.Drain.Window = 4097 },
		"outbox-max-bytes must be at least 1MiB, it is 1048575 bytes": func(c *Config) { c.Outbox.MaxBytes = 1<<20 - 1 },
		"outbox-max-age must not be negative, it is -1s":              func(c *Config) { c.Outbox.MaxAge = -time.Second },
		"method-timeout must be more than 0, it is 0s":                func(c *Config) { c.MethodTimeout = 0 },
		"drain-timeout must not be negative, it is -1s":               func(c *Config) { c.DrainTimeout = -time.Second },
	} {
		c := DefaultConfig()
		change(&c)
		if err := c.Validate(); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v, not %q", err, want)
		}
	}
}

package cmd

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/hubhop-iot/hubhop/dps"
)

// stateDirectory returns the user's directory for the state of programs: XDG's on Linux, elsewhere
// the system's own.
func (s *settings) stateDirectory() (string, error) {
	if s.stateDir != "" {
		return s.stateDir, nil
	}
	if dir, ok := s.env.lookup("STATE_DIRECTORY"); ok && dir != "" { // systemd
		first, _, _ := strings.Cut(dir, ":")
		return first, nil
	}
	switch runtime.GOOS {
	case "windows", "darwin":
		if dir, err := os.UserConfigDir(); err == nil {
			return filepath.Join(dir, "hubhop"), nil
		}
	default:
		if dir, ok := s.env.lookup("XDG_STATE_HOME"); ok && filepath.IsAbs(dir) {
			return filepath.Join(dir, "hubhop"), nil
		}
		if home, ok := s.env.lookup("HOME"); ok && home != "" {
			return filepath.Join(home, ".local", "state", "hubhop"), nil
		}
	}
	return "", errors.New("state-dir: this user has no home directory; give --state-dir")
}

// machineID returns a text that differs between machines, so that the outbox notices a copied
// directory.
func machineID() string {
	for _, path := range []string{"/etc/machine-id", "/var/lib/dbus/machine-id"} {
		if b, err := os.ReadFile(path); err == nil && len(strings.TrimSpace(string(b))) > 0 {
			return dps.Fingerprint("machine " + strings.TrimSpace(string(b)))
		}
	}
	host, _ := os.Hostname()
	return dps.Fingerprint("host " + host)
}

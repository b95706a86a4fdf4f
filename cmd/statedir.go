package cmd

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
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

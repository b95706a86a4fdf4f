package cli

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/hubhop-iot/hubhop/internal/secret"
)

// Exposed says how others can change a file, put another in its place or, if it holds a secret,
// read it, and what to do; "" if they cannot. It does not mention a group that may read, because
// services get their keys that way.
func Exposed(path string, holdsSecret bool) string {
	if runtime.GOOS == "windows" { // Windows has no such modes
		return ""
	}
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() {
		return ""
	}
	dirs := []string{filepath.Dir(path)} // of the link, and of what it leads to
	if target, err := filepath.EvalSymlinks(path); err == nil && !slices.Contains(dirs, filepath.Dir(target)) {
		dirs = append(dirs, filepath.Dir(target))
	}
	var hows []string
	switch mode := info.Mode().Perm(); {
	case mode&0o022 != 0:
		hows = append(hows, fmt.Sprintf("can be changed by others (mode %04o): chmod 600 it", mode))
	case mode&0o004 != 0 && holdsSecret:
		hows = append(hows, fmt.Sprintf("holds a secret and can be read by everybody (mode %04o): chmod 600 it", mode))
	}
	for _, dir := range dirs {
		if info, err := os.Stat(dir); err == nil && info.Mode().Perm()&0o002 != 0 && info.Mode()&fs.ModeSticky == 0 {
			hows = append(hows, fmt.Sprintf("is in %s, where everybody can put another in its place (mode %04o): chmod o-w that", secret.Quotable(dir), info.Mode().Perm()))
		}
	}
	return strings.Join(hows, ", and ")
}

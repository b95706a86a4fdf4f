package device

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/gofrs/flock"

	"github.com/hubhop-iot/hubhop/failover"
)

// ErrStateDir says that the state directory cannot be used.
var ErrStateDir = errors.New("the state directory cannot be used")

// ErrLocked says that another process runs the same device from the same state directory.
var ErrLocked = errors.New("another hubhop is running this device")

// home is a device's own directory below the state directory: the lock, the cached hub, the outbox, what was handled.
type home struct {
	dir  string
	lock *flock.Flock
}

// openHome makes the directory and takes its lock.
func openHome(stateDir, deviceID string) (*home, error) {
	dir := homeDir(stateDir, deviceID)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("%w: %w; give a directory that this user may write with --state-dir", ErrStateDir, err)
	}
	h := &home{dir: dir, lock: flock.New(filepath.Join(dir, "lock"))}
	locked, err := h.lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("%w: %w; give a directory that this user may write with --state-dir", ErrStateDir, err)
	}
	if !locked {
		return nil, fmt.Errorf("%w: %s is locked; stop that process, or give this one another --state-dir or --device-id", ErrLocked, dir)
	}
	return h, nil
}

// OutboxDir is where a device keeps its outbox.
func OutboxDir(stateDir, deviceID string) string {
	return (&home{dir: homeDir(stateDir, deviceID)}).path(outboxName)
}

// OutboxDevices are the devices that have an outbox in a state directory.
func OutboxDevices(stateDir string) (ids []string) {
	entries, _ := os.ReadDir(stateDir) // none is none
	for _, e := range entries {
		id, err := url.PathUnescape(e.Name())
		if err != nil || fileName(id) != e.Name() {
			continue
		}
		if info, err := os.Stat(OutboxDir(stateDir, id)); err == nil && info.IsDir() {
			ids = append(ids, id)
		}
	}
	return ids
}

const outboxName = "outbox"

func homeDir(stateDir, deviceID string) string { return filepath.Join(stateDir, fileName(deviceID)) }

func (h *home) close() { _ = h.lock.Unlock() }

func (h *home) path(name string) string { return filepath.Join(h.dir, name) }

// loadState reads the cached hub. What cannot be read is as good as nothing.
func (h *home) loadState(who failover.State) (failover.State, error) {
	return failover.LoadState(h.path("state.json"), who)
}

// fileName makes a device id a legal file name everywhere: what is not a letter, a digit, '-', '_' or '.' is written as %XX.
func fileName(id string) string {
	var b strings.Builder
	for i := range len(id) {
		c := id[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == '.' && i > 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

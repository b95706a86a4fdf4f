package home

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// OutboxDir is where a device keeps its outbox.
func OutboxDir(stateDir, deviceID string) string {
	return filepath.Join(Dir(stateDir, deviceID), OutboxName)
}

// OutboxDevices are the devices that have an outbox in a state directory.
func OutboxDevices(stateDir string) (ids []string) {
	entries, _ := os.ReadDir(stateDir) // none is none
	for _, e := range entries {
		id, ok := deviceOf(stateDir, e.Name())
		if !ok {
			continue
		}
		if info, err := os.Stat(OutboxDir(stateDir, id)); err == nil && info.IsDir() {
			ids = append(ids, id)
		}
	}
	return ids
}

// Dir returns the directory of a device below the state directory.
func Dir(stateDir, deviceID string) string { return filepath.Join(stateDir, fileName(deviceID)) }

const (
	maxFileName = 255 // bytes; the limit of most file systems
	cutMark     = "~" // follows an id that was cut; no other name contains it
)

// fileName turns a device id into a file name that every system accepts: it writes each byte that
// is not a letter, a digit, '-', '_' or '.' as %XX. It cuts a name that would be too long, and
// appends a hash of the id; home.json has the id.
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
	if b.Len() <= maxFileName {
		return b.String()
	}
	sum := sha256.Sum256([]byte(id))
	return b.String()[:90] + cutMark + hex.EncodeToString(sum[:])
}

// deviceOf returns the device whose directory has this name.
func deviceOf(stateDir, name string) (id string, ok bool) {
	if strings.Contains(name, cutMark) {
		b, err := (&Home{dir: filepath.Join(stateDir, name), disk: RealDisk}).readAll(ContentFile)
		var c homeContent
		if err != nil || json.Unmarshal(b, &c) != nil {
			return "", false
		}
		return c.DeviceID, fileName(c.DeviceID) == name
	}
	id, err := url.PathUnescape(name)
	return id, err == nil && fileName(id) == name
}

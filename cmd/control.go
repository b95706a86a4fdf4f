package cmd

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/hubhop-iot/hubhop/internal/namedfile"
	"github.com/hubhop-iot/hubhop/internal/secret"
	"github.com/hubhop-iot/hubhop/internal/sim"
)

// maxSimJSON bounds the simulator's sim.json, in bytes. With 26 hubs it has 6 kB.
const maxSimJSON = 1 << 20

// controlAddress returns the address of a simulator's control API. A user names it by that
// address, by the directory of --out, or by sim.json itself.
func controlAddress(key, where string) (string, error) {
	where = strings.TrimSpace(where)
	if strings.HasPrefix(strings.ToLower(where), "http://") {
		u, err := url.Parse(where)
		if err != nil {
			return "", fmt.Errorf("%s is %s; it must be a control address such as http://127.0.0.1:8090", key, secret.QuotedAddress(where))
		}
		return "http://" + u.Host, checkHost(key, u.Host)
	}
	if info, err := os.Stat(where); err == nil && info.IsDir() {
		where = filepath.Join(where, "sim.json")
	}
	b, err := namedfile.Read(key, where, maxSimJSON)
	if err != nil {
		return "", fmt.Errorf("%w; give the control address that hubhop sim prints, or the directory of its --out", err)
	}
	var info sim.Info
	if err := json.Unmarshal(b, &info); err != nil || !strings.HasPrefix(info.Control, "http://") {
		return "", fmt.Errorf("%s: %s is no sim.json of hubhop sim", key, secret.Quotable(where))
	}
	return info.Control, nil
}

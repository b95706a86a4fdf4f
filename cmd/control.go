package cmd

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/hubhop-iot/hubhop/cmd/cli"
	"github.com/hubhop-iot/hubhop/internal/namedfile"
	"github.com/hubhop-iot/hubhop/internal/secret"
	"github.com/hubhop-iot/hubhop/internal/sim"
)

// maxSimJSON bounds the simulator's sim.json, in bytes. With 26 hubs it has 6 kB.
const maxSimJSON = 1 << 20

// findSim finds a running simulator. A user names it by the address of its control API, by the
// directory of --out, or by sim.json itself. dir is the directory of its files, and info what they
// say; dir is "" for an address.
func findSim(key, where string) (control, dir string, info sim.Info, err error) {
	where = strings.TrimSpace(where)
	if strings.HasPrefix(strings.ToLower(where), "http://") {
		u, err := url.Parse(where)
		if err != nil {
			return "", "", info, fmt.Errorf("%s is %s; it must be a control address such as http://127.0.0.1:8090", key, secret.QuotedAddress(where))
		}
		return "http://" + u.Host, "", info, cli.CheckHost(key, u.Host)
	}
	if at, err := os.Stat(where); err == nil && at.IsDir() {
		where = filepath.Join(where, "sim.json")
	}
	b, err := namedfile.Read(key, where, maxSimJSON)
	if err != nil {
		return "", "", info, fmt.Errorf("%w; give the control address that hubhop sim prints, or the directory of its --out", err)
	}
	if err := json.Unmarshal(b, &info); err != nil || !strings.HasPrefix(info.Control, "http://") {
		return "", "", info, fmt.Errorf("%s: %s is no sim.json of hubhop sim", key, secret.Quotable(where))
	}
	return info.Control, filepath.Dir(where), info, nil
}

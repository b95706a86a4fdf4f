package cmd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/hubhop-iot/hubhop/internal/home"
	"github.com/hubhop-iot/hubhop/internal/secret"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

func newOutboxCommand(env *Env, builtin []byte) *cobra.Command {
	c := group("outbox", "Look into a device's outbox",
		newOutboxStatCommand(env, builtin), newOutboxListCommand(env, builtin), newOutboxExportCommand(env, builtin), newOutboxVerifyCommand(env, builtin),
		newOutboxDiscardCommand(env, builtin))
	c.Long = `The outbox is where a device keeps its messages until a hub has acknowledged them. These commands look into it, whether hubhop run is at
work with it or not. All but discard take no lock and change nothing. What they show of a running device may be a moment old.

They find the outbox as run does: give the same --state-dir, --device-id, variables and configuration file, or the whole command line of run.
Or name the directory itself with --dir.
` + exitHelp
	return c
}

const outboxDirHelp = `The command finds the outbox as run does, by --state-dir and --device-id. Or name its directory with --dir.
`

// outboxFlags find the outbox. They include every setting of a device, so that its configuration
// file is understood. The help shows only those that matter.
type outboxFlags struct {
	settings
	dir string
}

func (o *outboxFlags) add(f *pflag.FlagSet) {
	own := pflag.NewFlagSet("", pflag.ContinueOnError) // the keys of the configuration are these alone
	o.addFlags(own)
	own.VisitAll(func(f *pflag.Flag) {
		switch f.Name {
		case "state-dir", "device-id", "config", "connection-string":
		default:
			f.Hidden = true
		}
	})
	f.AddFlagSet(own)
	f.StringVar(&o.dir, "dir", "", "the outbox's directory itself, instead of --state-dir and --device-id")
}

// find returns the directory and whose outbox it is, "" if that is not known.
func (o *outboxFlags) find() (dir, deviceID string, err error) {
	if err := o.load(); err != nil && o.dir == "" {
		return "", "", usage(err)
	}
	if o.dir != "" {
		if _, err := os.Stat(o.dir); err != nil && secret.Looks(o.dir) {
			return "", "", usage(errors.New("dir is the name of a directory, and what was given looks like a secret"))
		}
		return o.dir, o.deviceID, nil
	}
	stateDir, err := o.stateDirectory()
	if err != nil {
		return "", "", usage(err)
	}
	if deviceID, _, err = o.name(); err != nil {
		return "", "", usage(err)
	}
	dir = home.OutboxDir(stateDir, deviceID)
	if _, err := outbox.Inspect(dir); errors.Is(err, fs.ErrNotExist) {
		hint := "give the --state-dir and --device-id of hubhop run"
		if ids := home.OutboxDevices(stateDir); len(ids) > 0 {
			hint = fmt.Sprintf("%s has one of %s: give --device-id", stateDir, strings.Join(ids, ", "))
		}
		return "", "", usage(fmt.Errorf("the device %s has no outbox in %s; %s", deviceID, dir, hint))
	}
	return dir, deviceID, nil
}

// look finds the outbox and looks at it.
func (o *outboxFlags) look() (dir string, look outbox.Look, err error) {
	if dir, _, err = o.find(); err != nil {
		return dir, look, err
	}
	look, err = inspect(dir)
	return dir, look, err
}

// inspect is outbox.Inspect; a directory without an outbox is a usage error.
func inspect(dir string) (outbox.Look, error) {
	look, err := outbox.Inspect(dir)
	if errors.Is(err, fs.ErrNotExist) {
		err = usage(err)
	}
	return look, err
}

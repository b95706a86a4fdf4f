package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/hubhop-iot/hubhop/cmd/cli"
	"github.com/hubhop-iot/hubhop/internal/device"
	"github.com/hubhop-iot/hubhop/internal/drill"
	"github.com/hubhop-iot/hubhop/internal/drill/target"
	"github.com/hubhop-iot/hubhop/internal/linequeue"
	"github.com/hubhop-iot/hubhop/internal/namedfile"
	"github.com/hubhop-iot/hubhop/internal/program"
	"github.com/hubhop-iot/hubhop/internal/sample"
	"github.com/hubhop-iot/hubhop/internal/secret"
	"github.com/hubhop-iot/hubhop/internal/sim"
)

// drillDevice is the id of the device under test, unless one is given.
const drillDevice = "drill-1"

// targetFlags say where a drill is played, and with which device.
type targetFlags struct {
	moveFlags
	where, who, exec, field, program string
	messageID                        bool
	dpsFile, hubsFile                string
	args                             []string // of the program behind --
}

const targetHelp = `
A target is one of

    embedded       a simulated cloud and a device in this process: everything can be broken, and time can be virtual
    WHERE          a hubhop sim that runs: its control address, or the directory of its --out
    central        the IoT Central application that --app names: it moves devices and does nothing else
    hubs           a DPS and its hubs, whose policies --dps-service-file and --hub-service-file name. A device is moved by its enrollment
                   and its identities, which are put back

What a target cannot do is refused, with the line of the scenario, before anything is done. On central and hubs nobody says what has
arrived: there the outbox of the device is the proof, and what the hubs have acknowledged. The device finds its cloud there as
hubhop run does, by the same flags and variables.

With --device external the device is a program in any language. The drill starts it, as --exec or the words after -- say, or you start it
yourself. Its environment says where the cloud is: SIM_DEVICE_ID, and the variables of hubhop sim --exec. The ledger of the simulator alone
judges it. So it must number its samples 1, 2, 3 and so on, in a field of the body (--sequence-field), or at the end of the message id
(--message-id).
`

func (t *targetFlags) add(f *pflag.FlagSet) {
	t.all = f
	own := pflag.NewFlagSet("", pflag.ContinueOnError) // the keys of the configuration are these alone
	t.addFlags(own)
	t.show("id-scope", "group-key-file", "device-key-file", "cert", "key", "device-id", "provisioning-host", "ca-file", "config")
	own.Lookup("device-id").Usage = "id of the device under test (default: " + drillDevice + ")"
	f.AddFlagSet(own)
	t.addApplication(f)
	f.StringVar(&t.where, "target", "embedded", "embedded, a running hubhop sim (control address, or directory of --out), central, or hubs")
	f.StringVar(&t.who, "device", "embedded", "embedded, or external: a program in any language")
	f.StringVar(&t.exec, "exec", "", "command of the shell that starts the external device")
	f.StringVar(&t.field, "sequence-field", "", "where the number of a sample is in the body of a message of the external device, such as seq or data.seq")
	f.BoolVar(&t.messageID, "message-id", false, "the message id of the external device ends in the number of the sample")
	f.StringVar(&t.program, "client", "", "what the report calls the external device (default: its command)")
	f.StringVar(&t.dpsFile, "dps-service-file", "", "file with the connection string of a policy of DPS that may write enrollments")
	f.StringVar(&t.hubsFile, "hub-service-file", "", "file with a connection string for each hub, one a line, the device's home first; the policies may write identities and call methods")
}

// choose returns the target. elsewhere is false for the embedded one with an embedded device, which
// is the caller's. dir is the directory of the report.
func (t *targetFlags) choose(dir string) (chosen drill.Target, elsewhere bool, err error) {
	faults := []error{rules.CheckChoice(t.all.Lookup("device")), rules.CheckChoice(t.all.Lookup("via"))}
	external := t.who == "external"
	if !external {
		for flag, given := range map[string]bool{"exec": t.exec != "", "sequence-field": t.field != "", "message-id": t.messageID, "client": t.program != ""} {
			if given {
				faults = append(faults, fmt.Errorf("%s is about an external device; add --device external", flag))
			}
		}
	}
	if external && (t.field == "") == !t.messageID {
		faults = append(faults, errors.New("sequence-field or message-id is missing, or both are given: where is the number of a sample in its message?"))
	}
	if t.exec != "" && len(t.args) > 0 {
		faults = append(faults, errors.New("exec and words after -- are given together; how is the device started?"))
	}
	if err := errors.Join(faults...); err != nil {
		return nil, false, usage(err)
	}
	where := strings.ToLower(strings.TrimSpace(t.where))
	if where == "embedded" && !external {
		return nil, false, nil
	}
	if chosen, err = t.elsewhere(where, dir); err != nil {
		return nil, true, usage(err)
	}
	return chosen, true, nil
}

// elsewhere is a target outside of this process, or one with an external device.
func (t *targetFlags) elsewhere(where, dir string) (drill.Target, error) {
	var control, files string
	var info sim.Info
	switch where {
	case "embedded", "central", "hubs":
	default:
		var err error
		if control, files, info, err = findSim("target", t.where); err != nil {
			return nil, err
		}
		if err := t.useFiles(files, info); err != nil {
			return nil, err
		}
	}
	who, site, err := t.party(where, dir)
	switch {
	case err != nil && control != "" && files == "":
		return nil, fmt.Errorf("%w; a control address does not say where DPS is nor which key the device has: give --id-scope, --provisioning-host, --ca-file and "+
			"--group-key-file, or as --target the directory that hubhop sim --out has written", err)
	case err != nil:
		return nil, err
	}
	if files != "" && t.who == "external" {
		if site.Environ, err = info.Environ(files); err != nil {
			return nil, err
		}
	}
	switch where {
	case "embedded":
		return &target.Simulator{Who: who, Site: site}, nil
	case "central":
		mover, _, err := t.application(context.Background())
		return &target.Central{Mover: mover, Host: t.app, Who: who, Site: site}, err
	case "hubs":
		return t.hubs(who, site)
	}
	at := &drill.Control{URL: control, Client: http.Client{Transport: &http.Transport{DialContext: t.env.DialContext}}}
	return &target.Simulator{Control: at, Who: who, Site: site}, nil
}

// useFiles takes what the files of a simulator say for what no flag says.
func (t *targetFlags) useFiles(dir string, info sim.Info) (err error) {
	if dir == "" {
		return nil
	}
	for flag, value := range map[string]string{
		"id-scope": info.IDScope, "provisioning-host": info.ProvisioningHost, "ca-file": filepath.Join(dir, info.CAFile),
	} {
		if !t.fs.Changed(flag) {
			err = errors.Join(err, t.fs.Set(flag, value))
		}
	}
	if t.groupKeyFile+t.groupKey+t.deviceKey+t.deviceKeyFile+t.cert == "" {
		err = errors.Join(err, t.fs.Set("group-key", info.GroupKey))
	}
	return err
}

// party is the device, and where it finds its cloud.
func (t *targetFlags) party(where, dir string) (target.Who, target.Site, error) {
	site := target.Site{Identity: device.Identity{DeviceID: drillDevice}}
	if t.who == "external" {
		if err := t.load(); err != nil {
			return nil, site, err
		}
		if t.deviceID != "" {
			site.DeviceID = t.deviceID
		}
		if err := cli.CheckRegistrationID(site.DeviceID); err != nil {
			return nil, site, fmt.Errorf("device-id: %w", err)
		}
		out, err := t.output(dir)
		return &target.Outer{Args: t.command(), Environ: t.env.Environ, Output: out, Sequence: t.field}, site, err
	}
	err := t.load()
	if t.deviceID == "" && where != "central" && where != "hubs" {
		t.deviceID = drillDevice
	}
	p, derr := t.device(agent())
	if err = errors.Join(err, derr); err != nil {
		return nil, site, err
	}
	if p.id.PinnedHub != "" {
		return nil, site, errors.New("a connection string names its hub, and a drill moves a device by DPS; give --id-scope and a key")
	}
	site = target.Site{Identity: p.id, ProvisioningHost: p.shared.Config.ProvisioningHost, Roots: p.shared.Roots}
	who := &target.Inner{Shared: p.shared, App: func(interval time.Duration, chance *rand.Rand) device.App {
		o := p.sample
		o.Interval, o.Rand, o.Source = interval, chance, sample.Simulated
		return sample.App(o)
	}}
	return who, site, nil
}

// command is how an external device is started, empty if somebody else starts it.
func (t *targetFlags) command() []string {
	if t.exec == "" {
		return t.args
	}
	return program.Shell(t.exec)
}

// output is where an external device writes: a file in the directory of the report, else standard
// error, unless the live view is there.
func (t *targetFlags) output(dir string) (io.Writer, error) {
	if dir != "" {
		if err := os.MkdirAll(dir, 0o750); err != nil {
			return nil, fmt.Errorf("report: %w; name another directory", err)
		}
		f, err := os.Create(filepath.Join(dir, "device.log"))
		if err != nil {
			return nil, fmt.Errorf("report: %w; name another directory", err)
		}
		return f, nil // the process ends before the file is closed
	}
	if t.env.Terminal {
		return io.Discard, nil
	}
	if q, ok := t.env.Stderr.(*linequeue.Queue); ok {
		return q.Out(), nil
	}
	return t.env.Stderr, nil
}

// hubs is a DPS with its hubs.
func (t *targetFlags) hubs(who target.Who, site target.Site) (drill.Target, error) {
	if t.dpsFile == "" || t.hubsFile == "" {
		return nil, errors.New("dps-service-file and hub-service-file are missing: the target hubs changes enrollments and identities, and needs a policy of DPS and of each hub for that")
	}
	dps, err := namedfile.ReadKey("dps-service-file", t.dpsFile)
	if err != nil {
		return nil, err
	}
	lines, err := namedfile.ReadKey("hub-service-file", t.hubsFile)
	if err != nil {
		return nil, err
	}
	for _, f := range []string{t.dpsFile, t.hubsFile} {
		if why := cli.Exposed(f, true); why != "" {
			_, _ = fmt.Fprintf(t.env.Stderr, "hubhop: %s %s\n", secret.Quotable(f), why)
		}
	}
	return &target.Hubs{DPS: dps, Hubs: strings.Fields(lines), Key: site.Key, Client: t.client(site.Roots), Who: who, Site: site}, nil
}

// named is the program under test, for the report.
func (t *targetFlags) named() string {
	switch {
	case t.who != "external":
		return "hubhop " + version()
	case t.program != "":
		return t.program
	case t.exec != "":
		return secret.Quotable(t.exec)
	case len(t.args) > 0:
		return secret.Quotable(strings.Join(t.args, " "))
	}
	return "an external program"
}

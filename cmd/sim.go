package cmd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/hubhop-iot/hubhop/cmd/cli"
	"github.com/hubhop-iot/hubhop/internal/linequeue"
	"github.com/hubhop-iot/hubhop/internal/namedfile"
	"github.com/hubhop-iot/hubhop/internal/page"
	"github.com/hubhop-iot/hubhop/internal/secret"
	"github.com/hubhop-iot/hubhop/internal/sim"
)

func newSimCommand(env *Env) *cobra.Command {
	s := &settings{env: env} // for the log flags only
	conf := sim.DefaultConfig()
	var out, line, retryAfter, enrollments, template string
	var refusal int
	var limits string
	c := &cobra.Command{
		Use:   "sim",
		Short: "Run a local DPS with IoT Hubs",
		Long: `Sim is a DPS, two or more IoT Hubs and IoT Central's failover on this machine. The official device
SDKs work with it over MQTT and HTTPS. It listens on loopback addresses only, unless --listen-any is given. Layout loopback
(Linux) gives each hub an address of its own with the standard ports. Layout ports puts
everything on 127.0.0.1 with free ports. A device that registers over MQTT asks for the time
at port 443 of DPS. Where HTTPS has another port it can learn the time only with
--provisioning-transport https --provisioning-host ADDRESS (dps.https in sim.json).

With --out it writes what a client needs: ca.pem (trust it), sim.json (addresses and keys),
group.key (for --group-key-file), device-ca.pem and device-ca-key.pem (to mint device
certificates).

With --exec it runs a command when the cloud is ready, stops the cloud when the command has
ended, and ends with the command's exit code. The command finds the cloud in SIM_JSON,
SIM_DIR, SIM_CONTROL, SIM_ID_SCOPE, SIM_PROVISIONING_HOST, SIM_CA_FILE, SIM_GROUP_KEY_FILE,
SIM_HUB_A, SIM_HUB_B and so on. In that command Node.js trusts the cloud, and hubhop run
needs no flags.

With --state-dir the simulator writes everything to disk before it answers. The next start
finds the same cloud there, even after kill -9: its keys and ports, devices, twins, messages
and the ledger. Faults do not come back.

The control address is a page for a browser: hubs to attack, devices that move, what arrived.
It is also the control API, which does the same for scripts (docs/control-api.md):
    curl -X POST $control/api/hubs/hub-a/fault -d '{"kind":"kill"}'
    curl $control/api/ledger?device=dev-1` + "\n" + exitHelp,
		Example: `  hubhop sim --out sim
  hubhop run --id-scope 0ne00000SIM --provisioning-host 127.0.0.1 --ca-file sim/ca.pem --group-key-file sim/group.key
  hubhop sim --exec 'npm test'`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := errors.Join(checkAddresses(&conf), rules.CheckChoices(c.Flags()), checkCounts(conf)); err != nil {
				return usage(err)
			}
			switch retryAfter {
			case "none":
				conf.RetryAfterAbsent = true
			default:
				d, err := time.ParseDuration(retryAfter)
				if err != nil || d < 0 || d%time.Second != 0 {
					return usage(fmt.Errorf("retry-after is %s; it must be whole seconds such as 3s, or none", secret.Quoted(retryAfter)))
				}
				conf.RetryAfter = d
			}
			conf.DisabledRefusal = byte(refusal)
			if err := dpsLimits(limits, &conf.DPSLimits); err != nil {
				return usage(err)
			}
			if err := enrollmentFile(enrollments, &conf.EnrollmentDocuments); err != nil {
				return usage(err)
			}
			if template != "" {
				var err error
				if conf.Template, err = namedfile.Read("template", template, maxCloudBytes); err != nil {
					return usage(err)
				}
			}
			if out != "" { // before anything listens
				if err := os.MkdirAll(out, 0o755); err != nil { //nolint:gosec // everybody may read the CA in it
					return usage(fmt.Errorf("out: %w; choose a directory that can be made", err))
				}
			}
			if line != "" && strings.TrimSpace(line) == "" {
				return usage(errors.New("exec is blank; give a command, such as --exec 'npm test'"))
			}
			if conf.Advertise != "" && !c.Flags().Changed("layout") {
				conf.Layout = sim.LayoutPorts // one host, so many ports
			}
			return runSim(c.Context(), env, s, conf, out, line)
		},
	}
	f := c.Flags()
	f.IntVar(&conf.Hubs, "hubs", conf.Hubs, "number of hubs")
	f.StringVar(&conf.Layout, "layout", conf.Layout, "loopback (one address each, standard ports) or ports (one address, free ports)")
	f.StringVar(&out, "out", "", "directory for ca.pem, group.key, device-ca.pem, device-ca-key.pem and sim.json")
	f.StringVar(&line, "exec", "", "run a command of the shell when the cloud is ready, stop the cloud when it has ended, and end with its exit code; "+
		"SIM_JSON, SIM_CONTROL and other variables tell the command where the cloud is")
	f.StringVar(&conf.Advertise, "advertise", "", "host name or address by which clients reach the simulator, such as clients in other containers; it stands in assignedHub, "+
		"certificates and sim.json; needs layout ports; add --base-address 0.0.0.0 --listen-any to listen beyond loopback")
	f.StringVar(&retryAfter, "retry-after", "3s", "what DPS asks devices to wait; 0s is sent as 0, none leaves it out")
	f.StringVar(&conf.BaseAddress, "base-address", conf.BaseAddress, "address of DPS; hub i has the i-th one after it (layout loopback)")
	f.IntVar(&conf.HTTPSPort, "https-port", conf.HTTPSPort, "port of HTTPS (default: 443 where it can be bound, else 8443)")
	f.StringVar(&conf.ControlAddr, "control", conf.ControlAddr, "address of the control API; if the port is taken, a free one is used")
	f.StringVar(&conf.ConnectProxy, "connect-proxy", "", "address of an HTTP CONNECT proxy for clients that keep Azure's names: set HTTPS_PROXY=http://ADDR; "+
		"hub-a.azure-devices.net leads to hub-a, and a client that asks DPS by Azure's name is assigned such a name")
	f.BoolVar(&conf.ListenAny, "listen-any", false, "allow addresses that are not loopback")
	f.IntVar(&conf.Polls, "polls", conf.Polls, "how many polls of a registration DPS answers with 202 before it gives the result")
	f.BoolVar(&conf.AutoApprove, "auto-approve", conf.AutoApprove, "=false: a new device waits for POST /api/devices/ID/approve, as in IoT Central; DPS answers failed 400209 until then")
	f.BoolVar(&conf.RetryAfterFirst, "retry-after-first", false, "put retry-after before $rid in DPS's answers over MQTT")
	f.StringVar(&conf.MalformedDPS, "dps-malformed", conf.MalformedDPS, "what DPS does to a malformed user name: refuse (CONNACK 5) or close")
	f.StringVar(&limits, "dps-limits", "", "REGISTRATIONS,POLLS: DPS answers 429 after this many registrations of all devices in a minute, or this many polls of one device in 10 s; without a value 1000,5 as in Azure")
	azure := sim.AzureDPSLimits()
	f.Lookup("dps-limits").NoOptDefVal = fmt.Sprintf("%d,%d", azure.RegistrationsPerMinute, azure.PollsPer10s)
	f.StringVar(&conf.Allocation, "allocation", conf.Allocation, "how DPS chooses a hub: static, hashed, geoLatency or custom")
	f.IntSliceVar(&conf.HubWeights, "hub-weights", nil, "weights of the hubs under --allocation hashed, such as 3,1")
	f.StringVar(&conf.Webhook, "webhook", "", "URL that chooses the hub under --allocation custom")
	f.StringVar(&conf.Reprovision, "reprovision", conf.Reprovision, "what becomes of a device that registers again: migrate, reset or never")
	f.StringVar(&enrollments, "enrollments", "", "file with a JSON array of enrollments and groups in the form of the DPS service API")
	f.StringVar(&template, "template", "", "DTDL file with IoT Central's device templates; it says which commands are queued for devices that are away")
	f.StringVar(&conf.Move, "move", conf.Move, "how a device leaves a live hub: disable (IoT Central) or delete (plain DPS)")
	f.IntVar(&refusal, "disabled-refusal", int(conf.DisabledRefusal), "CONNACK code for a disabled identity: 3 or 5")
	f.StringVar(&conf.C2DBeforeSubscription, "c2d-before-subscription", conf.C2DBeforeSubscription,
		"cloud-to-device messages older than the device's subscription on that hub: deliver, or reject as documented")
	f.StringVar(&conf.StateDir, "state-dir", "", "directory in which the cloud survives even kill -9: keys, devices, twins, C2D messages, ledger (default: memory only)")
	f.DurationVar(&conf.SASGrace, "sas-grace", conf.SASGrace, "how long after its expiry a hub still accepts a token")
	f.IntVar(&conf.LedgerKeep, "ledger-keep", conf.LedgerKeep, "how many message bodies the ledger keeps; its counts are always exact")
	f.DurationVar(&conf.ClockOffset, "clock-offset", 0, "how far the cloud's clock is ahead of this machine's, to try devices with a wrong clock; they ask for the time over HTTPS, at port 443 unless they register over HTTPS")
	s.addLogFlags(f)
	return c
}

// dpsLimits reads "1000,5".
func dpsLimits(text string, into *sim.DPSLimits) error {
	if text == "" {
		return nil
	}
	registrations, polls, ok := strings.Cut(text, ",")
	var errs [2]error
	into.RegistrationsPerMinute, errs[0] = strconv.Atoi(registrations)
	into.PollsPer10s, errs[1] = strconv.Atoi(polls)
	if !ok || errors.Join(errs[:]...) != nil || into.RegistrationsPerMinute < 0 || into.PollsPer10s < 0 {
		return fmt.Errorf("dps-limits is %s; it must be two numbers such as 1000,5: registrations per minute, and polls per device in 10 s; 0 is no limit", secret.Quoted(text))
	}
	return nil
}

// enrollmentFile reads a JSON array.
func enrollmentFile(path string, into *[]json.RawMessage) error {
	if path == "" {
		return nil
	}
	b, err := namedfile.Read("enrollments", path, maxCloudBytes)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, into); err != nil {
		if _, isJSON := errors.AsType[*json.UnmarshalTypeError](err); isJSON { // its text names types of Go
			err = errors.New("it holds something else")
		}
		return fmt.Errorf("enrollments: %s must hold a JSON array of enrollments: %w", secret.Quotable(path), err)
	}
	return nil
}

// runSim runs a cloud until it is asked to stop or, if line is not empty, until that shell command
// has ended.
func runSim(ctx context.Context, env *Env, s *settings, conf sim.Config, out, line string) error {
	log, err := s.logger(nil) // its lines are short: hub, device, kind and reason stand in their fields
	if err != nil {
		return usage(err)
	}
	conf.Logger, conf.Page = log, page.Simulator()
	cloud, err := sim.New(conf)
	if err != nil {
		if s.logFormat != "json" { // nothing has been logged
			env.jsonLog = nil
		}
		return usage(err)
	}
	if err := cloud.Start(); err != nil {
		if errors.Is(err, syscall.EADDRINUSE) {
			return fmt.Errorf("%w; perhaps another simulator is running: give this one --base-address 127.1.0.1 or --layout ports", err)
		}
		return err
	}
	defer func() { _ = cloud.Close() }()
	if line != "" {
		dir, clean, err := simDir(out)
		if err != nil {
			return err
		}
		defer clean()
		out = dir
	}
	if out != "" {
		if err := cloud.WriteFiles(out); err != nil {
			return fmt.Errorf("out: %w", err)
		}
	}
	info := cloud.Info()
	ctx, stop := env.Notify(ctx) // before the ready line: a reader that closes the pipe after it must not end the simulator
	defer stop()
	readyLine := fmt.Sprintf("ready: DPS %s, ID scope %s, %d hubs, control and page %s\n", info.DPS.MQTT, info.IDScope, len(info.Hubs), info.Control)
	if line != "" {
		_, _ = fmt.Fprint(env.Stderr, readyLine) // standard output is the command's
		err = env.runBeside(ctx, info, out, line)
		if closing := cloud.Close(); err == nil {
			err = closing
		}
		return err
	}
	ready := linequeue.New(env.Stdout)
	defer ready.CloseSoon()
	_, _ = fmt.Fprint(ready, readyLine)
	<-ctx.Done()
	return errors.Join(cloud.Close())
}

// checkCounts returns an error for each impossible number. In a Config some of them would mean the
// default.
func checkCounts(conf sim.Config) error {
	var all []error
	if conf.Hubs < 1 || conf.Hubs > 26 {
		all = append(all, fmt.Errorf("hubs is %d; there can be 1 to 26", conf.Hubs))
	}
	if conf.LedgerKeep < 1 {
		all = append(all, fmt.Errorf("ledger-keep is %d; it must be at least 1", conf.LedgerKeep))
	}
	if conf.Polls < 0 {
		all = append(all, fmt.Errorf("polls is %d; it must not be negative", conf.Polls))
	}
	if conf.SASGrace < 0 {
		all = append(all, fmt.Errorf("sas-grace is %v; it must not be negative", conf.SASGrace))
	}
	return errors.Join(all...)
}

// checkAddresses returns one error with every wrong address and its flag.
func checkAddresses(conf *sim.Config) error {
	for _, text := range []*string{&conf.ControlAddr, &conf.ConnectProxy, &conf.BaseAddress, &conf.Webhook} {
		*text = strings.TrimSpace(*text)
	}
	faults := []error{cli.CheckListen("control", conf.ControlAddr), cli.CheckBaseAddress("base-address", conf.BaseAddress)}
	if conf.ConnectProxy != "" {
		faults = append(faults, cli.CheckListen("connect-proxy", conf.ConnectProxy))
	}
	if conf.Advertise != "" && secret.QuotedAddress(conf.Advertise) != strconv.Quote(conf.Advertise) {
		faults = append(faults, fmt.Errorf("advertise is %s; it must be a host name or an IPv4 address, without a port", secret.QuotedAddress(conf.Advertise)))
	}
	if conf.HTTPSPort < 0 || conf.HTTPSPort > 65535 {
		faults = append(faults, fmt.Errorf("https-port is %d; it must be a number from 1 to 65535", conf.HTTPSPort))
	}
	if u, err := url.Parse(conf.Webhook); conf.Webhook != "" && (err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "") {
		faults = append(faults, fmt.Errorf("webhook is %s; it must be an http or https URL", secret.QuotedAddress(conf.Webhook)))
	}
	return errors.Join(faults...)
}

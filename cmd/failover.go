package cmd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/hubhop-iot/hubhop/cmd/cli"
	"github.com/hubhop-iot/hubhop/cmd/window"
	"github.com/hubhop-iot/hubhop/internal/central"
	"github.com/hubhop-iot/hubhop/internal/drill"
	"github.com/hubhop-iot/hubhop/internal/home"
	"github.com/hubhop-iot/hubhop/internal/namedfile"
	"github.com/hubhop-iot/hubhop/internal/secret"
)

// mover moves a device between the hubs of its application.
type mover interface {
	Failover(ctx context.Context, device string, ttl time.Duration) (central.Answer, error)
	Failback(ctx context.Context, device string) (central.Answer, error)
}

// moveFlags are the flags of failover and failback.
type moveFlags struct {
	settings
	app, appID, tokenFile, via, sim string
	ttlMinutes                      int
	wait, asJSON                    bool
	timeout                         time.Duration
	all                             *pflag.FlagSet
}

// moved is the JSON of failover and failback.
type moved struct {
	Device        string `json:"device"`
	Operation     string `json:"operation"` // failover or failback
	Via           string `json:"via"`       // who moved it: rest, az, sim
	HubIdentifier string `json:"hubIdentifier,omitempty"`
	Message       string `json:"message,omitempty"`

	// With --wait: the hub that the device left, the one where it was seen, and how long that took.
	From     string `json:"from,omitempty"`
	To       string `json:"to,omitempty"`
	WaitedMs int64  `json:"waitedMs,omitempty"`
}

const moveHelp = `It asks one of

    --app HOST     an IoT Central application, over its REST API, with an API token of the application in --token-file or in
                   the variable IOTC_TOKEN, or with a token of Entra ID
    --via az       the same, but the Azure CLI asks; it must have the azure-iot extension, and be logged in or be given the
                   token. The variable AZ names another program to use instead of az
    --sim WHERE    hubhop sim, without any account: its control address, or the directory of its --out

With --wait the command ends when the device has a link to another hub than before, and says how long that took. If hubhop run
keeps the device connected on this machine, its status tells; the device is found by the same --state-dir as run. Else there is a
way around, because IoT Central tells nobody which hub a device is on: DPS is asked for the assigned hub, with the device's key
that IoT Central hands out, and the device's twin for its link, each 2 s. That needs a token, also with --via az, and cannot see a
device with an X.509 certificate. A simulator is asked directly.

A request is sent again only if the service says when to come back. If no answer comes, it is not known whether the device was
moved: look before you repeat it.
`

const moveExits = "\nOf this command: 1 IoT Central does not do it, or the device was not seen in time · 4 IoT Central refuses the token.\n"

func newFailoverCommand(env *Env, builtin []byte) *cobra.Command {
	m := &moveFlags{settings: settings{env: env, builtin: builtin}}
	c := m.command("failover", "Move a device to another hub", "Failover moves a device of IoT Central to another hub, as an operator does it in an exercise. "+
		"IoT Central moves it back by itself after --ttl-minutes, or after a time of its own; hubhop failback does it at once.")
	c.Example = `  hubhop failover --app myapp.azureiotcentral.com --token-file token --device-id dev-1 --ttl-minutes 10 --wait
  hubhop failover --sim sim --device-id dev-1`
	c.Flags().IntVar(&m.ttlMinutes, "ttl-minutes", 0, "after so many minutes the device is moved back, 1 to 30 (default: IoT Central's)")
	return c
}

func newFailbackCommand(env *Env, builtin []byte) *cobra.Command {
	m := &moveFlags{settings: settings{env: env, builtin: builtin}}
	c := m.command("failback", "Move a device back to its first hub", "Failback moves a device that was failed over back to its first hub.")
	c.Example = `  hubhop failback --app myapp.azureiotcentral.com --token-file token --device-id dev-1 --wait
  hubhop failback --sim http://127.0.0.1:8090 --device-id dev-1`
	return c
}

func (m *moveFlags) command(name, short, long string) *cobra.Command {
	c := &cobra.Command{
		Use: name, Short: short, Long: long + "\n\n" + moveHelp + exitHelp + moveExits, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if c.Flags().Changed("ttl-minutes") && m.ttlMinutes == 0 {
				m.ttlMinutes = -1 // for the check
			}
			return m.run(c.Context(), name)
		},
	}
	f := c.Flags()
	m.all = f
	own := pflag.NewFlagSet("", pflag.ContinueOnError) // the keys of the configuration are these alone
	m.addFlags(own)
	m.show("device-id", "state-dir", "provisioning-host", "ca-file", "config")
	own.Lookup("device-id").Usage = "the device that is to move"
	own.Lookup("provisioning-host").Usage = "DPS of the application, host or host:port of its HTTPS; --wait asks there"
	f.AddFlagSet(own)
	m.addApplication(f)
	f.StringVar(&m.sim, "sim", "", "a running hubhop sim instead of IoT Central: its control address, or its --out directory")
	f.BoolVar(&m.wait, "wait", false, "wait until the device is seen on the other hub")
	f.DurationVar(&m.timeout, "timeout", 5*time.Minute, "how long --wait waits")
	f.BoolVar(&m.asJSON, "json", false, "print the answer as JSON")
	return c
}

// addApplication defines the flags that name an IoT Central application.
func (m *moveFlags) addApplication(f *pflag.FlagSet) {
	f.StringVar(&m.app, "app", "", "host of the IoT Central application, such as myapp.azureiotcentral.com")
	f.StringVar(&m.tokenFile, "token-file", "", "file with the application's API token, or a token of Entra ID (default: the variable IOTC_TOKEN)")
	f.StringVar(&m.via, "via", "rest", "who asks IoT Central: rest (hubhop itself) or az (the Azure CLI)")
	f.StringVar(&m.appID, "app-id", "", "id of the application, for --via az (default: what --app begins with)")
}

func (m *moveFlags) run(ctx context.Context, operation string) error {
	ctx, stop := m.env.Notify(ctx)
	defer stop()
	who, watch, err := m.prepare(ctx)
	if err != nil {
		return err
	}
	result := moved{Device: m.deviceID, Operation: operation, Via: m.via}
	if m.sim != "" {
		result.Via = "sim"
	}
	if m.wait {
		at, err := watch.Where(ctx, m.deviceID)
		if err != nil {
			return fmt.Errorf("the device was not moved, because --wait cannot say where it is now: %w", err)
		}
		result.From = at.Hub
	}
	began := time.Now()
	var answer central.Answer
	if operation == "failover" {
		answer, err = who.Failover(ctx, m.deviceID, time.Duration(m.ttlMinutes)*time.Minute)
	} else {
		answer, err = who.Failback(ctx, m.deviceID)
	}
	if err != nil {
		return err
	}
	result.HubIdentifier, result.Message = answer.HubIdentifier, answer.Message
	if !m.asJSON {
		text := answer.Message
		if text == "" {
			text = "accepted"
		}
		_, _ = fmt.Fprintf(m.env.Stdout, "%s of %s: %s\n", operation, m.deviceID, escaped(clip(text)))
	}
	if m.wait {
		limited, cancel := context.WithTimeout(ctx, m.timeout)
		defer cancel()
		if result.To, err = central.Follow(limited, watch, m.deviceID, result.From); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("%s of %s was accepted, but within %v %w", operation, m.deviceID, m.timeout, err)
		}
		took := time.Since(began)
		result.WaitedMs = took.Milliseconds()
		if !m.asJSON {
			_, _ = fmt.Fprintf(m.env.Stdout, "%s moved from %s to %s, seen there after %.1f s\n", m.deviceID, escaped(result.From), escaped(result.To), took.Seconds())
		}
	}
	if m.asJSON {
		return printJSON(m.env.Stdout, result)
	}
	return nil
}

// prepare returns who moves the device, and with --wait who tells where it is. It reports every
// fault of the command line.
func (m *moveFlags) prepare(ctx context.Context) (mover, central.Watch, error) {
	faults := []error{m.load()}
	if m.deviceID == "" {
		faults = append(faults, fmt.Errorf("device-id is missing: which device is to move? Give --device-id"))
	} else if err := cli.CheckRegistrationID(m.deviceID); err != nil {
		faults = append(faults, fmt.Errorf("device-id: %w", err))
	}
	if most := int(central.MaxFailover / time.Minute); m.ttlMinutes < 0 || m.ttlMinutes > most {
		faults = append(faults, fmt.Errorf("ttl-minutes must be 1 to %d", most))
	}
	if m.timeout <= 0 {
		faults = append(faults, fmt.Errorf("timeout is %v; it must be longer than 0", m.timeout))
	}
	faults = append(faults, rules.CheckChoice(m.all.Lookup("via")))
	var who mover
	var watch central.Watch
	var err error
	switch {
	case m.app != "" && m.sim != "":
		err = errors.New("app and sim are given together; which of them is to move the device?")
	case m.sim != "":
		var control string
		control, _, _, err = findSim("sim", m.sim)
		at := &drill.Mover{Control: &drill.Control{URL: control, Client: http.Client{Transport: &http.Transport{DialContext: m.env.DialContext}}}}
		who, watch = at, at
	default:
		who, watch, err = m.application(ctx)
	}
	if err = errors.Join(append(faults, err)...); err != nil {
		return nil, nil, usage(err)
	}
	if cli, ok := who.(*central.CLI); ok {
		if err := cli.Find(); err != nil {
			return nil, nil, fmt.Errorf("%w; or let hubhop ask by itself: --via rest --token-file FILE", err)
		}
	}
	return who, watch, nil
}

// application is IoT Central, asked over REST or by the Azure CLI.
func (m *moveFlags) application(ctx context.Context) (mover, central.Watch, error) {
	m.app = strings.ToLower(strings.TrimSpace(m.app))
	for _, pasted := range []string{"https://", "http://"} { // as the address line of a browser has it
		m.app = strings.TrimSuffix(strings.TrimPrefix(m.app, pasted), "/")
	}
	if m.app == "" {
		return nil, nil, errors.New("app is missing: give the host of the IoT Central application with --app, or a simulator with --sim")
	}
	name, suffix, dotted := strings.Cut(m.app, ".")
	faults := []error{cli.CheckHost("app", m.app)}
	if !dotted {
		faults = append(faults, fmt.Errorf("app is %s; it must be a whole host name, such as myapp.azureiotcentral.com", secret.Quoted(m.app)))
	}
	token, tokenErr := m.token()
	roots, err := m.roots()
	faults = append(faults, tokenErr, err, cli.CheckHost("provisioning-host", m.plan.shared.Config.ProvisioningHost))
	rest := &central.Application{
		Host: m.app, Token: token, ProvisioningHost: m.plan.shared.Config.ProvisioningHost,
		Client: m.client(roots),
		Waiting: func(d time.Duration, why error) {
			_, _ = fmt.Fprintf(m.env.Stderr, "hubhop: %s; asked to wait %v\n", escaped(clip(why.Error())), d)
		},
	}
	var who mover = rest
	if m.via == "az" {
		if m.appID != "" {
			name = m.appID
		}
		program := "az"
		if other, ok := m.env.lookup("AZ"); ok && other != "" {
			program = other
		}
		who = &central.CLI{Program: program, Environ: m.env.Environ, AppID: name, Host: m.app, Suffix: suffix, Token: token}
	}
	var watch central.Watch = rest
	here := false
	if m.wait {
		if stateDir, err := m.stateDirectory(); err == nil {
			var at *window.Place
			if at, here = window.Locate(ctx, home.Dir(stateDir, m.deviceID)); here {
				watch = at
			}
		}
	}
	if token == "" && tokenErr == nil {
		switch {
		case m.via != "az":
			faults = append(faults, errors.New("token-file is missing: IoT Central makes API tokens under Permissions, API tokens; put one in a file that --token-file names, or in IOTC_TOKEN"))
		case m.wait && !here:
			faults = append(faults, errors.New("wait needs a token, also with --via az, unless the device runs on this machine: the Azure CLI does not say where a device is; give --token-file, or the --state-dir of hubhop run"))
		}
	}
	return who, watch, errors.Join(faults...)
}

// client asks services over HTTPS.
func (m *moveFlags) client(roots *x509.CertPool) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext: m.env.DialContext, Proxy: http.ProxyFromEnvironment,
		TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, TLSHandshakeTimeout: 15 * time.Second,
	}}
}

// token returns the token of the application, "" if none is given.
func (m *moveFlags) token() (string, error) {
	text, from := "", "IOTC_TOKEN"
	if m.tokenFile != "" {
		var err error
		if text, err = namedfile.ReadKey("token-file", m.tokenFile); err != nil {
			return "", err
		}
		from = "token-file " + secret.Quotable(m.tokenFile)
		if why := cli.Exposed(m.tokenFile, true); why != "" {
			_, _ = fmt.Fprintf(m.env.Stderr, "hubhop: token-file: %s %s\n", secret.Quotable(m.tokenFile), why)
		}
	} else if text, _ = m.env.lookup("IOTC_TOKEN"); text == "" {
		return "", nil
	}
	token, err := central.CheckToken(text)
	if err != nil {
		return "", fmt.Errorf("%s: %w", from, err)
	}
	return token, nil
}

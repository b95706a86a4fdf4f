package cmd

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/time/rate"

	"github.com/hubhop-iot/hubhop/dps"
	"github.com/hubhop-iot/hubhop/failover"
	"github.com/hubhop-iot/hubhop/hub"
	"github.com/hubhop-iot/hubhop/internal/device"
	"github.com/hubhop-iot/hubhop/internal/sample"
	"github.com/hubhop-iot/hubhop/telemetry"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

const (
	envPrefix  = "HUBHOP_"
	configName = "hubhop.yaml"
	dpsBurst   = 100 // registrations of a whole process at once
)

// settings are the flags of a device, spelled as on the command line, in the environment (HUBHOP_ and upper snake case) and in the
// configuration file.
type settings struct {
	idScope, groupKey, groupKeyFile, deviceKey, deviceKeyFile string
	cert, certKey, connectionString                           string
	deviceID, modelID, modelFile                              string
	provisioningHost, provisioningTransport, caFile, stateDir string
	telemetry, reported, desired, methods, c2d                bool
	telemetryInterval, reportedInterval                       time.Duration
	telemetrySource                                           string
	hedgeDelay                                                time.Duration
	knownHubs                                                 bool
	pipeline                                                  string
	dpsRate                                                   int
	keepAlive, sasTTL, methodTimeout                          time.Duration
	outboxMaxBytes                                            byteSize
	outboxMaxAge                                              time.Duration
	outboxFull                                                string
	outboxSync                                                syncEvery
	drainWindow                                               int
	drainOrder                                                string
	drainTimeout                                              time.Duration
	sendQueuedHere                                            bool
	logLevel, logFormat                                       string
	logBodies                                                 bool
	config                                                    string

	fs       *pflag.FlagSet
	file     string            // the configuration file that was read, "" for none
	warnings []string          // sentences for the log about settings that are used all the same
	sources  map[string]string // key → where its value comes from, for those that are not default
	env      *Env
	builtin  []byte
}

// secrets are never shown.
var secrets = []string{"group-key", "device-key", "connection-string"}

// addFlags defines the flags of a device.
func (s *settings) addFlags(f *pflag.FlagSet) {
	s.fs = f
	f.StringVar(&s.idScope, "id-scope", "", "DPS ID scope, such as 0ne00ABCDEF")
	f.StringVar(&s.groupKey, "group-key", "", "group SAS key, base64; better: --group-key-file or HUBHOP_GROUP_KEY")
	f.StringVar(&s.groupKeyFile, "group-key-file", "", "file with the group SAS key; the device's key is derived from it")
	f.StringVar(&s.deviceKey, "device-key", "", "the device's own SAS key (hubhop key derive makes it from the group key)")
	f.StringVar(&s.deviceKeyFile, "device-key-file", "", "file with the device's own SAS key")
	f.StringVar(&s.cert, "cert", "", "X.509 client certificate chain (PEM)")
	f.StringVar(&s.certKey, "key", "", "key of the client certificate (PEM)")
	f.StringVar(&s.connectionString, "connection-string", "", "no DPS: HostName=…;DeviceId=…;SharedAccessKey=… of one hub, or the gateway that it names")
	f.StringVar(&s.deviceID, "device-id", "", "registration id (default: the common name of --cert, else the host name, made legal)")
	f.StringVar(&s.modelID, "model-id", "", "which interface of --model the device is (default: the one that is no part of another)")
	f.StringVar(&s.modelFile, "model", "", "DTDL file, version 2 or 3: what is checked against, and announced (default: the built-in failover.json)")
	f.StringVar(&s.provisioningHost, "provisioning-host", dps.DefaultHost, "DPS endpoint, host or host:port")
	f.StringVar(&s.provisioningTransport, "provisioning-transport", "mqtt", "mqtt or https")
	f.StringVar(&s.caFile, "ca-file", "", "trusted roots beside the system's (PEM); the simulator's ca.pem")
	f.StringVar(&s.stateDir, "state-dir", "", "directory of cache and outbox (default: the user's state directory)")
	f.BoolVar(&s.telemetry, "telemetry", true, "send telemetry")
	f.BoolVar(&s.reported, "reported", true, "report properties")
	f.BoolVar(&s.desired, "desired", true, "follow desired properties")
	f.BoolVar(&s.methods, "methods", true, "answer direct methods")
	f.BoolVar(&s.c2d, "c2d", true, "take cloud-to-device messages")
	f.DurationVar(&s.telemetryInterval, "telemetry-interval", 5*time.Second, "time between samples")
	f.DurationVar(&s.reportedInterval, "reported-interval", 15*time.Second, "time between reported properties")
	f.StringVar(&s.telemetrySource, "telemetry-source", "simulated", "simulated, host (this machine), or stdin (JSON lines)")
	f.DurationVar(&s.hedgeDelay, "hedge-delay", 0, "how long a dial may be slow before DPS is asked too (default: 250ms or 3 × the hub's last dial)")
	f.BoolVar(&s.knownHubs, "known-hubs", true, "try hubs that DPS assigned before while DPS cannot be reached")
	f.StringVar(&s.pipeline, "pipeline", "auto", "send CONNECT and what follows in one write: auto, on, off")
	f.IntVar(&s.dpsRate, "dps-rate", 900, "registrations a minute of this process at most")
	f.DurationVar(&s.keepAlive, "keep-alive", 20*time.Second, "an idle link is tested after it")
	f.DurationVar(&s.sasTTL, "sas-ttl", time.Hour, "life of a SAS token")
	f.DurationVar(&s.methodTimeout, "method-timeout", 25*time.Second, "how long a direct method may take")
	s.outboxMaxBytes = 256 << 20
	f.Var(&s.outboxMaxBytes, "outbox-max-bytes", "size of the outbox on disk")
	f.DurationVar(&s.outboxMaxAge, "outbox-max-age", 0, "drop samples older than this (default off)")
	f.StringVar(&s.outboxFull, "outbox-full", "", "drop-oldest or block (default: drop-oldest, for stdin block)")
	f.Var(&s.outboxSync, "outbox-sync", "always: a sample is durable before it counts as taken; or a duration such as 1s: spares flash, and a power cut may take what came in that time")
	f.IntVar(&s.drainWindow, "drain-window", 64, "messages in flight")
	f.StringVar(&s.drainOrder, "drain-order", "fifo", "fifo, or fresh-first: after an outage new samples go ahead of those that waited")
	f.BoolVar(&s.sendQueuedHere, "send-queued-here", false, "send what waits in the outbox to this place, although it was made for another")
	f.DurationVar(&s.drainTimeout, "drain-timeout", 5*time.Second, "time to send what is queued before a stop")
	f.StringVar(&s.config, "config", "", "configuration file (default: ./hubhop.yaml, then the user's)")
	s.addLogFlags(f)
	f.BoolVar(&s.logBodies, "log-bodies", false, "show what MQTT packets carry (needs --log-level trace); it may be secret")
	readAsWritten(f)
}

func (s *settings) addLogFlags(f *pflag.FlagSet) {
	f.StringVar(&s.logLevel, "log-level", "info", "trace (each MQTT packet), debug, info, warn, error")
	f.StringVar(&s.logFormat, "log-format", "", "console or json (default: console on a terminal, else json)")
}

// show hides all other flags in the help of a command. The command still accepts them, because it
// shares its configuration file and command line with run.
func (s *settings) show(names ...string) {
	s.fs.VisitAll(func(f *pflag.Flag) { f.Hidden = !slices.Contains(names, f.Name) })
}

// load fills in what the command line did not say: environment, then file. Every fault is reported, with its key.
func (s *settings) load() error {
	s.sources = map[string]string{}
	var faults []error
	s.fs.VisitAll(func(f *pflag.Flag) {
		if f.Changed {
			s.sources[f.Name] = "flag"
		}
	})
	set := func(key, value, from, at string) {
		if s.sources[key] != "" {
			return
		}
		f := s.fs.Lookup(key)
		if err := f.Value.Set(value); err != nil {
			_ = f.Value.Set(f.DefValue) // one fault is enough: a parser leaves zero behind
			faults = append(faults, fmt.Errorf("%s: %s is not a value for %s: %w", at, valueOf(key, value), key, plainParse(err)))
			return
		}
		s.sources[key] = from
	}
	s.fs.VisitAll(func(f *pflag.Flag) {
		name := envName(f.Name)
		if value, ok := s.env.lookup(name); ok && value != "" && f.Name != "help" { // an empty variable counts as unset
			set(f.Name, value, name, name)
		}
	})
	file, values, err := s.readFile()
	if err != nil {
		faults = append(faults, err)
	}
	unknown := 0
	for _, key := range sortedByLine(values) {
		at := fmt.Sprintf("%s:%d", quotable(file), values[key].line)
		if f := s.fs.Lookup(key); f == nil || key == "config" || key == "help" {
			if unknown++; unknown > maxConfigFaults {
				faults = append(faults, fmt.Errorf("%s: more keys from here on are unknown; is this hubhop's file?", at))
				break
			}
			faults = append(faults, fmt.Errorf("%s: unknown key %s%s", at, keyName(values[key].key), s.suggest(key)))
			continue
		}
		set(key, values[key].text, file, at)
	}
	s.file = file
	s.credentials(set)
	s.tidy()
	return errors.Join(faults...)
}

// envName returns the environment variable of a key.
func envName(key string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(key, "-", "_"))
}

// plan is what the settings make of a device.
type plan struct {
	shared device.Shared
	id     device.Identity
	sample sample.Options
}

// device turns the settings into all that a device is made of. Every fault is reported, with its key and the next step.
func (s *settings) device(agent string) (plan, error) {
	p, err := s.behaviour(agent)
	faults := []error{err, s.identity(&p.id)}
	if p.id.PinnedHub == "" {
		faults = append(faults, checkHost("provisioning-host", s.provisioningHost))
	}
	if p.id.Certificate != nil {
		s.checkValidity(p.id.Certificate, time.Now())
	}
	if p.shared.Roots, err = s.roots(); err != nil {
		faults = append(faults, err)
	}
	if p.id.StateDir, err = s.stateDirectory(); err != nil {
		faults = append(faults, err)
	}
	return p, errors.Join(faults...)
}

// behaviour is everything but who the device is and where it lives.
func (s *settings) behaviour(agent string) (plan, error) {
	var faults []error
	fault := func(format string, a ...any) { faults = append(faults, fmt.Errorf(format, a...)) }
	positive := func(key string, d time.Duration) {
		if d <= 0 {
			fault("%s must be more than 0, it is %v", key, d)
		}
	}
	oneOf := func(key, value string) {
		if !slices.Contains(choices[key], value) {
			fault("%s is %s; it must be one of %s", key, quoted(value), strings.Join(choices[key], ", "))
		}
	}
	p := plan{
		shared: device.Shared{
			Config: device.Config{
				ProvisioningHost: s.provisioningHost, ProvisioningTransport: dps.Transport(s.provisioningTransport),
				Failover:      failover.Options{HedgeDelay: s.hedgeDelay, NoKnown: !s.knownHubs, Pipeline: failover.Pipeline(s.pipeline)},
				Link:          hub.Options{KeepAlive: s.keepAlive, TokenLife: s.sasTTL},
				Drain:         telemetry.DrainOptions{Window: s.drainWindow},
				Outbox:        outbox.Options{MaxBytes: int64(s.outboxMaxBytes), MaxAge: s.outboxMaxAge, SyncEvery: time.Duration(s.outboxSync), SendHere: s.sendQueuedHere, Machine: machineID()},
				MethodTimeout: s.methodTimeout, DrainTimeout: s.drainTimeout,
			},
			Agent: agent, DialContext: s.env.DialContext, Clock: device.SystemClock(),
		},
		id: device.Identity{IDScope: s.idScope},
		sample: sample.Options{
			Source: s.telemetrySource, Input: s.env.Stdin, Interval: s.telemetryInterval, ReportedInterval: s.reportedInterval,
			// The values of a host are not in the built-in model, so a user who named no model must not be
			// warned of them.
			Unmodelled: s.telemetrySource == sample.Host && s.modelFile == "",
			Off:        device.Paths{Telemetry: !s.telemetry, Reported: !s.reported, Desired: !s.desired, Methods: !s.methods, C2D: !s.c2d},
		},
	}
	if s.drainOrder == "fresh-first" {
		p.shared.Config.Drain.Order = telemetry.FreshFirst
	}
	if s.outboxFull == "block" || s.outboxFull == "" && s.telemetrySource == "stdin" {
		p.shared.Config.Outbox.Full = outbox.Block
	}
	oneOf("provisioning-transport", s.provisioningTransport)
	oneOf("telemetry-source", s.telemetrySource)
	oneOf("drain-order", s.drainOrder)
	oneOf("pipeline", s.pipeline)
	if s.outboxFull != "" {
		oneOf("outbox-full", s.outboxFull)
	}
	positive("telemetry-interval", s.telemetryInterval)
	positive("reported-interval", s.reportedInterval)
	positive("method-timeout", s.methodTimeout)
	if s.hedgeDelay < 0 || s.drainTimeout < 0 || s.outboxMaxAge < 0 {
		fault("hedge-delay, drain-timeout and outbox-max-age must not be negative")
	}
	faults = append(faults, p.shared.Config.Link.Validate())
	if s.drainWindow < 1 || s.drainWindow > 4096 {
		fault("drain-window must lie between 1 and 4096, it is %d", s.drainWindow)
	}
	if s.outboxMaxBytes < 1<<20 {
		fault("outbox-max-bytes must be at least 1MiB, it is %v", &s.outboxMaxBytes)
	}
	if s.logBodies && s.logLevel != "trace" {
		fault("log-bodies shows what MQTT packets carry, and only log-level trace tells of packets; give both")
	}
	if s.dpsRate < 1 {
		fault("dps-rate must be at least 1, it is %d", s.dpsRate)
	} else {
		perSecond := rate.Limit(float64(s.dpsRate) / 60)
		p.shared.DPSLimit, p.shared.DPSOpenLimit = rate.NewLimiter(perSecond, dpsBurst), rate.NewLimiter(perSecond, dpsBurst)
	}
	m, err := s.model()
	if err != nil {
		faults = append(faults, err)
	}
	p.sample.Model = m
	return p, errors.Join(faults...)
}

// warn keeps a sentence for the log about a setting that is used all the same.
func (s *settings) warn(text string) { s.warnings = append(s.warnings, text) }

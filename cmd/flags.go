package cmd

import (
	"slices"

	"github.com/spf13/pflag"

	"github.com/hubhop-iot/hubhop/cmd/cli"
	"github.com/hubhop-iot/hubhop/internal/sim"
)

// rules are what there is to know of all flags, of whatever command.
var rules = &cli.Rules{Choices: choices, Files: files, Dirs: dirs, Secrets: secrets, Usage: usage,
	Verbatim: []string{"connection-string"}} // which may be copied in several lines

// choices maps each flag that takes one of a few values to these values.
var choices = map[string][]string{
	"provisioning-transport":  {"mqtt", "https"},
	"telemetry-source":        {"simulated", "host", "stdin", "none"},
	"drain-order":             {"fifo", "fresh-first"},
	"pipeline":                {"auto", "on", "off"},
	"outbox-full":             {"drop-oldest", "block"},
	"log-level":               {"trace", "debug", "info", "warn", "error"},
	"log-format":              {"console", "json"},
	"via":                     {"rest", "az"},
	"device":                  {"embedded", "external"},
	"layout":                  {sim.LayoutLoopback, sim.LayoutPorts},
	"move":                    {sim.MoveDisable, sim.MoveDelete},
	"allocation":              {sim.AllocateStatic, sim.AllocateHashed, sim.AllocateGeoLatency, sim.AllocateCustom},
	"reprovision":             {sim.ReprovisionMigrate, sim.ReprovisionReset, sim.ReprovisionNever},
	"dps-malformed":           {sim.MalformedRefuse, sim.MalformedClose},
	"disabled-refusal":        {"3", "5"},
	"c2d-before-subscription": {sim.EarlyC2DDeliver, sim.EarlyC2DReject},
}

// files are the flags that name a file; dirs are the flags that name a directory.
var (
	files = []string{
		"group-key-file", "device-key-file", "cert", "key", "model", "ca-file", "config", "enrollments", "template", "ledger", "token-file", "http-token-file", "sim", "dps-service-file", "hub-service-file",
	}
	dirs = []string{"state-dir", "out", "dir", "flows"}
)

// defaultDPSRate is how many registrations a minute a process may make. It stays below the limit of
// DPS, so that other processes may register as well.
const defaultDPSRate = 900

// secrets are never shown.
var secrets = []string{"group-key", "device-key", "connection-string"}

// addFlags defines the flags of a device. The default of a flag is the value that the plan has
// before: device.DefaultConfig (config.go of internal/device) with hub.DefaultOptions and others in
// it, or sample.DefaultOptions. Only defaults of this process stand here. The flags of hubhop sim
// are in sim.go, with the defaults of sim.DefaultConfig.
func (s *settings) addFlags(f *pflag.FlagSet) {
	s.fs, s.plan = f, defaultPlan()
	p, c := &s.plan, &s.plan.shared.Config
	off := func(turnedOff *bool, name, usage string) {
		f.VarPF((*cli.Unless)(turnedOff), name, "", usage).NoOptDefVal = "true"
	}
	f.StringVar(&p.id.IDScope, "id-scope", "", "DPS ID scope, such as 0ne00ABCDEF")
	f.StringVar(&s.groupKey, "group-key", "", "group SAS key, base64; better: --group-key-file or HUBHOP_GROUP_KEY")
	f.StringVar(&s.groupKeyFile, "group-key-file", "", "file with the group SAS key; the device's key is derived from it")
	f.StringVar(&s.deviceKey, "device-key", "", "the device's own SAS key (hubhop key derive makes it from the group key)")
	f.StringVar(&s.deviceKeyFile, "device-key-file", "", "file with the device's own SAS key")
	f.StringVar(&s.cert, "cert", "", "X.509 client certificate chain (PEM)")
	f.StringVar(&s.certKey, "key", "", "key of the client certificate (PEM)")
	f.StringVar(&s.connectionString, "connection-string", "", "HostName=…;DeviceId=…;SharedAccessKey=… of one hub, which is then used without DPS; if it has a GatewayHostName, that is dialled instead of the hub")
	f.StringVar(&s.deviceID, "device-id", "", "registration id (default: the common name of --cert, else the host name, made legal)")
	f.StringVar(&s.modelID, "model-id", "", "which interface of --model the device has (default: the only one that no other one refers to)")
	f.StringVar(&s.modelFile, "model", "", "DTDL file, version 2 or 3; samples and commands are checked against it, and its interface is announced (default: the built-in failover.json)")
	f.StringVar(&c.ProvisioningHost, "provisioning-host", c.ProvisioningHost, "DPS endpoint, host or host:port")
	f.StringVar((*string)(&c.ProvisioningTransport), "provisioning-transport", string(c.ProvisioningTransport), "mqtt or https")
	f.StringVar(&s.caFile, "ca-file", "", "trusted roots in addition to the system's (PEM), such as the simulator's ca.pem")
	f.StringVar(&s.stateDir, "state-dir", "", "directory for the cached hub and the outbox (default: the user's state directory)")
	off(&p.sample.Off.Telemetry, "telemetry", "send telemetry")
	off(&p.sample.Off.Reported, "reported", "report properties")
	off(&p.sample.Off.Desired, "desired", "follow desired properties")
	off(&p.sample.Off.Methods, "methods", "answer direct methods")
	off(&p.sample.Off.C2D, "c2d", "take cloud-to-device messages")
	f.DurationVar(&p.sample.Interval, "telemetry-interval", p.sample.Interval, "time between samples")
	f.DurationVar(&p.sample.ReportedInterval, "reported-interval", p.sample.ReportedInterval, "time between reported properties")
	f.StringVar(&p.sample.Source, "telemetry-source", p.sample.Source, "simulated, host (this machine), stdin (JSON lines), or none, which is the default with --flows")
	f.StringVar(&s.flows, "flows", "", "directory with manifests of Azure IoT Operations; its data flows run beside the device, and changes are taken over")
	f.BoolVar(&s.hub, "hub", true, "connect to a hub; =false: the data flows of --flows run alone, without credentials")
	f.DurationVar(&c.Failover.HedgeDelay, "hedge-delay", 0, "how long a dial may be slow before DPS is asked too (default: 250ms or 3 × the hub's last dial)")
	off(&c.Failover.NoKnown, "known-hubs", "while DPS cannot be reached, try hubs that it assigned before")
	f.StringVar((*string)(&c.Failover.Pipeline), "pipeline", string(c.Failover.Pipeline), "send CONNECT and the packets after it in one write: auto, on, off")
	f.IntVar(&s.dpsRate, "dps-rate", defaultDPSRate, "how many registrations this process may make in a minute")
	f.DurationVar(&c.Link.KeepAlive, "keep-alive", c.Link.KeepAlive, "how long a link may be idle before it is tested")
	f.DurationVar(&c.Link.TokenLife, "sas-ttl", c.Link.TokenLife, "life of a SAS token")
	f.DurationVar(&c.MethodTimeout, "method-timeout", c.MethodTimeout, "how long a direct method may take")
	f.Var((*cli.ByteSize)(&c.Outbox.MaxBytes), "outbox-max-bytes", "largest size of the outbox on disk")
	f.DurationVar(&c.Outbox.MaxAge, "outbox-max-age", 0, "drop samples older than this (default off)")
	f.StringVar(&s.outboxFull, "outbox-full", "", "what happens when the outbox is full: drop-oldest, or block, where the source waits (default: drop-oldest, for stdin block)")
	f.Var((*cli.SyncEvery)(&c.Outbox.SyncEvery), "outbox-sync", "always: a sample is on the disk before it counts as taken. A duration such as 1s writes less often, which spares flash; a power cut may then lose the samples of that time")
	f.IntVar(&c.Drain.Window, "drain-window", c.Drain.Window, "messages in flight")
	f.StringVar(&s.drainOrder, "drain-order", "fifo", "fifo, or fresh-first: after an outage new samples go before those that waited")
	f.BoolVar(&c.Outbox.SendHere, "send-queued-here", false, "send what waits in the outbox to this place, although it was queued for another")
	f.DurationVar(&c.DrainTimeout, "drain-timeout", c.DrainTimeout, "how long a device that is stopped goes on sending what is queued")
	f.StringVar(&s.http, "http", "", "address on which the status, the metrics and the page are served over HTTP, such as 127.0.0.1:9100 (default: on the control socket only)")
	f.StringVar(&s.httpTokenFile, "http-token-file", "", "file with the token that opens all of an --http address that is no loopback one (Authorization: Bearer); without it there are only /healthz, /readyz and /metrics")
	f.StringVar(&s.config, "config", "", "configuration file (default: ./hubhop.yaml, then the user's)")
	s.addLogFlags(f)
	f.BoolVar(&c.TraceBodies, "log-bodies", false, "also log what MQTT packets carry (needs --log-level trace); it may be secret")
	rules.ReadAsWritten(f)
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

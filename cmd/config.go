package cmd

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/pflag"
	"github.com/spf13/viper"
	"golang.org/x/time/rate"

	"github.com/hubhop-iot/hubhop/dps"
	"github.com/hubhop-iot/hubhop/failover"
	"github.com/hubhop-iot/hubhop/internal/device"
	"github.com/hubhop-iot/hubhop/model"
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
	logLevel, logFormat                                       string
	config                                                    string

	fs      *pflag.FlagSet
	sources map[string]string // key → where its value comes from, for those that are not default
	env     *Env
	builtin []byte
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
	f.StringVar(&s.connectionString, "connection-string", "", "no DPS: HostName=…;DeviceId=…;SharedAccessKey=… of one hub")
	f.StringVar(&s.deviceID, "device-id", "", "registration id (default: the host name, made legal)")
	f.StringVar(&s.modelID, "model-id", "dtmi:Sample:Failover;1", "DTDL model to announce")
	f.StringVar(&s.modelFile, "model", "", "DTDL file to check against (default: the built-in failover.json)")
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
	f.DurationVar(&s.drainTimeout, "drain-timeout", 5*time.Second, "time to send what is queued before a stop")
	f.StringVar(&s.config, "config", "", "configuration file (default: ./hubhop.yaml, then the user's)")
	s.addLogFlags(f)
}

func (s *settings) addLogFlags(f *pflag.FlagSet) {
	f.StringVar(&s.logLevel, "log-level", "info", "debug, info, warn, error")
	f.StringVar(&s.logFormat, "log-format", "", "console or json (default: console on a terminal, else json)")
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
	set := func(key, value, from string) {
		if s.sources[key] != "" {
			return
		}
		f := s.fs.Lookup(key)
		if err := f.Value.Set(value); err != nil {
			_ = f.Value.Set(f.DefValue) // one fault is enough: a parser leaves zero behind
			faults = append(faults, fmt.Errorf("%s: %q is not a value for %s: %w", from, value, key, plainParse(err)))
			return
		}
		s.sources[key] = from
	}
	s.fs.VisitAll(func(f *pflag.Flag) {
		name := envPrefix + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		if value, ok := s.env.lookup(name); ok && f.Name != "help" {
			set(f.Name, value, name)
		}
	})
	file, values, err := s.readFile()
	if err != nil {
		faults = append(faults, err)
	}
	for _, key := range slices.Sorted(maps.Keys(values)) {
		if f := s.fs.Lookup(key); f == nil || key == "config" || key == "help" {
			faults = append(faults, fmt.Errorf("%s: unknown key %s%s", file, key, s.suggest(key)))
			continue
		}
		set(key, fmt.Sprint(values[key]), file)
	}
	s.credentials(set)
	return errors.Join(faults...)
}

// readFile finds and reads the configuration file. No file is no fault unless one was asked for.
func (s *settings) readFile() (path string, values map[string]any, err error) {
	path = s.config
	if path == "" {
		path = s.findFile()
	}
	if path == "" {
		return "", nil, nil
	}
	v := viper.NewWithOptions(viper.KeyDelimiter("\x00")) // keys are flat
	v.SetConfigFile(path)
	if filepath.Ext(path) == "" {
		v.SetConfigType("yaml")
	}
	if err := v.ReadInConfig(); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return path, nil, fmt.Errorf("config: there is no file %s; write one or leave --config out", path)
		}
		return path, nil, fmt.Errorf("%s cannot be read: %s", path, strings.ReplaceAll(err.Error(), "\n", " "))
	}
	return path, v.AllSettings(), nil
}

func (s *settings) findFile() string {
	candidates := []string{configName}
	if dir, err := os.UserConfigDir(); err == nil {
		candidates = append(candidates, filepath.Join(dir, "hubhop", configName))
	}
	for _, c := range candidates {
		if info, err := os.Stat(c); err == nil && !info.IsDir() {
			return c
		}
	}
	return ""
}

// credentials takes keys that systemd has put aside for this service (LoadCredential=group-key:…).
func (s *settings) credentials(set func(key, value, from string)) {
	dir, ok := s.env.lookup("CREDENTIALS_DIRECTORY")
	if !ok || s.groupKey+s.groupKeyFile+s.deviceKey+s.deviceKeyFile+s.cert+s.connectionString != "" {
		return
	}
	for _, key := range []string{"group-key", "device-key"} {
		path := filepath.Join(dir, key)
		if _, err := os.Stat(path); err == nil {
			set(key+"-file", path, "systemd credential")
			return
		}
	}
}

// suggest names the key that was probably meant.
func (s *settings) suggest(key string) string {
	best, distance := "", min(4, 1+len(key)/2) // fewer changes than half the key, or anything is like anything
	s.fs.VisitAll(func(f *pflag.Flag) {
		if d := editDistance(key, f.Name); d < distance {
			best, distance = f.Name, d
		}
	})
	if best == "" {
		return "; hubhop config show lists the keys"
	}
	return fmt.Sprintf("; did you mean %s?", best)
}

// unknownVariables warns of HUBHOP_ variables that set nothing. They are not errors: other programs may use the prefix.
func (s *settings) unknownVariables() (warnings []string) {
	for _, kv := range s.env.Environ {
		name, _, _ := strings.Cut(kv, "=")
		rest, ok := strings.CutPrefix(name, envPrefix)
		if !ok || rest == "TRACE" {
			continue
		}
		key := strings.ToLower(strings.ReplaceAll(rest, "_", "-"))
		if s.fs.Lookup(key) == nil {
			warnings = append(warnings, fmt.Sprintf("the environment variable %s sets nothing%s", name, s.suggest(key)))
		}
	}
	return warnings
}

// device turns the settings into a device's configuration. Every fault is reported, with its key and the next step.
func (s *settings) device(agent string) (device.Config, error) {
	c, err := s.behaviour(agent)
	faults := []error{err, s.identity(&c)}
	if c.Roots, err = s.roots(); err != nil {
		faults = append(faults, err)
	}
	if c.StateDir, err = s.stateDirectory(); err != nil {
		faults = append(faults, err)
	}
	return c, errors.Join(faults...)
}

// behaviour is everything but who the device is and where it lives.
func (s *settings) behaviour(agent string) (device.Config, error) {
	var faults []error
	fault := func(format string, a ...any) { faults = append(faults, fmt.Errorf(format, a...)) }
	positive := func(key string, d time.Duration) {
		if d <= 0 {
			fault("%s must be more than 0, it is %v", key, d)
		}
	}
	oneOf := func(key, value string, allowed ...string) {
		if !slices.Contains(allowed, value) {
			fault("%s is %q; it must be one of %s", key, value, strings.Join(allowed, ", "))
		}
	}
	c := device.Config{
		Agent: agent, IDScope: s.idScope, ModelID: s.modelID,
		ProvisioningHost: s.provisioningHost, ProvisioningTransport: dps.Transport(s.provisioningTransport),
		DialContext: s.env.DialContext, Clock: device.SystemClock(),
		Telemetry: s.telemetry, Reported: s.reported, Desired: s.desired, Methods: s.methods, C2D: s.c2d,
		Source: s.telemetrySource, Input: s.env.Stdin,
		TelemetryInterval: s.telemetryInterval, ReportedInterval: s.reportedInterval,
		Failover:  failover.Options{HedgeDelay: s.hedgeDelay, NoKnown: !s.knownHubs, Pipeline: failover.Pipeline(s.pipeline)},
		KeepAlive: s.keepAlive, SASTTL: s.sasTTL, MethodTimeout: s.methodTimeout,
		OutboxMaxBytes: int64(s.outboxMaxBytes), OutboxMaxAge: s.outboxMaxAge, OutboxSyncEvery: time.Duration(s.outboxSync),
		OutboxBlock: s.outboxFull == "block" || s.outboxFull == "" && s.telemetrySource == "stdin",
		DrainWindow: s.drainWindow, DrainFreshFirst: s.drainOrder == "fresh-first", DrainTimeout: s.drainTimeout,
		MachineID: machineID(),
	}
	oneOf("provisioning-transport", s.provisioningTransport, "mqtt", "https")
	oneOf("telemetry-source", s.telemetrySource, "simulated", "host", "stdin")
	oneOf("drain-order", s.drainOrder, "fifo", "fresh-first")
	oneOf("pipeline", s.pipeline, "auto", "on", "off")
	if s.outboxFull != "" {
		oneOf("outbox-full", s.outboxFull, "drop-oldest", "block")
	}
	positive("telemetry-interval", s.telemetryInterval)
	positive("reported-interval", s.reportedInterval)
	positive("method-timeout", s.methodTimeout)
	if s.hedgeDelay < 0 || s.drainTimeout < 0 || s.outboxMaxAge < 0 {
		fault("hedge-delay, drain-timeout and outbox-max-age must not be negative")
	}
	if s.keepAlive < time.Second || s.keepAlive > 1177*time.Second {
		fault("keep-alive must lie between 1s and 1177s (IoT Hub's limit), it is %v", s.keepAlive)
	}
	if s.sasTTL < 10*time.Second {
		fault("sas-ttl must be at least 10s, it is %v", s.sasTTL)
	}
	if s.drainWindow < 1 || s.drainWindow > 4096 {
		fault("drain-window must lie between 1 and 4096, it is %d", s.drainWindow)
	}
	if s.outboxMaxBytes < 1<<20 {
		fault("outbox-max-bytes must be at least 1MiB, it is %v", &s.outboxMaxBytes)
	}
	if s.dpsRate < 1 {
		fault("dps-rate must be at least 1, it is %d", s.dpsRate)
	} else {
		perSecond := rate.Limit(float64(s.dpsRate) / 60)
		c.DPSLimit, c.DPSOpenLimit = rate.NewLimiter(perSecond, dpsBurst), rate.NewLimiter(perSecond, dpsBurst)
	}
	m, err := s.model()
	if err != nil {
		faults = append(faults, err)
	}
	c.Model = m
	return c, errors.Join(faults...)
}

// identity finds out who the device is and how it proves it: exactly one way.
func (s *settings) identity(c *device.Config) error {
	var faults []error
	given := map[string]bool{
		"group-key": s.groupKey != "", "group-key-file": s.groupKeyFile != "", "device-key": s.deviceKey != "",
		"device-key-file": s.deviceKeyFile != "", "cert": s.cert != "" || s.certKey != "", "connection-string": s.connectionString != "",
	}
	var ways []string
	for _, way := range []string{"group-key", "group-key-file", "device-key", "device-key-file", "cert", "connection-string"} {
		if given[way] {
			ways = append(ways, way)
		}
	}
	switch len(ways) {
	case 0:
		return errors.New("no credentials: give one of --group-key-file, --device-key-file, --cert with --key, or --connection-string (hubhop sim makes some to try)")
	case 1:
	default:
		return fmt.Errorf("%s are given together; one of them must prove who the device is", strings.Join(ways, " and "))
	}
	if s.connectionString != "" {
		if err := c.UseConnectionString(s.connectionString); err != nil {
			return fmt.Errorf("connection-string: %w", err)
		}
		if s.deviceID != "" && s.deviceID != c.DeviceID {
			return fmt.Errorf("device-id is %s, but the connection string is that of %s; leave one out", s.deviceID, c.DeviceID)
		}
		return nil
	}
	id, err := s.deviceName()
	if err != nil {
		faults = append(faults, fmt.Errorf("device-id: %w", err))
	}
	c.DeviceID = id
	if s.idScope == "" {
		faults = append(faults, errors.New("id-scope is missing; IoT Central shows it under Device connection groups, DPS on its overview page, the simulator in sim.json"))
	} else if strings.ContainsAny(s.idScope, "/ \t\r\n?&=") {
		faults = append(faults, fmt.Errorf("id-scope %q is not an ID scope; it looks like 0ne00ABCDEF", s.idScope))
	}
	if ways[0] == "cert" {
		if s.cert == "" || s.certKey == "" {
			return errors.Join(append(faults, errors.New("cert and key belong together; give both"))...)
		}
		pair, err := tls.LoadX509KeyPair(s.cert, s.certKey)
		if err != nil {
			faults = append(faults, fmt.Errorf("cert %s with key %s: %w", s.cert, s.certKey, err))
		}
		c.Certificate = &pair
		return errors.Join(faults...)
	}
	key, from, err := s.secret(ways[0])
	switch {
	case err != nil:
		return errors.Join(append(faults, err)...)
	case strings.HasPrefix(ways[0], "group"):
		if err := dps.CheckKey(key); err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", from, err))
		} else if len(faults) == 0 {
			c.Key, err = dps.DeriveKey(key, id)
			if err != nil {
				faults = append(faults, fmt.Errorf("%s: %w", from, err))
			}
		}
	default:
		if err := dps.CheckKey(key); err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", from, err))
		}
		c.Key = key
	}
	return errors.Join(faults...)
}

// secret reads a key from where it was said to be.
func (s *settings) secret(way string) (key, from string, err error) {
	switch way {
	case "group-key":
		return s.groupKey, way, nil
	case "device-key":
		return s.deviceKey, way, nil
	}
	path := s.groupKeyFile
	if way == "device-key-file" {
		path = s.deviceKeyFile
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return "", way, fmt.Errorf("%s: %w", way, err)
	}
	return strings.TrimSpace(string(b)), way + " " + path, nil
}

// deviceName is the registration id: as given, or the host name made legal.
func (s *settings) deviceName() (string, error) {
	if s.deviceID != "" {
		return s.deviceID, dps.CheckRegistrationID(s.deviceID)
	}
	host, err := s.env.Hostname()
	if err != nil {
		return "", fmt.Errorf("this machine's host name is unknown (%w); give --device-id", err)
	}
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-._:", r) {
			return r
		}
		return '-'
	}, host)
	name = strings.TrimRight(name[:min(len(name), dps.MaxRegistrationID)], "._:")
	if err := dps.CheckRegistrationID(name); err != nil {
		return "", fmt.Errorf("no legal one can be made of the host name %q; give --device-id", host)
	}
	return name, nil
}

func (s *settings) model() (*model.Model, error) {
	data, name := s.builtin, "the built-in model"
	if s.modelFile != "" {
		var err error
		name = s.modelFile
		if data, err = os.ReadFile(s.modelFile); err != nil {
			return nil, fmt.Errorf("model: %w", err)
		}
	}
	m, err := model.Parse(data)
	if err != nil {
		return nil, fmt.Errorf("model %s: %w", name, err)
	}
	return m, nil
}

// roots are the system's and those of --ca-file.
func (s *settings) roots() (*x509.CertPool, error) {
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if s.caFile == "" {
		return pool, nil
	}
	pem, err := os.ReadFile(s.caFile)
	if err != nil {
		return nil, fmt.Errorf("ca-file: %w", err)
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("ca-file: %s holds no PEM certificate", s.caFile)
	}
	return pool, nil
}

// stateDirectory is where a user's programs keep what they need again: XDG on Linux, the systems' own elsewhere.
func (s *settings) stateDirectory() (string, error) {
	if s.stateDir != "" {
		return s.stateDir, nil
	}
	if dir, ok := s.env.lookup("STATE_DIRECTORY"); ok && dir != "" { // systemd
		first, _, _ := strings.Cut(dir, ":")
		return first, nil
	}
	switch runtime.GOOS {
	case "windows", "darwin":
		if dir, err := os.UserConfigDir(); err == nil {
			return filepath.Join(dir, "hubhop"), nil
		}
	default:
		if dir, ok := s.env.lookup("XDG_STATE_HOME"); ok && filepath.IsAbs(dir) {
			return filepath.Join(dir, "hubhop"), nil
		}
		if home, ok := s.env.lookup("HOME"); ok && home != "" {
			return filepath.Join(home, ".local", "state", "hubhop"), nil
		}
	}
	return "", errors.New("state-dir: this user has no home directory; give --state-dir")
}

// logger builds the one logger of the process.
func (s *settings) logger() (zerolog.Logger, error) {
	level, err := zerolog.ParseLevel(s.logLevel)
	if err != nil || s.logLevel == "" {
		return zerolog.Nop(), fmt.Errorf("log-level is %q; it must be one of debug, info, warn, error", s.logLevel)
	}
	zerolog.TimeFieldFormat = "2006-01-02T15:04:05.000Z07:00"
	switch format := s.logFormat; {
	case format == "json" || format == "" && !s.env.Terminal:
		return zerolog.New(s.env.Stderr).Level(level).With().Timestamp().Logger(), nil
	case format == "console" || format == "":
		w := zerolog.ConsoleWriter{Out: s.env.Stderr, TimeFormat: "15:04:05.000", NoColor: !s.env.Terminal,
			FieldsExclude: []string{"device", "kind", "hub"}} // the sentence says them
		return zerolog.New(w).Level(level).With().Timestamp().Logger(), nil
	default:
		return zerolog.Nop(), fmt.Errorf("log-format is %q; it must be console or json", format)
	}
}

// machineID tells one machine from another, so that a state directory that was copied is noticed.
func machineID() string {
	for _, path := range []string{"/etc/machine-id", "/var/lib/dbus/machine-id"} {
		if b, err := os.ReadFile(path); err == nil && len(strings.TrimSpace(string(b))) > 0 {
			return dps.Fingerprint("machine " + strings.TrimSpace(string(b)))
		}
	}
	host, _ := os.Hostname()
	return dps.Fingerprint("host " + host)
}

// byteSize is a number of bytes written as people do: 64MiB, 1GB, 1048576.
type byteSize int64

var units = []struct {
	name string
	size byteSize
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1}}

func (b *byteSize) Set(s string) error {
	number, unit := strings.TrimSpace(s), byteSize(1)
	for _, u := range units {
		if rest, ok := strings.CutSuffix(number, u.name); ok {
			number, unit = strings.TrimSpace(rest), u.size
			break
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > 1<<62/int64(unit) {
		return errors.New("it must be a number of bytes, such as 64MiB")
	}
	*b = byteSize(n) * unit
	return nil
}

func (b *byteSize) String() string {
	for _, u := range slices.Backward(units[:4]) {
		if *b >= u.size && *b%u.size == 0 {
			return fmt.Sprintf("%d%s", *b/u.size, u.name)
		}
	}
	return strconv.FormatInt(int64(*b), 10)
}

func (b *byteSize) Type() string { return "bytes" }

// syncEvery is a duration, or always for 0.
type syncEvery time.Duration

const syncAlways = "always"

func (s *syncEvery) Set(text string) error {
	if text == syncAlways {
		*s = 0
		return nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 || d > time.Hour {
		return errors.New("it must be always, or a duration of at most 1h, such as 1s")
	}
	*s = syncEvery(d)
	return nil
}

func (s *syncEvery) String() string {
	if *s == 0 {
		return syncAlways
	}
	return time.Duration(*s).String()
}

func (s *syncEvery) Type() string { return "always|duration" }

// plainParse shortens what strconv says.
func plainParse(err error) error {
	if n, ok := errors.AsType[*strconv.NumError](err); ok {
		return n.Err
	}
	return err
}

func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		last := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := last
			if a[i] != b[j] {
				cost++
			}
			last = row[j+1]
			row[j+1] = min(cost, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}

package device

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/hubhop-iot/hubhop/dps"
	"github.com/hubhop-iot/hubhop/failover"
	"github.com/hubhop-iot/hubhop/hub"
	"github.com/hubhop-iot/hubhop/internal/clock"
	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/internal/thrift"
	"github.com/hubhop-iot/hubhop/telemetry"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

// Shared is what a process has once, however many devices it runs. Its creator checks it, and must
// not change it after the first New.
type Shared struct {
	Config  Config
	Journal *journal.Journal // hears what happens; may have been given its sinks
	Agent   string           // name and version of this program, for the cloud
	Clock   clock.Machine

	DPSLimit     *rate.Limiter                                                         // registrations of the whole process; nil for no limit
	DPSOpenLimit *rate.Limiter                                                         // its connections to DPS that no registration uses yet; nil for no limit
	Roots        *x509.CertPool                                                        // nil: the system's
	DialContext  func(ctx context.Context, network, addr string) (net.Conn, error)     // addr has an IP address; nil: the system's
	Resolve      func(ctx context.Context, network, host string) ([]netip.Addr, error) // nil: the system's

	Timings Timings

	Rand *rand.Rand // nil: real chance. With it, New must not be called twice at once

	common *common // nil until the first New
}

// Timings are told how long things took, for metrics. Each may be nil. They must be quick, and must
// not call a device. Those of the outbox are in Config.Outbox.
type Timings struct {
	Dialled  func(took time.Duration, up bool)                 // a dial has become a session with a hub, or has failed
	Acked    func(took time.Duration)                          // a message that was sent for the first time got its PUBACK
	Answered func(name string, status int, took time.Duration) // a direct method; status 0: the link ended before the answer
}

// common is what the devices of a process use at the same time.
type common struct {
	clock   *clock.Clock
	tls     *tls.Config // of all connections without a client certificate
	dialer  net.Dialer
	sampler *telemetry.Sampler
	names   thrift.ServerNames
	heap    thrift.Heap
}

// start returns what the devices have in common.
func (s *Shared) start() *common {
	starting.Lock()
	defer starting.Unlock()
	if s.common == nil {
		k := clock.New(s.Clock)
		s.common = &common{clock: k, sampler: telemetry.NewSampler(0), tls: &tls.Config{RootCAs: s.Roots, MinVersion: tls.VersionTLS12, Time: k.Now,
			ClientSessionCache: tls.NewLRUClientSessionCache(64)}}
	}
	return s.common
}

// starting guards common of every Shared, so that a Shared can be copied before it is used.
var starting sync.Mutex

// Config is how the devices of a process behave. Each group is checked by the Validate of its own
// package.
type Config struct {
	ProvisioningHost      string // host or host:port of DPS
	ProvisioningTransport dps.Transport

	Failover failover.Options       // Rand and NoDPS are set by the device
	Link     hub.Options            // of the link to a hub
	Drain    telemetry.DrainOptions // Created, Problem, Traffic and Go are set by the device
	Outbox   outbox.Options         // Age, Stamp, For and Report are set by the device

	MethodTimeout time.Duration // how long a handler of the App, or a reader of a reported property, may take
	DrainTimeout  time.Duration // how long a device that is stopped goes on sending what is queued; 0: it does not

	Once bool // send what is queued, and the inputs that end to their end; then stop

	TracePackets bool // emit a journal event for each MQTT packet
	TraceBodies  bool // with its content, which may be secret
}

// DefaultConfig returns the configuration of a user who has chosen nothing.
func DefaultConfig() Config {
	return Config{
		ProvisioningHost: dps.DefaultHost, ProvisioningTransport: dps.MQTT,
		Failover:      failover.Options{Pipeline: failover.PipelineAuto},
		Link:          hub.DefaultOptions(),
		Drain:         telemetry.DrainOptions{Window: telemetry.DefaultWindow},
		Outbox:        outbox.Options{MaxBytes: outbox.DefaultMaxBytes},
		MethodTimeout: 25 * time.Second, DrainTimeout: 5 * time.Second,
	}
}

// Validate returns an error for each option that is out of its bounds. Each text begins with the
// option's name as it is spelled on the command line.
func (c *Config) Validate() error {
	faults := []error{c.Failover.Validate(), c.Link.Validate(), c.Drain.Validate(), c.Outbox.Validate()}
	if c.MethodTimeout <= 0 {
		faults = append(faults, fmt.Errorf("method-timeout must be more than 0, it is %v", c.MethodTimeout))
	}
	if c.DrainTimeout < 0 {
		faults = append(faults, fmt.Errorf("drain-timeout must not be negative, it is %v", c.DrainTimeout))
	}
	return errors.Join(faults...)
}

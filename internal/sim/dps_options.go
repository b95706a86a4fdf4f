package sim

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"net"
	"net/http"
	"time"

	"github.com/rs/zerolog"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/iothub"
	"github.com/hubhop-iot/hubhop/internal/sim/store"
	"github.com/hubhop-iot/hubhop/internal/sim/wire"
)

// registryOptions say who may register, and where devices go.
type registryOptions struct {
	IDScope             string
	GroupKeys           [2]string // the primary and the secondary key of the default group, base64; "" draws one
	AutoApprove         bool      // false: a new device waits for approve
	Allocation          string    // of enrollments that name no policy; AllocateStatic and its kin
	HubWeights          []int     // of AllocateHashed; those left out are 1
	Webhook             string    // of custom allocations that name none
	Reprovision         string    // of enrollments that name no policy; ReprovisionMigrate and its kin
	Move                string    // how a device leaves a hub: MoveDisable or MoveDelete
	EnrollmentDocuments []json.RawMessage

	Hubs      []*iothub.Hub
	Authority *azure.Authority // of device certificates
	Store     *store.Store     // nil without a state directory
	Log       zerolog.Logger
	Now       func() time.Time   // the cloud's clock
	Tell      func(iothub.Event) // is told of moves; it must not block
}

func (o registryOptions) reprovisionPolicy() *reprovisionPolicy {
	return &reprovisionPolicy{UpdateHubAssignment: o.Reprovision != ReprovisionNever, MigrateDeviceData: o.Reprovision == ReprovisionMigrate}
}

// dpsOptions say how DPS talks to its clients.
type dpsOptions struct {
	RetryAfter       time.Duration // what clients are asked to wait, whole seconds; 0 is sent as 0
	RetryAfterAbsent bool          // clients are not asked to wait
	RetryAfterFirst  bool          // MQTT: retry-after comes before $rid in the topic
	Polls            int           // how many polls are answered 202 before the answer proper
	MalformedDPS     string        // MalformedRefuse or MalformedClose
	DPSLimits        DPSLimits

	Registry *registry
	TLS      *tls.Config
	Listen   func(network, addr string) (net.Listener, error)
	Hooks    http.RoundTripper    // how webhooks are called; nil means over the network
	Running  context.Context      // ends with the simulator, for webhooks
	Routes   func(*http.ServeMux) // adds further routes to the HTTPS surface: those of IoT Central
	Store    *store.Store         // nil without a state directory
	Log      zerolog.Logger
	Told     *wire.Novelty
	Tell     func(iothub.Event) // is told of registrations and faults; it must not block
}

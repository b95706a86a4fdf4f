package provisioning

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

// RegistryOptions say who may register, and where devices go.
type RegistryOptions struct {
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

func (o RegistryOptions) reprovisionPolicy() *reprovisionPolicy {
	return &reprovisionPolicy{UpdateHubAssignment: o.Reprovision != ReprovisionNever, MigrateDeviceData: o.Reprovision == ReprovisionMigrate}
}

// ServiceOptions say how DPS talks to its clients.
type ServiceOptions struct {
	RetryAfter       time.Duration // what clients are asked to wait, whole seconds; 0 is sent as 0
	RetryAfterAbsent bool          // clients are not asked to wait
	RetryAfterFirst  bool          // MQTT: retry-after comes before $rid in the topic
	Polls            int           // how many polls are answered 202 before the answer proper
	MalformedDPS     string        // MalformedRefuse or MalformedClose
	DPSLimits        DPSLimits

	Registry *Registry
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

// What happens to the identity in the hub a device moves away from, see RegistryOptions.Move.
const (
	MoveDisable = "disable" // IoT Central's way: the old hub answers CONNACK 3
	MoveDelete  = "delete"  // plain DPS's way: the old hub answers CONNACK 5
)

// Where a device goes first, see RegistryOptions.Allocation.
const (
	AllocateStatic     = "static"     // hub-a, so that stories are predictable
	AllocateHashed     = "hashed"     // spread by a hash of the registration id, see RegistryOptions.HubWeights
	AllocateGeoLatency = "geoLatency" // the first living hub in the order given
	AllocateCustom     = "custom"     // a webhook decides, see RegistryOptions.Webhook
)

// What becomes of a device that registers again, see RegistryOptions.Reprovision.
const (
	ReprovisionMigrate = "migrate" // it may get another hub, and its twin moves with it
	ReprovisionReset   = "reset"   // it may get another hub, and begins with its first twin in any case
	ReprovisionNever   = "never"   // it keeps its hub
)

// What DPS does to a malformed user name, see ServiceOptions.MalformedDPS.
const (
	MalformedRefuse = "refuse" // CONNACK 5
	MalformedClose  = "close"  // no answer
)

// Enrollment is an individual enrollment of DPS with symmetric keys.
type Enrollment struct {
	RegistrationID string
	DeviceID       string // "" means the registration id
	PrimaryKey     string // base64
	SecondaryKey   string // base64, may be ""
	Disabled       bool   // DPS answers "disabled"
}

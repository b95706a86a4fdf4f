package sim

import (
	"encoding/json"
	"net"
	"net/http"
	"time"

	"github.com/rs/zerolog"
)

// dpsOptions say how DPS talks to its clients. [Config] describes each field.
type dpsOptions struct {
	RetryAfter       time.Duration
	RetryAfterAbsent bool
	RetryAfterFirst  bool
	Polls            int
	MalformedDPS     string
	DPSLimits        DPSLimits

	Listen func(network, addr string) (net.Listener, error)
	Hooks  http.RoundTripper // nil means over the network
	Logger zerolog.Logger
}

func (c Config) dpsOptions() dpsOptions {
	return dpsOptions{
		RetryAfter: c.RetryAfter, RetryAfterAbsent: c.RetryAfterAbsent, RetryAfterFirst: c.RetryAfterFirst,
		Polls: c.Polls, MalformedDPS: c.MalformedDPS, DPSLimits: c.DPSLimits,
		Listen: c.Listen, Hooks: c.Hooks, Logger: c.Logger,
	}
}

// registryOptions say who may register, and where devices go. [Config] describes each field.
type registryOptions struct {
	IDScope             string
	AutoApprove         bool
	Allocation          string // of enrollments that name no policy
	HubWeights          []int
	Webhook             string // of custom allocations that name none
	Reprovision         string // of enrollments that name no policy
	Move                string
	EnrollmentDocuments []json.RawMessage
	Template            []byte // of IoT Central
}

func (c Config) registryOptions() registryOptions {
	return registryOptions{
		IDScope: c.IDScope, AutoApprove: c.AutoApprove, Allocation: c.Allocation, HubWeights: c.HubWeights, Webhook: c.Webhook,
		Reprovision: c.Reprovision, Move: c.Move, EnrollmentDocuments: c.EnrollmentDocuments, Template: c.Template,
	}
}

func (o registryOptions) reprovisionPolicy() *reprovisionPolicy {
	return &reprovisionPolicy{UpdateHubAssignment: o.Reprovision != ReprovisionNever, MigrateDeviceData: o.Reprovision == ReprovisionMigrate}
}

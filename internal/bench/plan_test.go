//go:build linux

package bench

import (
	"github.com/hubhop-iot/hubhop/internal/device"
	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/internal/sample"
)

// plan holds all arguments of [device.New], so that a measurement can change any part of them by
// its name.
type plan struct {
	device.Shared
	device.Config
	device.Identity
	Sample sample.Options
}

// device makes a device that shares nothing with others but the limits of the plan.
func (p plan) device(j *journal.Journal) *device.Device {
	shared := p.Shared
	shared.Config, shared.Journal = p.Config, j
	p.Sample.Rand = p.Rand
	return device.New(&shared, p.Identity, sample.App(p.Sample))
}

package device

import (
	"io"
	"time"

	"github.com/hubhop-iot/hubhop/model"
)

// App is what a device does for its user.
type App struct {
	Model *model.Model // checks the device's values and is announced; without one Desired, Methods and C2D must be off

	Telemetry, Reported, Desired, Methods, C2D bool

	Source            string    // simulated, host, stdin
	Input             io.Reader // of the source stdin
	Unmodelled        bool      // the source's samples are not described by Model, so they are not checked
	TelemetryInterval time.Duration
	ReportedInterval  time.Duration
}

// modelID returns the id of the model, which the device announces.
func (a *App) modelID() string {
	if a.Model == nil {
		return ""
	}
	return a.Model.ID()
}

package iothub

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/wire"
)

// injection is a fault that a device asks for, with application properties of a telemetry message,
// as the tests of the official SDKs do. It begins after a delay, and affects this device alone, new
// connections included, for the time that the device has named.
type injection struct {
	kind  string
	until time.Time
}

// The kinds of injected faults that exist over MQTT. Those of other transports are ordinary
// messages.
const (
	injectReset      = "KillTcp"               // the connection is reset
	injectShutdown   = "ShutDownMqtt"          // the connection is closed
	injectThrottling = "InvokeThrottling"      // PUBACKs are late, twin requests get 429
	injectQuota      = "InvokeMaxMessageQuota" // telemetry closes the connection
	injectAuthError  = "InvokeAuthError"       // the connection is closed, CONNECTs are refused with code 5
)

const injectionProperty = "AzIoTHub_FaultOperation"

var injectionMark = []byte(injectionProperty)

// maxInjection bounds the delay and the duration.
const maxInjection = 24 * time.Hour

// inject starts the fault that the properties of a message ask for. It reports whether they ask for
// one.
func (s *session) inject(bag []byte) bool {
	props := azure.ParseBag(string(bag))
	text := func(name string) string {
		if v := props[injectionProperty+name]; v != nil {
			return *v
		}
		return ""
	}
	kind := text("Type")
	if !slices.Contains([]string{injectReset, injectShutdown, injectThrottling, injectQuota, injectAuthError}, kind) {
		return false
	}
	secs := func(name string) time.Duration {
		n, err := strconv.ParseFloat(strings.TrimSpace(text(name)), 64)
		if err != nil || n < 0 {
			return 0
		}
		return min(azure.Seconds(min(n, maxInjection.Seconds())), maxInjection)
	}
	duration := secs("DurationInSecs")
	reason := "fault injection: " + kind
	if why := text("CloseReason"); why != "" {
		reason += " (" + why + ")"
	}
	i := s.identity
	i.mu.Lock()
	defer i.mu.Unlock()
	if s.injection != nil {
		s.injection.Stop() // the newest counts
	}
	if i.session == s {
		s.injection = time.AfterFunc(secs("DelayInSecs"), func() {
			i.injected.Store(&injection{kind, time.Now().Add(duration)})
			switch kind {
			case injectReset:
				s.wire.Reset(reason)
			case injectShutdown, injectAuthError:
				s.wire.HangUp(reason)
			}
		})
	}
	return true
}

// suffers reports whether a fault of this kind that the device has asked for is in force.
func (i *Identity) suffers(kind string) bool {
	f := i.injected.Load()
	return f != nil && f.kind == kind && time.Now().Before(f.until)
}

// refusedByInjection returns the CONNACK for a device that connects under its fault, 0 if it may
// connect.
func (i *Identity) refusedByInjection() byte {
	switch {
	case i.suffers(injectReset), i.suffers(injectShutdown):
		return wire.ConnackUnavailable
	case i.suffers(injectAuthError):
		return wire.ConnackNotAuthorized
	}
	return 0
}

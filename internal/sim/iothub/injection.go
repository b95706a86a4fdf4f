package iothub

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/wire"
)

// injection is a fault that a device asks for itself, with application properties of a telemetry message, as the official SDKs' own
// tests do. It begins after a delay and hits this one device, new connections included, for as long as the device has said.
type injection struct {
	kind  string
	until time.Time
}

// The kinds of injected faults that mean something over MQTT; those of other transports are ordinary messages.
const (
	injectReset      = "KillTcp"               // the connection is reset
	injectShutdown   = "ShutDownMqtt"          // the connection is closed
	injectThrottling = "InvokeThrottling"      // PUBACKs are late, twin requests get 429
	injectQuota      = "InvokeMaxMessageQuota" // telemetry closes the connection
	injectAuthError  = "InvokeAuthError"       // the connection is closed, CONNECTs are refused with code 5
)

const injectionProperty = "AzIoTHub_FaultOperation"

var injectionMark = []byte(injectionProperty)

// maxInjection bounds delay and duration.
const maxInjection = 24 * time.Hour

// inject reads the properties of a message and lets the fault begin when it is due; false means that they ask for none.
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

// suffers says whether the device has brought this fault upon itself.
func (i *Identity) suffers(kind string) bool {
	f := i.injected.Load()
	return f != nil && f.kind == kind && time.Now().Before(f.until)
}

// refusedByInjection is the CONNACK for a device that connects while it suffers, 0 if it may.
func (i *Identity) refusedByInjection() byte {
	switch {
	case i.suffers(injectReset), i.suffers(injectShutdown):
		return wire.ConnackUnavailable
	case i.suffers(injectAuthError):
		return wire.ConnackNotAuthorized
	}
	return 0
}

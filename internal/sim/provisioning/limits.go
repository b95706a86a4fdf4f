package provisioning

import (
	"sync"
	"time"
)

// limiter allows so many requests of each client in a window of time. The zero value allows all.
type limiter struct {
	allowed int
	window  time.Duration

	mu     sync.Mutex
	since  time.Time
	counts map[string]int
}

// take counts a request. If it is one too many take returns how long the client should wait.
func (l *limiter) take(who string) (wait time.Duration) {
	if l.allowed == 0 {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if l.counts == nil || now.Sub(l.since) >= l.window {
		l.since, l.counts = now, map[string]int{}
	}
	if l.counts[who]++; l.counts[who] > l.allowed {
		return l.since.Add(l.window).Sub(now)
	}
	return 0
}

// DPSLimits are DPS's quotas; 0 is no limit. AzureDPSLimits are those of Azure.
type DPSLimits struct {
	RegistrationsPerMinute int // of the whole service
	PollsPer10s            int // of one device
}

// AzureDPSLimits returns the limits Azure documents.
func AzureDPSLimits() DPSLimits { return DPSLimits{RegistrationsPerMinute: 1000, PollsPer10s: 5} }

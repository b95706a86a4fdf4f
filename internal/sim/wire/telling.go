package wire

import (
	"sync"
	"time"
)

const (
	// sameLine is how long a line of the log is not repeated at info level, because a refused
	// device tries again and again and is refused for the same reason.
	sameLine = time.Minute
	// linesRemembered bounds how many lines are remembered for that.
	linesRemembered = 4096
	// quoteLimit is how many bytes of a client's text are shown in the log and in events.
	quoteLimit = 256
)

// Novelty recognises lines that were written a moment ago.
type Novelty struct {
	mu   sync.Mutex
	seen map[string]time.Time
}

// IsNew reports whether a line with this key should be written at info level.
func (n *Novelty) IsNew(key string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	if last, seen := n.seen[key]; seen && now.Sub(last) < sameLine {
		return false
	}
	if n.seen == nil || len(n.seen) >= linesRemembered {
		n.seen = map[string]time.Time{}
	}
	n.seen[key] = now
	return true
}

// Shorten bounds a text of a client.
func Shorten(s string) string {
	if len(s) <= quoteLimit {
		return s
	}
	return s[:quoteLimit] + "…"
}

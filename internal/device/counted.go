package device

import (
	"net/http"
	"sync/atomic"

	"github.com/hubhop-iot/hubhop/internal/journal"
)

// Commands counts what the cloud has asked of a device since its start.
type Commands struct {
	Methods, MethodsFailed                        uint64 // all, and those with a status of 400 or more
	C2DHandled, C2DFailed, C2DRepeated            uint64 // a repeated one was handled before
	DesiredApplied, DesiredFailed, DesiredRemoved uint64
}

// commandCounts are the counts of a device. They are made with the first command, because an idle
// device has none.
type commandCounts struct {
	methods, methodsFailed                        atomic.Uint64
	c2dHandled, c2dFailed, c2dRepeated            atomic.Uint64
	desiredApplied, desiredFailed, desiredRemoved atomic.Uint64
}

// count counts an event that the cloud has caused.
func (f *floods) count(e *journal.Event) {
	var n *atomic.Uint64
	failed := e.Error != "" || e.Status >= http.StatusBadRequest
	switch e.Kind {
	case journal.MethodCall:
		f.counts().methods.Add(1)
		if failed {
			n = &f.counts().methodsFailed
		}
	case journal.CloudMessage:
		n = &f.counts().c2dHandled
		if failed {
			n = &f.counts().c2dFailed
		} else if e.Unchanged {
			n = &f.counts().c2dRepeated
		}
	case journal.DesiredChange:
		n = &f.counts().desiredApplied
		if failed {
			n = &f.counts().desiredFailed
		} else if e.Status == 0 {
			n = &f.counts().desiredRemoved
		}
	default:
	}
	if n != nil {
		n.Add(1)
	}
}

// counts returns the counts, and makes them if there are none.
func (f *floods) counts() *commandCounts {
	if f.counted.Load() == nil {
		f.counted.CompareAndSwap(nil, new(commandCounts))
	}
	return f.counted.Load()
}

// commands reads the counts.
func (f *floods) commands() Commands {
	c := f.counted.Load()
	if c == nil {
		return Commands{}
	}
	return Commands{
		Methods: c.methods.Load(), MethodsFailed: c.methodsFailed.Load(),
		C2DHandled: c.c2dHandled.Load(), C2DFailed: c.c2dFailed.Load(), C2DRepeated: c.c2dRepeated.Load(),
		DesiredApplied: c.desiredApplied.Load(), DesiredFailed: c.desiredFailed.Load(), DesiredRemoved: c.desiredRemoved.Load(),
	}
}

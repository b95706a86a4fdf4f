// Package thrift keeps a process with many devices small.
package thrift

import (
	"context"
	"crypto/tls"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
)

const (
	fleetFrom  = 64 // devices in a process, from which on this matters
	leastApart = 12 // handshakes between two collections at least
	devicesPer = 64 // devices for each further handshake between two collections
)

// Heap keeps the heap of a fleet dense. A handshake leaves ten times the memory behind that a
// link keeps. If a whole fleet connects, the collector waits until the garbage is as large as all
// that lives; then what lives is scattered over twice the pages, and stays there. So after some
// handshakes, in proportion to the number of devices, the garbage is collected early. A process
// with few devices never does that.
type Heap struct {
	Devices atomic.Int64 // that run

	mu         sync.Mutex
	handshakes int           // since the last collection began
	collected  chan struct{} // closed at the end of the collection under way; nil: none is
}

// Pace is called before a connection is made. It waits if that would come too early: if so many
// were made since the collection under way began that the next one should begin. It waits for ctx
// at most.
func (h *Heap) Pace(ctx context.Context) {
	h.mu.Lock()
	collected := h.collected
	early := collected != nil && h.handshakes >= h.most()
	h.mu.Unlock()
	if early {
		select {
		case <-collected:
		case <-ctx.Done():
		}
	}
}

// most is how many connections are made between two collections.
func (h *Heap) most() int { return leastApart + int(h.Devices.Load())/devicesPer }

// Handshake notes that a connection was made. It does not block: if the garbage is to be collected,
// it gives spawn a function that must run in a goroutine of its own.
func (h *Heap) Handshake(spawn func(f func())) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.handshakes++
	if h.Devices.Load() < fleetFrom || h.collected != nil || h.handshakes < h.most() {
		return
	}
	h.handshakes, h.collected = 0, make(chan struct{})
	spawn(h.collect)
}

func (h *Heap) collect() {
	runtime.GC()
	h.mu.Lock()
	defer h.mu.Unlock()
	close(h.collected)
	h.collected = nil
}

// maxNames bounds the servers of which a process keeps a configuration.
const maxNames = 64

// ServerNames keeps a TLS configuration for each server that the process connects to, because a
// connection keeps its configuration. The zero value keeps none. It may be used from any goroutine.
type ServerNames struct {
	mu  sync.Mutex
	tls map[string]*tls.Config
}

// Of returns base for one server, host or host:port. base is always the same, and has no
// ServerName.
func (n *ServerNames) Of(base *tls.Config, server string) *tls.Config {
	name, _, err := net.SplitHostPort(server)
	if err != nil {
		name = strings.Trim(server, "[]")
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if conf := n.tls[name]; conf != nil {
		return conf
	}
	if n.tls == nil || len(n.tls) >= maxNames {
		n.tls = map[string]*tls.Config{}
	}
	conf := base.Clone()
	conf.ServerName = name
	n.tls[name] = conf
	return conf
}

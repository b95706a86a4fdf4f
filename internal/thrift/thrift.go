// Package thrift keeps a process with many devices small.
package thrift

import (
	"crypto/tls"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
)

const (
	fleetFrom  = 64 // devices in a process, from which on this matters
	leastApart = 16 // handshakes between two collections at least
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
	handshakes int  // since the last collection
	collecting bool // a collection is under way
}

// Handshake notes that a connection was made. It does not block: if the garbage is to be collected,
// it gives spawn a function that must run in a goroutine of its own.
func (h *Heap) Handshake(spawn func(f func())) {
	devices := int(h.Devices.Load())
	h.mu.Lock()
	defer h.mu.Unlock()
	h.handshakes++
	if devices < fleetFrom || h.collecting || h.handshakes < leastApart+devices/devicesPer {
		return
	}
	h.handshakes, h.collecting = 0, true
	spawn(h.collect)
}

func (h *Heap) collect() {
	runtime.GC()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.collecting = false
}

// maxNames bounds the servers of which a process keeps a configuration.
const maxNames = 64

// ServerNames keeps a TLS configuration for each server that the process connects to, because a
// connection keeps its configuration. The zero value keeps none. It may be used from any goroutine.
type ServerNames struct {
	mu  sync.Mutex
	tls map[string]*tls.Config
}

// Of returns base for one server, host or host:port. base is always the same, and has no ServerName.
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

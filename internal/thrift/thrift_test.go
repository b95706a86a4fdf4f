package thrift

import (
	"context"
	"crypto/tls"
	"fmt"
	"runtime"
	"testing"
)

// TestFleetCollectsEarly: in a fleet, the garbage of a number of handshakes is collected, by one
// collection at a time. A process with few devices collects nothing early.
func TestFleetCollectsEarly(t *testing.T) {
	for _, v := range []struct{ devices, each int }{{1, 0}, {fleetFrom - 1, 0}, {fleetFrom, leastApart + 1}, {100 * devicesPer, leastApart + 100}} {
		var h Heap
		h.Devices.Store(int64(v.devices))
		var pending []func()
		handshake := func() { h.Handshake(func(f func()) { pending = append(pending, f) }) }
		if v.each == 0 {
			for range 1000 {
				handshake()
			}
			if len(pending) > 0 {
				t.Errorf("%d devices: %d collections", v.devices, len(pending))
			}
			continue
		}
		before := collections()
		for n := 1; len(pending) == 0; n++ {
			handshake()
			if (len(pending) > 0) != (n == v.each) {
				t.Fatalf("%d devices: %d collections after %d handshakes", v.devices, len(pending), n)
			}
		}
		for range 1000 {
			handshake()
		}
		if len(pending) != 1 {
			t.Errorf("%d devices: %d collections at once", v.devices, len(pending))
		}
		tooEarly, cancel := context.WithCancel(t.Context())
		cancel()
		h.Pace(tooEarly) // it waits for that context only
		paced := make(chan struct{})
		go func() { h.Pace(t.Context()); close(paced) }()
		pending[0]()
		<-paced
		if collections() == before {
			t.Errorf("%d devices: nothing was collected", v.devices)
		}
		handshake()
		if len(pending) != 2 {
			t.Errorf("%d devices: what came during a collection was forgotten", v.devices)
		}
	}
}

func collections() uint32 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.NumForcedGC
}

// TestServerNamesAreKept: connections to one server share their configuration, those to another one
// have another name. However many servers there are, few are kept.
func TestServerNamesAreKept(t *testing.T) {
	base := &tls.Config{MinVersion: tls.VersionTLS13}
	var n ServerNames
	for server, want := range map[string]string{"hub-a": "hub-a", "hub-a:8883": "hub-a", "127.0.0.1:1": "127.0.0.1", "[fd00::1]:8883": "fd00::1", "[fd00::1]": "fd00::1"} {
		conf := n.Of(base, server)
		if conf.ServerName != want || conf.MinVersion != base.MinVersion || base.ServerName != "" {
			t.Errorf("%s: %q", server, conf.ServerName)
		}
		if again := n.Of(base, server); again != conf {
			t.Errorf("%s has two configurations", server)
		}
	}
	for i := range 10 * maxNames {
		n.Of(base, fmt.Sprint("hub-", i))
		if len(n.tls) > maxNames {
			t.Fatalf("%d are kept", len(n.tls))
		}
	}
}

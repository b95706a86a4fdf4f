// Package virtual is the world around a device in a test: a simulated cloud on an in-memory
// network, a machine whose clocks can be wrong, and directories where syncing costs nothing. With
// testing/synctest, days of it pass in seconds. It knows nothing of the device, so that the
// device's own tests can use it. Tests alone use it.
package virtual

import (
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/memnet"
	"github.com/hubhop-iot/hubhop/internal/sim"
	"github.com/hubhop-iot/hubhop/model"
)

// Cloud starts a simulated cloud on a network of its own. change, which may be nil, changes its
// configuration before. Call it within a bubble of testing/synctest: it is closed when that ends.
func Cloud(t *testing.T, change func(*sim.Config)) (*memnet.Net, *sim.Sim) {
	t.Helper()
	wire := memnet.New()
	c := sim.DefaultConfig()
	c.Layout, c.Listen = sim.LayoutLoopback, wire.Listen
	if change != nil {
		change(&c)
	}
	cloud, err := sim.New(c)
	if err == nil {
		err = cloud.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cloud.Close() })
	return wire, cloud
}

// ModelText returns the model of the published sample, failover.json.
func ModelText(t testing.TB) []byte {
	t.Helper()
	_, here, _, _ := runtime.Caller(0)
	text, err := os.ReadFile(filepath.Join(filepath.Dir(here), "..", "..", "failover.json"))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// Model returns that model, read.
func Model(t testing.TB) *model.Model {
	t.Helper()
	m, err := model.Parse(ModelText(t))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// Dir returns a directory in memory, if the system has a place for it. There, tests can sync for
// days, or start a device thousands of times. It is removed when the test ends.
func Dir(t *testing.T) string {
	t.Helper()
	ram := "/dev/shm"
	if info, err := os.Stat(ram); err != nil || !info.IsDir() {
		ram = "" // the system's directory for temporary files
	}
	dir, err := os.MkdirTemp(ram, "hubhop") //nolint:usetesting // t.TempDir is on a disk, and the syncs of these tests would take hours there
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// Machine has the clocks of a computer. Its system clock may be wrong; the cloud's is always right.
type Machine struct {
	began time.Time
	off   atomic.Int64
}

// NewMachine returns a machine that started a minute ago, and whose system clock is ahead by off.
func NewMachine(off time.Duration) *Machine {
	m := &Machine{began: time.Now().Add(-time.Minute)}
	m.Set(off)
	return m
}

// Set makes the system clock wrong: it is ahead by off.
func (m *Machine) Set(off time.Duration) { m.off.Store(int64(off)) }

// Wall returns what the system clock shows.
func (m *Machine) Wall() time.Time { return time.Now().Round(0).Add(time.Duration(m.off.Load())) }

// Running returns how long the machine has been running.
func (m *Machine) Running() time.Duration { return time.Since(m.began) }

package sim

import (
	"path/filepath"
	"testing"
	"testing/synctest"
)

// inKeptWorld is inWorld with a state directory.
func inKeptWorld(t *testing.T, change func(*Config), f func(w *world)) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "state")
	inWorld(t, func(c *Config) {
		c.StateDir = dir
		if change != nil {
			change(c)
		}
	}, f)
}

// reborn is the world after its simulator was killed at this moment and started again.
func (w *world) reborn() {
	w.t.Helper()
	synctest.Wait()
	after := crash(w.t, w.config.StateDir)
	must(w.t, w.Close())
	c := w.config
	c.StateDir, c.Listen = after, w.net.Listen
	var err error
	if w.Sim, err = New(c); err != nil {
		w.t.Fatal(err)
	}
	if err := w.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.info = w.Info()
}

// Clients see the same cloud again: what they trust, what they sign with, where they connect.
func TestCloudIsTheSameAgain(t *testing.T) {
	for _, layout := range []string{LayoutLoopback, LayoutPorts} {
		inKeptWorld(t, func(c *Config) { c.Layout, c.ControlAddr = layout, "127.0.0.1:0" }, func(w *world) {
			before, ca, deviceCA := w.info, string(w.ca.certPEM()), string(must2(w.registry.authority.keyPEM()))
			w.connect(w.provision("dev-1"), "dev-1").telemetry("%24.mid=0123456789abcdef-1", "{}", 1)
			w.reborn()
			if was, is := string(encodeJSON(before)), string(encodeJSON(w.info)); was != is {
				t.Errorf("was\n%s\nis\n%s", was, is)
			}
			if ca != string(w.ca.certPEM()) || deviceCA != string(must2(w.registry.authority.keyPEM())) {
				t.Error("another authority")
			}
			w.connect(w.provision("dev-1"), "dev-1").telemetry("%24.mid=0123456789abcdef-1", "{}", 1)
			if l := w.Ledger("dev-1", true); l.Received != 2 || l.Duplicates != 1 || len(l.Messages) != 2 {
				t.Errorf("%+v", l)
			}
			must(t, w.ResetLedger())
			w.reborn()
			if l := w.Ledger("", true); l.Received != 0 || len(l.Messages) != 0 {
				t.Errorf("%+v", l)
			}
		})
	}
}

// A message that cannot be written down is not acknowledged, and its connection ends; the next one that can is.
func TestNoPubackOnAFullDisk(t *testing.T) {
	inKeptWorld(t, nil, func(w *world) {
		host := w.provision("dev-1")
		c := w.connect(host, "dev-1")
		c.telemetry("%24.mid=0123456789abcdef-1", "{}", 1)
		w.ledger.mu.Lock()
		disk := &fullDisk{w.ledger.disk.file.file, 60, false}
		w.ledger.disk.file.file = disk
		w.ledger.mu.Unlock()
		c.send(publishBytes("devices/dev-1/messages/events/%24.mid=0123456789abcdef-2", `{"and":"so on, and on, and on"}`, 1, 2))
		c.wantEnd()
		if l := w.Ledger("dev-1", false); l.Received != 1 {
			t.Errorf("%+v", l)
		}
		w.ledger.mu.Lock()
		disk.room = 1000
		w.ledger.mu.Unlock()
		w.connect(host, "dev-1").telemetry("%24.mid=0123456789abcdef-2", "{}", 2)
		w.reborn()
		if l := w.Ledger("dev-1", false); l.Received != 2 || l.Distinct != 2 {
			t.Errorf("%+v", l)
		}
	})
}

package flow

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/internal/flow/manifest"
	"github.com/hubhop-iot/hubhop/internal/memnet"
)

// TestDevicesWithTheSameFilesShareABroker: with equal client ids the broker would end the
// connection of one of them whenever the other one connects.
func TestDevicesWithTheSameFilesShareABroker(t *testing.T) {
	d := manifestsOf{t, t.TempDir()}
	d.endpoint("default", "Mqtt", "mqttSettings", "    host: "+brokerAddress+"\n    tls:\n      mode: Disabled\n    authentication:\n      method: Anonymous\n")
	d.flow("default", "default")
	states := map[string]string{"dev-1": t.TempDir(), "dev-2": t.TempDir()}
	synctest.Test(t, func(t *testing.T) {
		b := &broker{t: t, wire: memnet.New()}
		b.start()
		defer b.stop()
		var before []string
		for range 2 { // the ids stay over a restart
			var managers []*Manager
			var ids []string
			var log said
			for _, device := range []string{"dev-1", "dev-2"} {
				m, err := New(Options{Dir: d.dir, StateDir: states[device], Device: device, Log: log.add, DialContext: b.wire.DialContext})
				if err != nil {
					t.Fatal(err)
				}
				managers = append(managers, m)
				m.reload(t.Context())
			}
			time.Sleep(10 * time.Minute)
			synctest.Wait()
			for _, m := range managers {
				st := m.Status()
				if len(st) != 1 || st[0].State != Running || st[0].Text != "" {
					t.Errorf("%+v", st)
				}
				ids = append(ids, st[0].ClientIDs...)
			}
			for _, id := range ids {
				if c, ok := b.server.Clients.Get(id); !ok || c.Closed() {
					t.Errorf("the broker has no client %q", id)
				}
			}
			for _, text := range log.texts() {
				if strings.Contains(text, "ended the connection") || strings.Contains(text, "session") {
					t.Error(text)
				}
			}
			if slices.Sort(ids); len(slices.Compact(slices.Clone(ids))) != 4 || before != nil && !slices.Equal(ids, before) {
				t.Errorf("client ids %q, and before the restart %q", ids, before)
			}
			before = ids
			for _, m := range managers {
				m.stopAll()
				if err := m.store.Close(); err != nil {
					t.Error(err)
				}
			}
		}
	})
}

func TestShowSaysTheClientIDs(t *testing.T) {
	d := manifestsOf{t, t.TempDir()}
	block := "    host: b:1883\n    clientIdPrefix: plant-1\n    tls:\n      mode: Disabled\n    authentication:\n      method: Anonymous\n"
	d.endpoint("default", "Mqtt", "mqttSettings", strings.Replace(block, "    clientIdPrefix: plant-1\n", "", 1))
	d.endpoint("other", "Mqtt", "mqttSettings", block)
	d.flow("default", "other")
	set, faults := manifest.Load(d.dir, manifest.Options{})
	if len(set.Graphs) != 1 {
		t.Fatal(faults)
	}
	text := Text(set.Graphs[0])
	for _, want := range []string{"\n    client id hubhop-DEVICE.through.source\n", "\n    client id plant-1.through.destination\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
}

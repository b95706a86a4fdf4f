package sim

import (
	"testing"
	"time"
)

// A device may also connect with a token of a policy that has this right, for any name of the hub.
// Tokens of other policies are refused.
func TestDeviceConnectsWithATokenOfAPolicy(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		host := w.provision("d")
		server, owner, _ := connectionParts(t, w.info.Hubs[0].ConnectionString)
		if owner != "iothubowner" || server != host {
			t.Errorf("%s of %s", owner, server)
		}
		for name, want := range map[string]byte{"iothubowner": 0, "device": 0, "service": 5, "registryRead": 5, "registryReadWrite": 5, "nobody": 5} {
			keys := [2][]byte{{1}, {1}}
			if known, ok := w.hubs[0].PolicyKeys(name); ok {
				keys = known
			}
			other, _ := w.hubs[1].PolicyKeys(name)
			for _, v := range []struct {
				sr   string
				key  []byte
				want byte
			}{
				{host, keys[0], want},
				{host + "/devices/d", keys[1], want},
				{"hub-a.azure-devices.net", keys[0], want},
				{"HUB-A.sim.local:8883/devices", keys[0], want},
				{host + "/devices/other", keys[0], 5},
				{"hub-b.azure-devices.net", keys[0], 5},
				{host, other[0], 5},
				{host, w.key("d"), 5},
			} {
				o := w.hubOptions(host, "d")
				o.password = sasFor(v.key, v.sr, time.Now().Add(time.Hour), name)
				c, _, code := w.tryHub(o, host)
				if code != v.want {
					t.Errorf("%s, sr=%s: CONNACK %d, want %d", name, v.sr, code, v.want)
				}
				c.close()
			}
		}
	})
}

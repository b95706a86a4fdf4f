package device

import (
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim"
)

// TestTimingsAreToldOfDialsPubacksAndMethods has a device fail over, and compares what was timed
// with the ledger.
func TestTimingsAreToldOfDialsPubacksAndMethods(t *testing.T) {
	var mu sync.Mutex
	dials, methods, acked := map[bool]int{}, map[string]int{}, int64(0)
	var longest time.Duration
	prepare := func(p *plan) {
		p.Timings = Timings{
			Dialled: func(took time.Duration, up bool) {
				mu.Lock()
				defer mu.Unlock()
				dials[up]++
			},
			Acked: func(took time.Duration) {
				mu.Lock()
				defer mu.Unlock()
				acked++
				longest = max(longest, took)
			},
			Answered: func(name string, status int, took time.Duration) {
				mu.Lock()
				defer mu.Unlock()
				methods[fmt.Sprint(name, " ", status)]++
			},
		}
	}
	bubble(t, setup{device: prepare}, func(t *testing.T, w *world) {
		w.on("hub-a", 10*time.Second)
		for _, name := range []string{"echo", "echo", "nobody"} {
			_, err := w.cloud.Method(t.Context(), "dev-1", name, json.RawMessage(`1`))
			w.must(err)
		}
		w.must(w.cloud.FaultHub("hub-a", sim.Fault{Kind: sim.FaultKill}))
		w.on("hub-b", 10*time.Second)
		w.run(10 * time.Second)
		w.halt()
		mu.Lock()
		defer mu.Unlock()
		if dials[true] != 2 || dials[false] == 0 {
			t.Errorf("dials by success: %v", dials)
		}
		if fmt.Sprint(methods) != "map[echo 200:2 nobody 404:1]" {
			t.Errorf("methods: %v", methods)
		}
		if l := w.cloud.Ledger("dev-1", false); acked < l.Distinct-2 || acked > l.Distinct || acked == 0 {
			t.Errorf("%d PUBACKs were timed, %d samples have arrived", acked, l.Distinct)
		}
		if longest > time.Second {
			t.Errorf("a PUBACK took %v", longest)
		}
	})
}

package provisioning

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/iothub"
)

// Hubs get devices by their weights. A hub that goes away moves its own devices only.
func TestHashedAllocationFollowsTheWeights(t *testing.T) {
	var hubs []*iothub.Hub
	for _, name := range []string{"hub-a", "hub-b", "hub-c"} {
		hubs = append(hubs, iothub.New(iothub.Options{Name: name, Now: time.Now, Tell: func(iothub.Event) {}}))
	}
	r := NewRegistry(RegistryOptions{Allocation: AllocateHashed, HubWeights: []int{3, 1}, Hubs: hubs, Now: time.Now, Tell: func(iothub.Event) {}})
	all, fewer := &enrollment{}, &enrollment{AllocationPolicy: AllocateHashed, IotHubs: []string{"hub-a", "hub-b"}}
	const n = 3000
	counts := map[string]int{}
	for i := range n {
		id := fmt.Sprintf("device-%d", i)
		before, after := r.choose(all, id), r.choose(fewer, id)
		if counts[before.Name()]++; before != after && before.Name() != "hub-c" {
			t.Fatalf("%s moved from %s to %s", id, before.Name(), after.Name())
		}
	}
	for name, share := range map[string]float64{"hub-a": 0.6, "hub-b": 0.2, "hub-c": 0.2} {
		if got := float64(counts[name]) / n; math.Abs(got-share) > 0.05 {
			t.Errorf("%s has %.2f of the devices, want %.2f", name, got, share)
		}
	}
}

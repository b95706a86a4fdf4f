package failover

import (
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/dps"
)

func TestKnownHubsAreFewAndRecent(t *testing.T) {
	now := time.Now()
	s := State{AssignedHub: "hub-0"}
	for i := range 12 {
		s = s.WithAssignment(dps.Assignment{Hub: "hub-" + string(rune('a'+i))}, now.Add(time.Duration(i)*time.Hour))
	}
	if len(s.KnownHubs) != MaxKnownHubs || s.KnownHubs[0].Host != "hub-l" {
		t.Errorf("%d known, first %s", len(s.KnownHubs), s.KnownHubs[0].Host)
	}
	s = s.WithAssignment(dps.Assignment{Hub: "hub-new"}, now.Add(maxKnownAge+9*time.Hour))
	for _, k := range s.KnownHubs {
		if now.Add(maxKnownAge+9*time.Hour).Sub(k.AssignedAt) > maxKnownAge && k.Host != "hub-l" {
			t.Errorf("%s was assigned at %v", k.Host, k.AssignedAt)
		}
	}
}

package device

import (
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/failover"
	"github.com/hubhop-iot/hubhop/internal/clock"
	"github.com/hubhop-iot/hubhop/internal/home"
)

// TestHubsOfAFileThatIsReadLateAreKept: the disk cannot read state.json when the device starts. The
// known hubs that the file has are then kept for the next start in every file that is written,
// until the session knows them itself: it alone can say that a hub is not to be tried any more.
func TestHubsOfAFileThatIsReadLateAreKept(t *testing.T) {
	for name, tries := range map[string]int{"the disk reads it at the first save": 0, "and fails to write at that one": 1} {
		t.Run(name, func(t *testing.T) {
			disk := &memDisk{files: map[string][]byte{}}
			h := home.New(disk, "state", "dev-1", nil)
			must(t, h.Open())
			defer h.Close()
			who := failover.State{Version: stateVersion, IDScope: "s", RegistrationID: "dev-1", KeyFingerprint: "f"}
			limit := clock.New(clock.Machine{Built: time.Now()}).Horizon
			with := func(hosts ...string) failover.State {
				s := who
				s.AssignedHub, s.AssignedAt = hosts[0], time.Now().Add(-time.Minute)
				for _, host := range hosts {
					s.KnownHubs = append(s.KnownHubs, failover.KnownHub{Host: host, DeviceID: "dev-1", AssignedAt: s.AssignedAt})
				}
				return s
			}
			holds := func(want ...string) {
				t.Helper()
				s, err := loadState(h, who, limit)
				must(t, err)
				var got []string
				for _, k := range s.KnownHubs {
					got = append(got, k.Host)
				}
				if !slices.Equal(got, want) {
					t.Errorf("the file knows %v, not %v", got, want)
				}
			}
			must(t, saveState(h, with("hub-a", "hub-b")))
			k := &keeper{home: h, who: func() failover.State { return who }, limit: limit, unread: true}
			failed := 0
			disk.fail = func(call, _ string) error {
				if call == "write" && failed < tries {
					failed++
					return syscall.ENOSPC
				}
				return nil
			}
			k.save(with("hub-c"))
			if failed != tries {
				t.Fatalf("the disk failed %d times", failed)
			}
			if tries > 0 {
				holds("hub-a", "hub-b")
				h.TendNow()
			}
			holds("hub-c", "hub-a", "hub-b")
			k.save(with("hub-d", "hub-c"))
			holds("hub-d", "hub-c", "hub-a", "hub-b")
			k.save(with("hub-a", "hub-d", "hub-c"))
			holds("hub-a", "hub-d", "hub-c", "hub-b")
			k.save(with("hub-d", "hub-c")) // the session has dropped hub-a
			holds("hub-d", "hub-c", "hub-b")
			k.save(with("hub-d", "hub-c", "1", "2", "3", "4", "5", "6"))
			holds("hub-d", "hub-c", "1", "2", "3", "4", "5", "6")
		})
	}
}

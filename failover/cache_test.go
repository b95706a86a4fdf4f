package failover

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/dps"
)

func TestStateSurvives(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.json")
	who := State{IDScope: "s", RegistrationID: "d", KeyFingerprint: "f"}
	fresh, err := LoadState(path, who)
	if err != nil || fresh.AssignedHub != "" || !fresh.Same(who) {
		t.Fatalf("no file: %+v %v", fresh, err)
	}
	kept := fresh.WithAssignment(dps.Assignment{Hub: "hub-a", DeviceID: "D"}, time.Now())
	if err := SaveState(path, kept); err != nil {
		t.Fatal(err)
	}
	got, err := LoadState(path, who)
	if err != nil || got.AssignedHub != "hub-a" || got.DeviceID != "D" || len(got.KnownHubs) != 1 || got.KnownHubs[0].Host != "hub-a" {
		t.Fatalf("%+v %v", got, err)
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	for name, other := range map[string]State{
		"scope": {IDScope: "x", RegistrationID: "d", KeyFingerprint: "f"},
		"id":    {IDScope: "s", RegistrationID: "x", KeyFingerprint: "f"},
		"key":   {IDScope: "s", RegistrationID: "d", KeyFingerprint: "x"},
	} {
		if got, err := LoadState(path, other); err != nil || got.AssignedHub != "" {
			t.Errorf("a state of another %s was taken: %+v %v", name, got, err)
		}
	}
}

func TestDamagedStateIsAHint(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.json")
	for _, content := range []string{"", "{", "null garbage", `{"version":99,"assignedHub":"x"}`, `[]`} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := LoadState(path, State{IDScope: "s"})
		if err == nil || !strings.Contains(err.Error(), path) || got.AssignedHub != "" || got.IDScope != "s" {
			t.Errorf("%q: %+v %v", content, got, err)
		}
	}
}

func TestKnownHubsAreFewAndRecent(t *testing.T) {
	now := time.Now()
	s := State{AssignedHub: "hub-0"}
	for i := range 12 {
		s = s.WithAssignment(dps.Assignment{Hub: "hub-" + string(rune('a'+i))}, now.Add(time.Duration(i)*time.Hour))
	}
	if len(s.KnownHubs) != maxKnown || s.KnownHubs[0].Host != "hub-l" {
		t.Errorf("%d known, first %s", len(s.KnownHubs), s.KnownHubs[0].Host)
	}
	s = s.WithAssignment(dps.Assignment{Hub: "hub-new"}, now.Add(maxKnownAge+9*time.Hour))
	for _, k := range s.KnownHubs {
		if now.Add(maxKnownAge+9*time.Hour).Sub(k.AssignedAt) > maxKnownAge && k.Host != "hub-l" {
			t.Errorf("%s was assigned at %v", k.Host, k.AssignedAt)
		}
	}
}

package device

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/internal/sim"
)

// The fixture of testdata/dir-v1; its README says how it was made.
const (
	oldDir      = "testdata/dir-v1"
	oldID       = "053863b6058ee650" // of its outbox
	oldAcked    = 50                 // samples that the hub has
	oldMade     = 71
	oldMessage  = "127.80.0.2 9b16d633-5069-4e49-a9cd-eca5b70fd993 5aa762ae383fbb72" // key of the message that was handled
	oldAssigned = "127.80.0.2"
)

var oldEnd = time.Date(2026, time.November, 30, 6, 54, 16, 0, time.UTC)

// old is the setup of a world in which the device finds the directory that the first release has
// left, a day later, with the cloud that it knows.
func old(t *testing.T) setup {
	key, err := os.ReadFile(filepath.Join(oldDir, "group.key"))
	if err != nil {
		t.Fatal(err)
	}
	return setup{
		start: oldEnd.Add(24 * time.Hour),
		cloud: func(c *sim.Config) { c.BaseAddress, c.GroupKey = "127.80.0.1", strings.TrimSpace(string(key)) },
		device: func(c *plan) {
			c.Outbox.Machine = "" // the outbox is that of the machine that wrote it
			if err := os.CopyFS(c.StateDir, os.DirFS(filepath.Join(oldDir, "state"))); err != nil {
				t.Fatal(err)
			}
		},
		continues: oldAcked,
	}
}

// TestDirectoryOfTheFirstReleaseIsTakenOver: a device finds the directory that an older hubhop has
// left. It dials the hub that it knows before DPS has answered, sends the samples that were queued
// under their ids and times and in order, and goes on numbering behind them. It knows the message
// that was handled, and nothing is said to be missing or to make no sense.
func TestDirectoryOfTheFirstReleaseIsTakenOver(t *testing.T) {
	bubble(t, old(t), func(t *testing.T, w *world) {
		w.on("hub-a", 10*time.Second)
		w.run(10 * time.Second)
		if !w.dev.handled.Has(oldMessage) {
			t.Error("the message that was handled is forgotten")
		}
		kept := w.dev.time.Kept()
		if len(kept.Epochs) == 0 || kept.Epochs[0].From != 1 || !kept.Epochs[0].Proved || !strings.HasPrefix(kept.Epochs[0].Boot, "c6154516-") {
			t.Errorf("the clock's file is now %+v", kept)
		}
		if first := w.all(journal.Dialing)[0]; first.Hub != oldAssigned {
			t.Errorf("the first hub that was dialled is %s", first.Hub)
		}
		for _, text := range append(w.texts(journal.Warning), w.texts(journal.OutboxProblem)...) {
			t.Errorf("told: %s", text)
		}
		var ids []string
		for _, m := range w.cloud.Ledger("dev-1", true).Messages {
			ids = append(ids, m.Mid)
			if created, err := time.Parse(time.RFC3339, *m.Properties["iothub-creation-time-utc"]); len(ids) <= oldMade-oldAcked &&
				(err != nil || created.After(oldEnd) || created.Before(oldEnd.Add(-time.Minute))) {
				t.Errorf("%s was made at %v, %v", m.Mid, created, err)
			}
		}
		var want []string
		for n := oldAcked + 1; n <= oldMade+5; n++ {
			want = append(want, fmt.Sprintf("%s-%d", oldID, n))
		}
		if len(ids) < len(want) || !slices.Equal(ids[:len(want)], want) {
			t.Errorf("%v have arrived", ids)
		}
	})
}

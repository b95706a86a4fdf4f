package flow

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/internal/flow/node"
)

// held are messages that wait in the window of a minute.
func (w *world) held(t *testing.T, n int) {
	t.Helper()
	p, end := w.publisher("generator")
	defer end()
	for i := range n {
		if err := p.publish(t.Context(), i, node.Message{Topic: "sensors/a", Payload: []byte(`{"n":1}`)}); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(2 * time.Second)
	synctest.Wait()
}

// results are the bodies that have come to the hub.
func (w *world) results() (all []string) {
	for _, m := range w.cloud.Ledger("dev-1", true).Messages {
		all = append(all, string(m.Body))
	}
	return all
}

// atMinute waits until a minute has just begun.
func atMinute() {
	time.Sleep(time.Until(time.Now().Truncate(time.Minute).Add(time.Minute + time.Second)))
}

// TestAFlowThatIsRenamedOrDisabledGivesItsWindowsOut: nobody will close them later.
func TestAFlowThatIsRenamedOrDisabledGivesItsWindowsOut(t *testing.T) {
	for _, c := range []struct{ name, old, text string }{
		{"renamed", "metadata: {name: minutes}", "metadata: {name: others}"},
		{"disabled", "spec:\n  nodes:", "spec:\n  mode: Disabled\n  nodes:"},
	} {
		t.Run(c.name, func(t *testing.T) {
			inWorld(t, dayManifests, nil, func(t *testing.T, w *world) {
				atMinute()
				w.held(t, 7)
				changed := strings.Replace(dayManifests, c.old, c.text, 1)
				put(t, filepath.Join(w.flows.o.Dir, "flows.yaml"), changed)
				w.flows.reload(t.Context())
				time.Sleep(5 * time.Second)
				if got := w.results(); len(got) != 1 || !strings.Contains(got[0], `"count":7`) {
					t.Errorf("the hub got %q", got)
				}
				for _, s := range w.flows.Status() {
					if s.Fault != "" || strings.Contains(s.Text, "no result") {
						t.Errorf("the status says %+v", s)
					}
				}
			})
		})
	}
}

// TestWhatAGoneFlowHasLeftIsNamed until its directory is removed, or the flow is back.
func TestWhatAGoneFlowHasLeftIsNamed(t *testing.T) {
	inWorld(t, dayManifests, nil, func(t *testing.T, w *world) {
		atMinute()
		w.held(t, 7)
		w.flows.stopAll() // and the manifest is renamed while nobody runs
		file := filepath.Join(w.flows.o.Dir, "flows.yaml")
		put(t, file, strings.Replace(dayManifests, "metadata: {name: minutes}", "metadata: {name: others}", 1))
		w.flows.ran = map[string]bool{}
		empty := graphDir(w.flows.o.StateDir, "empty")
		do(t, os.Mkdir(empty, 0o700))
		w.flows.reload(t.Context())
		dir := graphDir(w.flows.o.StateDir, "minutes")
		s := w.flows.Status()
		if len(s) != 2 || s[0].Name != "minutes" || !strings.Contains(s[0].Fault, "7 messages") || !strings.Contains(s[0].Fault, dir) {
			t.Errorf("the status is %+v", s)
		}
		w.flows.reload(t.Context())
		if warned := strings.Join(w.said.warnings(), "\n"); strings.Count(warned, "minutes: no manifest has this flow any more, and 7 messages that it has taken are in no result") != 1 {
			t.Errorf("the warnings are\n%s", warned)
		}
		if _, err := os.Stat(empty); !os.IsNotExist(err) {
			t.Errorf("an empty directory stays: %v", err)
		}
		aside := dir + ".aside"
		do(t, os.Rename(dir, aside))
		if s := w.flows.Status(); len(s) != 1 {
			t.Errorf("without the directory, the status is %+v", s)
		}
		do(t, os.Rename(aside, dir))
		put(t, file, dayManifests)
		w.flows.reload(context.WithoutCancel(t.Context()))
		time.Sleep(2 * time.Minute)
		if got := w.results(); len(got) != 1 || !strings.Contains(got[0], `"count":7`) {
			t.Errorf("after the flow is back, the hub got %q", got)
		}
	})
}

// TestACheckpointThatCannotBeReadStays when its flow is gone and its journal is empty.
func TestACheckpointThatCannotBeReadStays(t *testing.T) {
	former, err := os.ReadFile(filepath.Join("graph", "testdata", "checkpoint-1"))
	if err != nil {
		t.Fatal(err)
	}
	inWorld(t, enriching, nil, func(t *testing.T, w *world) {
		all := map[string][]byte{"former": former, "damaged": former[:len(former)-1]}
		for name, checkpoint := range all {
			dir := graphDir(w.flows.o.StateDir, name)
			do(t, os.MkdirAll(filepath.Join(dir, "journal"), 0o700))
			do(t, os.WriteFile(filepath.Join(dir, "checkpoint"), checkpoint, 0o600))
		}
		w.flows.reload(t.Context())
		for name := range all {
			dir := graphDir(w.flows.o.StateDir, name)
			if _, err := os.Stat(filepath.Join(dir, "checkpoint")); err != nil {
				t.Errorf("the checkpoint of %s: %v", name, err)
			}
			if s := w.flows.row(name); !strings.Contains(s.Fault, "its checkpoint, which may hold messages, cannot be read") || !strings.Contains(s.Fault, dir) {
				t.Errorf("the status of %s is %+v", name, s)
			}
		}
	})
}

// row returns the status of a flow.
func (m *Manager) row(name string) (s Status) {
	for _, s := range m.Status() {
		if s.Name == name {
			return s
		}
	}
	return s
}

// TestAJournalThatNobodyCanReadIsInTheStatus, and once in the log.
func TestAJournalThatNobodyCanReadIsInTheStatus(t *testing.T) {
	inWorld(t, enriching, nil, func(t *testing.T, w *world) {
		dir := graphDir(w.flows.o.StateDir, "gone")
		do(t, os.MkdirAll(filepath.Join(dir, "checkpoint"), 0o700))
		const text = "what it has left cannot be seen to: "
		for range 3 {
			w.flows.reload(t.Context())
			if s := w.flows.row("gone"); !strings.Contains(s.Fault, text) || s.Text != s.Fault {
				t.Errorf("the status is %+v", s)
			}
		}
		if n := strings.Count(strings.Join(w.said.warnings(), "\n"), text); n != 1 {
			t.Errorf("%d warnings:\n%s", n, w.said.warnings())
		}
		do(t, os.Remove(filepath.Join(dir, "checkpoint")))
		w.flows.reload(t.Context())
		if s := w.flows.row("gone"); s.Name != "" {
			t.Errorf("after the mend, the status is %+v", s)
		}
	})
}

// TestWhatADisabledFlowHasLeftIsNamedOnce while other manifests cannot be read, and again when its
// own is gone. It is not named any more when its directory is removed.
func TestWhatADisabledFlowHasLeftIsNamedOnce(t *testing.T) {
	inWorld(t, dayManifests, nil, func(t *testing.T, w *world) {
		atMinute()
		w.held(t, 7)
		w.flows.stopAll() // and the manifest is changed while nobody runs
		w.flows.ran = map[string]bool{}
		file, other := filepath.Join(w.flows.o.Dir, "flows.yaml"), filepath.Join(w.flows.o.Dir, "others.yaml")
		disabled := strings.Replace(dayManifests, "spec:\n  nodes:", "spec:\n  mode: Disabled\n  nodes:", 1)
		put(t, other, enriching)
		told := func(text string) int {
			w.flows.reload(t.Context())
			return strings.Count(strings.Join(w.said.warnings(), "\n"), "minutes: "+text)
		}
		const left = "7 messages that it has taken are in no result"
		put(t, file, disabled)
		if n := told("the flow is disabled, and " + left); n != 1 {
			t.Errorf("%d warnings of a disabled flow", n)
		}
		dir := graphDir(w.flows.o.StateDir, "minutes")
		do(t, os.Rename(dir, dir+".aside"))
		if s := w.flows.row("minutes"); s.Text != "its manifest says mode: Disabled" || s.State != Stopped {
			t.Errorf("without the directory, the status is %+v", s)
		}
		do(t, os.Rename(dir+".aside", dir))
		do(t, os.Remove(file))
		if n := told("no manifest has this flow any more, and " + left); n != 1 {
			t.Errorf("%d warnings of a flow that is gone", n)
		}
		put(t, other, "spec: [")
		told("")
		put(t, other, enriching)
		if n := told("no manifest has this flow any more, and " + left); n != 1 {
			t.Errorf("%d warnings after a file could not be read", n)
		}
		if s := w.flows.row("minutes"); !strings.Contains(s.Fault, left) {
			t.Errorf("the status is %+v", s)
		}
	})
}

// TestWhatNoDestinationTakesStaysAndIsNamed when its flow goes.
func TestWhatNoDestinationTakesStaysAndIsNamed(t *testing.T) {
	manifests := endpointOf("away", "127.0.0.1:9") + strings.ReplaceAll(dayManifests, "endpointRef: iothub", "endpointRef: away")
	inWorld(t, manifests, nil, func(t *testing.T, w *world) {
		atMinute()
		w.held(t, 7)
		do(t, os.Remove(filepath.Join(w.flows.o.Dir, "flows.yaml")))
		put(t, filepath.Join(w.flows.o.Dir, "others.yaml"), enriching)
		w.flows.reload(t.Context())
		s := w.flows.Status()
		if len(s) != 2 || s[0].Name != "minutes" || !strings.Contains(s[0].Fault, "7 messages that it has taken are in no result") {
			t.Errorf("the status is %+v", s)
		}
	})
}

// inFiles keeps messages in files.
var inFiles = endpointOf("default", brokerAddress) + `---
apiVersion: connectivity.iotoperations.azure.com/v1
kind: DataflowEndpoint
metadata: {name: files}
spec:
  endpointType: LocalStorage
  localStorageSettings: {persistentVolumeClaimRef: data}
---
apiVersion: connectivity.iotoperations.azure.com/v1
kind: Dataflow
metadata: {name: keep}
spec:
  operations:
    - {operationType: Source, sourceSettings: {endpointRef: default, dataSources: [sensors/+]}}
    - {operationType: Destination, destinationSettings: {endpointRef: files, dataDestination: out}}
`

// TestAVolumeThatIsMissingIsAFault until somebody makes it.
func TestAVolumeThatIsMissingIsAFault(t *testing.T) {
	inWorld(t, inFiles, nil, func(t *testing.T, w *world) {
		w.held(t, 2)
		volume := filepath.Join(w.flows.o.Dir, "volumes", "data")
		s := w.flows.Status()[0]
		if s.State != Failed || !strings.Contains(s.Fault, volume) || !strings.Contains(s.Fault, "make the directory") || s.Out != 0 {
			t.Errorf("without the volume, the status is %+v", s)
		}
		do(t, os.MkdirAll(volume, 0o700))
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if s := w.flows.Status()[0]; s.State != Running || s.Fault != "" || s.Out != 2 {
			t.Errorf("with the volume, the status is %+v", s)
		}
	})
}

// TestAFileThatSomebodyRemovesCountsAsErrors of the flow, with the messages that were safe in it.
func TestAFileThatSomebodyRemovesCountsAsErrors(t *testing.T) {
	if onWindows {
		t.Skip("Windows does not remove a file that is open")
	}
	inWorld(t, inFiles, nil, func(t *testing.T, w *world) {
		volume := filepath.Join(w.flows.o.Dir, "volumes", "data")
		do(t, os.MkdirAll(volume, 0o700))
		w.flows.reload(t.Context())
		w.held(t, 7)
		do(t, os.RemoveAll(filepath.Join(volume, "out")))
		w.held(t, 2)
		s := w.flows.Status()[0]
		if s.Out != 9 || s.Errors != 7 || !strings.Contains(s.Text, "7 messages are lost with files that somebody removed") {
			t.Errorf("the status is %+v", s)
		}
	})
}

// TestARenamedSourceSaysWhichSessionItHasLeft at the broker, once: its messages do not come.
func TestARenamedSourceSaysWhichSessionItHasLeft(t *testing.T) {
	for _, c := range []struct{ name, old, text string }{
		{"flow", "metadata: {name: minutes}", "metadata: {name: others}"},
		{"source", "name: in", "name: meters"},
	} {
		t.Run(c.name, func(t *testing.T) {
			inWorld(t, dayManifests, nil, func(t *testing.T, w *world) {
				file := filepath.Join(w.flows.o.Dir, "flows.yaml")
				told := func(text string) int {
					put(t, file, text)
					w.flows.reload(t.Context())
					time.Sleep(5 * time.Second)
					w.flows.reload(t.Context())
					return strings.Count(strings.Join(w.said.warnings(), "\n"), `"hubhop.minutes.in", but no manifest has its source "in"`)
				}
				if n := told(dayManifests); n != 0 {
					t.Errorf("%d warnings before a change", n)
				}
				changed := strings.ReplaceAll(dayManifests, c.old, c.text)
				for _, text := range []string{changed, strings.ReplaceAll(dayManifests, "nodeType: Source", "nodeType: Sauce"), changed} {
					if n := told(text); n != 1 {
						t.Errorf("%d warnings after it:\n%s", n, w.said.warnings())
					}
				}
			})
		})
	}
}

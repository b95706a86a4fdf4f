package flow

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/flow/node"
)

// TestWhatABrokerLosesIsSeen: an outage is a fault until it is over. A broker that has lost its
// sessions meanwhile is warned of and counted, and the status goes on saying so.
func TestWhatABrokerLosesIsSeen(t *testing.T) {
	inWorld(t, enriching, nil, func(t *testing.T, w *world) {
		w.broker.stop()
		time.Sleep(10 * time.Second)
		const refuses = "nobody listens there"
		s := w.flows.Status()[0]
		if s.State != Failed || s.Text != s.Fault || strings.Count(s.Fault, refuses) != 1 || s.Gaps != 0 {
			t.Errorf("in an outage: %+v", s)
		}
		w.broker.kept = memory{}
		w.broker.start()
		time.Sleep(2 * time.Minute)
		s = w.flows.Status()[0]
		if s.State != Running || s.Fault != "" || s.Gaps != 1 || !strings.Contains(s.Text, "has lost the session of a source once: ") {
			t.Errorf("after a loss: %+v", s)
		}
		warned := strings.Join(w.said.warnings(), "\n")
		if !strings.Contains(warned, refuses) || !strings.Contains(warned, "has lost the session of client id") {
			t.Errorf("the warnings are\n%s", warned)
		}
	})
}

// TestALogSaysWhatBecomesOfAChange: of which flow a change is refused, that the flow goes on, how
// many errors there are, and when they are mended.
func TestALogSaysWhatBecomesOfAChange(t *testing.T) {
	inWorld(t, enriching, nil, func(t *testing.T, w *world) {
		file := filepath.Join(w.flows.o.Dir, "flows.yaml")
		put(t, file, strings.NewReplacer("nodeType: Source", "nodeType: Sauce", "artifact:", "artefact:").Replace(enriching))
		w.flows.reload(t.Context())
		w.flows.reload(t.Context())
		const refused = "tools: the change is not taken over, and the flow goes on as it was: "
		warned := strings.Join(w.said.warnings(), "\n")
		if strings.Count(warned, refused) != 1 || !strings.Contains(warned, "; hubhop flow check names 3 more") {
			t.Errorf("the warnings are\n%s", warned)
		}
		if s := w.flows.Status()[0]; s.State != Running || !strings.HasPrefix(s.Fault, strings.TrimPrefix(refused, "tools: ")) {
			t.Errorf("with a refused change: %+v", s)
		}
		put(t, file, enriching)
		w.flows.reload(t.Context())
		if all := w.said.texts(); all[len(all)-1] != "tools: its manifests are again as the flow runs" || w.flows.Status()[0].Fault != "" {
			t.Errorf("after the mend: %q, %+v", all, w.flows.Status()[0])
		}
	})
}

// TestAnErrorHasItsReasonInTheStatus: the status, which counts errors, says why the last message
// failed, on which topic, and whether it is kept; so does the log.
func TestAnErrorHasItsReasonInTheStatus(t *testing.T) {
	const header = "kind: DataflowGraph\nmetadata: {name: tools}\nspec:\n"
	if !strings.Contains(enriching, header) {
		t.Fatal(enriching)
	}
	for manifests, kept := range map[string]string{
		enriching: "; it is not kept: deadLetter: {} in the spec of the flow keeps such messages",
		strings.Replace(enriching, header, header+"  deadLetter: {}\n", 1): filepath.Join("deadletter", "tools", "deadletter.jsonl"),
	} {
		inWorld(t, manifests, nil, func(t *testing.T, w *world) {
			p, end := w.publisher("generator")
			defer end()
			do(t, p.publish(t.Context(), 0, node.Message{Topic: "tools/a", Payload: []byte("no JSON")}))
			time.Sleep(time.Minute)
			s := w.flows.Status()[0]
			for _, want := range []string{`node add drops a message of the topic "tools/a" (`, kept} {
				if !strings.Contains(s.Text, want) || !strings.Contains(strings.Join(w.said.texts(), "\n"), want) {
					t.Errorf("%q is not in the status or the log: %+v", want, s)
				}
			}
			if s.Errors != 1 || s.State != Running || s.Fault != "" {
				t.Errorf("%+v", s)
			}
		})
	}
}

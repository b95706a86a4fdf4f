package flow

import (
	"strings"
	"testing"
	"time"
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

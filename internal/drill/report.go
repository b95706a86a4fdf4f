package drill

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/internal/sim"
)

// Report is what a demo found. Its JSON form is a promise to scripts.
type Report struct {
	Verdict  Outcome    `json:"verdict"`
	Reason   string     `json:"reason"`
	Device   string     `json:"device"`
	Samples  Samples    `json:"samples"`
	Steps    []Recovery `json:"steps"`
	Commands Commands   `json:"commands"`
	Control  string     `json:"control"` // address of the simulator's control API
}

// Samples are counted where they are made and where they arrive.
type Samples struct {
	Made       uint64 `json:"made"`
	Received   int64  `json:"received"`   // by the hubs, duplicates included
	Lost       int64  `json:"lost"`       // made and never received
	Duplicated int64  `json:"duplicated"` // received more than once
}

// Recovery is one move of the device to another hub.
type Recovery struct {
	Name       string `json:"name"`
	From       string `json:"from"`
	To         string `json:"to"`
	RecoveryMs int64  `json:"recoveryMs"` // from the cause to the first telemetry that the new hub received
}

// Commands are methods, desired changes and queued commands.
type Commands struct {
	Sent     int `json:"sent"`
	Answered int `json:"answered"`
}

const arrivalLimit = 10 * time.Second // for what was made to arrive, while the device goes on

// judge fills in the verdict: what was made must have arrived, in order, and every command must have been answered.
func (s *story) judge(ctx context.Context, made uint64, failure error) {
	watch, unwatch := s.cloud.Watch()
	defer unwatch()
	timer := time.NewTimer(arrivalLimit)
	defer timer.Stop()
	l := s.cloud.Ledger(demoDevice, false)
	for waiting := true; waiting && l.Distinct < int64(made); l = s.cloud.Ledger(demoDevice, false) {
		if failure != nil {
			break
		}
		select {
		case <-watch:
		case <-timer.C:
			waiting = false
		case <-ctx.Done():
			waiting = false
		}
	}
	s.report.conclude(made, l, failure)
}

// conclude is the verdict on what was made and what the ledger says.
func (r *Report) conclude(made uint64, l sim.Ledger, failure error) {
	r.Samples = Samples{Made: made, Received: l.Received, Lost: max(0, int64(made)-l.Distinct), Duplicated: l.Duplicates}
	r.Verdict = Failed
	switch {
	case failure != nil:
		r.Reason = failure.Error()
	case made == 0:
		r.Reason = "no sample was made"
	case r.Samples.Lost > 0:
		r.Reason = fmt.Sprintf("%d of %d samples never arrived at any hub", r.Samples.Lost, made)
	case l.Reordered > 0:
		r.Reason = fmt.Sprintf("%d samples arrived behind later ones", l.Reordered)
	case r.Commands.Answered < r.Commands.Sent:
		r.Reason = fmt.Sprintf("%d of %d commands were answered", r.Commands.Answered, r.Commands.Sent)
	default:
		r.Verdict = Passed
		r.Reason = fmt.Sprintf("%d samples made, every one of them received, in order", made)
	}
}

// Print writes the report for people.
func (r Report) Print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	_, _ = fmt.Fprintln(t, "step\tfrom\tto\tback after")
	for _, s := range r.Steps {
		from := s.From
		if from == "" {
			from = "-"
		}
		_, _ = fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", s.Name, from, s.To, journal.Duration(time.Duration(s.RecoveryMs)*time.Millisecond))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "\nsamples    %d made, %d received, %d lost, %d duplicated\ncommands   %d sent, %d answered\nverdict    %s: %s\n",
		r.Samples.Made, r.Samples.Received, r.Samples.Lost, r.Samples.Duplicated, r.Commands.Sent, r.Commands.Answered,
		strings.ToUpper(string(r.Verdict)), r.Reason)
	return err
}

// short puts the hubs' names in the place of their addresses.
func (s *story) short(text string) string {
	for host, name := range s.names {
		text = strings.ReplaceAll(text, host, name)
	}
	return text
}

package drill

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/hubhop-iot/hubhop/internal/journal"
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
	Received   uint64 `json:"received"`   // by the hubs, duplicates included
	Lost       uint64 `json:"lost"`       // made and never received
	Duplicated uint64 `json:"duplicated"` // received more than once
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

// short writes the hubs' names instead of their addresses.
func (s *story) short(text string) string {
	for host, name := range s.names {
		text = strings.ReplaceAll(text, host, name)
	}
	return text
}

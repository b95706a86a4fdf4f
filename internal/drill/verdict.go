package drill

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hubhop-iot/hubhop/internal/sim"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/audit"
)

// ErrVerdict says that the tool worked and the system under test did not. A command that ends with
// it has the exit code 3 (cmd/exit.go).
var ErrVerdict = errors.New("the verdict is: failed")

// Outcome is a verdict in one word.
type Outcome string

// The outcomes.
const (
	Passed Outcome = "passed"
	Failed Outcome = "failed"
)

// Kind says what a finding is about.
type Kind string

// The kinds of findings.
const (
	NoSamples   Kind = "no-samples"   // there is nothing to judge
	Lost        Kind = "lost"         // samples neither arrived nor wait, and nobody announced them
	Waiting     Kind = "waiting"      // samples still wait in the outbox of a device that has ended
	GivenUp     Kind = "given-up"     // samples were dropped or set aside, and announced
	Repeated    Kind = "repeated"     // more messages came again than a window in flight explains
	Reordered   Kind = "reordered"    // a sample came behind samples that are newer
	Foreign     Kind = "foreign"      // a message is none of an outbox
	OtherOutbox Kind = "other-outbox" // a message is of another outbox than the messages before it
	Reused      Kind = "reused"       // the outbox will give ids away again that have arrived
	Content     Kind = "content"      // a message holds what it should not
	Unanswered  Kind = "unanswered"   // a command has no answer
	Misconduct  Kind = "misconduct"   // a program did not do what it must
	NotBack     Kind = "not-back"     // the device did not come back from a fault
	TooSlow     Kind = "too-slow"     // it came back later than its budget allows
	Unmet       Kind = "unmet"        // a scenario expected something else
	Stopped     Kind = "stopped"      // a condition that ends the run came true
)

// Finding is one reason why a verdict is not good.
type Finding struct {
	Kind Kind
	Text string // one sentence
}

// Verdict says whether a device kept its promise: every sample that it made arrives, or waits, or
// is announced as missing.
type Verdict struct {
	Outcome  Outcome
	Reason   string    // one sentence: the first finding, or what was proved
	Findings []Finding // maxFindings at most
	More     int       // findings beyond those

	Messages uint64          // that arrived, the repeated and the foreign ones included
	Distinct uint64          // samples that arrived
	Repeats  uint64          // messages that had arrived before
	Lost     uint64          // samples: see the kind of that name
	Queued   uint64          // samples that wait
	Foreign  uint64          // messages with ids that no outbox makes
	Partial  bool            // the beginning of what arrived is not known, and was not judged
	Accounts []audit.Account // by outbox id, the current one first
}

// maxFindings bounds the findings that a verdict names, because a broken run may have millions.
const maxFindings = 40

// Object adds a finding.
func (v *Verdict) Object(kind Kind, format string, a ...any) {
	if len(v.Findings) == maxFindings {
		v.More++
		return
	}
	v.Findings = append(v.Findings, Finding{kind, fmt.Sprintf(format, a...)})
}

// Close decides: the verdict is Failed if there is a finding, and else Passed for the given reason.
func (v *Verdict) Close(passed string) {
	v.Outcome, v.Reason = Passed, passed
	if len(v.Findings) > 0 {
		v.Outcome, v.Reason = Failed, v.Findings[0].Text
	}
}

// Err is nil if the verdict is good, and else an error that wraps ErrVerdict.
func (v *Verdict) Err() error {
	if v.Outcome == Passed {
		return nil
	}
	return fmt.Errorf("%w: %s", ErrVerdict, v.Reason)
}

// Allowance says what a run may do to its samples and still be good. A sample that is lost is never
// allowed, and a message that arrives again always is.
type Allowance struct {
	Reordered bool // samples may come behind newer ones, as with --drain-order fresh-first
	GivenUp   bool // samples may be missing if that is announced
	Waiting   bool // samples may still wait
	Outboxes  bool // samples may come from several outboxes
	Foreign   bool // messages may have ids that no outbox makes
}

// Judge compares what arrived with what an outbox promised. Tell it of the outbox (Holds or
// Numbered), then of every message in order of arrival (Arrived), then ask for the Verdict. The
// zero value allows nothing.
type Judge struct {
	Allow Allowance

	open    Verdict // what was found so far
	audit   audit.Audit
	outbox  string // id of the first message
	made    uint64
	counted bool // made is known
}

// Stale says that the ledger was written before the outbox is looked at, so that the newest samples
// of a device that runs may be missing in it; see audit.Audit.
func (j *Judge) Stale() { j.audit.Stale = true }

// Holds looks into the outbox in dir. It may be called again after the arrivals, for what a running
// device has announced meanwhile.
func (j *Judge) Holds(dir string) error { return j.audit.Holds(dir) }

// Contains is Holds with a look into an outbox that was taken earlier.
func (j *Judge) Contains(c audit.Contents) { j.audit.Take(c) }

// Numbered names an outbox whose directory is not there: its id, and the last seq that it gave to a
// message. So far only tests use it.
func (j *Judge) Numbered(id string, last uint64) { j.audit.Numbered(id, last) }

// Made tells how many samples the device says that it has made. Then all of them are asked for,
// also those that never got a seq.
func (j *Judge) Made(samples uint64) { j.made, j.counted = samples, true }

// Object adds a finding of somebody else.
func (j *Judge) Object(kind Kind, format string, a ...any) { j.open.Object(kind, format, a...) }

// Failed says whether there is a finding already.
func (j *Judge) Failed() bool { return len(j.open.Findings) > 0 }

// Found returns the findings so far, without asking for what is missing. It is for a run that has
// broken off.
func (j *Judge) Found() Verdict {
	v := j.open
	v.Close("nothing was found before the run broke off")
	return v
}

// ArrivalOf is a message of the simulator's ledger as a judge wants it.
func ArrivalOf(m sim.Message) Arrival {
	a := Arrival{ID: m.Mid, Device: m.Device}
	if gap := m.Properties["gap"]; gap != nil {
		a.Gap = *gap
	}
	return a
}

// Arrived takes in one message. It returns the seq of a message that counts: it returns 0 if the
// message is of no outbox, or of another outbox than the messages before it and that is not
// allowed.
func (j *Judge) Arrived(m Arrival) (seq uint64, seen audit.Seen) {
	j.open.Messages++
	seen = j.audit.Arrived(m.ID, m.Gap)
	box, seq, ok := outbox.SplitID(m.ID)
	if !ok {
		if !j.Allow.Foreign {
			j.Object(Foreign, "the message %q has an id that no outbox makes", m.ID)
		}
		return 0, seen
	}
	if j.outbox == "" {
		j.outbox = box
	}
	if box != j.outbox && !j.Allow.Outboxes {
		j.Object(OtherOutbox, "%s is of another outbox than %s", m.ID, j.outbox)
		return 0, seen
	}
	if m.Gap != "" && !j.Allow.GivenUp {
		j.Object(GivenUp, "%s says that %s were given up", m.ID, m.Gap)
	}
	if seen == audit.Late && !j.Allow.Reordered {
		j.Object(Reordered, "%s arrived behind samples that are newer", m.ID)
	}
	return seq, seen
}

// Verdict concludes. With partial, the beginning of what arrived is not known, and is not judged.
func (j *Judge) Verdict(partial bool) Verdict {
	v := j.open
	v.Findings = slices.Clone(v.Findings)
	v.Foreign, v.Partial, v.Accounts = j.audit.Foreign(), partial, j.audit.Accounts(partial)
	var asked, announced uint64
	var lost []string
	for _, x := range v.Accounts {
		v.Distinct, v.Repeats = v.Distinct+x.Distinct, v.Repeats+x.Duplicated
		v.Lost, v.Queued = v.Lost+x.Lost, v.Queued+x.Queued
		announced += x.Announced
		lost = append(lost, x.LostIDs...)
		asked += x.Last + 1 - min(x.From, x.Last+1)
	}
	if j.counted {
		if asked = j.made; j.made == 0 {
			v.Object(NoSamples, "no sample was made")
		}
		if known := v.Distinct + v.Queued + announced + v.Lost; j.made > known {
			v.Lost += j.made - known // they never got a seq
		}
	}
	if v.Lost > 0 {
		v.Object(Lost, "%d of %d samples never arrived at any hub%s", v.Lost, asked, named(lost))
	}
	if v.Queued > 0 && !j.Allow.Waiting {
		v.Object(Waiting, "%d of %d samples still wait in the outbox", v.Queued, asked)
	}
	for _, x := range v.Accounts {
		if x.Announced > 0 && !j.Allow.GivenUp {
			v.Object(GivenUp, "%d samples of the outbox %s were given up%s", x.Announced, x.Outbox, named(x.GapIDs))
		}
		if x.Reused > 0 {
			v.Object(Reused, "the outbox is older than what has arrived, and its ids will be used again: "+
				"seq %d has arrived, and %d is the last that it knows of", x.Reused, x.Last)
		}
	}
	v.Close(fmt.Sprintf("%d samples made, every one of them received, in order", asked))
	return v
}

// named writes some of many ids behind a colon.
func named(ids []string) string {
	const most = 20
	switch {
	case len(ids) == 0:
		return ""
	case len(ids) > most:
		return ": " + strings.Join(ids[:most], ", ") + ", …"
	}
	return ": " + strings.Join(ids, ", ")
}

// Verify judges the outbox in dir by a ledger. It allows everything that the outbox announces, and
// ids that no outbox makes. It passes over the messages of other devices, unless device is "". It
// opens the ledger after its first look into the outbox: a message that leaves the outbox meanwhile
// is then seen twice, and not missed. With stale, the ledger was written before the call. Verify
// returns an error that wraps ErrLedger if no message can be judged.
func Verify(dir, device string, open func() (*Ledger, error), stale, partial bool) (Verdict, error) {
	j := Judge{Allow: Allowance{Reordered: true, GivenUp: true, Waiting: true, Outboxes: true, Foreign: true}}
	if stale {
		j.Stale()
	}
	if err := j.Holds(dir); err != nil {
		return Verdict{}, err
	}
	l, err := open()
	if err != nil {
		return Verdict{}, err
	}
	defer func() { _ = l.Close() }()
	n, truncated, err := l.Read(func(m Arrival) {
		if m.Device == "" || device == "" || m.Device == device {
			j.Arrived(m)
		}
	})
	if err != nil {
		return Verdict{}, err
	}
	if err := j.Holds(dir); err != nil {
		return Verdict{}, err
	}
	v := j.Verdict(partial || truncated)
	switch {
	case n > 0 && v.Messages == 0:
		return Verdict{}, ledgerError{fmt.Errorf("ledger: none of the %d messages in %s is of the device %s", n, l.Name, device)}
	case n > 0 && v.Messages == v.Foreign:
		return Verdict{}, ledgerError{fmt.Errorf("ledger: none of the %d messages in %s has an id <outbox id>-<seq>; verify --help says where it is looked for, "+
			"and the simulator tells its messages only when asked with messages=1", n, l.Name)}
	}
	return v, nil
}

// Texts are the findings as sentences, and how many more there are.
func (v *Verdict) Texts() (all []string) {
	for _, f := range v.Findings {
		all = append(all, f.Text)
	}
	if v.More > 0 {
		all = append(all, fmt.Sprintf("and %d more", v.More))
	}
	return all
}

package status

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/internal/plain"
)

const (
	textWidth  = 90 // characters of a line, if its words allow
	textColumn = 18 // where the values begin

	patience = time.Minute // most outages are over by then, and nobody need do anything
)

// Answers are the four things that an operator wants to know at night, in words.
type Answers struct {
	Oldest string // how old is the oldest sample that was not sent?
	Why    string // why is there no link?
	Next   string // when is the next try?
	Todo   string // what can I do?
}

// Answers gives the four answers.
func (v View) Answers(now time.Time) (a Answers) {
	switch {
	case v.Outbox.Queued == 0:
		a.Oldest = "nothing waits"
	case v.Outbox.OldestAgeSeconds == 0:
		a.Oldest = fmt.Sprintf("%s, of an age that is not known", waiting(v.Outbox))
	default:
		a.Oldest = fmt.Sprintf("%s old; %s", spell(time.Duration(v.Outbox.OldestAgeSeconds*float64(time.Second))), waiting(v.Outbox))
	}
	if n, age := v.inFlows(); n > 0 && v.State == Local {
		a.Oldest = fmt.Sprintf("%s old; %d in the flows", spell(age), n)
	}
	a.Oldest += "; " + v.lost()
	if v.Hub != "" {
		a.Why, a.Next, a.Todo = fmt.Sprintf("there is a link to %s, up for %s", v.Hub, spell(now.Sub(v.Since))), "none is needed", "nothing"
		if v.State == Provisional {
			a.Why += "; DPS has not confirmed this hub"
		}
	} else {
		a.Why, a.Next, a.Todo = v.whyDown(now), v.nextTry(now), "wait: the device is on its way"
		if v.Why != nil && !v.Why.At.Before(v.Since) && v.Why.Hint != "" {
			a.Todo = v.Why.Hint
			if v.State != Refused && now.Sub(v.Since) < patience {
				a.Todo = "nothing yet; if it lasts: " + a.Todo
			}
		}
	}
	if v.State == Local {
		a.Why, a.Next, a.Todo = "no hub is wanted (--hub=false)", "none is needed", "nothing"
	}
	if v.State == Stopping {
		a.Next, a.Todo = "none: the device stops", "start it again (hubhop run)"
	}
	if v.Outbox.Degraded {
		a.Todo = strings.TrimPrefix(a.Todo+"; see to the disk: "+v.Outbox.Text, "nothing; ")
	}
	if faulty := v.Faulty(); len(faulty) > 0 {
		text := fmt.Sprintf("; see to the flow %s: %s", faulty[0].Name, faulty[0].Fault)
		if more := len(faulty) - 1; more > 0 {
			text += fmt.Sprintf(" (other flows with a fault: %d)", more)
		}
		a.Todo = strings.TrimPrefix(a.Todo+text, "nothing; ")
	}
	return a
}

// Faulty returns the flows that a person must see to.
func (v View) Faulty() (all []Flow) {
	for _, f := range v.Flows {
		if f.Fault != "" {
			all = append(all, f)
		}
	}
	return all
}

// inFlows says how many messages are in flows, and how old the oldest of them is.
func (v View) inFlows() (n int, age time.Duration) {
	for _, f := range v.Flows {
		n += f.InFlight
		age = max(age, time.Duration(f.OldestAgeSeconds*float64(time.Second)))
	}
	return n, age
}

func waiting(o Outbox) string {
	if o.Queued == 1 {
		return "1 message waits"
	}
	return fmt.Sprintf("%d messages wait, %s", o.Queued, size(o.Bytes))
}

// lost says what will not arrive: of the outbox, and of what brokers have kept for flows.
func (v View) lost() string {
	var names []string
	for _, f := range v.Flows {
		if f.Gaps > 0 {
			names = append(names, f.Name)
		}
	}
	text := "nothing is lost"
	if len(names) > 0 {
		text = "the outbox has lost nothing"
	}
	if v.Outbox.Dropped > 0 {
		text = fmt.Sprintf("%d lost since the start", v.Outbox.Dropped)
	}
	if v.Outbox.Quarantined > 0 {
		text += fmt.Sprintf(", %d set aside", v.Outbox.Quarantined)
	}
	if len(names) > 0 {
		text += "; a broker has lost what it kept for the flow " + names[0]
		if more := len(names) - 1; more > 0 {
			text += fmt.Sprintf(" (other flows: %d)", more)
		}
	}
	return text
}

// whyDown says what failed and where, what else fails or which dead hub DPS still names, and where to
// read more.
// What the device does about it is the next try, and the error as it came is in the JSON.
func (v View) whyDown(now time.Time) string {
	if v.Why == nil || v.Why.At.Before(v.Since) {
		return "the first try is under way"
	}
	text := fmt.Sprintf("%s, %s", cmp.Or(v.Why.Cause, v.Why.Signal), ago(v.Why.At, now))
	switch hub := v.DPS.StillNames; {
	case v.Why.Also != "":
		text += "; also " + v.Why.Also
	case hub == "":
	case strings.HasPrefix(v.Why.Cause, hub+": "):
		text += "; DPS still names this hub"
	default:
		text += fmt.Sprintf("; DPS still names %s, which has failed", hub)
	}
	return fmt.Sprintf("%s; more: hubhop explain %s", text, v.Why.Rule)
}

func (v View) nextTry(now time.Time) string {
	switch {
	case v.NextTry == nil:
		return "now: a try is under way"
	case v.NextTry.After(now):
		return fmt.Sprintf("in %s, at %s", spell(v.NextTry.Sub(now)), clockTime(*v.NextTry))
	default:
		return "now"
	}
}

// heading is the state in one line.
func (v View) heading(now time.Time) string {
	switch v.State {
	case Connected, Provisional:
		return fmt.Sprintf("%s is connected to %s", v.Device, v.Hub)
	case Refused:
		return fmt.Sprintf("%s is refused by the cloud until a person acts", v.Device)
	case Local:
		return fmt.Sprintf("%s runs data flows without a hub", v.Device)
	case Waiting, Connecting:
		return fmt.Sprintf("%s has had no link for %s", v.Device, spell(now.Sub(v.Since)))
	default:
		return fmt.Sprintf("%s is %s", v.Device, v.State)
	}
}

// Print writes the status for a person: the four answers first. clean makes each text fit for a
// terminal.
func (v View) Print(to io.Writer, now time.Time, clean func(string) string) error {
	w := bufio.NewWriter(to)
	row := func(name, text string) {
		if text == "" {
			return
		}
		for i, line := range plain.Wrap(clean(text), textWidth-textColumn) {
			if i > 0 {
				name = ""
			}
			fmt.Fprintf(w, "%-*s%s\n", textColumn, name, line)
		}
	}
	fmt.Fprintf(w, "%s\n\n", clean(v.heading(now)))
	a := v.Answers(now)
	row("oldest unsent", a.Oldest)
	row("why no link", a.Why)
	row("next try", a.Next)
	row("what can I do", a.Todo)
	fmt.Fprintln(w)

	if v.Hub != "" {
		row("link", fmt.Sprintf("%s, round trip %s, %d of %d messages in flight", v.Transport, milliseconds(v.Link.RTTMs), v.Link.InFlight, v.Link.Window))
	}
	if v.Why != nil && (v.Hub != "" || v.Why.At.Before(v.Since)) {
		row("last trouble", fmt.Sprintf("%s, %s; more: hubhop explain %s", cmp.Or(v.Why.Cause, v.Why.Signal), ago(v.Why.At, now), v.Why.Rule))
	}
	row("failovers", v.failovers(now))
	row("telemetry", fmt.Sprintf("%d made, %d acknowledged (%s a second), %d sent again", v.Telemetry.Made, v.Telemetry.Acknowledged, number(v.Telemetry.PerSecond), v.Telemetry.Repeated))
	if v.Outbox.Quarantined > 0 {
		row("set aside", "hubhop outbox ls --quarantined shows what no hub has taken")
	}
	row("commands", fmt.Sprintf("%d methods, %d cloud-to-device messages, %d desired properties, %d failed", v.Commands.Methods, v.Commands.C2D, v.Commands.Desired, v.Commands.Failed))
	if v.DPS.Registrations > 0 {
		text := fmt.Sprintf("%d registrations", v.DPS.Registrations)
		if v.DPS.Registrations == 1 {
			text = "1 registration"
		}
		if v.DPS.LastAt != nil {
			text += "; it last named a hub " + ago(*v.DPS.LastAt, now)
		}
		row("DPS", text)
	}
	if v.Outbox.Text != "" {
		row("disk", v.Outbox.Text)
	}
	if !v.Clock.Trusted {
		row("clock", fmt.Sprintf("this machine's clock is not believed; the device's time is %s ahead of it", spell(time.Duration(v.Clock.OffsetMs)*time.Millisecond)))
	}
	row("credential", v.credential(now))
	for _, f := range v.Flows {
		row("flow", fmt.Sprintf("%s is %s: %d in, %d out, %d dropped, %d errors%s", f.Name, f.State, f.In, f.Out, f.Dropped, f.Errors, more(f.Text)))
	}
	for _, asset := range v.Assets {
		row("asset", fmt.Sprintf("%s is %s%s", asset.Name, asset.State, more(asset.Text)))
	}
	row("running", fmt.Sprintf("hubhop %s, started %s", v.Version, ago(v.Started, now)))
	return w.Flush()
}

func more(text string) string {
	if text == "" {
		return ""
	}
	return "; " + text
}

func (v View) failovers(now time.Time) string {
	f := v.LastFailover
	if f == nil {
		return "none since the start"
	}
	gap := "without a gap"
	if f.TookMs > 0 {
		gap = "in " + journal.Duration(time.Duration(f.TookMs)*time.Millisecond)
	}
	because := ""
	if f.Rule != "" {
		because = " [" + f.Rule + "]"
	}
	return fmt.Sprintf("%d since the start; the last %s from %s to %s %s%s", v.Failovers, ago(f.At, now), f.From, f.To, gap, because)
}

func (v View) credential(now time.Time) string {
	c := v.Credential
	if c.Expires == nil {
		return c.Kind
	}
	what := "its token"
	if c.Kind == "certificate" {
		what = "it"
	}
	if c.Expires.Before(now) {
		return fmt.Sprintf("%s; %s has ended %s", c.Kind, what, ago(*c.Expires, now))
	}
	return fmt.Sprintf("%s; %s ends in %s", c.Kind, what, spell(c.Expires.Sub(now)))
}

// Line is the status in one line, for a log of the state.
func (v View) Line(now time.Time, clean func(string) string) string {
	parts := []string{now.UTC().Format("2006-01-02T15:04:05Z"), v.Device, string(v.State)}
	if v.Hub != "" {
		parts = append(parts, "on "+v.Hub)
	}
	a := v.Answers(now)
	parts = append(parts, fmt.Sprintf("unsent=%d", v.Outbox.Queued), fmt.Sprintf("oldest=%ss", number(v.Outbox.OldestAgeSeconds)))
	if v.Hub == "" {
		parts = append(parts, "next: "+a.Next, "why: "+a.Why)
	}
	return clean(strings.Join(parts, "  "))
}

// Look is what is worth a new line of a log of the state.
func (v View) Look() string {
	look := string(v.State) + " " + v.Hub
	if v.Why != nil && v.Hub == "" {
		look += " " + v.Why.Rule
	}
	return look
}

// ago says how long ago a moment was.
func ago(t, now time.Time) string {
	if t.IsZero() {
		return "at an unknown time"
	}
	return spell(now.Sub(t)) + " ago"
}

// spell writes a span as people do; it is never negative.
func spell(d time.Duration) string {
	if d < time.Second {
		return "less than a second"
	}
	return journal.Duration(d)
}

func clockTime(t time.Time) string { return t.Local().Format("15:04:05") }

func milliseconds(ms float64) string {
	if ms == 0 {
		return "not known yet"
	}
	return journal.Duration(time.Duration(ms * float64(time.Millisecond)))
}

// number writes a number without needless digits.
func number(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }

func size(bytes int64) string {
	switch {
	case bytes < 10_000:
		return fmt.Sprintf("%d bytes", bytes)
	case bytes < 10_000_000:
		return fmt.Sprintf("%d kB", bytes/1000)
	default:
		return fmt.Sprintf("%d MB", bytes/1_000_000)
	}
}

package status

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

// TestTheStatusSaysWhenDPSNamedAHub, and does not call that its last answer: a refusal is one, too.
func TestTheStatusSaysWhenDPSNamedAHub(t *testing.T) {
	now := time.Now()
	named := now.Add(-100 * time.Second)
	v := View{State: Refused, Since: now, Why: &Why{Cause: "DPS: blocked", At: now}, DPS: DPS{Registrations: 5, LastAt: &named}}
	var out strings.Builder
	if err := v.Print(&out, now, func(s string) string { return s }); err != nil || !strings.Contains(out.String(), "DPS               5 registrations; it last named a hub 100 s ago\n") {
		t.Errorf("%v\n%s", err, &out)
	}
}

// TestFourAnswersStandFirst prints devices in all kinds of states, and reads the first lines as an
// operator does.
func TestFourAnswersStandFirst(t *testing.T) {
	now := time.Date(2026, time.November, 30, 3, 0, 0, 0, time.UTC)
	next, ends := now.Add(12*time.Second), now.Add(time.Hour)
	why := &Why{Rule: "H07", Signal: "connection refused", Action: "reprovision", Text: "hub-a: connection refused; reprovision; ask the hub's owner", Cause: "hub-a: connection refused",
		Hint: "ask the hub's owner", Evidence: "dial tcp 10.0.0.1:8883: connection refused", At: now.Add(-2 * time.Second)}
	down := View{Version: "v1", Device: "dev-1", State: Waiting, Since: now.Add(-3 * time.Minute), Why: why, NextTry: &next, Outbox: Outbox{Queued: 178, Bytes: 21_500, OldestAgeSeconds: 179},
		Clock: Clock{Trusted: true}, Credential: Credential{Kind: "certificate", Expires: &ends}}
	up := down
	up.State, up.Hub, up.NextTry, up.Since, up.Outbox = Connected, "hub-b", nil, now.Add(-time.Second), Outbox{}
	up.LastFailover, up.Failovers = &Failover{From: "hub-a", To: "hub-b", Rule: "H07", TookMs: 312, At: now.Add(-time.Second)}, 1
	fresh := View{Device: "dev-1", State: Connecting, Since: now, Outbox: Outbox{Queued: 1}}
	old := *why
	old.At = now.Add(-time.Hour)
	again := down
	again.Why, again.State, again.NextTry = &old, Connecting, nil
	refused := down
	refused.State = Refused
	short := down
	short.Since = now.Add(-59 * time.Second)
	stopping := down
	stopping.State = Stopping
	sick := up
	sick.Outbox = Outbox{Degraded: true, Text: "no space left"}
	sick.Clock = Clock{OffsetMs: 3_600_000}
	named, other := down, down
	named.DPS.StillNames, other.DPS.StillNames = "hub-a", "hub-b"
	both, blind := down, down
	also := *why
	also.Also = "DPS: connection refused"
	both.Why, both.DPS.StillNames = &also, "hub-a" // as DPS said before it was away
	deaf := also
	deaf.Cause, deaf.Also, deaf.Rule = "DPS: connection refused", "hub-a: connection refused", "D04"
	blind.Why = &deaf
	robbed := down
	robbed.Outbox.Dropped, robbed.Outbox.Quarantined = 3, 2
	before := *why
	before.Cause = "" // of a device of an earlier version
	earlier := down
	earlier.Why = &before
	broken := up
	broken.Flows = []Flow{{Name: "alarms", State: "running"}, {Name: "averages", State: "failed", Fault: "b:1883: nobody listens there", Gaps: 1}, {Name: "units", Fault: "bad", Gaps: 2}}
	local := View{Device: "dev-1", State: Local, Since: now, Flows: []Flow{{Name: "a", InFlight: 2, OldestAgeSeconds: 3}, {Name: "b", InFlight: 1, OldestAgeSeconds: 2}}}
	provisional := up
	provisional.State = Provisional
	for name, c := range map[string]struct {
		v    View
		want []string
	}{
		"an outage": {down, []string{
			"dev-1 has had no link for 3 min", "", "oldest unsent     3 min old; 178 messages wait, 21 kB; nothing is lost",
			"why no link       hub-a: connection refused, 2.0 s ago; more: hubhop explain H07",
			"next try          in 12 s, at " + next.Local().Format("15:04:05"), "what can I do     ask the hub's owner", "",
		}},
		"an outage that is short yet": {short, []string{
			"dev-1 has had no link for 59 s", "", "oldest unsent     3 min old; 178 messages wait, 21 kB; nothing is lost",
			"why no link       hub-a: connection refused, 2.0 s ago; more: hubhop explain H07",
			"next try          in 12 s, at " + next.Local().Format("15:04:05"), "what can I do     nothing yet; if it lasts: ask the hub's owner", "",
		}},
		"a link": {up, []string{
			"dev-1 is connected to hub-b", "", "oldest unsent     nothing waits; nothing is lost", "why no link       there is a link to hub-b, up for 1.0 s", "next try          none is needed",
			"what can I do     nothing", "",
		}},
		"the first moment": {fresh, []string{
			"dev-1 has had no link for less than a second", "", "oldest unsent     1 message waits, of an age that is not known; nothing is lost", "why no link       the first try is under way",
			"next try          now: a try is under way", "what can I do     wait: the device is on its way", "",
		}},
		"a loss that nothing was decided about yet": {again, []string{
			"dev-1 has had no link for 3 min", "", "oldest unsent     3 min old; 178 messages wait, 21 kB; nothing is lost", "why no link       the first try is under way",
		}},
		"a dead hub that DPS still names": {named, []string{
			"dev-1 has had no link for 3 min", "", "oldest unsent     3 min old; 178 messages wait, 21 kB; nothing is lost",
			"why no link       hub-a: connection refused, 2.0 s ago; DPS still names this hub; more:", "                  hubhop explain H07",
		}},
		"a dead hub, and DPS is away too": {both, []string{
			"dev-1 has had no link for 3 min", "", "oldest unsent     3 min old; 178 messages wait, 21 kB; nothing is lost",
			"why no link       hub-a: connection refused, 2.0 s ago; also DPS: connection refused;", "                  more: hubhop explain H07",
		}},
		"DPS is away, and a dead hub": {blind, []string{
			"dev-1 has had no link for 3 min", "", "oldest unsent     3 min old; 178 messages wait, 21 kB; nothing is lost",
			"why no link       DPS: connection refused, 2.0 s ago; also hub-a: connection refused;", "                  more: hubhop explain D04",
		}},
		"another dead hub that DPS still names": {other, []string{
			"dev-1 has had no link for 3 min", "", "oldest unsent     3 min old; 178 messages wait, 21 kB; nothing is lost",
			"why no link       hub-a: connection refused, 2.0 s ago; DPS still names hub-b, which has", "                  failed; more: hubhop explain H07",
		}},
		"a loss": {robbed, []string{
			"dev-1 has had no link for 3 min", "", "oldest unsent     3 min old; 178 messages wait, 21 kB; 3 lost since the start, 2 set aside",
		}},
		"a device of an earlier version": {earlier, []string{
			"dev-1 has had no link for 3 min", "", "oldest unsent     3 min old; 178 messages wait, 21 kB; nothing is lost",
			"why no link       connection refused, 2.0 s ago; more: hubhop explain H07",
		}},
		"a refusal":       {refused, []string{"dev-1 is refused by the cloud until a person acts"}},
		"a device's stop": {stopping, []string{"dev-1 is stopping"}},
		"a sick disk":     {sick, []string{"dev-1 is connected to hub-b", "", "oldest unsent     nothing waits; nothing is lost", "why no link       there is a link to hub-b, up for 1.0 s", "next try          none is needed", "what can I do     see to the disk: no space left"}},
		"flows that want a person": {broken, []string{
			"dev-1 is connected to hub-b", "", "oldest unsent     nothing waits; the outbox has lost nothing; a broker has lost what it", "                  kept for the flow averages (other flows: 1)",
			"why no link       there is a link to hub-b, up for 1.0 s", "next try          none is needed",
			"what can I do     see to the flow averages: b:1883: nobody listens there (other flows with", "                  a fault: 1)",
		}},
		"flows with messages on their way": {local, []string{
			"dev-1 runs data flows without a hub", "", "oldest unsent     3.0 s old; 3 in the flows; nothing is lost", "why no link       no hub is wanted (--hub=false)", "next try          none is needed",
			"what can I do     nothing",
		}},
		"an unconfirmed link": {provisional, []string{
			"dev-1 is connected to hub-b", "", "oldest unsent     nothing waits; nothing is lost", "why no link       there is a link to hub-b, up for 1.0 s; DPS has not confirmed this hub",
		}},
	} {
		var b bytes.Buffer
		must(t, c.v.Print(&b, now, plainly))
		got := strings.Split(b.String(), "\n")
		for i, want := range c.want {
			if got[i] != want {
				t.Errorf("%s: line %d is\n%s, not\n%s", name, i, got[i], want)
			}
		}
	}
}

func plainly(s string) string { return s }

// TestNoTextMovesTheCursor prints a device whose every text is hostile.
func TestNoTextMovesTheCursor(t *testing.T) {
	evil := "\x1b[2J\nfake line\r"
	v := View{Version: evil, Device: evil, State: Connected, Hub: evil, Transport: evil, DPS: DPS{StillNames: evil}, Why: &Why{Rule: evil, Signal: evil, Text: evil, Cause: evil, Also: evil, Hint: evil, Evidence: evil},
		LastFailover: &Failover{From: evil, To: evil, Rule: evil}, Outbox: Outbox{Text: evil, Degraded: true}, Credential: Credential{Kind: evil},
		Flows: []Flow{{Name: evil, State: evil, Text: evil}}, Assets: []Asset{{Name: evil, State: evil, Text: evil}}}
	clean := func(s string) string { return strings.NewReplacer("\x1b", "", "\n", "", "\r", "").Replace(s) }
	down := v
	down.State, down.Hub = Waiting, ""
	for _, v := range []View{v, down} {
		var b bytes.Buffer
		must(t, v.Print(&b, time.Now(), clean))
		b.WriteString(v.Line(time.Now(), clean))
		if strings.ContainsAny(b.String(), "\x1b\r") || strings.Contains(b.String(), "\nfake") {
			t.Errorf("%q", b.String())
		}
	}
}

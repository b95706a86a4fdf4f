package device

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hubhop-iot/hubhop/dps"
	"github.com/hubhop-iot/hubhop/failover"
	"github.com/hubhop-iot/hubhop/hub"
	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/telemetry"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

func (d *Device) emit(e journal.Event) {
	e.Device = d.id.DeviceID
	d.shared.Journal.Emit(e)
}

func (d *Device) warn(host, text string) {
	d.emit(journal.Event{Kind: journal.Warning, Hub: host, Text: text})
}

// maxPeers bounds how many hubs' other names are remembered.
const maxPeers = 64

// met remembers the other name of a hub, so that lines have both its address and its name.
func (d *Device) met(hub, peer string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if hub == d.lastPeer[0] {
		d.lastPeer[1] = peer
		return
	}
	if d.lastPeer[0] != "" {
		if d.peers == nil || len(d.peers) >= maxPeers {
			d.peers = map[string]string{}
		}
		d.peers[d.lastPeer[0]] = d.lastPeer[1]
	}
	d.lastPeer = [2]string{hub, peer}
}

// peerLocked returns the other name of a hub; empty if it is not known.
func (d *Device) peerLocked(hub string) string {
	if hub == d.lastPeer[0] {
		return d.lastPeer[1]
	}
	return d.peers[hub]
}

// tracePacket emits an event for one MQTT packet.
func (d *Device) tracePacket(p hub.Packet) {
	parts := []string{"received", p.Name}
	if p.Sent {
		parts[0] = "sent"
	}
	if p.ID != 0 {
		parts = append(parts, strconv.Itoa(int(p.ID)))
	}
	if p.Topic != "" {
		parts = append(parts, p.Topic, fmt.Sprintf("(%d bytes)", len(p.Body)))
	}
	e := journal.Event{Kind: journal.Packet, Hub: p.Host, Text: strings.Join(append(parts, p.More...), " ")}
	if d.c.TraceBodies {
		e.Body = string(p.Body[:min(len(p.Body), maxTraced)])
	}
	d.emit(e)
}

const maxTraced = 2 << 10 // bytes of a body in an event

// observe turns what the session tells into events, and keeps the status.
func (d *Device) observe(n failover.Note) {
	switch n.Kind {
	case failover.NoteDialing:
		d.emit(journal.Event{Kind: journal.Dialing, Hub: n.Host, Text: "dialling " + n.Host})
	case failover.NoteAsking:
		d.emit(journal.Event{Kind: journal.Asking, Text: "asking DPS"})
	case failover.NoteWaiting:
		d.emit(journal.Event{Kind: journal.Waiting, Name: string(n.Step), Took: n.Took,
			Text: fmt.Sprintf("still waiting for DPS: %s%s", journal.Duration(n.Took), waitingFor[n.Step])})
	case failover.NoteAssigned:
		d.assigned(n)
	case failover.NoteUp:
		d.linkUp(n)
	case failover.NoteConfirmed:
		d.mu.Lock()
		d.standing.Provisional = false
		d.mu.Unlock()
		d.emit(journal.Event{Kind: journal.Confirmed, Hub: n.Host, Text: "DPS confirms " + n.Host})
	case failover.NoteLost:
		d.linkLost(n)
	case failover.NoteDecision:
		d.decided(n)
	}
}

// assigned tells which hub DPS has assigned. If that hub has just failed, it says so instead of a
// success.
func (d *Device) assigned(n failover.Note) {
	d.mu.Lock()
	again := n.Host == d.outage.failed || n.Host == d.standing.stillNamed
	if d.standing.stillNamed, d.standing.ofDPS = "", ""; again {
		d.standing.stillNamed = n.Host
	}
	d.standing.registrations++
	d.standing.assigned.set(time.Now())
	if d.standing.refused {
		d.standing.refused, d.standing.down = false, false
	}
	d.mu.Unlock()
	e := journal.Event{Kind: journal.Assigned, Hub: n.Host, Took: n.Took, Unchanged: n.Unchanged,
		Text: fmt.Sprintf("DPS assigned %s after %s", n.Host, journal.Duration(n.Took))}
	if again {
		e.Kind = journal.AssignedAgain
		e.Text = fmt.Sprintf("DPS still names %s, which has failed (asked for %s)", n.Host, journal.Duration(n.Took))
	}
	d.emit(e)
}

func (d *Device) linkUp(n failover.Note) {
	now := time.Now()
	e := journal.Event{Time: now, Kind: journal.Connected, Hub: n.Host, Took: n.Took, Provisional: n.Provisional,
		Text: fmt.Sprintf("connected to %s in %s", n.Host, journal.Duration(n.Took))}
	stats := d.box.Stats()
	d.mu.Lock()
	if !d.downAt.IsZero() {
		e.Outage = now.Sub(d.downAt)
		e.Lost = gone(stats) - d.gone
		e.Text = fmt.Sprintf("up again on %s after %s, %d lost", n.Host, journal.Duration(e.Outage), e.Lost)
	}
	if d.renewing {
		e.Kind = journal.Renewed
		e.Text = fmt.Sprintf("token renewed on %s, gap %s", n.Host, journal.Duration(e.Outage))
	}
	if n.Provisional {
		e.Text += " (provisional: DPS has not confirmed it)"
	}
	d.backlog = 0
	// Samples that left with CONNECT may be acknowledged before this event, and had waited too.
	waited := stats.Queued + stats.Acked - d.outage.acked
	if !d.renewing && (waited >= backlogFrom || waited > 0 && now.Sub(d.outage.began) >= backlogAfter) {
		d.backlog, d.backlogGoal = waited, stats.Acked+gone(stats)+stats.Quarantined+stats.Queued
	}
	d.renewed, d.downAt, d.renewing = d.renewing, time.Time{}, false
	e.From, e.Rule = d.standing.upLocked(n, now, e.Outage)
	e.Peer = d.peerLocked(n.Host)
	d.outage.overLocked()
	d.linkChangedLocked()
	d.mu.Unlock()
	d.emit(e)
}

func (d *Device) linkLost(n failover.Note) {
	stats := d.box.Stats()
	d.mu.Lock()
	d.downAt = time.Now()
	d.gone = gone(stats)
	d.renewing = n.Signal == failover.TokenRenewal
	renewing := d.renewing
	d.standing.Hub, d.standing.Since = "", d.downAt
	d.outage.beginLocked(d, stats.Acked)
	d.linkChangedLocked()
	peer := d.peerLocked(n.Host)
	d.mu.Unlock()
	if renewing || n.Signal == failover.Stopping {
		return
	}
	d.linkBug(n.Err)
	d.emit(journal.Event{Kind: journal.Lost, Hub: n.Host, Peer: peer, Signal: n.Signal.String(), Error: n.Err.Error(),
		Text: fmt.Sprintf("link lost: %s (%s)", Plain(n.Err), n.Host)})
}

func (d *Device) decided(n failover.Note) {
	r := n.Decision.Rule
	if r.Action == failover.Stop {
		return
	}
	where := cmp.Or(n.Host, "DPS")
	e := journal.Event{Kind: journal.Decision, Hub: n.Host, Rule: r.ID, Signal: r.Signal.String(), Action: r.Action.String(), Wait: n.Decision.Wait}
	action := d.inWords(r.Action)
	e.Text = fmt.Sprintf("%s: %s; %s", where, r.Signal, action)
	if n.Err != nil {
		d.mu.Lock()
		d.outage.signal, d.outage.at, d.outage.next, d.lastText = r.Signal, where, time.Now().Add(n.Decision.Wait), n.Err.Error()
		if n.Host != "" {
			d.outage.failed = n.Host
		}
		d.mu.Unlock()
	}
	cause := ""
	switch {
	case n.Err == nil:
	case r.Signal.EndsLink():
		cause = fmt.Sprintf("%s: link lost, %s", where, Plain(n.Err))
		e.Text = fmt.Sprintf("%s: %s", where, action)                       // the event Lost has told the reason
		if r.Action == failover.SlowDown || r.Action == failover.AskFirst { // the wait is long, so the text gives its reason
			e.Error = n.Err.Error()
			e.Text = fmt.Sprintf("%s: %s, each time soon after the link was up; %s", where, r.Signal, action)
			if n.Decision.Wait > 0 {
				e.Text += fmt.Sprintf(", next in %s at the latest", journal.Duration(n.Decision.Wait))
			}
			if hint := r.Signal.Hint(d.proof()); hint != "" && r.Action == failover.SlowDown {
				e.Text += "; " + hint
			}
		}
	default:
		e.Error, cause = n.Err.Error(), fmt.Sprintf("%s: %s", where, Plain(n.Err))
		e.Text = fmt.Sprintf("%s; %s", cause, action)
		if hint := r.Signal.Hint(d.proof()); hint != "" {
			e.Text += "; " + hint
		}
	}
	pinnedRefusal := d.id.PinnedHub != "" && r.Signal == failover.Connack5 && r.Action == failover.Reprovision
	e.Person = n.Err != nil && (r.Signal.NeedsPerson() || pinnedRefusal)
	if e.Person {
		select {
		case d.refused <- fmt.Errorf("%w: %w; %s", ErrRefused, n.Err, r.Signal.Hint(d.proof())):
		default:
		}
	}
	d.mu.Lock()
	d.standing.decidedLocked(n, &e, cause, d.adviceLocked(r.Signal))
	d.mu.Unlock()
	d.emit(e)
	if n.Decision.Anew {
		d.emit(journal.Event{Kind: journal.Warning, Hub: n.Host, Person: true, Text: fmt.Sprintf("two clients use the identity %s: "+
			"%s closes the older link whenever the other one connects; this one connects once a minute until a link holds; "+
			"stop the other client, or give it an identity of its own", d.id.DeviceID, n.Host)})
	}
}

// proof says how this device proves its identity.
func (d *Device) proof() failover.Proof {
	return failover.Proof{Certificate: d.id.Certificate != nil, OneHub: d.id.PinnedHub != ""}
}

// inWords says an action in words for this device. Without DPS it does not speak of provisioning.
func (d *Device) inWords(a failover.Action) string {
	asks := a == failover.Reprovision || a == failover.AskDPS || a == failover.AskFirst
	if d.id.PinnedHub != "" && asks {
		return "try again"
	}
	return a.String()
}

// waitingFor says for each step of a registration what the device waits for.
var waitingFor = map[dps.Step]string{
	dps.StepDial:     ", for a connection",
	dps.StepAdmit:    ", for this process's turn (--dps-rate)",
	dps.StepRegister: ", for an answer to the registration",
	dps.StepPoll:     ", it is still assigning",
}

// Plain says in a few words what a network error means. It leaves out the addresses, because the
// sentences around it have them.
func Plain(err error) string {
	for _, one := range []struct {
		err  error
		text string
	}{
		{hub.ErrTokenExpired, "the hub closed it, its SAS token had expired"},
		{io.EOF, "closed by the peer"},
		{io.ErrUnexpectedEOF, "closed by the peer in the middle of a packet"},
		{syscall.ECONNRESET, "connection reset by peer"},
		{syscall.EPIPE, "connection reset by peer"},
		{syscall.ECONNREFUSED, "connection refused"},
	} {
		if errors.Is(err, one.err) {
			return one.text
		}
	}
	if e, ok := errors.AsType[*hub.Error](err); ok {
		if e.Code != 0 {
			return fmt.Sprintf("CONNACK %d, %v", e.Code, e.Err)
		}
		return e.Err.Error()
	}
	if e, ok := errors.AsType[*dps.Error](err); ok {
		short := *e
		short.Host = ""
		return strings.TrimPrefix(short.Error(), "DPS: ")
	}
	return err.Error()
}

func (d *Device) startText() string {
	text := fmt.Sprintf("device %s, ID scope %s, DPS %s", d.id.DeviceID, d.id.IDScope, d.c.ProvisioningHost)
	if d.id.PinnedHub != "" {
		text = fmt.Sprintf("device %s, one hub: %s", d.id.DeviceID, d.id.PinnedHub)
	}
	var off []string
	for _, path := range []struct {
		name string
		off  bool
	}{
		{"telemetry", d.app.Off.Telemetry}, {"reported", d.app.Off.Reported}, {"desired", d.app.Off.Desired}, {"methods", d.app.Off.Methods},
		{"c2d", d.app.Off.C2D},
	} {
		if path.off {
			off = append(off, path.name)
		}
	}
	if len(off) > 0 {
		text += "; off: " + strings.Join(off, ", ")
	}
	return text
}

func (d *Device) farewell() journal.Event {
	s := d.box.Stats()
	parts := []string{fmt.Sprintf("stopped: %s made, %d acknowledged, %d still queued, %d dropped", samples(d.counters.Made.Load()), s.Acked, s.Queued, s.Dropped)}
	for _, rare := range []struct {
		n    uint64
		what string
	}{
		{s.Damaged, "damaged on the disk"},
		{s.Quarantined, "set aside that no hub would take (hubhop outbox ls --quarantined)"},
		{d.counters.Skipped.Load(), "samples skipped (the outbox was full, or the disk or the reading too slow)"},
		{d.counters.Bad.Load(), "skipped as no sample"},
	} {
		if rare.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", rare.n, rare.what))
		}
	}
	return journal.Event{Kind: journal.Stopped, Lost: gone(s), Text: strings.Join(parts, ", ")}
}

// gone is how many samples the outbox has given up. No hub will ever receive them, and their
// absence is announced to consumers.
func gone(s outbox.Stats) uint64 { return s.Dropped + s.Damaged }

// outboxProblem tells what the outbox reports: it does its best and says what it could not.
func (d *Device) outboxProblem(p outbox.Problem) {
	e := journal.Event{Kind: journal.OutboxProblem, Name: p.Kind.String(), Lost: p.Messages, Text: "outbox: " + p.Text}
	if p.Err != nil {
		e.Error = p.Err.Error()
	}
	switch p.Kind {
	case outbox.Dropped:
		d.floods.tell(ofDrops, p.Messages, e)
	case outbox.Quarantined:
		e.Text += ": " + e.Error
		d.floods.tell(ofPoison, p.Messages, e)
	default:
		d.emit(e)
	}
}

// skipped reports samples that were due but not made.
func (d *Device) skipped(prefix string, n int, why telemetry.SkipReason) {
	d.floods.tell(ofSkips, uint64(n), journal.Event{Kind: journal.Warning, Text: fmt.Sprintf("%s%d samples skipped: %s", prefix, n, why)})
}

// The kinds of events that may come by the thousand.
var (
	ofBadLines = &kind{5, time.Second, func(n uint64) journal.Event {
		return journal.Event{Kind: journal.BadLine, Times: n, Text: fmt.Sprintf("%d more inputs were no samples and were skipped", n)}
	}}
	ofDrops = &kind{1, time.Minute, func(n uint64) journal.Event {
		return journal.Event{Kind: journal.OutboxProblem, Name: outbox.Dropped.String(), Lost: n, Times: n,
			Text: fmt.Sprintf("outbox: %d more of the oldest messages were dropped since", n)}
	}}
	ofPoison = &kind{5, time.Minute, func(n uint64) journal.Event {
		return journal.Event{Kind: journal.OutboxProblem, Name: outbox.Quarantined.String(), Lost: n, Times: n,
			Text: fmt.Sprintf("outbox: %d more messages can never be sent and were set aside; hubhop outbox ls --quarantined lists them", n)}
	}}
	ofSkips = &kind{1, time.Minute, func(n uint64) journal.Event {
		return journal.Event{Kind: journal.Warning, Text: fmt.Sprintf("%d more samples were skipped since", n)}
	}}
	ofDesired = cloudKind(journal.DesiredChange, "desired properties were dealt with")
	ofCalls   = cloudKind(journal.MethodCall, "methods were answered")
	ofMail    = cloudKind(journal.CloudMessage, "cloud-to-device messages were dealt with")
)

// Bounds of the events that the cloud causes: cloudEvents of a kind in each span, then only their
// number.
const (
	cloudEvents = 100
	cloudSpan   = 10 * time.Second
)

// cloudKind bounds the events of one kind that the cloud causes, because it may send at any rate.
func cloudKind(of journal.Kind, what string) *kind {
	return &kind{cloudEvents, cloudSpan, func(n uint64) journal.Event {
		return journal.Event{Kind: of, Times: n, Text: fmt.Sprintf("%d more %s since", n, what)}
	}}
}

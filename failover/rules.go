package failover

import "fmt"

// Action is what a device does about a signal.
type Action uint8

// The actions. "With backoff" means a wait of any length below a cap that doubles to 60 s. After a
// dial that was answered by a reset, the cap is 2 s in the first minute of an outage and 10 s
// later. DPS is asked again after 1.6 to 2 s in the first minute of its refusals, then after a time
// that doubles to 60 s. A device has five registrations in hand and gets one back every 5 s.
const (
	// Reconnect dials the same hub: at once if the link had carried a PUBACK, else with backoff.
	// DPS is asked too after the hedge delay.
	Reconnect Action = iota
	// Renew dials the same hub at once; nothing went wrong.
	Renew
	// Reprovision asks DPS at once and dials the same hub beside that: at once after a link that
	// carried a PUBACK, else with backoff.
	Reprovision
	// FreshToken asks DPS at once and dials the same hub at once, with a newly made token.
	FreshToken
	// Sequential dials the same hub at once, one packet at a time.
	Sequential
	// AskDPS asks DPS and leaves the dial alone.
	AskDPS
	// BackOff keeps the assignment. It dials the same hub with backoff, and only then asks DPS.
	BackOff
	// Move dials the assigned hub at once; it replaces the cached one.
	Move
	// Join leaves the dial alone: it is the right one.
	Join
	// DialNow dials the hub again now. DPS is asked later, less and less often.
	DialNow
	// RetryDPS asks DPS again soon, because that costs no registration. Known hubs may be tried
	// meanwhile.
	RetryDPS
	// RetryAfter asks DPS again exactly when it said. Known hubs may be tried meanwhile.
	RetryAfter
	// Reregister asks DPS again, with a new registration.
	Reregister
	// BackOffDPS keeps the assignment. It asks DPS again after its retry-after, else after 1.6 to
	// 2 s, and from a minute on after a time that grows to 60 s.
	BackOffDPS
	// BackOffKnown is BackOffDPS, and known hubs may be tried meanwhile.
	BackOffKnown
	// AskFirst asks DPS, and dials the same hub when DPS has answered or 10 s have passed.
	AskFirst
	// SlowDown dials the same hub once a minute, until a link holds.
	SlowDown
	// Stop does nothing: this side is going down.
	Stop
	actions
)

var actionNames = [actions]string{
	Reconnect: "reconnect", Renew: "renew", Reprovision: "reprovision", FreshToken: "fresh token", Sequential: "sequential",
	AskDPS: "ask DPS", BackOff: "back off", Move: "move", Join: "join", DialNow: "dial now", RetryDPS: "retry DPS",
	RetryAfter: "retry after", Reregister: "reregister", BackOffDPS: "back off DPS", BackOffKnown: "back off DPS, try known hubs",
	AskFirst: "ask DPS first", SlowDown: "slow down", Stop: "stop",
}

// Wait says in words how long a device waits before it repeats the action; empty for an action that
// it does not repeat.
func (a Action) Wait() string {
	switch a {
	case Reconnect:
		return "none after a link that carried a PUBACK, ten times in a row, then up to 2 s; after any other link as after a failed dial"
	case Reprovision, BackOff:
		return "the hub: by chance below 0.5 s, doubling to 60 s; if it refuses the dial, to 2 s in the first minute and to 10 s later"
	case RetryDPS:
		return "by chance below 0.5 s, growing to 1.5 s in a minute and to 60 s later"
	case RetryAfter:
		return "what DPS says, up to 300 s; if it says nothing 2 s. " + budgetWords
	case Reregister:
		return "what DPS says; if it says nothing 0.25 to 2 s, after a minute ever longer, up to 60 s. " + budgetWords
	case BackOffDPS, BackOffKnown:
		return "what DPS says; if it says nothing 1.6 to 2 s, after a minute ever longer, up to 60 s. " + budgetWords
	case SlowDown:
		return "until a minute after the last link was up"
	case AskFirst:
		return "10 s, if DPS does not answer earlier"
	default:
		return ""
	}
}

const budgetWords = "At most five registrations at once, then one each 5 s"

func (a Action) String() string {
	if a < actions {
		return actionNames[a]
	}
	return fmt.Sprintf("action %d", uint8(a))
}

// When narrows a rule by what came before its signal.
type When uint8

// The conditions.
const (
	Always    When = iota
	First          // the first CONNACK 5 of this hub since it last worked
	Fought         // DPS has confirmed the hub that keeps closing; no other failure came since
	Pipelined      // the attempt had sent more than CONNECT, and --pipeline is auto
	conditions
)

var whenNames = [conditions]string{Always: "", First: "for the first time", Fought: "in a fight", Pipelined: "when pipelined (auto)"}

func (w When) String() string {
	if w < conditions {
		return whenNames[w]
	}
	return fmt.Sprintf("condition %d", uint8(w))
}

// Rule is one row of the decision table.
type Rule struct {
	ID     string
	Signal Signal
	When   When
	Action Action
	// Practice is the failure in the words of IoT Central's published best practices for devices,
	// if they say what to do about it. The action follows them.
	Practice string
	Why      string // one sentence for a person
}

// Rules is the decision table. The first row whose signal and condition fit decides. Every signal
// has a row without condition.
var Rules = []Rule{
	{"H01", LinkClosed, Always, Reconnect, "", "a hub closes healthy links for upgrades; a hub that is gone refuses the dial, and that tells"},
	{"H02", LinkReset, Always, Reconnect, "", "a reset says nothing of the hub; the next dial does"},
	{"H03", LinkSilent, Always, Reprovision, "unreachable endpoint", "silence on a link that owed an answer: the hub or the way to it is gone"},
	{"H04", LinkUnacked, Always, Reprovision, "", "the hub answers but stores nothing any more"},
	{"H05", TokenRenewal, Always, Renew, "", "planned: MQTT 3.1.1 replaces a token by a new connection only"},
	{"H06", TokenExpired, Always, Reprovision, "expired token", "the hub closed a link whose token was over; the next one is minted fresh"},
	{"H25", LinkContested, Fought, SlowDown, "", "DPS stands by the hub, and the hub lets this client in and soon closes its link, again and again: another client uses its identity, and two quick clients would keep each other from working"},
	{"H26", LinkContested, Always, AskFirst, "", "the hub closed three links in a row in order, each within 10 s of its being up, and nothing else failed: the device was moved, or another client uses its identity; DPS knows which"},
	{"H07", DialRefused, Always, Reprovision, "unreachable endpoint", "nobody listens: the hub is down"},
	{"H08", DialReset, Always, Reprovision, "unreachable endpoint", "the hub's front end drops connections"},
	{"H09", DialSilent, Always, Reprovision, "unreachable endpoint", "no answer from the hub's address"},
	{"H10", NameNotFound, Always, Reprovision, "unreachable endpoint", "the hub's name is gone: the hub was deleted, or DNS fails"},
	{"H11", NetworkDown, Always, Reprovision, "unreachable endpoint", "the network on this side is down; asking DPS costs nothing until it is back"},
	{"H12", TLSFailed, Always, BackOff, "", "a wrong certificate: not our hub, or a proxy in between"},
	{"H13", ClockOff, Always, BackOff, "", "no certificate is valid now: this machine's clock is wrong; see to the clock"},
	{"H27", ClockSet, Always, Renew, "", "this machine's clock was wrong, and now the time is known: nothing is wrong with the hub"},
	{"H14", ClosedEarly, Pipelined, Sequential, "", "perhaps the hub minds what came before its CONNACK; the careful way tells"},
	{"H15", ClosedEarly, Always, Reprovision, "unreachable endpoint", "the hub accepts and closes"},
	{"H16", ConnackSilent, Always, Reprovision, "unreachable endpoint", "TLS is up, but the hub does not speak"},
	{"H17", Connack3, Always, Reprovision, "device disabled", "unavailable, or the identity is disabled here because the device was moved or blocked: DPS knows"},
	{"H18", Connack5, First, FreshToken, "expired token", "token, key, clock, deleted or moved: one retry with a fresh token, and DPS knows the rest"},
	{"H19", Connack5, Always, Reprovision, "device disabled", "refused with a fresh token as well: not our hub any more, or the key is wrong; DPS knows"},
	{"H20", ConnackOther, Always, BackOff, "", "protocol, client id or user name refused: a bug, or a proxy in between"},
	{"H21", SubscribeRefused, Always, BackOff, "", "IoT Hub refuses none of our subscriptions: not an IoT Hub, or out of order"},
	{"H22", HubProtocol, Always, BackOff, "", "what came is not MQTT as IoT Hub speaks it"},
	{"H23", NothingHeard, Always, AskDPS, "", "the attempt is slower than this hub has ever been: DPS may know why"},
	{"H24", ConnackPending, Always, AskDPS, "", "the hub is there but slow to let us in; DPS may know why"},
	{"H99", Unknown, Always, BackOff, "", "nobody has thought of this error; it never stops a device: back off, then ask DPS"},

	{"D01", AssignedOther, Always, Move, "", "DPS's answer is authoritative"},
	{"D02", AssignedDialling, Always, Join, "", "the attempt under way is the right one"},
	{"D03", AssignedFailing, Always, DialNow, "", "DPS stands by a hub that has just failed: it knows better, or it does not know yet"},
	{"D22", AssignedContested, Always, DialNow, "", "DPS stands by the hub, so the device was not moved: dial once more; if that link is closed as well, another client uses the identity (a hub keeps only the newest link of each)"},
	{"D04", DPSUnreachable, Always, RetryDPS, "", "a connection that is refused costs no registration"},
	{"D05", DPSSilent, Always, RetryDPS, "", "a connection that is silent costs no registration"},
	{"D06", DPSEarly, Always, RetryDPS, "", "perhaps DPS minds what came before its CONNACK; the next try is the careful way"},
	{"D07", DPSDropped, Always, Reregister, "", "the registration is gone; a new one is cheap, within the budget"},
	// Only for a registration that ends with 429. Package dps itself goes on after a poll that is
	// throttled.
	{"D08", DPSThrottled, Always, RetryAfter, "", "DPS says when"},
	{"D09", DPSError, Always, BackOffKnown, "internal error 500", "DPS is in trouble: keep the assignment and wait; most such troubles are over within seconds"},
	{"D10", DPSUnauthorized, Always, BackOffDPS, "", "wrong key, wrong ID scope or wrong clock: a person must act; keep trying, slowly"},
	{"D11", DPSBlocked, Always, BackOffDPS, "operator blocked", "the operator has blocked the device or not approved it yet: keep the assignment and wait"},
	{"D12", DPSDisabled, Always, BackOffDPS, "operator blocked", "the enrollment is disabled: keep the assignment and wait"},
	{"D13", DPSNotFound, Always, BackOffDPS, "", "no enrollment for this device: a person must act; keep trying, slowly"},
	{"D14", DPSFailed, Always, BackOffDPS, "", "DPS could not allocate a hub: the operator's side must act"},
	{"D15", DPSBadRequest, Always, BackOffDPS, "", "DPS does not like the request"},
	{"D16", DPSConflict, Always, Reregister, "", "another registration of this id is under way"},
	{"D17", DPSLostOperation, Always, Reregister, "", "DPS has forgotten the operation"},
	{"D18", DPSStuck, Always, Reregister, "", "assigning for too long: a new registration may fare better"},
	{"D19", DPSTLS, Always, RetryDPS, "", "the certificate is not that of DPS: a captive portal, a proxy, or a missing root"},
	{"D20", DPSClock, Always, RetryDPS, "", "no certificate is valid now: this machine's clock is wrong; see to the clock"},
	{"D23", DPSClockSet, Always, Reregister, "", "this machine's clock was wrong, and now the time is known: a new token will do"},
	{"D21", DPSRefusedConnect, Always, BackOffDPS, "", "DPS refuses the MQTT connection itself"},
	{"D25", DPSRefusedBefore, Always, BackOffDPS, "", "DPS had refused this device for more than a minute before it was restarted: a restart must not make it ask more often"},
	{"D26", DPSNonsense, Always, BackOffDPS, "", "DPS never sends such an answer: a proxy sent it, or DPS has a fault; nothing of it is kept"},
	{"S01", Stopping, Always, Stop, "", "asked to stop"},
}

// find returns the first row that fits. A table without a row for a signal treats the signal as
// unknown. If it has no row for that either, the device backs off.
func find(table []Rule, s Signal, holds func(When) bool) Rule {
	for _, want := range []Signal{s, Unknown} {
		for _, r := range table {
			if r.Signal == want && (r.When == Always || holds(r.When)) {
				return r
			}
		}
	}
	return Rule{ID: "none", Signal: s, Action: BackOff, Why: "the table has no row for this"}
}

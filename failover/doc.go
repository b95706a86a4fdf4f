// Package failover is the brain of a device. It decides which hub to talk to, and it is the only
// place that tries anything again. It touches neither disk nor network: a [Session] is given
// functions that do.
//
// Read the parts in this order:
//
//   - [Rules] is the decision table. A signal and its history go in; an action comes out, with the
//     sentence that explains it (rules.go). [Signal] says everything else about a signal
//     (signals.go).
//   - [Classify] turns an error of package hub or dps into a signal (classify.go).
//   - [Machine] is a function from events to effects (machine.go, events.go). It has no clock, no
//     I/O and no goroutine: time and chance come in. Its parts are the way to the assigned hub
//     (home.go), the way to known hubs (side.go), the registrations at DPS (registrations.go), the
//     suspicion that another client uses the same identity (fight.go), and how long to wait
//     before the next try (waits.go).
//   - [Session] is the one loop that owns a machine, performs its effects and feeds their outcome
//     back (session.go, loop.go). [Provision] registers once, without a session (once.go).
//   - [State] is what survives a restart: the assigned hub, and the hubs that DPS has assigned
//     before (state.go).
package failover

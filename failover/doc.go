// Package failover is the brain of a device: it decides which hub to talk to, and it is the only place that tries anything again.
//
// The parts, in the order in which they are worth reading:
//
//   - [Rules] is the decision table: a signal and its history in, an action out, with the sentence that explains it.
//   - [Classify] turns an error of the network rooms into a [Signal].
//   - [Machine] is a function from events to effects. It has no clock, no I/O and no goroutine; time and chance come in.
//   - [Session] is the one loop that owns a machine, performs its effects and feeds their outcome back.
//   - [State] is what survives a restart: the assigned hub and the hubs DPS has assigned before.
package failover

// Package state is the state store of the edge: keys and values that data sets, modules and
// connectors share, with versions, conditions, expiry and fencing as Azure IoT Operations has them
// (Microsoft's page "MQTT broker state store protocol"). It is in this process and on its disk;
// there is no broker behind it.
//
// The values are in memory, bounded in bytes. Each change is appended to a log first, and the log
// is an outbox: its commits, its checks and its recovery are the ones that messages rely on. When
// the log has grown far beyond the values, the store appends the oldest of them again, some at a
// time, and lets go of what came before the next.
//
// Where to read: store.go has the operations and their rules, commit.go how changes become durable
// together, load.go how the log is read and made short, record.go the form of a change in it,
// time.go the clock that makes versions.
package state

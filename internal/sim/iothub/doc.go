// Package iothub is an IoT Hub: its identities with their twins, mail, methods and modules, the
// MQTT of devices, the REST of devices and of services, and the faults of a hub.
//
// A [Hub] has identities, and an [Identity] is one device or module. Who may register, and which
// hub a device belongs to, is not known here: the owner of the hubs admits, disables and deletes
// identities, and is called back when a service switches one on or off.
//
//   - hub.go: the hub and its listeners; policies.go: its shared access policies
//   - identity.go, modules.go: identities; auth.go: who may connect
//   - session.go: one connection over MQTT; subscriptions.go: what it listens to
//   - twin.go: the twin of an identity
//   - mail.go: cloud-to-device messages; methods.go: direct methods
//   - device_rest.go: devices over HTTPS; service*.go: the REST for services
//   - faults.go: faults of the hub; injection.go: faults that a device asks for
//   - keep.go: what the state directory has; events.go: what others are told
//
// # Locks
//
// They are taken in this order, and any may be left out:
//
//  1. mu of a [Hub] guards the table of identities and the tables of modules.
//  2. entry of an [Identity] is held by the session that is being let in.
//  3. mu of an [Identity] guards its state, and that of its session where session says so. That of
//     a module is taken before that of its device.
//  4. The locks of [wire.MQTT], [ledger.Ledger] and [store.Store], under which nobody is called.
//
// A change is written to the store while mu is held, and the client is answered afterwards.
// Options.Tell and Options.Received may be called with any of these locks held, so they must not
// call the hub. Options.Switched is called without locks.
package iothub

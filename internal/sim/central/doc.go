// Package central is IoT Central's REST API, as far as operators and the Azure CLI use it.
//
//   - application.go: the application, its token, and the form of answers and errors
//   - rest.go: the routes
//   - devices.go: devices with their credentials and attestations
//   - properties.go: properties and the newest telemetry
//   - commands.go: commands, now or queued, and their history
//   - templates.go: device templates
//   - system.go: manual failover and failback, twins, queued commands
//
// It decides nothing. The record of a device is the registry's, its values come from its hub and
// from the ledger, and all three are reached by methods that take their own locks. The history of
// commands is its own; one mutex guards that, and a holder takes no other lock.
package central

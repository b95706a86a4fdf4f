// Package provisioning is the Device Provisioning Service (DPS): it knows who may enrol and which
// devices there are, and it decides which hub each device belongs to.
//
// [Registry] has the state and makes the decisions:
//
//   - registry.go: the devices; made, deleted, found
//   - verify.go: who is asking, and which enrollment lets them in
//   - registration.go: the two halves of a registration
//   - allocation.go: which hub a device belongs to: the one where it is, or the choice of a policy
//   - webhook.go: the choice of somebody else
//   - placement.go: how a device gets into its hub, and moves to another one
//   - failover.go: moves that end by themselves
//   - enrollment.go, enrollment_check.go, enrollment_list.go: enrollments and groups
//   - lists.go, records.go: what the service API, the control API and IoT Central see
//   - switches.go: how an operator blocks, disables and enables
//   - keep.go: what is in the state directory
//
// [Service] is DPS on the network. It changes nothing but through the registry:
//
//   - service.go, register.go, operations.go, limits.go: requests and answers, by any transport
//   - mqtt.go, https.go: the API for devices
//   - csr.go: certificates for devices
//   - service_api.go: the API for services
//   - faults.go: what can go wrong with DPS
//
// # What it needs of a hub
//
// The registry alone puts devices into hubs and takes them out. It reaches a hub by its methods
// Admit, Delete and Identity, asks it for Name, Host, AzureName and KnownAs, and for FaultKind,
// Reachable and DeadForDPS; it reaches an identity by Enable, Disable and Trust, and asks it for
// Content, Connection and Hub. In the other direction a hub calls back: [Registry.Switched] is the
// function that a hub is given for identities that a service has switched.
//
// # Locks
//
// One mutex of the registry guards all enrollments and devices. It comes before every lock of a
// hub, so a hub must call Switched, and anything else here, without a lock of its own. The mutex of
// an operation is held while its registration takes effect, and comes before that of the registry.
// The mutex of the service guards the list of operations, and that of a limiter its counts; a
// holder takes no other lock.
package provisioning

// Package sim is a local cloud for IoT devices: a Device Provisioning Service (DPS), up to 26 IoT
// Hubs behind it, and the failover endpoints of IoT Central, faithful enough that unmodified
// official Azure device SDKs provision, connect and work against it. It has a control API for the
// faults of real clouds, and a ledger of what arrived.
//
// # Use
//
//	s, err := sim.New(sim.DefaultConfig())
//	err = s.Start()              // every listener is up when it returns
//	err = s.WriteFiles("cloud")  // ca.pem, device CA and sim.json for other processes
//	defer s.Close()              // everything is down and no goroutine is left when it returns
//
// A device then needs what [Sim.Info] says: the ID scope, a group key (or a certificate of the
// device CA), and where DPS is. It must trust [Sim.CAPool]. To break things in the same process
// call [Sim.FaultHub], [Sim.Failover] and their kin; from outside use the same over HTTP
// (Info().Control).
//
// # Without a network
//
// With Config.Listen the caller decides where the simulator listens. Together with an in-memory
// network it runs in the virtual time of testing/synctest: it waits with plain timers and channels
// only, and makes its certificates from time.Now().
//
// # Where Azure is silent
//
// The protocol is public, some behaviour is not. This simulator decides as follows.
//
// Connections:
//
//   - A malformed user name gets CONNACK 3 at a hub and CONNACK 5 at DPS.
//   - A user name without api-version means the oldest version: there are no methods, and twin
//     requests get 400.
//   - A subscription to a topic that is not the device's closes the connection, and so does a sixth
//     subscription.
//   - A healthy connection is closed with FIN.
//   - Under a black hole sockets pause: what a client sent meanwhile is served afterwards, unless
//     the client has reset the connection, or the fault says that waiting connections are reset.
//   - A hub that is killed or silent publishes no wills.
//   - The faults that a device injects into its own connection mean over MQTT: late PUBACKs and 429
//     (InvokeThrottling), telemetry closes the connection (InvokeMaxMessageQuota), CONNACK 5
//     (InvokeAuthError).
//
// Registrations:
//
//   - A device that is blocked or not approved may register; the poll then answers failed 400209. A
//     device that is disabled gets that answer to its register request.
//   - [Sim.Disable] disables enrollment and identity. [Sim.Block] is IoT Central's operator.
//   - A changed enrollment counts from the next registration on. If the change names other hubs or
//     another policy, it ends a failover.
//   - A device that registers again in the same hub keeps its substatus.
//
// Moves and orders:
//
//   - A device that moves takes its whole twin along, with tags and reported properties. If its
//     enrollment says reset, it begins with the enrollment's first twin, at every registration.
//   - A desired property or a message for a device whose hub is dead makes the assignment that DPS
//     would make at the next registration, so that the device and its order end up in one place.
//   - Cloud-to-device messages reach a device that has never been connected before, unless
//     [Config].C2DBeforeSubscription says otherwise.
//
// # Rooms
//
// This package only joins the rooms below it, which import nothing of it:
//
//   - azure: formats that the services share: SAS, certificates, errors, ids
//   - wire: sockets with faults below TLS, MQTT, WebSocket, HTTP
//   - store: the state directory
//   - ledger: what arrived
//   - query: the query language of a hub
//   - iothub: one hub
//   - provisioning: DPS, which decides where each device belongs
//   - central: IoT Central's REST
//
// What is here: sim.go builds, starts and ends a cloud, listen.go gives it its addresses, info.go
// says what clients must know. control.go is the typed control; control_*.go are its HTTP form.
// events.go hands events to watchers, connect_proxy.go leads Azure's names here, keep.go brings a
// cloud back from its state directory, and config.go checks what is wanted. api.go gives the types
// of the rooms their names in this package.
//
// # Locks
//
// Each piece of state has one owner and one mutex. They are taken in this order, and any may be
// left out: a fault that begins or ends, a registration that takes effect, the registry, a hub, an
// identity (that of a module before that of its device), a connection. Packages enforce most of it,
// because none imports one that comes before it. The mutexes of the ledger, of the events, of the
// store and of DPS's list of operations are the last, except that the ledger tells the store which
// files it has. A hub calls what it is handed for events with the mutex of an identity held, so
// that must not block; it calls what it is handed for switched identities without a lock.
//
// The package and its rooms import nothing of the rest of this module, so that mistakes that they
// might share with the client cannot cancel out.
package sim

package drill

import (
	"context"
	"time"

	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/internal/sim"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

// Target is where a scenario is played: a cloud, the way to it, and who runs the device.
type Target interface {
	// Name is what the report calls it: embedded, central, hubs, or the URL of a simulator.
	Name() string

	// Lacks says in one sentence why the target cannot do what a scenario needs. It returns "" if
	// it can. A scenario that needs what its target lacks is refused before it begins, with the
	// line of the step.
	Lacks(n Need) string

	// Open sets up the world of one run. The devices have not been started.
	Open(ctx context.Context, p Plan) (*World, error)
}

// Need is something that a step of a scenario needs of its target. Its text completes the sentence
// "it needs …".
type Need string

// The needs of the steps of a scenario.
const (
	NeedHubFaults  Need = "faults of hubs"
	NeedDPSFaults  Need = "faults of DPS"
	NeedPaths      Need = "faults of the way between the device and its cloud"
	NeedWeather    Need = "delayed and lost segments"
	NeedMoves      Need = "moves of a device to another hub"
	NeedOperator   Need = "acts of an operator: block, disable, disconnect, delete"
	NeedMethods    Need = "direct methods"
	NeedMail       Need = "cloud-to-device messages"
	NeedTwin       Need = "desired properties"
	NeedProcess    Need = "a device that can be stopped and started"
	NeedKill       Need = "a device that can be killed"
	NeedOutbox     Need = "a device that says what waits in its outbox, and what it decides"
	NeedNamedHubs  Need = "hubs that are called hub-a, hub-b and so on"
	NeedLedger     Need = "a ledger that tells of each message that has arrived"
	NeedCounts     Need = "a cloud that counts how often devices ask it"
	NeedCerts      Need = "a device with a certificate that can be replaced"
	NeedClock      Need = "a device whose clock can be wrong"
	NeedRival      Need = "another program with the same identity"
	NeedLoad       Need = "a device whose rate of samples can be changed"
	NeedOthers     Need = "further devices in the same ID scope"
	NeedVirtual    Need = "virtual time"
	NeedCloudSetup Need = "a cloud that is set up as the scenario says" // a target that lacks it plays the scenario all the same
)

// Plan says what world a target sets up.
type Plan struct {
	Device string   // id of the device; "" means that the target chooses
	Others int      // further devices in the same ID scope; their ids are the target's choice
	With   Settings // of the cloud and of the devices, as far as the target sets them up
	Dir    string   // an empty directory for the files of the run; the caller removes it

	// Heard hears what a device of this process tells, in order, and possibly from several
	// goroutines. The event names the device.
	Heard func(journal.Event)
}

// World is what a scenario is played on: a target that has been set up.
type World struct {
	Devices []Party           // the device under test, and then the others
	Cloud   Cloud             // a method that needs what the target lacks returns an error
	Hubs    []string          // names
	Names   map[string]string // of the hubs, by host

	// Network is nil if the target lacks NeedPaths.
	Network Network

	// Ledger says that Cloud.Ledger tells what has arrived. Without it the proof is the outbox of
	// the device, and what the hubs have acknowledged.
	Ledger bool

	// Arrival says what a message of the ledger is to the judge. One without an ID is no sample. A
	// program that numbers its messages in its own way gets ids of an outbox here, "<id>-<number>".
	// nil: ArrivalOf.
	Arrival func(sim.Message) Arrival

	// Facts describe the surroundings for the report: versions, addresses, the command of an
	// external device. They hold no secrets.
	Facts map[string]string

	// Close ends the world, and puts back what Open has changed. The devices have been stopped.
	Close func() error
}

// Party is one device of a world.
type Party interface {
	Process
	ID() string

	// Look returns what the device says of itself. It returns false if the device says nothing:
	// then the ledger alone is the proof, and only Running and Err count.
	Look() (Look, bool)
}

// Look is what a device of this process says of itself.
type Look struct {
	Running bool
	Hub     string // host of the hub it is linked to, "" for none
	Made    uint64 // samples made by all processes of the device so far
	Dials   uint64 // connections that they have tried to open, to hubs and to DPS
	GivenUp uint64 // samples that their outboxes have given up: dropped, set aside, or destroyed by the disk
	Outbox  outbox.Stats
	Dir     string // of its outbox; "" for an outbox in memory
	Err     error  // how its last process has ended, if that was no stop and no crash
}

// Certified is a party whose X.509 certificate can be replaced.
type Certified interface {
	// Certify gives the device a new certificate that lives so long. It is used from the next
	// start.
	Certify(life time.Duration) error
}

// Leaver is a party that need not be waited for.
type Leaver interface {
	// Leave stops the device, and takes its network away: what is queued is not sent.
	Leave()
}

// Paced is a party whose rate of samples can be changed while it runs.
type Paced interface {
	// SetRate makes the device take so many samples a second from now on. 0 means none.
	SetRate(perSecond float64)
}

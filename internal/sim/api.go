package sim

import (
	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/iothub"
	"github.com/hubhop-iot/hubhop/internal/sim/ledger"
	"github.com/hubhop-iot/hubhop/internal/sim/provisioning"
)

// This file gives the rooms' types that users of the simulator need their names in this package.

// Ledger is what the cloud received from one device, or from all of them.
type Ledger = ledger.Report

// Message is one device-to-cloud message as a hub received it.
type Message = ledger.Message

// Twin is a device's twin as the service sees it.
type Twin = iothub.Twin

// C2D is a cloud-to-device message to send.
type C2D = iothub.C2D

// C2DMessage tells what became of a cloud-to-device message.
type C2DMessage = iothub.C2DMessage

// Event is one line of what happens in the cloud.
type Event = iothub.Event

// Fault is what goes wrong with a hub.
type Fault = iothub.Fault

// MethodResult is a device's answer to a direct method.
type MethodResult = iothub.MethodResult

// Optional is a text that is null in JSON when it is empty.
type Optional = azure.Optional

// The states of a cloud-to-device message.
const (
	C2DEnqueued     = iothub.C2DEnqueued
	C2DDelivered    = iothub.C2DDelivered
	C2DCompleted    = iothub.C2DCompleted
	C2DExpired      = iothub.C2DExpired
	C2DPurged       = iothub.C2DPurged
	C2DDeadLettered = iothub.C2DDeadLettered
)

// The kinds of events.
const (
	EventConnect    = iothub.EventConnect
	EventDisconnect = iothub.EventDisconnect
	EventRefuse     = iothub.EventRefuse
	EventRegister   = iothub.EventRegister
	EventTelemetry  = iothub.EventTelemetry
	EventFault      = iothub.EventFault
	EventHeal       = iothub.EventHeal
	EventMove       = iothub.EventMove
	EventOperator   = iothub.EventOperator
	EventMissed     = iothub.EventMissed
)

// The kinds of hub faults.
const (
	FaultKill       = iothub.FaultKill
	FaultBlackhole  = iothub.FaultBlackhole
	FaultSYNDrop    = iothub.FaultSYNDrop
	FaultConnack3   = iothub.FaultConnack3
	FaultConnack5   = iothub.FaultConnack5
	FaultClose      = iothub.FaultClose
	FaultSlow       = iothub.FaultSlow
	FaultDropPuback = iothub.FaultDropPuback
	FaultThrottle   = iothub.FaultThrottle
)

// DPSFault is what goes wrong with DPS.
type DPSFault = provisioning.DPSFault

// DPSLimits are the limits of DPS that are answered 429.
type DPSLimits = provisioning.DPSLimits

// AzureDPSLimits are the limits of a DPS in Azure.
func AzureDPSLimits() DPSLimits { return provisioning.AzureDPSLimits() }

// What happens to the identity in the hub a device moves away from, see Config.Move.
const (
	MoveDisable = provisioning.MoveDisable
	MoveDelete  = provisioning.MoveDelete
)

// Where a device goes first, see Config.Allocation.
const (
	AllocateStatic     = provisioning.AllocateStatic
	AllocateHashed     = provisioning.AllocateHashed
	AllocateGeoLatency = provisioning.AllocateGeoLatency
	AllocateCustom     = provisioning.AllocateCustom
)

// What becomes of a device that registers again, see Config.Reprovision.
const (
	ReprovisionMigrate = provisioning.ReprovisionMigrate
	ReprovisionReset   = provisioning.ReprovisionReset
	ReprovisionNever   = provisioning.ReprovisionNever
)

// What DPS does to a malformed user name, see Config.MalformedDPS.
const (
	MalformedRefuse = provisioning.MalformedRefuse
	MalformedClose  = provisioning.MalformedClose
)

// The kinds of DPS faults.
const (
	DPSDown         = provisioning.DPSDown
	DPSBlackhole    = provisioning.DPSBlackhole
	DPSDrop         = provisioning.DPSDrop
	DPSThrottle     = provisioning.DPSThrottle
	DPSError500     = provisioning.DPSError500
	DPSStuck        = provisioning.DPSStuck
	DPSSlow         = provisioning.DPSSlow
	DPSUnauthorized = provisioning.DPSUnauthorized
	DPSStray        = provisioning.DPSStray
)

package sim

import (
	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/ledger"
)

// This file gives the rooms' types that users of the simulator need their names in this package.

// Error is what every method of [Sim] returns when it refuses.
type Error = azure.Error

// Optional is a string that is null in JSON when it is empty.
type Optional = azure.Optional

// Ledger is what the cloud received from one device, or from all of them.
type Ledger = ledger.Report

// Message is one device-to-cloud message as a hub received it.
type Message = ledger.Message

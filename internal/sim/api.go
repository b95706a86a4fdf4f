package sim

import "github.com/hubhop-iot/hubhop/internal/sim/azure"

// This file gives the rooms' types that users of the simulator need their names in this package.

// Error is what every method of [Sim] returns when it refuses.
type Error = azure.Error

// Optional is a string that is null in JSON when it is empty.
type Optional = azure.Optional

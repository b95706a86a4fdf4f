// Hubhop is a device client for Azure IoT Central and Azure IoT Hub that survives the loss of a
// hub, and the simulator that proves it.
package main

import (
	_ "embed"
	"os"

	"github.com/hubhop-iot/hubhop/cmd"
)

//go:embed failover.json
var builtinModel []byte

func main() { os.Exit(cmd.Main(cmd.OSEnv(), builtinModel)) }

package main

// azScenarios are the subtests of TestAz in internal/sim.
var azScenarios = []scenario{}

// Package flow runs the data flows of a directory of manifests: it reads DataflowGraphs and
// Dataflows (package manifest), compiles their operators (package transform), starts their
// endpoints (packages below endpoint), and lets package graph carry the messages.
//
// A [Manager] runs all flows of a directory, and takes over changes of its files while they run:
// only what has changed stops and starts. A [Trial] runs one flow without endpoints, for flow run,
// flow test and flow replay. [Check] says what is wrong with a directory, and what each flow needs.
//
// The package knows neither a device nor a hub. The destination iothub is an outbox that it is
// handed. Graphs that run WebAssembly modules are resolved by [Modules].
//
// Where to read: build.go makes the plan of a graph, endpoints.go its ends, prepare.go what happens
// to a message on its way out, manager.go the flows that run, watch.go how changes are noticed.
package flow

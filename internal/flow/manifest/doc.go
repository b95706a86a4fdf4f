// Package manifest reads the manifests of Azure IoT Operations: data flow endpoints, data flow
// graphs, data flows, profiles and registry endpoints, as custom resources or as the bodies of
// Azure Resource Manager, in YAML or JSON; and the graph definitions and tests that belong to them.
// It needs no Kubernetes.
//
// The package is strict, and tells all faults of all files at once. Each fault has file, line and
// column, says what is wrong, and what to do. [Load] reads a directory, [ParseGraph] a graph
// definition, [ParseTest] a test. [Lacks] says what the files need of this machine and do not find.
//
// Types carry the names of Microsoft's pages "Configure data flow endpoints", "Create data flow
// graphs", "Configure registry endpoints" and "Configure WebAssembly graph definitions", and of the
// public TypeSpec of Microsoft.IoTOperations. Fields have the key of the file in the tag key; the
// other tags are the rules of one value: must (why it is needed), one (the words that are allowed),
// min and max, def (the value when the key is absent), own (an addition of hubhop's, with what a
// strict check says) and about (what it is). The published JSON schemas come from the same tags.
package manifest

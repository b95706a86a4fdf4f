package manifest

import "slices"

// Native is an operator that hubhop runs itself, without a module.
type Native string

// The native operators. Empty: the node runs modules of a registry.
const (
	NativeMap         Native = "map"
	NativeFilter      Native = "filter"
	NativeBranch      Native = "branch"
	NativeConcatenate Native = "concatenate"
	NativeWindow      Native = "window"
	NativeThrottle    Native = "throttle"
)

// Arm is the output of a branch that a connection begins at.
type Arm string

// The arms. A connection that begins at no branch has none.
const (
	NoArm    Arm = ""
	TrueArm  Arm = "true"
	FalseArm Arm = "false"
)

// Graph is a DataflowGraph or a Dataflow, ready to be built: all names are resolved. A Dataflow has
// become source, filter, map and destination. It is read-only.
type Graph struct {
	Where `json:"-"`
	Object
	Enabled      bool
	Profile      *Profile // never nil; default if the directory has no other
	DeadLetter   *DeadLetter
	Sources      []Source
	Operators    []Operator
	Destinations []Destination
	Connections  []Connection

	// Digest changes with the meaning of the graph, of its endpoints, registries and profile. It
	// does not depend on files, lines or comments.
	Digest string `json:"-"`
}

// Source is a node that messages come from.
type Source struct {
	Where    `json:"-"`
	Name     string
	Endpoint string        // its name
	Settings *Endpoint     // nil: the endpoint is local
	Topics   []TopicFilter // for Kafka: topics
	Asset    string        // empty: not said
	Schema   string        // of the payloads; empty: not said
}

// TopicFilter is one of a source's data sources.
type TopicFilter struct {
	Pos    Pos    `json:"-"`
	Group  string // of a shared subscription; empty: it is none
	Filter string // without the group
}

// Operator is a node that changes, drops, routes or collects messages.
type Operator struct {
	Where         `json:"-"`
	Name          string
	Native        Native    // empty: modules of a registry
	Registry      *Registry // never nil; default if the directory has no other
	Artifact      string    // without the version
	Version       string    // empty: not said
	Configuration []Setting
	Dialect       bool // the expressions are those of a Dataflow: no defaults, no regular expressions
}

// Destination is a node that messages go to.
type Destination struct {
	Where    `json:"-"`
	Name     string
	Endpoint string    // its name
	Settings *Endpoint // nil: the endpoint is iothub
	To       string    // topic with its variables, name, directory; for iothub as it was written
	Headers  []Header
	Schema   string // of the payloads; empty: not said
}

// Connection leads from a node to another.
type Connection struct {
	Where    `json:"-"`
	From, To string
	Arm      Arm    // of a native branch
	Output   string // of a graph of modules with several outputs; empty: its only one
	Schema   string // of the payloads; empty: not said
	Format   string // Json, Delta, Parquet or Avro: a label
}

// NeedsHub says whether the graph sends something to the device's outbox.
func (g *Graph) NeedsHub() bool {
	return slices.ContainsFunc(g.Destinations, func(d Destination) bool { return d.Endpoint == EndpointHub })
}

// NeedsRegistry says whether the graph runs modules that a registry has.
func (g *Graph) NeedsRegistry() bool {
	return slices.ContainsFunc(g.Operators, func(o Operator) bool { return o.Native == "" })
}

// NeedsJournal says whether the graph remembers something from one message to the next. stateful
// knows it of an operator: a window does, and a map with a last known value.
func (g *Graph) NeedsJournal(stateful func(*Operator) bool) bool {
	for i := range g.Operators {
		if stateful(&g.Operators[i]) {
			return true
		}
	}
	return false
}

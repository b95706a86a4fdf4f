package flow

import (
	"context"
	"net"
	"time"

	"github.com/hubhop-iot/hubhop/internal/flow/endpoint/hub"
	"github.com/hubhop-iot/hubhop/internal/flow/graph"
	"github.com/hubhop-iot/hubhop/internal/flow/identity"
	"github.com/hubhop-iot/hubhop/internal/flow/manifest"
)

// Options are what the flows of a process are given.
type Options struct {
	Dir      string // the manifests, and below it secrets, config maps, schemas and local registries
	StateDir string // journals, dead letters and the state store
	// Device is the id of the device whose process this is. It is part of the client ids at
	// brokers.
	Device string

	Hub     Hub     // the outbox behind the endpoint iothub; nil: this process has no hub
	Modules Modules // nil: graphs with modules are refused

	// Token returns an access token of a managed identity. nil: this machine has none.
	Token func(ctx context.Context, r identity.Request) (string, error)

	// Log takes what a person should read about a flow, a sentence each. flow is empty for what
	// concerns the directory. It may be nil.
	Log func(warning bool, flow, text string)
	// Stage hears how long messages were in a stage; see [graph.Options]. It may be nil.
	Stage func(stage string, took time.Duration)
	// DialContext opens the TCP connections to brokers; nil: the system's.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
	// Drain is how long a flow that stops waits for what is under way; 0: [DefaultDrain].
	Drain time.Duration
}

// DefaultDrain is how long a flow that stops waits for what is under way. What is not safe by then
// stays with its source.
const DefaultDrain = 5 * time.Second

// Hub is the device behind the endpoint iothub.
type Hub interface {
	hub.Intake
	hub.Twin
}

// Modules resolves artifacts that are no native operators.
type Modules interface {
	// Expand returns what a node runs: operators and the edges between them. Their names begin with
	// that of the node, so that they are unique. schema is the schema of the payloads that come in;
	// it may be empty. Faults say what is wrong with the node or with its artifact.
	Expand(node *manifest.Operator, schema string) (*Expansion, []manifest.Fault)
}

// Expansion takes the place of a node that runs modules. Operators that hold anything are an
// io.Closer, and the graph closes them.
type Expansion struct {
	Operators []graph.OperatorNode
	Edges     []graph.Edge
	In        []string              // the operators that get what comes to the node
	Out       map[string][]EdgeFrom // by output of the node; "": its only one
}

// EdgeFrom is an operator's output.
type EdgeFrom struct {
	Operator string
	Arm      graph.Arm
}

func (o *Options) log(warning bool, flow, text string) {
	if o.Log != nil {
		o.Log(warning, flow, text)
	}
}

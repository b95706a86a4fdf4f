package manifest

// DataflowGraph is the document of that kind (Microsoft's page "Data flow graphs overview").
type DataflowGraph struct {
	Object `json:"object"`
	Where
	Mode                   string            `key:"mode" one:"Enabled,Disabled" def:"Enabled" about:"whether the graph runs"`
	ProfileRef             string            `key:"profileRef" def:"default" about:"the profile; default always exists"`
	RequestDiskPersistence string            `key:"requestDiskPersistence" one:"Enabled,Disabled" def:"Disabled" about:"asks the broker to keep messages on its disk; hubhop's journal does not depend on it"`
	Nodes                  []Node            `key:"nodes" must:"list the sources, operators and destinations" about:"sources, operators and destinations"`
	Connections            []GraphConnection `key:"nodeConnections" must:"list which node leads to which" about:"which node leads to which"`
	DeadLetter             *DeadLetter       `key:"deadLetter" own:"yes" about:"hubhop's own: keeps messages that fail, with the reason"`
	FileStores             []Free            `key:"fileStores" about:"read and refused"`
}

// DeadLetter says where messages are kept that fail in an operator. It is hubhop's own addition.
type DeadLetter struct {
	Where
	Directory string `key:"directory" def:"deadletter" about:"a directory below the flows' state; the graph's name is added"`
	MaxBytes  int    `key:"maxBytes" min:"4096" max:"1099511627776" def:"67108864" about:"bytes that are kept; the oldest messages go first"`
}

// Node is a node of a DataflowGraph. Exactly the block of its type is set.
type Node struct {
	Where
	Type        string               `key:"nodeType" must:"it is Source, Graph or Destination" one:"Source,Graph,Destination" about:"what the node is"`
	Name        string               `key:"name" must:"connections need it" about:"the name for connections"`
	Source      *SourceSettings      `key:"sourceSettings" about:"of a Source"`
	Graph       *GraphSettings       `key:"graphSettings" about:"of a Graph"`
	Destination *DestinationSettings `key:"destinationSettings" about:"of a Destination"`
}

// SourceSettings says where messages come from.
type SourceSettings struct {
	Where
	EndpointRef string   `key:"endpointRef" must:"it names a DataflowEndpoint" about:"a DataflowEndpoint, or local"`
	DataSources []string `key:"dataSources" about:"topic filters, or topics of Kafka"`
	AssetRef    string   `key:"assetRef" about:"the Asset that the messages are of"`
}

// GraphSettings says which operators the node runs.
type GraphSettings struct {
	Where
	RegistryRef   string    `key:"registryEndpointRef" must:"it names a RegistryEndpoint; default always exists" about:"a RegistryEndpoint; default always exists"`
	Artifact      string    `key:"artifact" must:"it names what the node runs, such as azureiotoperations/graph-dataflow-map:1.0.0" about:"<name>:<version>"`
	Configuration []Setting `key:"configuration" about:"settings of the operators"`
}

// DestinationSettings says where messages go.
type DestinationSettings struct {
	Where
	EndpointRef     string        `key:"endpointRef" must:"it names a DataflowEndpoint" about:"a DataflowEndpoint, or iothub"`
	DataDestination string        `key:"dataDestination" must:"it is the topic, the name or the directory that messages go to" about:"the topic, which may have variables such as ${outputTopic.1}; a name; a directory; for iothub: telemetry, telemetry/<component> or property"`
	Headers         []Header      `key:"headers" about:"changes of user properties, in order"`
	OutputSchema    *OutputSchema `key:"outputSchemaSettings" about:"read and refused"`
}

// Header is a change of user properties or headers.
type Header struct {
	Where
	Action string `key:"actionType" must:"it is AddIfNotPresent, AddOrReplace or Remove" one:"AddIfNotPresent,AddOrReplace,Remove" about:"what is done"`
	Key    string `key:"key" must:"it is the name of the user property" about:"the user property"`
	Value  string `key:"value" about:"its value"`
}

// OutputSchema is a schema of files.
type OutputSchema struct {
	Where
	Format    string `key:"serializationFormat" must:"it is Parquet or Delta" one:"Parquet,Delta" about:"the format of files"`
	SchemaRef string `key:"schemaRef" about:"aio-sr://[<namespace>/]<name>:<version>"`
}

// GraphConnection leads from one node to another.
type GraphConnection struct {
	Where
	From FromNode `key:"from" must:"it names the node that messages come from" about:"where messages come from"`
	To   ToNode   `key:"to" must:"it names the node that messages go to" about:"where messages go"`
}

// FromNode is the beginning of a connection.
type FromNode struct {
	Where
	Name   string            `key:"name" must:"it names the node" about:"a node; <node>.output.true or <node>.output.false of a branch"`
	Schema *ConnectionSchema `key:"schema" about:"the schema of the payloads"`
}

// ToNode is the end of a connection.
type ToNode struct {
	Where
	Name string `key:"name" must:"it names the node" about:"a node"`
}

// ConnectionSchema is the schema of the payloads on a connection. It converts nothing.
type ConnectionSchema struct {
	Where
	Format    string `key:"serializationFormat" one:"Json,Delta,Parquet,Avro" def:"Json" about:"a label"`
	SchemaRef string `key:"schemaRef" about:"aio-sr://[<namespace>/]<name>:<version>"`
}

// Dataflow is the document of that kind (Microsoft's page "Create data flows"). [Graph] has it as a
// graph.
type Dataflow struct {
	Object `json:"object"`
	Where
	Mode                   string      `key:"mode" one:"Enabled,Disabled" def:"Enabled" about:"whether the data flow runs"`
	ProfileRef             string      `key:"profileRef" def:"default" about:"the profile; default always exists"`
	RequestDiskPersistence string      `key:"requestDiskPersistence" one:"Enabled,Disabled" def:"Disabled" about:"asks the broker to keep messages on its disk; hubhop's journal does not depend on it"`
	Operations             []Operation `key:"operations" must:"list a source, a transformation if there is one, and a destination" about:"one source, at most one transformation, one destination"`
	DeadLetter             *DeadLetter `key:"deadLetter" own:"yes" about:"hubhop's own: keeps messages that fail, with the reason"`
}

// Operation is a part of a Dataflow. Exactly the block of its type is set.
type Operation struct {
	Where
	Type           string               `key:"operationType" must:"it is Source, BuiltInTransformation or Destination" one:"Source,BuiltInTransformation,Destination" about:"what the operation is"`
	Name           string               `key:"name" about:"a name for people"`
	Source         *DataflowSource      `key:"sourceSettings" about:"of a Source"`
	Transformation *Transformation      `key:"builtInTransformationSettings" about:"of a BuiltInTransformation"`
	Destination    *DataflowDestination `key:"destinationSettings" about:"of a Destination"`
}

// DataflowSource says where the messages of a Dataflow come from.
type DataflowSource struct {
	Where
	EndpointRef string   `key:"endpointRef" must:"it names a DataflowEndpoint" about:"a DataflowEndpoint, or local"`
	DataSources []string `key:"dataSources" about:"topic filters, or topics of Kafka"`
	AssetRef    string   `key:"assetRef" about:"the Asset that the messages are of"`
	SchemaRef   string   `key:"schemaRef" about:"aio-sr://[<namespace>/]<name>:<version>"`
	Format      string   `key:"serializationFormat" one:"Json" def:"Json" about:"the format of the payloads"`
}

// DataflowDestination says where the messages of a Dataflow go.
type DataflowDestination struct {
	Where
	EndpointRef     string   `key:"endpointRef" must:"it names a DataflowEndpoint" about:"a DataflowEndpoint, or iothub"`
	DataDestination string   `key:"dataDestination" must:"it is the topic, the name or the directory that messages go to" about:"the topic, which may have variables such as ${inputTopic.1}; a name; a directory; for iothub: telemetry, telemetry/<component> or property"`
	Headers         []Header `key:"headers" about:"changes of user properties, in order"`
}

// Transformation is what a Dataflow does with a message: it adds data sets, drops, and maps, in
// this order.
type Transformation struct {
	Where
	Datasets  []Dataset    `key:"datasets" about:"records of the state store that are added"`
	Filter    []FilterRule `key:"filter" about:"a message for which one of these is true is dropped"`
	Map       []MapRule    `key:"map" about:"the fields of the result"`
	Format    string       `key:"serializationFormat" one:"Json,Delta,Parquet" def:"Json" about:"the format of the result; Delta and Parquet are refused"`
	SchemaRef string       `key:"schemaRef" about:"aio-sr://[<namespace>/]<name>:<version>"`
}

// Dataset adds a record of the state store.
type Dataset struct {
	Where
	Key         string   `key:"key" must:"it is the key in the state store" about:"the key in the state store"`
	Inputs      []string `key:"inputs" must:"list the inputs of the expression" about:"the inputs of the expression"`
	Expression  string   `key:"expression" about:"true for the record that is added"`
	Description string   `key:"description" about:"a text for people"`
	SchemaRef   string   `key:"schemaRef" about:"aio-sr://[<namespace>/]<name>:<version>"`
}

// FilterRule drops messages.
type FilterRule struct {
	Where
	Inputs      []string `key:"inputs" must:"list the inputs of the expression" about:"the inputs of the expression"`
	Expression  string   `key:"expression" must:"it is true for messages that are dropped" about:"true for messages that are dropped"`
	Type        string   `key:"type" one:"Filter" about:"always Filter"`
	Description string   `key:"description" about:"a text for people"`
}

// MapRule makes a field of the result.
type MapRule struct {
	Where
	Inputs      []string `key:"inputs" must:"list the inputs of the expression" about:"the inputs of the expression"`
	Output      string   `key:"output" must:"it is the field that is written" about:"the field that is written" empty:"yes"`
	Expression  string   `key:"expression" about:"what is written; absent: the first input" empty:"yes"`
	Type        string   `key:"type" one:"NewProperties,Rename,Compute,PassThrough,BuiltInFunction" about:"a label"`
	Description string   `key:"description" about:"a text for people" empty:"yes"`
}

// Setting is one setting of an operator.
type Setting struct {
	Where
	Key   string          `key:"key" must:"it names the setting" about:"the name"`
	Value string          `key:"value" must:"it is the setting's text, in quotes or as a block behind |" about:"the text; of native operators: JSON" empty:"yes"`
	parts map[string]part // of a Dataflow: the places of what became the value
}

package manifest

// Object is what each document has: its name, and where it comes from.
type Object struct {
	Kind       Kind
	Name       string
	APIVersion string // empty in a body of Azure Resource Manager
	File       string `json:"-"`
	broken     bool   // an error concerns the document
}

// Beta says whether the document is of a preview of Azure IoT Operations.
func (o *Object) Beta() bool { return o.APIVersion == groupConnectivity+"v1beta1" }

// Kind is the kind of a document.
type Kind string

// The kinds that are known. Device, Asset and ConnectorTemplate are kept as they are, see [Raw].
const (
	KindEndpoint  Kind = "DataflowEndpoint"
	KindGraph     Kind = "DataflowGraph"
	KindDataflow  Kind = "Dataflow"
	KindProfile   Kind = "DataflowProfile"
	KindRegistry  Kind = "RegistryEndpoint"
	KindDevice    Kind = "Device"
	KindAsset     Kind = "Asset"
	KindConnector Kind = "ConnectorTemplate"
)

// EndpointType says what an endpoint talks to.
type EndpointType string

// The types of endpoints. The last three are read and refused.
const (
	TypeMqtt          EndpointType = "Mqtt"
	TypeKafka         EndpointType = "Kafka"
	TypeOpenTelemetry EndpointType = "OpenTelemetry"
	TypeLocalStorage  EndpointType = "LocalStorage"
	TypeDataLake      EndpointType = "DataLakeStorage"
	TypeDataExplorer  EndpointType = "DataExplorer"
	TypeOneLake       EndpointType = "FabricOneLake"
)

// The names of endpoints that every directory has: the device's durable outbox, and the assets of
// this process. They are hubhop's own.
const (
	EndpointHub   = "iothub"
	EndpointLocal = "local"
)

// Endpoint is a DataflowEndpoint. Exactly the block of its type is set.
type Endpoint struct {
	Object `json:"object"`
	Where
	Type          EndpointType   `key:"endpointType" must:"it says what the endpoint talks to" one:"Mqtt,Kafka,OpenTelemetry,LocalStorage,DataLakeStorage,DataExplorer,FabricOneLake" about:"what the endpoint talks to"`
	HostType      string         `key:"hostType" one:"LocalBroker,EventGrid,CustomMqtt,Eventhub,CustomKafka,FabricRT" about:"a label: which product the host is"`
	Mqtt          *Mqtt          `key:"mqttSettings" about:"an MQTT 5 broker"`
	Kafka         *Kafka         `key:"kafkaSettings" about:"Kafka, or Event Hubs by its Kafka interface"`
	OpenTelemetry *OpenTelemetry `key:"openTelemetrySettings" about:"an OpenTelemetry collector"`
	LocalStorage  *LocalStorage  `key:"localStorageSettings" about:"files of this machine"`
	DataLake      *Free          `key:"dataLakeStorageSettings" about:"read and refused: Azure Data Lake Storage"`
	DataExplorer  *Free          `key:"dataExplorerSettings" about:"read and refused: Azure Data Explorer"`
	OneLake       *Free          `key:"fabricOneLakeSettings" about:"read and refused: Microsoft Fabric OneLake"`
}

// Mqtt are the settings of an MQTT broker (Microsoft's page "Configure MQTT data flow endpoints").
type Mqtt struct {
	Where
	Host                 string         `key:"host" def:"aio-broker:18883" about:"name:port; with WebSockets a path may follow"`
	Protocol             string         `key:"protocol" one:"Mqtt,WebSockets" def:"Mqtt" about:"MQTT over TCP, or over WebSockets"`
	KeepAliveSeconds     int            `key:"keepAliveSeconds" min:"0" max:"65535" def:"60" about:"MQTT keep alive; 0 switches it off"`
	SessionExpirySeconds int            `key:"sessionExpirySeconds" min:"0" max:"4294967295" def:"3600" about:"how long the broker keeps the session"`
	MaxInflightMessages  int            `key:"maxInflightMessages" min:"1" max:"65535" def:"100" about:"receive maximum of a source; most unacknowledged messages of a destination"`
	QoS                  int            `key:"qos" min:"0" max:"1" def:"1" about:"quality of service of subscriptions and messages"`
	Retain               string         `key:"retain" one:"Keep,Never" def:"Keep" about:"whether the retain flag is kept from MQTT to MQTT"`
	ClientIDPrefix       string         `key:"clientIdPrefix" about:"what client ids begin with; absent: hubhop- and the device"`
	CloudEvents          string         `key:"cloudEventAttributes" one:"Propagate,CreateOrRemap" about:"what happens to the attributes of CloudEvents; absent: nothing"`
	TLS                  TLS            `key:"tls" about:"transport security"`
	Authentication       Authentication `key:"authentication" must:"write authentication with its method, such as method: Anonymous" about:"how the client proves who it is"`
}

// TLS are the settings of transport security.
type TLS struct {
	Where
	Mode         string `key:"mode" one:"Enabled,Disabled" def:"Enabled" about:"whether TLS is used"`
	CAsConfigMap string `key:"trustedCaCertificateConfigMapRef" about:"configmaps/<name> with trusted certificates as PEM; absent: the system's"`
}

// Enabled says whether TLS is used.
func (t *TLS) Enabled() bool { return t.Mode == "Enabled" }

// Method is a way to authenticate.
type Method string

// The methods. UsernamePassword is hubhop's own.
const (
	Anonymous           Method = "Anonymous"
	X509Certificate     Method = "X509Certificate"
	ServiceAccountToken Method = "ServiceAccountToken"
	SystemAssigned      Method = "SystemAssignedManagedIdentity"
	UserAssigned        Method = "UserAssignedManagedIdentity"
	Sasl                Method = "Sasl"
	AccessToken         Method = "AccessToken"
	ArtifactPullSecret  Method = "ArtifactPullSecret"
	UsernamePassword    Method = "UsernamePassword"
)

// Authentication is how a client proves who it is. The block of the method is set, and no other.
type Authentication struct {
	Where
	Method              Method      `key:"method" must:"it says how to authenticate, such as method: Anonymous" one:"Anonymous,X509Certificate,ServiceAccountToken,SystemAssignedManagedIdentity,UserAssignedManagedIdentity,Sasl,AccessToken,ArtifactPullSecret,UsernamePassword" old:"Kubernetes:ServiceAccountToken" about:"how the client authenticates"`
	Anonymous           *Nothing    `key:"anonymousSettings" about:"nothing"`
	X509                *SecretRef  `key:"x509CertificateSettings" about:"a client certificate: keys client_cert.pem, client_key.pem and client_intermediate_certs.pem of the secret"`
	ServiceAccountToken *Audience   `key:"serviceAccountTokenSettings" about:"the token in secrets/serviceaccount/token"`
	SystemAssigned      *SystemID   `key:"systemAssignedManagedIdentitySettings" about:"a managed identity of the machine"`
	UserAssigned        *UserID     `key:"userAssignedManagedIdentitySettings" about:"a managed identity that is named"`
	Sasl                *SaslSecret `key:"saslSettings" about:"user name and password for Kafka"`
	AccessToken         *SecretRef  `key:"accessTokenSettings" about:"a token for Data Lake Storage"`
	PullSecret          *SecretRef  `key:"artifactPullSecretSettings" about:"the key .dockerconfigjson of the secret"`
	UsernamePassword    *SecretRef  `key:"usernamePasswordSettings" own:"yes" about:"hubhop's own: the keys username and password of the secret"`
}

// Secret returns the name of the secret that the method reads; empty: none.
func (a *Authentication) Secret() string {
	switch {
	case a.Method == X509Certificate && a.X509 != nil:
		return a.X509.SecretRef
	case a.Method == Sasl && a.Sasl != nil:
		return a.Sasl.SecretRef
	case a.Method == ArtifactPullSecret && a.PullSecret != nil:
		return a.PullSecret.SecretRef
	case a.Method == UsernamePassword && a.UsernamePassword != nil:
		return a.UsernamePassword.SecretRef
	}
	return ""
}

// Nothing is an object without keys.
type Nothing struct{ Where }

// SecretRef names a secret: the directory secrets/<name> with a file for each key.
type SecretRef struct {
	Where
	SecretRef string `key:"secretRef" must:"it names the directory below secrets/" about:"the directory below secrets/"`
}

// Audience is who a service account's token is for.
type Audience struct {
	Where
	Audience string `key:"audience" must:"it says who the token is for" about:"who the token is for"`
}

// SystemID are the settings of a system-assigned managed identity. ExtensionName and TenantID are
// of registry endpoints.
type SystemID struct {
	Where
	Audience      string `key:"audience" about:"who the token is for; absent: the default of the endpoint"`
	ExtensionName string `key:"extensionName" about:"of a registry endpoint: the Arc extension"`
	TenantID      string `key:"tenantId" about:"of a registry endpoint: the tenant"`
}

// UserID are the settings of a user-assigned managed identity.
type UserID struct {
	Where
	ClientID string `key:"clientId" must:"it names the identity" about:"the client id of the identity"`
	TenantID string `key:"tenantId" must:"it names the tenant of the identity" about:"the tenant of the identity"`
	Scope    string `key:"scope" about:"what the token is for; absent: the audience and /.default"`
}

// SaslSecret is a SASL mechanism, and a secret with the keys username and password.
type SaslSecret struct {
	Where
	SaslType  string `key:"saslType" must:"it is Plain, ScramSha256 or ScramSha512" one:"Plain,ScramSha256,ScramSha512" about:"the SASL mechanism"`
	SecretRef string `key:"secretRef" must:"it names the directory below secrets/" about:"the directory below secrets/"`
}

// Kafka are the settings of Kafka (Microsoft's page "Configure Azure Event Hubs and Kafka data flow
// endpoints").
type Kafka struct {
	Where
	Host                 string         `key:"host" must:"it is the bootstrap server as name:port" about:"the bootstrap server, name:port"`
	ConsumerGroupID      string         `key:"consumerGroupId" about:"the consumer group; a source needs it"`
	Compression          string         `key:"compression" one:"None,Gzip,Snappy,Lz4" def:"None" about:"how batches are compressed"`
	Batching             KafkaBatching  `key:"batching" about:"when batches are sent"`
	KafkaAcks            string         `key:"kafkaAcks" one:"All,One,Zero,None" def:"All" about:"whose acknowledgement counts; None is another word for Zero"`
	PartitionStrategy    string         `key:"partitionStrategy" one:"Default,Static,Topic,Property" def:"Default" about:"how a partition is chosen"`
	PartitionKeyProperty string         `key:"partitionKeyProperty" about:"the user property with the key, for the strategy Property"`
	CopyMqttProperties   string         `key:"copyMqttProperties" one:"Enabled,Disabled" def:"Enabled" about:"whether MQTT properties become headers"`
	CloudEvents          string         `key:"cloudEventAttributes" one:"Propagate,CreateOrRemap" about:"what happens to the attributes of CloudEvents; absent: nothing"`
	TLS                  TLS            `key:"tls" about:"transport security"`
	Authentication       Authentication `key:"authentication" must:"write authentication with its method, such as method: Sasl" about:"how the client proves who it is"`
}

// KafkaBatching says when a batch is sent: at whichever bound comes first.
type KafkaBatching struct {
	Where
	Mode        string `key:"mode" one:"Enabled,Disabled" def:"Enabled" about:"Disabled: each message is a batch"`
	LatencyMs   int    `key:"latencyMs" min:"0" max:"65535" def:"5" about:"milliseconds that a message waits at most"`
	MaxMessages int    `key:"maxMessages" min:"1" max:"4294967295" def:"100000" about:"messages of a batch"`
	MaxBytes    int    `key:"maxBytes" min:"1" max:"4294967295" def:"1000000" about:"bytes of a batch"`
}

// OpenTelemetry are the settings of a collector (Microsoft's page "Configure OpenTelemetry data
// flow endpoints").
type OpenTelemetry struct {
	Where
	Host           string         `key:"host" must:"it is the collector, such as https://collector:4317 or collector:4317" about:"the collector: name:port, or a URL with http or https"`
	Batching       Batching       `key:"batching" about:"when batches are sent"`
	TLS            TLS            `key:"tls" about:"transport security"`
	Authentication Authentication `key:"authentication" must:"write authentication with its method, such as method: Anonymous" about:"how the client proves who it is"`
}

// Batching says when a batch is sent: at whichever bound comes first.
type Batching struct {
	Where
	LatencySeconds int `key:"latencySeconds" min:"0" max:"65535" def:"60" about:"seconds that a message waits at most"`
	MaxMessages    int `key:"maxMessages" min:"1" max:"4294967295" def:"100000" about:"messages of a batch"`
}

// LocalStorage are the settings of local files (Microsoft's page "Configure local storage").
type LocalStorage struct {
	Where
	Claim string `key:"persistentVolumeClaimRef" must:"it names the directory below volumes/" about:"the directory below volumes/"`
}

// Registry is a RegistryEndpoint (Microsoft's page "Configure registry endpoints").
type Registry struct {
	Object `json:"object"`
	Where
	Host           string          `key:"host" must:"it is the registry, such as mcr.microsoft.com" about:"the registry, with a path or without; or oci-layout:<dir> or dir:<dir>"`
	Authentication *Authentication `key:"authentication" about:"how the client proves who it is"`
	CodeSigningCAs []CodeSigningCA `key:"codeSigningCas" about:"read; signatures are not verified"`
}

// CodeSigningCA names certificates of those who sign artifacts.
type CodeSigningCA struct {
	Where
	Type         string `key:"type" must:"it is Secret or ConfigMap" one:"Secret,ConfigMap" about:"where the certificate is"`
	SecretRef    string `key:"secretRef" about:"the directory below secrets/"`
	ConfigMapRef string `key:"configMapRef" about:"the directory below configmaps/"`
}

// Profile is a DataflowProfile.
type Profile struct {
	Object `json:"object"`
	Where
	InstanceCount int         `key:"instanceCount" def:"1" min:"1" max:"1" about:"how many processes run the flows; one"`
	Diagnostics   Diagnostics `key:"diagnostics" about:"logs and metrics"`
}

// Diagnostics are the logs and metrics of the flows of a profile.
type Diagnostics struct {
	Where
	Logs    Logs    `key:"logs" about:"logs"`
	Metrics Metrics `key:"metrics" about:"metrics; read, and without effect"`
}

// Logs says how much is logged.
type Logs struct {
	Where
	Level string `key:"level" def:"info" about:"trace, debug, info, warn or error; also for targets, such as info,name=debug"`
}

// Metrics are read, and have no effect.
type Metrics struct {
	Where
	PrometheusPort int `key:"prometheusPort" min:"0" max:"65535" about:"without effect"`
}

// Raw is a document of a kind that another room reads: Device, Asset, ConnectorTemplate.
type Raw struct {
	Object `json:"object"`
	Where
	Spec Free // the object spec, or properties in a body of Azure Resource Manager
}

package manifest

import (
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/hubhop-iot/hubhop/internal/strict"
)

// checkEndpoint holds an endpoint to the rules that go beyond one value.
func checkEndpoint(d *strict.Decoder, e *Endpoint, o Object, name Pos) {
	if o.Name == EndpointHub || o.Name == EndpointLocal {
		d.Error(name, "endpoint-reserved", "the name %s belongs to hubhop's own endpoint; give this one another name", o.Name)
	}
	switch e.Type {
	case TypeDataLake, TypeDataExplorer, TypeOneLake:
		d.Error(e.At("endpointType"), "endpoint-cloud", "hubhop does not write to %s; send the messages to %s, and let the cloud route them on from there", e.Type, EndpointHub)
	default:
		e.block(d)
	}
	switch {
	case e.Mqtt != nil && e.Type == TypeMqtt:
		checkMqtt(d, e.Mqtt, e.HostType)
	case e.Kafka != nil && e.Type == TypeKafka:
		checkKafka(d, e.Kafka, e.HostType)
	case e.OpenTelemetry != nil && e.Type == TypeOpenTelemetry:
		checkOpenTelemetry(d, e.OpenTelemetry)
	case e.LocalStorage != nil && e.Type == TypeLocalStorage:
		checkRef(d, e.LocalStorage.Where, "persistentVolumeClaimRef", e.LocalStorage.Claim)
	}
}

// block checks that exactly the block of the endpoint's type is there.
func (e *Endpoint) block(d *strict.Decoder) {
	blocks := []struct {
		of    EndpointType
		key   string
		there bool
	}{
		{TypeMqtt, "mqttSettings", e.Mqtt != nil},
		{TypeKafka, "kafkaSettings", e.Kafka != nil},
		{TypeOpenTelemetry, "openTelemetrySettings", e.OpenTelemetry != nil},
		{TypeLocalStorage, "localStorageSettings", e.LocalStorage != nil},
		{TypeDataLake, "dataLakeStorageSettings", e.DataLake != nil},
		{TypeDataExplorer, "dataExplorerSettings", e.DataExplorer != nil},
		{TypeOneLake, "fabricOneLakeSettings", e.OneLake != nil},
	}
	for _, b := range blocks {
		switch {
		case e.Type == "":
		case b.of == e.Type && !b.there:
			d.Error(e.Pos(), "endpoint-settings", "an endpoint of the type %s needs %s; write it", e.Type, b.key)
		case b.of != e.Type && b.there:
			d.Error(e.At(b.key), "endpoint-settings", "%s does not belong to an endpoint of the type %s; remove it, or change endpointType", b.key, e.Type)
		}
	}
}

// checkHost checks name:port, and returns the name.
func checkHost(d *strict.Decoder, w Where, host, example string) string {
	at := w.At("host")
	if _, rest, ok := strings.Cut(host, "://"); ok {
		d.Error(at, "endpoint-host", "host has no scheme; write %s", strict.Clip(rest))
		return ""
	}
	name, port, err := net.SplitHostPort(host)
	if n, bad := strconv.Atoi(port); err != nil || bad != nil || n < 1 || n > 65535 || name == "" || strings.ContainsAny(name, "/ \t@") {
		d.Error(at, "endpoint-host", "host is %s, and should be a name and a port, such as %s", strict.Quoted(host), example)
		return ""
	}
	return name
}

func checkMqtt(d *strict.Decoder, m *Mqtt, hostType string) {
	host, path, hasPath := strings.Cut(m.Host, "/")
	if strings.Contains(m.Host, "://") {
		host, hasPath = m.Host, false
	}
	if !m.Has("host") && m.Has("authentication") {
		d.Warn(m.Pos(), "mqtt-host", "without host this is the broker of Azure IoT Operations, %s; write the name and port of your broker", m.Host)
	} else if m.Host != "" {
		checkHost(d, m.Where, host, "broker.local:8883")
	}
	if hasPath && m.Protocol == "Mqtt" {
		d.Error(m.At("host"), "mqtt-path", "host has the path %s, and only WebSockets have one; write protocol: WebSockets, or remove the path", strict.Quoted("/"+path))
	}
	checkTLS(d, &m.TLS)
	checkAuthentication(d, &m.Authentication, &m.TLS, "Mqtt", Anonymous, X509Certificate, ServiceAccountToken, SystemAssigned, UserAssigned, UsernamePassword)
	if m.eventGrid(hostType) {
		if m.KeepAliveSeconds > 1160 {
			d.Error(m.At("keepAliveSeconds"), "event-grid", "Event Grid takes a keep alive of at most 1160 seconds; write a smaller number")
		}
		if !m.TLS.Enabled() {
			d.Error(m.TLS.At("mode"), "event-grid", "Event Grid speaks only TLS; write mode: Enabled")
		}
	}
}

// eventGrid says whether the broker is Event Grid, which has rules of its own.
func (m *Mqtt) eventGrid(hostType string) bool {
	return hostType == "EventGrid" || strings.Contains(m.Host, ".eventgrid.azure.net:")
}

func checkKafka(d *strict.Decoder, k *Kafka, hostType string) {
	name := ""
	if k.Host != "" {
		name = checkHost(d, k.Where, k.Host, "kafka.local:9092")
	}
	switch {
	case k.PartitionStrategy == "Property" && k.PartitionKeyProperty == "":
		d.Error(k.At("partitionStrategy"), "kafka-partition", "the strategy Property needs partitionKeyProperty, the name of the user property with the key; write it")
	case k.PartitionStrategy != "Property" && k.PartitionKeyProperty != "":
		d.Error(k.At("partitionKeyProperty"), "kafka-partition", "partitionKeyProperty has no effect with the strategy %s; write partitionStrategy: Property, or remove it", k.PartitionStrategy)
	}
	if k.KafkaAcks == "Zero" || k.KafkaAcks == "None" {
		d.Warn(k.At("kafkaAcks"), "kafka-acks", "with kafkaAcks: %s Kafka confirms nothing, and what it loses is lost; write All where no message may be lost", k.KafkaAcks)
	}
	if (hostType == "Eventhub" || hostType == "FabricRT" || strings.HasSuffix(name, ".servicebus.windows.net")) && (k.Compression == "Snappy" || k.Compression == "Lz4") {
		d.Error(k.At("compression"), "kafka-compression", "Event Hubs takes no %s; write Gzip or None", k.Compression)
	}
	checkTLS(d, &k.TLS)
	checkAuthentication(d, &k.Authentication, &k.TLS, "Kafka", Anonymous, X509Certificate, SystemAssigned, UserAssigned, Sasl)
}

func checkOpenTelemetry(d *strict.Decoder, o *OpenTelemetry) {
	if i := strings.Index(o.Host, "://"); i >= 0 {
		u, err := url.Parse(o.Host)
		switch {
		case err != nil || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
			d.Error(o.At("host"), "endpoint-host", "host is %s, and should be like https://collector.local:4317 or collector.local:4317", strict.Quoted(o.Host))
		case u.Scheme != "http" && u.Scheme != "https":
			d.Error(o.At("host"), "endpoint-host", "a collector has no scheme %s; write https, http, or name:port alone", strict.Quoted(u.Scheme))
		case u.Scheme == "http" && o.TLS.Enabled() && o.TLS.Has("mode"), u.Scheme == "https" && !o.TLS.Enabled():
			d.Error(o.At("host"), "otel-scheme", "host says %s and tls.mode says %s; make them agree", u.Scheme, o.TLS.Mode)
		case u.Port() == "":
			d.Error(o.At("host"), "endpoint-host", "host has no port; write %s:4317", strict.Clip(o.Host))
		}
	} else if o.Host != "" {
		checkHost(d, o.Where, o.Host, "collector.local:4317")
	}
	checkTLS(d, &o.TLS)
	tls := o.TLS
	if strings.HasPrefix(o.Host, "http://") {
		tls.Mode = "Disabled"
	}
	checkAuthentication(d, &o.Authentication, &tls, "OpenTelemetry", Anonymous, X509Certificate, ServiceAccountToken)
}

// UsesTLS says whether the collector is reached by TLS.
func (o *OpenTelemetry) UsesTLS() bool {
	return o.TLS.Enabled() && !strings.HasPrefix(o.Host, "http://")
}

func checkTLS(d *strict.Decoder, t *TLS) {
	if t.CAsConfigMap == "" {
		return
	}
	checkRef(d, t.Where, "trustedCaCertificateConfigMapRef", t.CAsConfigMap)
	if !t.Enabled() {
		d.Warn(t.At("trustedCaCertificateConfigMapRef"), "tls-cas", "without TLS no certificate is checked; write mode: Enabled, or remove trustedCaCertificateConfigMapRef")
	}
}

// checkProtected checks what must not travel without TLS.
func checkProtected(d *strict.Decoder, a *Authentication, t *TLS) {
	if t.Enabled() {
		return
	}
	switch a.Method {
	case X509Certificate:
		d.Error(a.At("method"), "x509-without-tls", "a client certificate is shown by TLS, and tls.mode is Disabled; write mode: Enabled")
	case ServiceAccountToken, SystemAssigned, UserAssigned, Sasl, UsernamePassword:
		d.Warn(a.At("method"), "secret-without-tls", "without TLS everybody on the way can read the secret of %s; write tls.mode: Enabled outside of your own machine", a.Method)
	case Anonymous, AccessToken, ArtifactPullSecret:
	}
}

// checkAuthentication checks the method, and that exactly its block is there.
func checkAuthentication(d *strict.Decoder, a *Authentication, t *TLS, of string, allowed ...Method) {
	if a.Method == "" {
		return
	}
	if !slices.Contains(allowed, a.Method) {
		var words []string
		for _, m := range allowed {
			words = append(words, string(m))
		}
		d.Error(a.At("method"), "method-of-another", "%s has no method %s; write %s", of, a.Method, strict.Listed(words))
		return
	}
	if t != nil {
		checkProtected(d, a, t)
	}
	if a.Method == UsernamePassword && d.Strict {
		d.Error(a.At("method"), "strict-method", "the method UsernamePassword is an addition of hubhop's, and Azure IoT Operations does not know it; use another")
	}
	blocks := []struct {
		of    Method
		key   string
		there bool
		bare  bool // may be left out
	}{
		{Anonymous, "anonymousSettings", a.Anonymous != nil, true},
		{X509Certificate, "x509CertificateSettings", a.X509 != nil, false},
		{ServiceAccountToken, "serviceAccountTokenSettings", a.ServiceAccountToken != nil, false},
		{SystemAssigned, "systemAssignedManagedIdentitySettings", a.SystemAssigned != nil, true},
		{UserAssigned, "userAssignedManagedIdentitySettings", a.UserAssigned != nil, false},
		{Sasl, "saslSettings", a.Sasl != nil, false},
		{AccessToken, "accessTokenSettings", a.AccessToken != nil, false},
		{ArtifactPullSecret, "artifactPullSecretSettings", a.PullSecret != nil, false},
		{UsernamePassword, "usernamePasswordSettings", a.UsernamePassword != nil, false},
	}
	for _, b := range blocks {
		switch {
		case b.of == a.Method && !b.there && !b.bare:
			d.Error(a.Pos(), "method-settings", "the method %s needs %s; write it", a.Method, b.key)
		case b.of != a.Method && b.there:
			d.Error(a.At(b.key), "method-settings", "%s does not belong to the method %s; remove it, or change method", b.key, a.Method)
		}
	}
	for _, s := range []*SecretRef{a.X509, a.AccessToken, a.PullSecret, a.UsernamePassword} {
		if s != nil {
			checkRef(d, s.Where, "secretRef", s.SecretRef)
		}
	}
	if a.Sasl != nil {
		checkRef(d, a.Sasl.Where, "secretRef", a.Sasl.SecretRef)
	}
	if s := a.SystemAssigned; s != nil && of != "a registry" {
		for _, key := range []string{"extensionName", "tenantId"} {
			if s.Has(key) {
				d.Error(s.At(key), "method-settings", "%s belongs to a registry endpoint; remove it", key)
			}
		}
	}
}

// checkRef checks the name of a secret, config map or volume: it is a directory below the
// manifests.
func checkRef(d *strict.Decoder, w Where, key, name string) {
	if name != "" && (len(name) > maxKubeName || !kubeName().MatchString(name)) {
		d.Error(w.At(key), "ref-form", "%s is no name for %s; take small letters, digits, hyphens and dots", strict.Quoted(name), key)
	}
}

// registryHost matches a registry: a name with a port or without, and a path or without.
var registryHost = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*/?$`)
})

// Local returns the directory of a registry that is one of this machine, relative to the manifests:
// oci-layout:<dir> or dir:<dir>. layout says whether it is an OCI image layout.
func (r *Registry) Local() (dir string, layout, ok bool) {
	if dir, ok := strings.CutPrefix(r.Host, "dir:"); ok {
		return dir, false, true
	}
	dir, ok = strings.CutPrefix(r.Host, "oci-layout:")
	return dir, ok, ok
}

func checkRegistry(d *strict.Decoder, r *Registry) {
	dir, _, local := r.Local()
	switch {
	case r.Host == "":
	case local && dir == "":
		d.Error(r.At("host"), "registry-host", "host names no directory; write one, such as dir:.")
	case local && d.Strict:
		d.Error(r.At("host"), "strict-registry", "local registries are an addition of hubhop's, and Azure IoT Operations does not know them; name a registry")
	case local:
	case strings.Contains(r.Host, "://"):
		d.Error(r.At("host"), "registry-host", "host has no scheme; write %s", strict.Clip(r.Host[strings.Index(r.Host, "://")+3:]))
	case len(r.Host) < 3 || len(r.Host) > 63:
		d.Error(r.At("host"), "registry-host", "host has %d characters, and must have 3 to 63; write the registry's name, with a path or without", len(r.Host))
	case !registryHost().MatchString(r.Host):
		d.Error(r.At("host"), "registry-host", "host is %s, and should be like mcr.microsoft.com or ghcr.io/owner", strict.Quoted(r.Host))
	}
	switch {
	case r.Authentication != nil:
		checkAuthentication(d, r.Authentication, nil, "a registry", Anonymous, SystemAssigned, UserAssigned, ArtifactPullSecret)
	case !local:
		d.Error(r.Pos(), "missing-key", "spec has no authentication; write authentication with its method, such as method: Anonymous")
	}
	if len(r.CodeSigningCAs) > 0 {
		d.Warn(r.At("codeSigningCas"), "registry-signing", "hubhop does not verify signatures; codeSigningCas has no effect")
	}
	for i := range r.CodeSigningCAs {
		c := &r.CodeSigningCAs[i]
		if c.Type == "Secret" && (c.SecretRef == "" || c.ConfigMapRef != "") || c.Type == "ConfigMap" && (c.ConfigMapRef == "" || c.SecretRef != "") {
			d.Error(c.Pos(), "registry-signing", "the type %s needs its own reference and no other; write secretRef for Secret, configMapRef for ConfigMap", c.Type)
		}
	}
}

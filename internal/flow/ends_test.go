package flow

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
	collectormetrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	"google.golang.org/grpc"
	grpccredentials "google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/hubhop-iot/hubhop/internal/flow/endpoint/endtest"
)

// manifestsOf is a directory of manifests with secrets, which a test fills.
type manifestsOf struct {
	t   *testing.T
	dir string
}

func newManifests(t *testing.T, pki *endtest.Authority) manifestsOf {
	d := manifestsOf{t, t.TempDir()}
	d.write("configmaps/ca/root.pem", pki.PEM)
	return d
}

func (d manifestsOf) write(name, text string) {
	d.t.Helper()
	path := filepath.Join(d.dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		d.t.Fatal(err)
	}
	endtest.WriteFile(d.t, path, text)
}

// client writes a client certificate as the secret cert.
func (d manifestsOf) client(pki *endtest.Authority, right bool) {
	d.t.Helper()
	dir := filepath.Join(d.dir, "secrets", "cert")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		d.t.Fatal(err)
	}
	pki.WriteClient(d.t, dir, right)
}

// endpoint writes an endpoint of a type. settings are indented by four blanks.
func (d manifestsOf) endpoint(name, kind, block, settings string) {
	d.write(name+".yaml", fmt.Sprintf(`apiVersion: connectivity.iotoperations.azure.com/v1
kind: DataflowEndpoint
metadata:
  name: %s
spec:
  endpointType: %s
  %s:
%s`, name, kind, block, settings))
}

// flow writes a data flow from the topic in to the topic out.
func (d manifestsOf) flow(from, to string) {
	d.write("through.yaml", fmt.Sprintf(`apiVersion: connectivity.iotoperations.azure.com/v1
kind: Dataflow
metadata:
  name: through
spec:
  operations:
    - operationType: Source
      sourceSettings:
        endpointRef: %s
        dataSources:
          - in
    - operationType: Destination
      destinationSettings:
        endpointRef: %s
        dataDestination: out
`, from, to))
}

// run runs the flows until the test ends, as hubhop run --flows does. await waits until the log
// says a text.
func (d manifestsOf) run() (m *Manager, await func(text string)) {
	var mu sync.Mutex
	var all []string
	more := make(chan struct{}, 1)
	m, err := New(Options{Dir: d.dir, StateDir: d.t.TempDir(), Log: func(_ bool, flow, text string) {
		mu.Lock()
		defer mu.Unlock()
		all = append(all, flow+": "+text)
		select {
		case more <- struct{}{}:
		default:
		}
	}})
	if err != nil {
		d.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = m.Run(ctx) })
	d.t.Cleanup(func() {
		stop()
		running.Wait()
		if d.t.Failed() {
			d.t.Logf("%+v\n%s", m.Status(), strings.Join(all, "\n"))
		}
	})
	return m, func(text string) {
		d.t.Helper()
		late := time.After(time.Minute)
		for {
			mu.Lock()
			found := strings.Contains(strings.Join(all, "\n"), text)
			mu.Unlock()
			if found {
				return
			}
			select {
			case <-more:
			case <-late:
				d.t.Fatalf("the log does not say %q", text)
			}
		}
	}
}

// TestKafkaIsReachedWithEachMethodThroughItsManifest: first with what does not fit, which the log
// names, and then with what a person has mended meanwhile, without a restart.
func TestKafkaIsReachedWithEachMethodThroughItsManifest(t *testing.T) {
	pki := endtest.New(t)
	server := &tls.Config{Certificates: []tls.Certificate{pki.Server}, MinVersion: tls.VersionTLS12}
	mutual := server.Clone()
	mutual.ClientAuth, mutual.ClientCAs = tls.RequireAndVerifyClientCert, pki.Pool
	sasl := func(kind string) string {
		return "      method: Sasl\n      saslSettings:\n        saslType: " + kind + "\n        secretRef: me\n"
	}
	password := func(d manifestsOf, right bool) {
		d.write("secrets/me/username", "u\n")
		d.write("secrets/me/password", map[bool]string{true: "right\n", false: "wrong\n"}[right])
	}
	trusts := &tls.Config{RootCAs: pki.Pool}
	for _, c := range []struct {
		name, authentication string
		cluster              []kfake.Opt
		outsider             []kgo.Opt // of a client of others, which has what it needs
		secret               func(d manifestsOf, right bool)
		says                 string // with what does not fit
		encrypted            bool
	}{
		{"Plain", sasl("Plain"), []kfake.Opt{kfake.EnableSASL(), kfake.Superuser("PLAIN", "u", "right")},
			[]kgo.Opt{kgo.SASL(plain.Auth{User: "u", Pass: "right"}.AsMechanism())}, password, "check the authentication", false},
		{"ScramSha256", sasl("ScramSha256"), []kfake.Opt{kfake.EnableSASL(), kfake.Superuser("SCRAM-SHA-256", "u", "right")},
			[]kgo.Opt{kgo.SASL(scram.Auth{User: "u", Pass: "right"}.AsSha256Mechanism())}, password, "check the authentication", false},
		{"ScramSha512 with TLS", sasl("ScramSha512"), []kfake.Opt{kfake.EnableSASL(), kfake.Superuser("SCRAM-SHA-512", "u", "right"), kfake.TLS(server)},
			[]kgo.Opt{kgo.SASL(scram.Auth{User: "u", Pass: "right"}.AsSha512Mechanism()), kgo.DialTLSConfig(trusts)}, password, "check the authentication", true},
		{"a secret that is not there", sasl("Plain"), []kfake.Opt{kfake.EnableSASL(), kfake.Superuser("PLAIN", "u", "right"), kfake.TLS(server)},
			[]kgo.Opt{kgo.SASL(plain.Auth{User: "u", Pass: "right"}.AsMechanism()), kgo.DialTLSConfig(trusts)}, func(d manifestsOf, right bool) {
				if right {
					password(d, true)
				}
			}, "the secret me has no file username, because the directory is not there", true},
		{"Anonymous with TLS", "      method: Anonymous\n", []kfake.Opt{kfake.TLS(server)}, []kgo.Opt{kgo.DialTLSConfig(trusts)}, func(d manifestsOf, right bool) {
			d.write("configmaps/ca/root.pem", map[bool]string{true: pki.PEM, false: endtest.New(t).PEM}[right])
		}, "set tls.trustedCaCertificateConfigMapRef", true},
		{"X509Certificate", "      method: X509Certificate\n      x509CertificateSettings:\n        secretRef: cert\n", []kfake.Opt{kfake.TLS(mutual)},
			[]kgo.Opt{kgo.DialTLSConfig(&tls.Config{RootCAs: pki.Pool, Certificates: []tls.Certificate{pki.Server}})},
			func(d manifestsOf, right bool) { d.client(pki, right) }, "the client certificate", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cluster, err := kfake.NewCluster(append(c.cluster, kfake.NumBrokers(1), kfake.SeedTopics(1, "in", "out"))...)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(cluster.Close)
			d := newManifests(t, pki)
			security := "    tls:\n      mode: Disabled\n"
			if c.encrypted {
				security = "    tls:\n      mode: Enabled\n      trustedCaCertificateConfigMapRef: ca\n"
			}
			d.endpoint("kafka", "Kafka", "kafkaSettings", "    host: "+cluster.ListenAddrs()[0]+"\n    consumerGroupId: g\n"+security+"    authentication:\n"+c.authentication)
			d.flow("kafka", "kafka")
			c.secret(d, false)
			m, await := d.run()
			await(c.says)
			if st := m.Status(); !strings.Contains(st[0].Text, c.says) {
				t.Errorf("the status does not say %q: %+v", c.says, st)
			}
			c.secret(d, true)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			outsider, err := kgo.NewClient(append(c.outsider, kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.ConsumeTopics("out"))...)
			if err != nil {
				t.Fatal(err)
			}
			defer outsider.Close()
			if err := outsider.ProduceSync(ctx, &kgo.Record{Topic: "in", Value: []byte("body")}).FirstErr(); err != nil {
				t.Fatal(err)
			}
			got := outsider.PollFetches(ctx).Records()
			if len(got) != 1 || string(got[0].Value) != "body" {
				t.Errorf("%v came through the flow", got)
			}
		})
	}
}

// TestACollectorIsReachedWithEachMethodThroughItsManifest.
func TestACollectorIsReachedWithEachMethodThroughItsManifest(t *testing.T) {
	pki := endtest.New(t)
	security := &tls.Config{Certificates: []tls.Certificate{pki.Server}, ClientCAs: pki.Pool, MinVersion: tls.VersionTLS12}
	for _, c := range []struct {
		name, authentication string
		client               tls.ClientAuthType
		secret               func(d manifestsOf, right bool)
		says                 string // with what does not fit
		want                 seen
	}{
		{"Anonymous", "      method: Anonymous\n", tls.NoClientCert, func(d manifestsOf, right bool) {
			d.write("configmaps/ca/root.pem", map[bool]string{true: pki.PEM, false: endtest.New(t).PEM}[right])
		}, "set tls.trustedCaCertificateConfigMapRef", seen{"m", "", 0}},
		{"X509Certificate", "      method: X509Certificate\n      x509CertificateSettings:\n        secretRef: cert\n", tls.RequireAndVerifyClientCert,
			func(d manifestsOf, right bool) { d.client(pki, right) }, "the client certificate", seen{"m", "", 2}},
		{"ServiceAccountToken", "      method: ServiceAccountToken\n      serviceAccountTokenSettings:\n        audience: a\n", tls.NoClientCert, func(d manifestsOf, right bool) {
			if right {
				d.write("secrets/serviceaccount/token", "sat\n")
			}
		}, "have the token written there", seen{"m", "Bearer sat", 0}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			conf := security.Clone()
			conf.ClientAuth = c.client
			s, collector := grpc.NewServer(grpc.Creds(grpccredentials.NewTLS(conf))), collectorOf{got: make(chan seen, 1)}
			collectormetrics.RegisterMetricsServiceServer(s, collector)
			go func() { _ = s.Serve(l) }()
			t.Cleanup(s.Stop)

			cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "in"))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(cluster.Close)
			outsider, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...))
			if err != nil {
				t.Fatal(err)
			}
			defer outsider.Close()
			record := &kgo.Record{Topic: "in", Value: []byte(`{"metrics":[{"name":"m","type":"i64_gauge","value":1}]}`)}
			if err := outsider.ProduceSync(t.Context(), record).FirstErr(); err != nil {
				t.Fatal(err)
			}

			d := newManifests(t, pki)
			d.endpoint("kafka", "Kafka", "kafkaSettings", "    host: "+cluster.ListenAddrs()[0]+
				"\n    consumerGroupId: g\n    tls:\n      mode: Disabled\n    authentication:\n      method: Anonymous\n")
			d.endpoint("collector", "OpenTelemetry", "openTelemetrySettings", "    host: https://"+l.Addr().String()+
				"\n    batching:\n      maxMessages: 1\n    tls:\n      mode: Enabled\n      trustedCaCertificateConfigMapRef: ca\n    authentication:\n"+c.authentication)
			d.flow("kafka", "collector")
			c.secret(d, false)
			m, await := d.run()
			await(c.says)
			if st := m.Status(); !strings.Contains(st[0].Text, c.says) {
				t.Errorf("the status does not say %q: %+v", c.says, st)
			}
			c.secret(d, true)
			select {
			case got := <-collector.got:
				if got != c.want {
					t.Errorf("the collector has seen %+v, want %+v", got, c.want)
				}
			case <-time.After(time.Minute):
				t.Error("nothing comes to the collector")
			}
		})
	}
}

// doorman lets clients into a broker.
type doorman struct {
	mochi.HookBase
	lets func(p packets.Packet) bool
}

func (*doorman) ID() string { return "doorman" }
func (*doorman) Provides(b byte) bool {
	return b == mochi.OnConnectAuthenticate || b == mochi.OnACLCheck
}

func (d *doorman) OnConnectAuthenticate(_ *mochi.Client, p packets.Packet) bool { return d.lets(p) }
func (*doorman) OnACLCheck(*mochi.Client, string, bool) bool                    { return true }

// TestABrokerIsReachedWithEachMethodThroughItsManifest.
func TestABrokerIsReachedWithEachMethodThroughItsManifest(t *testing.T) {
	pki := endtest.New(t)
	everybody := func(packets.Packet) bool { return true }
	for _, c := range []struct {
		name, authentication string
		client               tls.ClientAuthType
		lets                 func(p packets.Packet) bool
		secret               func(d manifestsOf, right bool)
		says                 string // with what does not fit
	}{
		{"Anonymous", "      method: Anonymous\n", tls.NoClientCert, everybody, func(d manifestsOf, right bool) {
			d.write("configmaps/ca/root.pem", map[bool]string{true: pki.PEM, false: endtest.New(t).PEM}[right])
		}, "set tls.trustedCaCertificateConfigMapRef"},
		{"X509Certificate", "      method: X509Certificate\n      x509CertificateSettings:\n        secretRef: cert\n", tls.RequireAndVerifyClientCert, everybody,
			func(d manifestsOf, right bool) { d.client(pki, right) }, "the client certificate"},
		{"UsernamePassword", "      method: UsernamePassword\n      usernamePasswordSettings:\n        secretRef: me\n", tls.NoClientCert, func(p packets.Packet) bool {
			return string(p.Connect.Username) == "u" && string(p.Connect.Password) == "right"
		}, func(d manifestsOf, right bool) {
			d.write("secrets/me/username", "u\n")
			d.write("secrets/me/password", map[bool]string{true: "right\n", false: "wrong\n"}[right])
		}, "check the credentials (method UsernamePassword)"},
		{"ServiceAccountToken", "      method: ServiceAccountToken\n      serviceAccountTokenSettings:\n        audience: a\n", tls.NoClientCert, func(p packets.Packet) bool {
			return p.Properties.AuthenticationMethod == "K8S-SAT" && string(p.Properties.AuthenticationData) == "right"
		}, func(d manifestsOf, right bool) {
			d.write("secrets/serviceaccount/token", map[bool]string{true: "right\n", false: "wrong\n"}[right])
		}, "check the credentials (method ServiceAccountToken)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			server := mochi.New(&mochi.Options{Logger: slog.New(slog.DiscardHandler), Capabilities: mochi.NewDefaultServerCapabilities(), InlineClient: true})
			l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pki.Server}, ClientAuth: c.client, ClientCAs: pki.Pool, MinVersion: tls.VersionTLS12})
			if err != nil {
				t.Fatal(err)
			}
			for _, err := range []error{server.AddHook(&doorman{lets: c.lets}, nil), server.AddListener(listeners.NewNet("tls", l)), server.Serve()} {
				if err != nil {
					t.Fatal(err)
				}
			}
			t.Cleanup(func() { _ = server.Close() })
			got := make(chan string, 10)
			if err := server.Subscribe("out", 1, func(_ *mochi.Client, _ packets.Subscription, p packets.Packet) { got <- string(p.Payload) }); err != nil {
				t.Fatal(err)
			}
			if err := server.Publish("in", []byte("body"), true, 1); err != nil { // retained, for who comes later
				t.Fatal(err)
			}
			d := newManifests(t, pki)
			d.endpoint("broker", "Mqtt", "mqttSettings", "    host: "+l.Addr().String()+
				"\n    tls:\n      mode: Enabled\n      trustedCaCertificateConfigMapRef: ca\n    authentication:\n"+c.authentication)
			d.flow("broker", "broker")
			c.secret(d, false)
			_, await := d.run()
			await(c.says)
			c.secret(d, true)
			select {
			case body := <-got:
				if body != "body" {
					t.Errorf("%q came through the flow", body)
				}
			case <-time.After(time.Minute):
				t.Error("nothing comes through the flow")
			}
		})
	}
}

// collectorOf is an OTLP receiver on a real socket.
type collectorOf struct {
	collectormetrics.UnimplementedMetricsServiceServer
	got chan seen
}

// seen is a request of a client.
type seen struct {
	metric, authorization string
	certificates          int // that the client has shown
}

func (c collectorOf) Export(ctx context.Context, r *collectormetrics.ExportMetricsServiceRequest) (*collectormetrics.ExportMetricsServiceResponse, error) {
	s := seen{metric: r.GetResourceMetrics()[0].GetScopeMetrics()[0].GetMetrics()[0].GetName()}
	if md, _ := metadata.FromIncomingContext(ctx); len(md.Get("authorization")) == 1 {
		s.authorization = md.Get("authorization")[0]
	}
	if p, ok := peer.FromContext(ctx); ok {
		if info, ok := p.AuthInfo.(grpccredentials.TLSInfo); ok {
			s.certificates = len(info.State.PeerCertificates)
		}
	}
	c.got <- s
	return &collectormetrics.ExportMetricsServiceResponse{}, nil
}

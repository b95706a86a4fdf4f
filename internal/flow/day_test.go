package flow

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/dps"
	"github.com/hubhop-iot/hubhop/hub"
	"github.com/hubhop-iot/hubhop/internal/device"
	"github.com/hubhop-iot/hubhop/internal/flow/endpoint/mqtt"
	"github.com/hubhop-iot/hubhop/internal/flow/node"
	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/internal/memnet"
	"github.com/hubhop-iot/hubhop/internal/sim"
	"github.com/hubhop-iot/hubhop/internal/virtual"
	"github.com/hubhop-iot/hubhop/telemetry"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

// endpointOf is the manifest of an endpoint that is a broker.
func endpointOf(name, address string) string {
	return `---
apiVersion: connectivity.iotoperations.azure.com/v1
kind: DataflowEndpoint
metadata: {name: ` + name + `}
spec:
  endpointType: Mqtt
  mqttSettings:
    host: ` + address + `
    maxInflightMessages: 2000
    tls: {mode: Disabled}
    authentication: {method: Anonymous, anonymousSettings: {}}
`
}

// graphOf is the manifest of a graph with one operator, for the iothub. settings are pairs of a key
// and its JSON.
func graphOf(name, endpoint, topics, operator, transform string, settings ...string) string {
	var configuration strings.Builder
	for i := 0; i < len(settings); i += 2 {
		fmt.Fprintf(&configuration, "          - {key: %s, value: '%s'}\n", settings[i], settings[i+1])
	}
	return `---
apiVersion: connectivity.iotoperations.azure.com/v1
kind: DataflowGraph
metadata: {name: ` + name + `}
spec:
  nodes:
    - {nodeType: Source, name: in, sourceSettings: {endpointRef: ` + endpoint + `, dataSources: [` + topics + `]}}
    - nodeType: Graph
      name: ` + operator + `
      graphSettings:
        registryEndpointRef: default
        artifact: azureiotoperations/graph-dataflow-` + transform + `:1.0.0
        configuration:
` + configuration.String() + `    - {nodeType: Destination, name: cloud, destinationSettings: {endpointRef: iothub, dataDestination: telemetry}}
  nodeConnections:
    - {from: {name: in}, to: {name: ` + operator + `}}
    - {from: {name: ` + operator + `}, to: {name: cloud}}
`
}

// minutes is the manifest of a graph that counts what comes in a minute.
func minutes(topics string) string {
	return graphOf("minutes", "default", topics, "minute", "window", "delay", `{"type": "duration", "delaySeconds": 60}`, "rules", `{"accumulate": [`+
		`{"inputs": ["n"], "output": "first", "expression": "min($1)"}, {"inputs": ["n"], "output": "last", "expression": "max($1)"}, `+
		`{"inputs": ["n"], "output": "count", "expression": "count($1)"}]}`)
}

// dayManifests are an endpoint and a window of a minute, for the iothub.
var dayManifests = endpointOf("default", brokerAddress) + minutes("sensors/+")

// world is a broker, flows, a device and a cloud in one process, in virtual time.
type world struct {
	t      *testing.T
	wire   *memnet.Net
	cloud  *sim.Sim
	broker *broker
	dev    *device.Device
	flows  *Manager
	state  string
	said   said

	mu      sync.Mutex
	severed bool
	conns   []net.Conn // of the flows
}

// dial is the way of the flows to their broker.
func (w *world) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.severed {
		return nil, &net.OpError{Op: "dial", Net: network, Err: os.NewSyscallError("connect", syscall.ENETUNREACH)}
	}
	conn, err := w.wire.DialContext(ctx, network, addr)
	if err == nil {
		w.conns = append(w.conns, conn)
	}
	return conn, err
}

// sever takes the flows' way to the broker away, or gives it back. Others keep theirs.
func (w *world) sever(away bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.severed = away
	if away {
		for _, conn := range w.conns {
			_ = conn.Close()
		}
		w.conns = nil
	}
}

// inWorld runs f in a world of its own. The flows are those of the manifests; change, which may be
// nil, changes the device before it starts.
func inWorld(t *testing.T, manifests string, change func(*device.Config), f func(t *testing.T, w *world)) {
	t.Helper()
	dir, state := t.TempDir(), virtual.Dir(t)
	if err := os.WriteFile(filepath.Join(dir, "flows.yaml"), []byte(manifests), 0o600); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, state: state}
		w.wire, w.cloud = virtual.Cloud(t, nil)
		w.broker = &broker{t: t, wire: w.wire}
		w.broker.start()
		info := w.cloud.Info()
		shared := &device.Shared{
			Agent: "test", Roots: w.cloud.CAPool(), DialContext: w.wire.DialContext, Rand: rand.New(rand.NewPCG(7, 7)), Journal: new(journal.Journal),
			Config: device.Config{
				ProvisioningHost: info.ProvisioningHost, ProvisioningTransport: dps.MQTT, MethodTimeout: 25 * time.Second, DrainTimeout: 30 * time.Second,
				Outbox: outbox.Options{MaxBytes: 64 << 20, Machine: "test", Full: outbox.Block}, Link: hub.Options{KeepAlive: 20 * time.Second, TokenLife: time.Hour},
				Drain: telemetry.DrainOptions{Window: 64},
			},
		}
		id := device.Identity{DeviceID: "dev-1", IDScope: info.IDScope, Key: base64.StdEncoding.EncodeToString(w.cloud.DeviceKey("dev-1")), StateDir: state}
		if change != nil {
			change(&shared.Config)
		}
		w.dev = device.New(shared, id, device.App{})
		if _, err := w.dev.Open(); err != nil {
			t.Fatal(err)
		}
		var err error
		if w.flows, err = New(Options{Dir: dir, StateDir: filepath.Join(state, "flows"), Hub: w.dev, Log: w.said.add, DialContext: w.dial}); err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- w.dev.Run(ctx) }()
		w.flows.reload(ctx) // the watcher waits for the kernel, which virtual time cannot
		synctest.Wait()
		defer func() {
			w.flows.stopAll()
			_ = w.flows.store.Close()
			stop()
			if err := <-ended; err != nil {
				t.Errorf("the device ended with %v", err)
			}
			w.broker.stop()
			if t.Failed() {
				for _, text := range w.said.texts() {
					t.Log(text)
				}
			}
		}()
		f(t, w)
	})
}

// move moves the device to the other hub, or back.
func (w *world) move(away bool) error {
	if away {
		return w.cloud.Failover("dev-1", 0)
	}
	return w.cloud.Failback("dev-1")
}

// publisher publishes with QoS 1, again and again until the broker has a message.
type publisher struct {
	*mqtt.Destination
	mu      sync.Mutex
	done    int
	refused []error
}

// publisher starts a publisher. It ends when stop is called.
func (w *world) publisher(name string) (p *publisher, stop func()) {
	w.t.Helper()
	c := mqtt.Defaults()
	c.Name, c.Host, c.ClientID, c.DialContext, c.MaxInflight = name, brokerAddress, name, w.wire.DialContext, 1000
	d, err := mqtt.NewDestination(c)
	if err != nil {
		w.t.Fatal(err)
	}
	p = &publisher{Destination: d}
	ctx, cancel := context.WithCancel(w.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	return p, func() {
		cancel()
		if err := <-ended; err != nil {
			w.t.Errorf("the publisher ended with %v", err)
		}
	}
}

// Done is that of node.Completion.
func (p *publisher) Done(tickets []uint64, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done += len(tickets)
	if err != nil {
		p.refused = append(p.refused, err)
	}
}

func (p *publisher) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.done
}

// publish publishes one message.
func (p *publisher) publish(ctx context.Context, ticket int, m node.Message) error {
	_, err := p.Send(ctx, []node.Message{m}, p, []uint64{uint64(ticket)})
	return err
}

// usage is what a process uses when nothing is to be done.
type usage struct {
	heap, files int64 // bytes
	goroutines  int
}

// use waits until nothing is to be done.
func (w *world) use() (u usage) {
	w.t.Helper()
	synctest.Wait()
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	err := filepath.WalkDir(w.state, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			u.files += info.Size()
		}
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	u.heap, u.goroutines = int64(m.HeapAlloc), runtime.NumGoroutine()
	return u
}

// hours is how long the day of a test is: a day with LONG_TESTS (make days), else two hours.
func hours() int {
	if os.Getenv("LONG_TESTS") != "" {
		return 24
	}
	return 2
}

// every is how many seconds lie between two messages of a day.
const every = 2

// TestEveryWindowOfADayArrives while each ten minutes the device moves to another hub at the moment
// when a window closes, and each hour the broker is away for 8 seconds, and its way to the flows
// for ten, while a window should close. Nothing grows meanwhile but the ledger.
func TestEveryWindowOfADayArrives(t *testing.T) {
	hours := hours()
	inWorld(t, dayManifests, nil, func(t *testing.T, w *world) {
		p, stop := w.publisher("generator")
		defer stop()
		began := time.Now()
		at := func(second int) time.Time { return began.Add(time.Duration(second) * time.Second) }
		var first usage
		for n := 0; n < hours*3600; n += every {
			time.Sleep(time.Until(at(n)))
			switch n % 3600 {
			case 910: // between two messages, so that the broker cannot take one twice
				time.Sleep(500 * time.Millisecond)
				w.broker.stop()
			case 918:
				time.Sleep(500 * time.Millisecond)
				w.broker.start()
			case 2514:
				w.sever(true)
			case 2524:
				w.sever(false)
			case 3596:
				if first == (usage{}) {
					first = w.use()
				}
			}
			m := node.Message{Topic: "sensors/a", Payload: fmt.Appendf(nil, `{"n":%d}`, n), Properties: []node.Property{{Key: "__ts", Value: node.TimeOf(at(n)).String()}}}
			if err := p.publish(t.Context(), n, m); err != nil {
				t.Fatal(err)
			}
			if n%600 == 0 && n > 0 {
				if err := w.move(n%1200 != 0); err != nil {
					t.Fatal(err)
				}
			}
		}
		time.Sleep(2 * time.Minute)
		last := w.use()
		t.Logf("after an hour %+v, after %d hours %+v", first, hours, last)
		w.windows(hours * 60)
		if last.goroutines != first.goroutines {
			t.Errorf("%d goroutines after an hour, %d at the end", first.goroutines, last.goroutines)
		}
		// The ledger keeps each window, in less than 2 kB; a leak of 100 bytes a message is 4 MB in
		// a day.
		if grown := last.heap - first.heap - int64(hours)*60*2000; grown > 1<<20 {
			t.Errorf("the memory has grown by %d bytes", grown)
		}
		if last.files > 4<<20 {
			t.Errorf("the files have %d bytes", last.files)
		}
		if s := p.Status(); p.count() != hours*3600/every || s.Connects != uint64(hours)+1 {
			t.Errorf("%d messages were published over %d connections", p.count(), s.Connects)
		}
		if s := w.flows.Status()[0]; s.State != Running || s.In != uint64(hours)*3600/every || s.Out != uint64(hours)*60 || s.Dropped+s.Errors > 0 || s.InFlight > 0 || s.Text != "" {
			t.Errorf("the flow is %+v", s)
		}
	})
}

// windows checks the ledger: each minute has its window with all its messages, in order, under an
// id of its own. What the device has sent to two hubs has the same id.
func (w *world) windows(minutes int) {
	w.t.Helper()
	type window struct{ First, Last, Count int }
	seen, hub, moves := map[string]bool{}, "", 0
	for _, m := range w.cloud.Ledger("dev-1", true).Messages {
		if m.Hub != hub {
			hub, moves = m.Hub, moves+1
		}
		id := ""
		if p := m.Properties["id"]; p != nil {
			id = *p
		}
		if seen[id] {
			continue // it was sent again
		}
		var got window
		if err := json.Unmarshal(m.Body, &got); err != nil {
			w.t.Fatalf("%s: %v", m.Body, err)
		}
		n := len(seen)
		if want := (window{n * 60, n*60 + 60 - every, 60 / every}); got != want {
			w.t.Errorf("window %d is %+v, want %+v", n, got, want)
		}
		if !strings.HasPrefix(id, "minutes/minute/") {
			w.t.Errorf("window %d has the id %q", n, id)
		}
		seen[id] = true
	}
	if len(seen) != minutes {
		w.t.Errorf("%d windows have arrived, want %d", len(seen), minutes)
	}
	if moves < minutes/10 {
		w.t.Errorf("the windows have come over %d hubs in a row, want one each ten minutes", moves)
	}
}

package device_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/device"
	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/internal/memnet"
	"github.com/hubhop-iot/hubhop/internal/sim"
	"github.com/hubhop-iot/hubhop/model"
	"github.com/hubhop-iot/hubhop/telemetry"
)

// kiln returns what a kiln does. The model names everything that appears here.
func kiln(m *model.Model) device.App {
	target := 20.0
	probe := telemetry.Every(time.Second, func(time.Time) ([]byte, error) {
		return []byte(`{"raw":7}`), nil
	})
	probe.Component = "probe"
	return device.App{
		Model: m,
		Sources: []telemetry.Source{
			probe,
			telemetry.Every(5*time.Second, func(time.Time) ([]byte, error) {
				return []byte(`{"heat":900}`), nil
			}),
		},
		Commands: map[string]device.Command{
			"open": {Handle: func(_ context.Context, r device.Request) (device.Answer, error) {
				if string(r.Value) == "0" {
					return device.Answer{}, device.Invalid(errors.New("0 degrees are not open"))
				}
				return device.Answer{Payload: json.RawMessage(`41`)}, nil
			}},
			"probe*calibrate": {Handle: func(context.Context, device.Request) (device.Answer, error) {
				return device.Answer{Status: 202}, nil
			}},
		},
		Desired: map[string]device.Desired{
			"target": {Apply: func(_ context.Context, r device.Request) (device.Ack, error) {
				if r.Value == nil { // the cloud has removed it
					target = 20
					return device.Ack{}, nil
				}
				return device.Ack{Description: "heating"}, json.Unmarshal(r.Value, &target)
			}},
		},
		Reported: map[string]device.Reported{
			"firings": {Every: time.Minute, Read: func(context.Context, device.Request) (any, error) {
				return 12, nil
			}},
		},
	}
}

// connect runs a device until ctx ends. dpsHost is where it asks for its hub.
func connect(ctx context.Context, shared *device.Shared, dpsHost string, id device.Identity, app device.App) error {
	shared.Config = device.DefaultConfig()
	shared.Config.ProvisioningHost = dpsHost
	shared.Config.Outbox.MaxBytes = 64 << 20
	if err := shared.Config.Validate(); err != nil {
		return err
	}
	return device.New(shared, id, app).Run(ctx)
}

// A device with an App of its own, on a simulated cloud.
func ExampleApp() {
	m, err := model.Parse([]byte(kilnModel))
	if err != nil {
		panic(err)
	}
	dir, err := os.MkdirTemp("", "example-*")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	net := memnet.New()
	conf := sim.DefaultConfig()
	conf.Layout, conf.Listen, conf.RetryAfter = sim.LayoutLoopback, net.Listen, 0
	cloud, err := sim.New(conf)
	if err != nil {
		panic(err)
	}
	if err := cloud.Start(); err != nil {
		panic(err)
	}
	defer func() { _ = cloud.Close() }()

	connected := make(chan struct{}, 1)
	heard := new(journal.Journal)
	heard.Sink(func(e journal.Event) {
		if e.Kind == journal.Acknowledged {
			connected <- struct{}{}
		}
	})
	shared := &device.Shared{Agent: "kiln/1.0", Roots: cloud.CAPool(), DialContext: net.DialContext, Journal: heard}
	id := device.Identity{DeviceID: "kiln-1", IDScope: cloud.Info().IDScope, StateDir: dir,
		Key: base64.StdEncoding.EncodeToString(cloud.DeviceKey("kiln-1"))}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- connect(ctx, shared, cloud.Info().ProvisioningHost, id, kiln(m)) }()
	<-connected

	for _, payload := range []string{"30", "0", `"far"`} {
		r, err := cloud.Method(ctx, "kiln-1", "open", json.RawMessage(payload))
		fmt.Println(r.Status, string(r.Payload), err)
	}
	stop()
	fmt.Println(<-ended)
	// Output: 200 41 <nil>
	// 400 {"message":"0 degrees are not open"} <nil>
	// 400 {"message":"command \"open\": the parameter is a string, expected integer (a JSON number, without quotes)"} <nil>
	// <nil>
}

// TestTheDocumentShowsTheExample holds the Go code of docs/app.md to the example above, which runs.
func TestTheDocumentShowsTheExample(t *testing.T) {
	doc, err := os.ReadFile("../../docs/app.md")
	if err != nil {
		t.Fatal(err)
	}
	here, err := os.ReadFile("example_test.go")
	if err != nil {
		t.Fatal(err)
	}
	blocks := 0
	for rest := string(doc); ; blocks++ {
		_, code, found := strings.Cut(rest, "```go\n")
		if !found {
			break
		}
		code, rest, _ = strings.Cut(code, "```")
		if !strings.Contains(string(here), code) {
			t.Errorf("docs/app.md has code that is not in example_test.go:\n%s", code)
		}
	}
	if blocks != 2 {
		t.Errorf("%d blocks of Go: is this test still looking?", blocks)
	}
}

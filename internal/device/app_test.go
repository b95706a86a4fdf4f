package device_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/dps"
	"github.com/hubhop-iot/hubhop/hub"
	"github.com/hubhop-iot/hubhop/internal/device"
	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/internal/sim"
	"github.com/hubhop-iot/hubhop/internal/virtual"
	"github.com/hubhop-iot/hubhop/model"
	"github.com/hubhop-iot/hubhop/telemetry"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

// kilnModel is the model of a device that only these tests know.
const kilnModel = `[{"@context":"dtmi:dtdl:context;2","@id":"dtmi:test:Kiln;1","@type":"Interface","contents":[
 {"@type":"Telemetry","name":"heat","schema":"double"},
 {"@type":"Property","name":"target","schema":"double","writable":true},
 {"@type":"Property","name":"lid","schema":"string","writable":true},
 {"@type":"Property","name":"firings","schema":"integer"},
 {"@type":"Command","name":"open","request":{"name":"by","schema":"integer"},"response":{"name":"at","schema":"integer"}},
 {"@type":"Command","name":"vent"},
 {"@type":"Component","name":"probe","schema":"dtmi:test:Probe;1"}]},
{"@context":"dtmi:dtdl:context;2","@id":"dtmi:test:Probe;1","@type":"Interface","contents":[
 {"@type":"Telemetry","name":"raw","schema":"integer"},
 {"@type":"Property","name":"offset","schema":"integer","writable":true},
 {"@type":"Property","name":"serial","schema":"string"},
 {"@type":"Command","name":"calibrate"}]}]`

// plant is a cloud, and a device with an App of its own.
type plant struct {
	t     *testing.T
	cloud *sim.Sim

	mu     sync.Mutex
	events []journal.Event
}

// run connects a device with an App to a cloud in virtual time, and calls f 5 s after its start.
func run(t *testing.T, app device.App, f func(p *plant)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		n, cloud := virtual.Cloud(t, nil)
		p := &plant{t: t, cloud: cloud}
		shared := &device.Shared{
			Agent: "test", Roots: cloud.CAPool(), DialContext: n.DialContext, Journal: new(journal.Journal),
			Config: device.Config{
				ProvisioningHost: cloud.Info().ProvisioningHost, ProvisioningTransport: dps.MQTT,
				Link: hub.Options{KeepAlive: 20 * time.Second, TokenLife: time.Hour}, Drain: telemetry.DrainOptions{Window: 64},
				Outbox: outbox.Options{MaxBytes: 1 << 20, Machine: "test"}, MethodTimeout: 10 * time.Second, DrainTimeout: 5 * time.Second,
			},
		}
		shared.Journal.Sink(func(e journal.Event) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.events = append(p.events, e)
		})
		dev := device.New(shared, device.Identity{DeviceID: "kiln-1", IDScope: cloud.Info().IDScope, StateDir: dir,
			Key: base64.StdEncoding.EncodeToString(cloud.DeviceKey("kiln-1"))}, app)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- dev.Run(ctx) }()
		defer func() {
			stop()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}()
		p.pass(5 * time.Second)
		f(p)
	})
}

// pass lets virtual time pass.
func (p *plant) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// told returns the texts of the events of a kind.
func (p *plant) told(kind journal.Kind) (texts []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range p.events {
		if e.Kind == kind {
			texts = append(texts, e.Text)
		}
	}
	return texts
}

// call calls a direct method and returns its status and payload.
func (p *plant) call(name, payload string) (int, string) {
	p.t.Helper()
	r, err := p.cloud.Method(p.t.Context(), "kiln-1", name, json.RawMessage(payload))
	if err != nil {
		p.t.Errorf("%s: %v", name, err)
	}
	return r.Status, string(r.Payload)
}

// desire changes desired properties, and gives the device a while for them.
func (p *plant) desire(patch string) {
	p.t.Helper()
	if err := p.cloud.PatchDesired("kiln-1", json.RawMessage(patch)); err != nil {
		p.t.Error(err)
	}
	p.pass(3 * time.Second)
}

// reported returns a reported property, or one of a component, as JSON; empty if it is not there.
func (p *plant) reported(path ...string) string {
	p.t.Helper()
	twin, err := p.cloud.Twin("kiln-1")
	if err != nil {
		p.t.Fatal(err)
	}
	b, err := json.Marshal(twin.Reported)
	if err != nil {
		p.t.Fatal(err)
	}
	for _, name := range path {
		var part map[string]json.RawMessage
		if json.Unmarshal(b, &part) != nil {
			return ""
		}
		b = part[name]
	}
	return string(b)
}

// expect compares what the cloud has with what it should have.
func (p *plant) expect(what, got, want string) {
	p.t.Helper()
	if got != want {
		p.t.Errorf("%s: %s, not %s", what, got, want)
	}
}

func parse(t *testing.T, text string) *model.Model {
	t.Helper()
	m, err := model.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// asked keeps the requests that handlers get.
type asked struct {
	mu  sync.Mutex
	all []device.Request
}

func (a *asked) add(r device.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.all = append(a.all, r)
}

// take returns the requests since the last call.
func (a *asked) take() []device.Request {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := a.all
	a.all = nil
	return all
}

// TestADeviceOfOnesOwn: sources with components, a command, a desired and a reported property, all
// of them seen at the cloud.
func TestADeviceOfOnesOwn(t *testing.T) {
	var seen asked
	firings := 0
	beat := func(body string) telemetry.Read {
		return func(time.Time) ([]byte, error) { return []byte(body), nil }
	}
	probe := telemetry.Every(2*time.Second, beat(`{"raw":7}`))
	probe.Component, probe.Properties = "probe", map[string]string{"line": "a"}
	own := telemetry.Source{Component: "probe", Unmodelled: true, Run: func(ctx context.Context, emit func(...telemetry.Sample), _ func(error)) error {
		for n := 1; ; n++ {
			emit(telemetry.Sample{Body: fmt.Appendf(nil, `{"own":%d}`, n)})
			select {
			case <-time.After(3 * time.Second):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}}
	run(t, device.App{
		Model:   parse(t, kilnModel),
		Sources: []telemetry.Source{telemetry.Every(time.Second, beat(`{"heat":900}`)), probe, own},
		Commands: map[string]device.Command{
			"open": {Handle: func(_ context.Context, r device.Request) (device.Answer, error) {
				seen.add(r)
				return device.Answer{Status: 207, Payload: json.RawMessage(`41`)}, nil
			}},
			"probe*calibrate": {Handle: func(context.Context, device.Request) (device.Answer, error) { return device.Answer{}, nil }},
		},
		Desired: map[string]device.Desired{
			"target": {Apply: func(_ context.Context, r device.Request) (device.Ack, error) {
				seen.add(r)
				return device.Ack{Code: 203, Description: "soon"}, nil
			}},
			"probe*offset": {Apply: func(_ context.Context, r device.Request) (device.Ack, error) { seen.add(r); return device.Ack{}, nil }},
		},
		Reported: map[string]device.Reported{
			"firings": {Every: 10 * time.Second, Read: func(context.Context, device.Request) (any, error) { firings++; return firings, nil }},
			"probe*serial": {Read: func(_ context.Context, r device.Request) (any, error) {
				return "sn of " + r.Name + " of " + r.Device, nil
			}},
		},
	}, func(p *plant) {
		p.expect("firings", p.reported("firings"), "1")
		p.expect("the component", p.reported("probe"), `{"__t":"c","serial":"sn of probe*serial of kiln-1"}`)

		status, payload := p.call("open", "30")
		p.expect("open", fmt.Sprint(status, " ", payload), "207 41")
		r := seen.take()
		if len(r) != 1 || r[0].Kind != device.KindMethod || r[0].Name != "open" || r[0].Device != "kiln-1" || r[0].MessageID == "" ||
			r[0].Attempt != 1 || string(r[0].Value) != "30" {
			t.Errorf("%+v", r)
		}
		status, payload = p.call("probe*calibrate", "")
		p.expect("calibrate", fmt.Sprint(status, " ", payload), "200 null")

		p.desire(`{"target":1100.5,"probe":{"__t":"c","offset":3}}`)
		p.expect("target", p.reported("target"), `{"ac":203,"ad":"soon","av":2,"value":1100.5}`)
		p.expect("offset", p.reported("probe", "offset"), `{"ac":200,"ad":"completed","av":2,"value":3}`)
		p.expect("serial", p.reported("probe", "serial"), `"sn of probe*serial of kiln-1"`)
		r = seen.take()
		if len(r) != 2 || r[0].Name != "probe*offset" || string(r[0].Value) != "3" || r[1].Name != "target" || string(r[1].Value) != "1100.5" ||
			r[1].Kind != device.KindDesired || r[1].Version != 2 || r[1].Device != "kiln-1" || r[1].Attempt != 1 {
			t.Errorf("%+v", r)
		}
		p.desire(`{"target":1100.5}`)
		if r := seen.take(); len(r) != 0 {
			t.Errorf("the same value was applied again: %+v", r)
		}
		p.desire(`{"target":null}`)
		p.expect("target after its removal", p.reported("target"), "")
		if r := seen.take(); len(r) != 1 || r[0].Name != "target" || r[0].Value != nil {
			t.Errorf("%+v", r)
		}

		p.pass(16 * time.Second)
		p.expect("firings after 30 s", p.reported("firings"), fmt.Sprint(firings))
		if firings < 4 { // with the twin, and three times after that; and whenever the twin was read again
			t.Errorf("read %d times", firings)
		}

		l := p.cloud.Ledger("kiln-1", true)
		count := map[string]int{}
		for _, m := range l.Messages {
			sub, line := "", ""
			if p := m.Properties["$.sub"]; p != nil {
				sub = *p
			}
			if p := m.Properties["line"]; p != nil {
				line = *p
			}
			count[strings.TrimRight(fmt.Sprint(sub, " ", line, " ", string(m.Body)), "0123456789}")]++
		}
		if len(count) != 3 || count[`  {"heat":`] < 30 || count[`probe a {"raw":`] < 15 || count[`probe  {"own":`] < 10 {
			t.Errorf("%v", count)
		}
		if last := fmt.Sprintf("-%d", len(l.Messages)); l.Reordered != 0 || l.Duplicates != 0 || !strings.HasSuffix(l.Messages[len(l.Messages)-1].Mid, last) {
			t.Errorf("%d reordered, %d twice, the last is %s of %d", l.Reordered, l.Duplicates, l.Messages[len(l.Messages)-1].Mid, len(l.Messages))
		}
		if w := p.told(journal.Warning); len(w) > 0 {
			t.Errorf("%q", w)
		}
	})
}

// TestTheModelSaysWhichCommandsExist: what it does not know is answered with 404, even if somebody
// handles it; what it names and nobody handles with 501, and a hint. A queued command of either
// kind is completed without effect.
func TestTheModelSaysWhichCommandsExist(t *testing.T) {
	nothing := device.Command{Handle: func(context.Context, device.Request) (device.Answer, error) { return device.Answer{}, nil }}
	run(t, device.App{Model: parse(t, kilnModel), Commands: map[string]device.Command{"open": nothing, "probe*calibrate": nothing, "foreign": nothing}},
		func(p *plant) {
			for name, want := range map[string]string{
				"foreign": `404 {"message":"this device has no method \"foreign\""}`,
				"unheard": `404 {"message":"this device has no method \"unheard\""}`,
				"vent": `501 {"message":"the model has the command \"vent\", but this device does not handle it; ` +
					`it handles open, probe*calibrate"}`,
				"probe*calibrate": "200 null",
			} {
				status, payload := p.call(name, "")
				p.expect(name, fmt.Sprint(status, " ", payload), want)
			}
			for _, name := range []string{"vent", "foreign"} {
				if _, err := p.cloud.SendC2D("kiln-1", sim.C2D{Body: json.RawMessage(`1`), Properties: map[string]string{"method-name": name}}); err != nil {
					t.Error(err)
				}
			}
			p.pass(time.Second)
			messages, err := p.cloud.C2DMessages("kiln-1")
			if err != nil || len(messages) != 2 || messages[0].State != sim.C2DCompleted || messages[1].State != sim.C2DCompleted {
				t.Errorf("%+v %v", messages, err)
			}
			p.expect("the journal", fmt.Sprintf("%q", p.told(journal.CloudMessage)), fmt.Sprintf("%q", []string{
				`C2D vent completed without effect: the model has the command "vent", but this device does not handle it; it handles open, probe*calibrate`,
				`C2D foreign completed without effect: this device has no command "foreign"`}))
		})
}

// TestAnAppIsValidated: a device with a faulty App does not start, and all faults are reported.
func TestAnAppIsValidated(t *testing.T) {
	read := func(time.Time) ([]byte, error) { return nil, nil }
	app := device.App{
		Sources:  []telemetry.Source{{}, {Name: "both", Read: read, Interval: 1, Run: telemetry.Lines(nil).Run}, telemetry.Every(0, read)},
		Commands: map[string]device.Command{"open": {}},
		Desired:  map[string]device.Desired{"target": {}},
		Reported: map[string]device.Reported{"firings": {}},
	}
	dir := t.TempDir()
	err := device.New(&device.Shared{Journal: new(journal.Journal)}, device.Identity{DeviceID: "kiln-1", StateDir: dir}, app).Run(t.Context())
	want := []string{"the source number 1 must have either Read or Run", "the source both must have either Read or Run",
		"the interval of the source number 3 must be more than 0, it is 0s", "the command open has no handler",
		"the desired property target has no handler", "the reported property firings has no reader"}
	if err == nil || err.Error() != strings.Join(want, "\n") {
		t.Errorf("%v", err)
	}
	if files, _ := os.ReadDir(dir); len(files) > 0 {
		t.Errorf("its state directory has %v", files)
	}
}

// TestEventsNameTheSource they are about, if it has a name.
func TestEventsNameTheSource(t *testing.T) {
	bad := telemetry.Every(time.Hour, func(time.Time) ([]byte, error) { return nil, errors.New("no current") })
	bad.Name = "meter"
	foreign := telemetry.Every(time.Hour, func(time.Time) ([]byte, error) { return []byte(`{"x":1}`), nil })
	foreign.Name = "probe"
	run(t, device.App{Model: parse(t, kilnModel), Sources: []telemetry.Source{bad, foreign}}, func(p *plant) {
		p.expect("bad", fmt.Sprintf("%q", p.told(journal.BadLine)), `["source meter: no current; skipped"]`)
		p.expect("warned", fmt.Sprintf("%q", p.told(journal.Warning)),
			fmt.Sprintf("%q", []string{`source probe: telemetry "x" is not in the model dtmi:test:Kiln;1, which has heat`}))
	})
}

// TestADeviceWithoutAModel has what its App handles, and nothing else.
func TestADeviceWithoutAModel(t *testing.T) {
	run(t, device.App{
		Commands: map[string]device.Command{"any": {Handle: func(_ context.Context, r device.Request) (device.Answer, error) {
			return device.Answer{Payload: r.Value}, nil
		}}},
		Desired: map[string]device.Desired{
			"level":    {Apply: func(context.Context, device.Request) (device.Ack, error) { return device.Ack{}, nil }},
			"part*one": {Apply: func(context.Context, device.Request) (device.Ack, error) { return device.Ack{}, nil }},
		},
	}, func(p *plant) {
		status, payload := p.call("any", `{"a":[1]}`)
		p.expect("any", fmt.Sprint(status, payload), `200{"a":[1]}`)
		status, _ = p.call("other", "")
		p.expect("other", fmt.Sprint(status), "404")
		p.desire(`{"level":1,"other":2,"part":{"one":1}}`)
		p.expect("level", p.reported("level"), `{"ac":200,"ad":"completed","av":2,"value":1}`)
		p.expect("other", p.reported("other"), `{"ac":404,"ad":"this device has no such property","av":2,"value":2}`)
		p.expect("part", p.reported("part"), `{"__t":"c","one":{"ac":200,"ad":"completed","av":2,"value":1}}`)
	})
}

// TestWhatAHandlerCanSay: each way in which a handler can end has its status, for a method, and its
// number of attempts, for a queued command and a desired property.
func TestWhatAHandlerCanSay(t *testing.T) {
	for _, test := range []struct {
		name     string
		payload  string
		handle   func(ctx context.Context) (device.Answer, error)
		answer   string
		attempts int // at a queued command
		journal  string
	}{
		{"success", "1", func(context.Context) (device.Answer, error) { return device.Answer{}, nil }, "200 null", 1, "C2D open handled"},
		{"a status of its own", "1", func(context.Context) (device.Answer, error) {
			return device.Answer{Status: 409, Payload: json.RawMessage(`"open"`)}, nil
		}, `409 "open"`, 1, `C2D open completed without effect: its handler answered 409: "open"`},
		{"a failure of its own", "1", func(context.Context) (device.Answer, error) {
			return device.Answer{Status: 503}, nil
		}, `503 null`, 3, `C2D open completed without effect: its handler answered 503`},
		{"an invalid payload", "1", func(context.Context) (device.Answer, error) {
			return device.Answer{}, fmt.Errorf("so: %w", device.Invalid(errors.New("1 is odd")))
		}, `400 {"message":"so: 1 is odd"}`, 1, "C2D open completed without effect: so: 1 is odd"},
		{"a payload that the model refuses", `"x"`, nil, `400 {"message":"command \"open\": the parameter is a string, expected integer (a JSON number, without quotes)"}`, 0, ""},
		{"a failure", "1", func(context.Context) (device.Answer, error) { return device.Answer{}, errors.New("stuck") },
			`500 {"message":"stuck"}`, 3, "C2D open completed without effect: stuck"},
		{"a time of its own", "1", func(ctx context.Context) (device.Answer, error) {
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			<-ctx.Done()
			return device.Answer{}, fmt.Errorf("the motor: %w", ctx.Err())
		}, `504 {"message":"the motor: context deadline exceeded"}`, 3, "C2D open completed without effect: the motor: context deadline exceeded"},
		{"the method's time", "1", func(ctx context.Context) (device.Answer, error) {
			<-ctx.Done()
			return device.Answer{}, ctx.Err()
		}, `504 {"message":"no result in 10s"}`, 3, "C2D open completed without effect: no result in 10s"},
		{"a payload that is not JSON", "1", func(context.Context) (device.Answer, error) {
			return device.Answer{Payload: json.RawMessage("open")}, nil
		}, `500 {"message":"the answer of its handler is not JSON"}`, 3, "C2D open completed without effect: the answer of its handler is not JSON"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var seen asked
			run(t, device.App{Model: parse(t, kilnModel), Commands: map[string]device.Command{
				"open": {Handle: func(ctx context.Context, r device.Request) (device.Answer, error) {
					seen.add(r)
					return test.handle(ctx)
				}},
			}}, func(p *plant) {
				status, payload := p.call("open", test.payload)
				p.expect("the answer", fmt.Sprint(status, " ", payload), test.answer)
				seen.take()
				mid, err := p.cloud.SendC2D("kiln-1", sim.C2D{Body: json.RawMessage(test.payload), Properties: map[string]string{"method-name": "open"}})
				if err != nil {
					t.Fatal(err)
				}
				p.pass(time.Minute)
				all := seen.take()
				if len(all) != test.attempts {
					t.Errorf("%d attempts", len(all))
				}
				for i, r := range all {
					if r.Kind != device.KindC2D || r.MessageID != mid || r.Attempt != i+1 || r.Device != "kiln-1" {
						t.Errorf("%+v", r)
					}
				}
				if got := p.told(journal.CloudMessage); len(got) != 1 || test.journal != "" && got[0] != test.journal {
					t.Errorf("%q", got)
				}
			})
		})
	}
}

// TestWhatAHandlerSaysOfADesiredProperty: a refusal stands until the value changes; a failure is
// repeated at once, and with the next reading of the twin; a property without a handler takes what
// fits the model.
func TestWhatAHandlerSaysOfADesiredProperty(t *testing.T) {
	var seen asked
	run(t, device.App{Model: parse(t, kilnModel), Desired: map[string]device.Desired{
		"target": {Apply: func(_ context.Context, r device.Request) (device.Ack, error) {
			seen.add(r)
			switch string(r.Value) {
			case "1":
				return device.Ack{}, device.Invalid(errors.New("too cold"))
			case "2":
				return device.Ack{}, errors.New("no gas")
			case "3":
				return device.Ack{Code: 409}, nil
			}
			return device.Ack{}, nil
		}},
	}}, func(p *plant) {
		p.desire(`{"target":1,"lid":"open"}`)
		p.expect("refused", p.reported("target"), `{"ac":400,"ad":"too cold","av":2,"value":1}`)
		p.expect("without a handler", p.reported("lid"), `{"ac":200,"ad":"completed","av":2,"value":"open"}`)
		p.desire(`{"lid":"shut"}`) // leaves target out, so the twin is read
		if r := seen.take(); len(r) != 1 {
			t.Errorf("a refused value was applied again: %+v", r)
		}
		p.desire(`{"target":2}`)
		p.expect("failed", p.reported("target"), `{"ac":500,"ad":"no gas","av":4,"value":2}`)
		if r := seen.take(); len(r) < 3 || r[0].Attempt != 1 || r[1].Attempt != 2 || r[2].Attempt != 3 {
			t.Errorf("%+v", r)
		}
		p.pass(10 * time.Second)
		seen.take()
		if err := p.cloud.Disconnect("kiln-1"); err != nil {
			t.Fatal(err)
		}
		p.pass(10 * time.Second)
		if r := seen.take(); len(r) != 3 {
			t.Errorf("a failed value was not applied again on the next link: %+v", r)
		}
		p.desire(`{"target":3}`)
		p.expect("a code of its own", p.reported("target"), `{"ac":409,"ad":"the handler of the property answered 409","av":5,"value":3}`)
		p.desire(`{"target":900}`)
		p.expect("applied", p.reported("target"), `{"ac":200,"ad":"completed","av":6,"value":900}`)
		p.expect("the journal", fmt.Sprintf("%q", p.told(journal.DesiredChange)[:2]),
			fmt.Sprintf("%q", []string{`desired lid set to "open"`, "desired target not applied: too cold"}))
	})
}

// TestAReportedPropertyThatCannotBeRead is taken out of the twin, and told of once.
func TestAReportedPropertyThatCannotBeRead(t *testing.T) {
	n := 0
	run(t, device.App{Model: parse(t, kilnModel), Reported: map[string]device.Reported{
		"firings": {Every: 10 * time.Second, Read: func(context.Context, device.Request) (any, error) {
			if n++; n > 2 && n < 5 {
				return nil, errors.New("no counter")
			}
			return n, nil
		}},
		"probe*serial": {Read: func(context.Context, device.Request) (any, error) { return func() {}, nil }},
	}}, func(p *plant) {
		p.expect("firings", p.reported("firings"), "1")
		p.pass(20 * time.Second)
		p.expect("firings without a counter", p.reported("firings"), "")
		p.pass(20 * time.Second)
		p.expect("firings again", p.reported("firings"), "5")
		p.expect("a value that JSON does not have", p.reported("probe"), "")
		p.expect("the journal", fmt.Sprintf("%q", p.told(journal.Warning)), fmt.Sprintf("%q", []string{
			"the property probe*serial cannot be read: json: unsupported type: func()", "the property firings cannot be read: no counter"}))
	})
}

// TestAReportedPropertyThatHangs is read once until its reader returns, so a reader that hangs
// costs one goroutine and not one at each interval.
func TestAReportedPropertyThatHangs(t *testing.T) {
	var calls atomic.Int64
	run(t, device.App{Model: parse(t, kilnModel), Reported: map[string]device.Reported{
		"firings": {Every: time.Second, Read: func(context.Context, device.Request) (any, error) {
			if calls.Add(1) == 2 {
				time.Sleep(10 * time.Minute) // whatever becomes of its context
			}
			return 7, nil
		}},
	}}, func(p *plant) {
		p.expect("firings", p.reported("firings"), "7")
		p.pass(9 * time.Minute)
		p.expect("calls", fmt.Sprint(calls.Load()), "2")
		p.expect("firings without an answer", p.reported("firings"), "")
		p.pass(2 * time.Minute)
		p.expect("firings again", p.reported("firings"), "7")
	})
}
